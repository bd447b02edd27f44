"""The blocks on packed rows give what plain transformers gives row by row."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

from smallgpt.model import cpu_block, cpu_inference
from smallgpt.model import cpu_forward as blocks
from smallgpt.model.cpu_forward import packed_hidden_states
from smallgpt.model.packed_rows import PackedRows


def build(activation: str = "gelu", dropout: float = 0.0, attention_dropout: float = 0.0):
    config = GPT2Config(
        vocab_size=30, n_positions=300, n_layer=2, n_head=2, n_embd=32,
        activation_function=activation, resid_pdrop=dropout, embd_pdrop=dropout,
        attn_pdrop=attention_dropout, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config)
    with torch.no_grad():  # biases and norms that are not zeros and ones
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def rows_of(lengths: list[int]) -> list[torch.Tensor]:
    torch.manual_seed(len(lengths))
    return [torch.randint(30, (length,)) for length in lengths]


def output_and_gradients(model, output_NxE, weights_NxE):
    (output_NxE * weights_NxE).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    return output_NxE.detach(), gradients


def plain_and_packed(model, lengths, dtype):
    """What transformers gives in fp32 for each row alone, and ours for all packed."""
    ids = rows_of(lengths)
    weights_NxE = torch.randn(sum(lengths), model.config.n_embd)
    plain = torch.cat([model.transformer(row[None]).last_hidden_state[0] for row in ids])
    packed = packed_hidden_states(model, torch.cat(ids), PackedRows(lengths), dtype)
    return (
        output_and_gradients(model, plain, weights_NxE),
        output_and_gradients(model, packed, weights_NxE),
    )


# A chunk has 128 queries: one below, exactly, one above; rows that end within and between chunks.
LENGTHS = [[1], [5, 5], [7, 3, 1, 9], [127], [128, 128], [129, 20], [300, 20, 130, 128, 1]]


@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_output_and_gradients_equal_plain_transformers(lengths, activation):
    plain, packed = plain_and_packed(build(activation), lengths, torch.float32)
    torch.testing.assert_close(packed[0], plain[0], atol=1e-5, rtol=1e-5)
    for name, gradient in packed[1].items():
        torch.testing.assert_close(gradient, plain[1][name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("lengths", [[20, 20, 20], [300, 20, 130]], ids=str)
def test_bf16_is_as_close_to_fp32_as_transformers_own_bf16(lengths):
    model = build()
    plain, packed = plain_and_packed(model, lengths, torch.bfloat16)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        rows = [model.transformer(row[None]).last_hidden_state[0] for row in rows_of(lengths)]
    theirs = torch.cat(rows)

    def error(ours):
        return ((ours - plain[0]).norm() / plain[0].norm()).item()

    assert 0 < error(packed[0]) < 1.2 * error(theirs)
    for name, gradient in packed[1].items():
        difference = (gradient - plain[1][name]).norm() / plain[1][name].norm()
        assert difference < 2**-6, name  # bf16 has 8 significant bits


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 150), min_size=1, max_size=6))
def test_a_row_does_not_depend_on_its_company(lengths):
    model, ids = build(), rows_of(lengths)
    with torch.no_grad():
        together = packed_hidden_states(model, torch.cat(ids), PackedRows(lengths), torch.float32)
        alone = [packed_hidden_states(model, row, PackedRows([len(row)]), torch.float32)
                 for row in ids]  # fmt: skip
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_packed_rows_as_a_matrix_and_back():
    lengths = [2, 4, 1]
    rows = PackedRows(lengths)
    ids_N = torch.arange(1, 8)
    matrix = rows.to_matrix(ids_N)
    assert sorted(map(tuple, matrix.tolist())) == [(1, 2, 0, 0), (3, 4, 5, 6), (7, 0, 0, 0)]
    assert rows.from_matrix(matrix[..., None])[:, 0].tolist() == ids_N.tolist()
    assert rows.last_B.tolist() == [1, 5, 6]
    assert rows.position_N.tolist() == [0, 1, 0, 1, 2, 3, 0]


# ------------------------------------------------------------------------------- dropout


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_keeps_its_share_independently(rate, dtype):
    torch.manual_seed(0)
    keep = cpu_block._keep(torch.empty(1000, 1003), rate, dtype).float()
    assert set(keep.unique().tolist()) == {0.0, 1.0}
    n = keep.numel()
    assert keep.mean().item() == pytest.approx(1 - rate, abs=5 * (rate * (1 - rate) / n) ** 0.5)
    # Neighbours share a 64-bit draw; rows and columns must not.
    for moved in (keep.roll(1, 1), keep.roll(4, 1), keep.roll(1, 0)):
        both = ((1 - keep) * (1 - moved)).mean().item()
        assert both == pytest.approx(rate**2, abs=5 * rate / n**0.5)


def test_dropout_follows_the_seed_and_changes_with_each_call():
    def draw():
        return cpu_block._keep(torch.empty(64, 64), 0.3, torch.float32)

    torch.manual_seed(3)
    first, second = draw(), draw()
    torch.manual_seed(3)
    assert torch.equal(draw(), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(("dropout", "attention_dropout"), [(0.3, 0.0), (0.0, 0.4), (0.2, 0.2)])
@pytest.mark.parametrize("lengths", [[6, 6], [140, 3]], ids=str)
@pytest.mark.parametrize("longest_kept", [2048, 5])
def test_gradients_under_dropout_are_those_of_the_function_drawn(
    monkeypatch, lengths, dropout, attention_dropout, longest_kept
):
    """With the masks held still, the directional derivative is a difference quotient's."""
    monkeypatch.setattr(cpu_block, "_LONGEST_KEPT", longest_kept)
    model = build(dropout=dropout, attention_dropout=attention_dropout).train()
    ids_N, rows = torch.cat(rows_of(lengths)), PackedRows(lengths)
    weights_NxE = torch.randn(sum(lengths), 32)

    def value():
        torch.manual_seed(7)
        return (packed_hidden_states(model, ids_N, rows, torch.float32) * weights_NxE).sum()

    value().backward()
    directions = [torch.randn_like(p) for p in model.parameters()]
    slope = sum((p.grad * d).sum() for p, d in zip(model.parameters(), directions, strict=True))
    h, values = 1e-3, []
    with torch.no_grad():
        for sign in (1, -2):
            for parameter, direction in zip(model.parameters(), directions, strict=True):
                parameter += sign * h * direction
            values.append(value().double())
    assert ((values[0] - values[1]) / (2 * h)).item() == pytest.approx(slope.item(), rel=0.02)


