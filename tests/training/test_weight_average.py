"""weight_average: the running mean that is evaluated and saved in place of the last weights."""

import dataclasses

import pytest
import torch
from plain_settings import plain_settings
from training_runs import write_rule_rows

from smallgpt.engines.trained import load_trained_model
from smallgpt.evaluation.metrics_file import read_metrics
from smallgpt.evaluation.scoring import score_rows
from smallgpt.rows.reading import read_dataset
from smallgpt.rows.splitting import split_dataset
from smallgpt.training.muon import Muon
from smallgpt.training.weight_average import averaged, update_average
from train_gpt import train


def optimizers_of(*parameters: torch.Tensor) -> list[torch.optim.Optimizer]:
    """Optimizers that have made a step, of no length."""
    optimizers = [torch.optim.AdamW([parameter], lr=0.0) for parameter in parameters]
    for parameter, optimizer in zip(parameters, optimizers, strict=True):
        parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    return optimizers


def test_mean_is_that_of_the_formula_and_weights_come_back():
    random = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.zeros(3, 2)), torch.nn.Parameter(torch.zeros(4))]
    optimizers = optimizers_of(*weights)
    expected = None
    for update in range(1, 60):
        for weight in weights:
            weight.data = torch.randn(weight.shape, generator=random)
        update_average(optimizers, 0.8, update)
        decay = min(0.8, update / (update + 10))
        now = [weight.detach().clone() for weight in weights]
        if expected is None:
            expected = now
        expected = [decay * e + (1 - decay) * w for e, w in zip(expected, now, strict=True)]
    with averaged(optimizers):
        for weight, mean in zip(weights, expected, strict=True):
            torch.testing.assert_close(weight.data, mean)
    assert all(torch.equal(w, before) for w, before in zip(weights, now, strict=True))
    with pytest.raises(KeyError), averaged(optimizers):
        raise KeyError
    assert all(torch.equal(w, before) for w, before in zip(weights, now, strict=True))


def test_the_mean_does_not_remember_the_starting_weights():
    weight = torch.nn.Parameter(torch.full((1,), 1000.0))
    optimizers = optimizers_of(weight)
    for update in range(1, 200):
        weight.data = torch.full((1,), 1000.0 if update == 1 else 1.0)
        update_average(optimizers, 0.999, update)
    with averaged(optimizers):
        assert weight.item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, Muon])
def test_a_parameter_whose_first_gradient_comes_late_is_learned_and_averaged(kind):
    early, late = torch.nn.Parameter(torch.ones(3, 2)), torch.nn.Parameter(torch.ones(2, 4))
    optimizer = kind([early, late], lr=0.1)
    for update in (1, 2, 3):
        early.grad = torch.ones_like(early)
        if update > 1:
            late.grad = torch.ones_like(late)
        optimizer.step()
        update_average([optimizer], 0.9, update)
    with averaged([optimizer]):
        assert (early.min() < 1) and (late.min() < 1)


def test_nothing_to_average_leaves_the_weights():
    weight = torch.nn.Parameter(torch.ones(2))
    with averaged(optimizers_of(weight)):
        assert torch.equal(weight, torch.ones(2))


def test_saved_models_and_figures_are_those_of_the_mean(tmp_path):
    data, vocab = write_rule_rows(tmp_path)
    settings = plain_settings(
        data_path=str(data), vocab_path=str(vocab), output_dir=str(tmp_path / "run"),
        n_layer=1, n_head=2, n_embd=16, n_positions=32, max_length=32, num_epochs=3, batch_size=4,
        learning_rate=1e-2, precision="fp32", device="cpu", ema_decay=0.9,
    )  # fmt: skip
    folder = train(settings).folder
    plain = train(dataclasses.replace(settings, ema_decay=0, output_dir=str(tmp_path / "plain")))
    rows = [
        [row for row in read_metrics(each.metrics) if row["kind"] == "validation"]
        for each in (folder, plain.folder)
    ]
    trained = load_trained_model(folder.final_model, "cpu", "fp32")
    rows_read = read_dataset(data, trained.vocabulary, max_length=32)
    _, held_out = split_dataset(rows_read, settings.validation_fraction, settings.seed)
    found = score_rows(trained.engines.torch, held_out).figures(held_out)
    assert found["loss"] == pytest.approx(rows[0][-1]["loss"], rel=1e-5)
    # The steps themselves are the same: only what is looked at differs.
    assert [row["train_loss"] for row in rows[0]] == [row["train_loss"] for row in rows[1]]
    assert all(a["loss"] != b["loss"] for a, b in zip(*rows, strict=True))
