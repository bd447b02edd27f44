"""The peers that train compute and step as they should."""

import math

import pytest
import torch
from torch.nn import functional
from toy_bench import SHAPE, small_model

from smallgpt.benchmark.training_peers import (
    IGNORED,
    LARGEST_NORM,
    LEARNING_RATE,
    MinimalGPT,
    pad_batch,
    plain_epoch,
    trainer_epoch,
    transformers_model,
)
from smallgpt.benchmark.workloads import vocabulary_of
from smallgpt.model.hardware import Precision

FP32 = Precision("fp32", "exact")


def test_minimal_gpt_computes_what_transformers_computes():
    model = small_model(n_positions=64)
    with torch.no_grad():  # fresh biases are 0 and would hide a mistake
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    minimal = MinimalGPT(model, dropout=0.1).eval()
    batch = pad_batch([[2, 9, 40, 7], [2, 11, 90, 33, 5, 8, 3], [2, 6]])
    unmasked = model(batch["input_ids"]).logits
    torch.testing.assert_close(minimal(batch["input_ids"]), unmasked, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(minimal.loss(batch), model(**batch).loss, atol=1e-5, rtol=1e-5)


def test_minimal_gpt_drops_out_in_training_only():
    minimal = MinimalGPT(small_model(), dropout=0.5, attention_dropout=0.0)
    ids = torch.tensor([[2, 9, 40, 7]])
    assert not torch.equal(minimal(ids), minimal(ids))
    assert torch.equal(minimal.eval()(ids), minimal(ids))


def test_batches_are_padded_on_the_right_and_padding_is_no_target():
    batch = pad_batch([[5, 6, 7], [8]])
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[5, 6, 7], [8, 0, 0]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "labels": [[5, 6, 7], [8, IGNORED, IGNORED]],
    }


def test_a_plain_epoch_steps_as_adamw_is_written_down():
    rows = [[0, 1, 2], [2, 1], [1, 1, 0]]
    torch.manual_seed(0)
    table = torch.nn.Embedding(3, 3)  # logits of the next token
    expected = table.weight.detach().clone().requires_grad_()
    # Gradients of other size and direction each step: without clipping, or with the gradient of the
    # step before left in, the sums of AdamW would be others.
    pushes = [push * torch.randn(3, 3) for push in (2.0, 9.0, 4.0)]

    def loss_of(weights, batch, push):
        logits = functional.embedding(batch["input_ids"], weights)[:, :-1].flatten(0, 1)
        likelihood = functional.cross_entropy(logits, batch["labels"][:, 1:].flatten())
        return likelihood + (weights * push).sum()

    left = iter(pushes)
    epoch = plain_epoch(
        table,
        lambda batch: loss_of(table.weight, batch, next(left)),
        rows,
        batch_size=3,
        precision=FP32,
    )
    mean, square = torch.zeros(3, 3), torch.zeros(3, 3)
    for step, push in enumerate(pushes, start=1):
        epoch()
        (gradient,) = torch.autograd.grad(loss_of(expected, pad_batch(rows), push), expected)
        assert gradient.norm() > LARGEST_NORM
        gradient = gradient * LARGEST_NORM / gradient.norm()
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        update = mean / (1 - 0.9**step) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        decayed = expected.detach() * (1 - LEARNING_RATE * 0.01)
        expected = (decayed - LEARNING_RATE * update).requires_grad_()
    torch.testing.assert_close(table.weight, expected, atol=1e-6, rtol=1e-5)


def test_a_plain_epoch_visits_every_row_once():
    rows, seen = [[number, 1] for number in range(7)], []

    def loss(batch):
        seen.append(batch["input_ids"][:, 0].tolist())
        return table(batch["input_ids"]).sum()

    table = torch.nn.Embedding(9, 2)
    plain_epoch(table, loss, rows, batch_size=3, precision=FP32)()
    assert [len(batch) for batch in seen] == [3, 3, 1]
    assert sorted(number for batch in seen for number in batch) == list(range(7))


def test_transformers_model_has_its_own_defaults_only_as_shipped():
    ours = small_model(dropout=0.3, attention_dropout=0.0)
    same, shipped = (transformers_model(ours, s) for s in (False, True))
    for name in ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size", "pad_token_id"):
        assert getattr(shipped.config, name) == getattr(ours.config, name)
    assert (same.config.activation_function, same.config.attn_pdrop) == ("gelu", 0)
    assert (shipped.config.activation_function, shipped.config.attn_pdrop) == ("gelu_new", 0.1)
    assert same is not ours and same.transformer.wte.weight is not ours.transformer.wte.weight


def test_trainer_trains_and_tells_the_seconds_of_each_epoch(tmp_path):
    pytest.importorskip("accelerate")
    model, vocabulary = small_model(), vocabulary_of(SHAPE)
    vocabulary.save_tokenizer(tmp_path)
    epoch = trainer_epoch(
        model, tmp_path, [[2, 9, 40], [2, 7], [2, 5, 6]], 2, FP32, tmp_path / "out"
    )
    weights = []
    for _ in range(2):
        assert 0 < epoch() < math.inf
        weights.append(model.transformer.wte.weight.detach().clone())
    assert not torch.equal(*weights)