def test_output_under_dropout_is_right_on_average():
    """Where both maps of a block put out ones, dropout alone decides what is added to x."""
    model = build(dropout=0.25).train()
    block = model.transformer.h[0]
    with torch.no_grad():
        for linear in (block.attn.c_proj, block.mlp.c_proj):
            linear.weight.zero_()
            linear.bias.fill_(1.0)
    x_NxE, rows = torch.randn(4000, 32), PackedRows([40] * 100)
    with torch.no_grad():
        out_NxE = cpu_block.Block.apply(
            x_NxE, *blocks._of_block(block, rows, torch.float32, model.config)
        )
    added_NxE = out_NxE - x_NxE
    assert added_NxE.mean().item() == pytest.approx(2.0, abs=0.02)
    shares = [
        (added_NxE - value).abs().lt(1e-4).float().mean().item() for value in (0, 4 / 3, 8 / 3)
    ]
    assert shares == pytest.approx([0.0625, 0.375, 0.5625], abs=0.01)


def test_attention_dropout_is_right_on_average():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 20, 8)
    rows = PackedRows([20, 20])
    mean = sum(cpu_block.attend(q, k, v, rows, 0.3)[0] for _ in range(4000)) / 4000
    torch.testing.assert_close(mean, cpu_block.attend(q, k, v, rows, 0.0)[0], atol=0.06, rtol=0)


def test_attention_dropout_of_long_rows_is_right_on_average_and_differs_between_calls(monkeypatch):
    monkeypatch.setattr(cpu_block, "_LONGEST_KEPT", 5)
    test_attention_dropout_is_right_on_average()


def test_evaluation_mode_has_no_dropout():
    model = build(dropout=0.5, attention_dropout=0.5).eval()
    ids_N, rows = torch.cat(rows_of([9, 4])), PackedRows([9, 4])
    with torch.no_grad():
        first, second = (packed_hidden_states(model, ids_N, rows, torch.float32) for _ in range(2))
    assert torch.equal(first, second)


# ------------------------------------------------------------------------------- which models


@pytest.mark.parametrize(
    "change",
    [
        {"activation_function": "relu"},
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True},
        {"add_cross_attention": True},
    ],
    ids=str,
)
def test_models_that_are_computed_otherwise_are_not_taken(change):
    shape = {"vocab_size": 30, "n_layer": 1, "n_head": 2, "n_embd": 16, "bos_token_id": 0}
    ours = GPT2LMHeadModel(GPT2Config(**shape, eos_token_id=0))
    other = GPT2LMHeadModel(GPT2Config(**shape, eos_token_id=0, **change))
    assert blocks.supports(ours) and not blocks.supports(other)


def test_a_model_with_a_wrapped_map_is_not_taken():
    model = build()
    block = model.transformer.h[1]
    block.attn.c_attn = torch.nn.Sequential(block.attn.c_attn)
    assert not blocks.supports(model)


def test_attention_alone_equals_torch_s():
    for R, T in itertools.product((1, 4), (1, 50, 128, 200)):
        torch.manual_seed(T)
        q, k, v = torch.randn(3, R, T, 8, dtype=torch.float64)
        output, _ = cpu_block.attend(q, k, v, PackedRows([T] * R), 0.0)
        expected = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        torch.testing.assert_close(output, expected)


# ------------------------------------------------------------------------------- long rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", [[129, 20], [300, 20, 130, 128, 1]], ids=str)
def test_attention_weights_computed_again_give_the_same_bits(monkeypatch, lengths, dtype):
    found = []
    for longest_kept in (300, 128):
        monkeypatch.setattr(cpu_block, "_LONGEST_KEPT", longest_kept)
        found.append(plain_and_packed(build(), lengths, dtype)[1])
    assert torch.equal(found[0][0], found[1][0])
    for name, gradient in found[0][1].items():
        assert torch.equal(gradient, found[1][1][name]), name


@pytest.mark.parametrize("attention_dropout", [0.0, 0.2])
def test_what_is_kept_for_the_backward_pass_grows_with_the_tokens_of_long_rows(
    monkeypatch, attention_dropout
):
    monkeypatch.setattr(cpu_block, "_LONGEST_KEPT", 100)
    model = build(attention_dropout=attention_dropout).train()
    kept = {}
    for length in (100, 150, 200, 250):  # up to 100 tokens the weights are kept

        def note(tensor, length=length):
            kept[length][tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        kept[length] = {}
        ids = torch.zeros(length, dtype=torch.int64)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            output = packed_hidden_states(model, ids, PackedRows([length]), torch.float32)
        del output
    with_weights, *without = (sum(sizes.values()) for sizes in kept.values())
    growth = [more - less for less, more in itertools.pairwise(without)]
    assert growth[1] == pytest.approx(growth[0], rel=0.001)
    weights = 4 * 100 * 100 * 2 * model.config.n_layer
    assert with_weights - (without[0] - growth[0]) >= 0.99 * weights  # as these figures can tell


def test_nothing_is_kept_where_no_backward_pass_will_come(monkeypatch):
    """An evaluation holds the attention weights of one chunk at a time, of short rows too."""
    model, rows, kept = build().eval(), PackedRows([300]), []
    attend = cpu_block.attend

    def noting(*args, **named):
        output, left = attend(*args, **named)
        kept.append(len(left))
        return output, left

    monkeypatch.setattr(cpu_block, "attend", noting)
    monkeypatch.setattr(cpu_inference, "attend", noting)
    ids = torch.zeros(300, dtype=torch.int64)
    packed_hidden_states(model, ids, rows, torch.float32)
    with torch.no_grad():
        packed_hidden_states(model, ids, rows, torch.float32)
    fixed = cpu_inference.FixedGpt2(model, torch.float32)
    fixed.hidden_states(ids, rows)
    fixed.last_states(ids, rows)
    assert kept == [3, 3, 0, 0, 0, 0, 0]  # two blocks; the last states need one


@pytest.mark.long
def test_a_row_of_16_000_tokens_takes_less_than_1_gib():
    """Training, evaluation and generation in one process, Python and libraries included."""
    program = """
import re, sys
from pathlib import Path
import numpy as np, torch
sys.path[:0] = [".", "tests"]
from plain_settings import plain_settings
from smallgpt.rows.reading import dataset_from_records
from smallgpt.evaluation.scoring import score_rows
from smallgpt.decoding.generate import make_decoder
from smallgpt.model.hardware import Precision
from smallgpt.model.build import build_model
from smallgpt.engines.torch_engine import TorchEngine
from smallgpt.training.objective import Objective
from smallgpt.training.gradients import TokenStep
from smallgpt.tokens.vocabulary import Vocabulary

T, name = 16000, sys.argv[1]
words = [f"t{number}" for number in range(500)]
vocabulary = Vocabulary(["<PAD>", "<UNK>", "<CLS>", "<EOS>", *words, "<CLS_0>"])
record = {"tokens": " ".join(words[i % 500] for i in range(T - 3)), "label": 0}
rows = dataset_from_records([record], vocabulary, max_length=T)
settings = plain_settings(n_layer=1, n_head=4, n_embd=32, max_length=T, n_positions=T)
model, precision = build_model(settings, vocabulary).train(), Precision(name, "tests")
objective = Objective(model, rows, settings, precision)
step = TokenStep(objective, torch.amp.GradScaler("cpu", enabled=False))
assert torch.isfinite(step.add_gradients([np.array([0])]))
score_rows(TorchEngine(model.eval(), precision, vocabulary.label_ids), rows)
ids = torch.from_numpy(rows.row(0).astype(np.int64))[None]
make_decoder(model.eval(), precision.dtype).prefill(ids, torch.tensor([T]), T)
# ru_maxrss would count the process that started this one too.
status = Path("/proc/self/status").read_text()
print(1024 * int(re.search(r"VmHWM:\\s*(\\d+) kB", status)[1]))
"""
    # With AMX, oneDNN takes some 500 MB of its own for products in bf16, which nobody here decides.
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}
    for name in ("fp32", "bf16"):
        done = subprocess.run(
            [sys.executable, "-c", program, name],
            cwd=Path(__file__).parents[2], env=environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert int(done.stdout.splitlines()[-1]) < 2**30, name
