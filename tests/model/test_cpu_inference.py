"""A GPT-2 whose weights are cast and packed once: the states of transformers, even later."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from smallgpt.model.cpu_forward import packed_hidden_states
from smallgpt.model.cpu_inference import FixedGpt2
from smallgpt.model.forward import Forward
from smallgpt.model.hardware import Precision
from smallgpt.model.packed_rows import PackedRows

LENGTHS = [[7], [5, 5], [9, 1, 4], [130, 20, 300]]
DTYPES = (torch.float32, torch.bfloat16)


def build(activation: str = "gelu") -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=30, n_positions=300, n_layer=2, n_head=2, n_embd=32,
        activation_function=activation, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():  # biases and norms that are not zeros and ones
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def rows_of(lengths: list[int]) -> list[torch.Tensor]:
    torch.manual_seed(len(lengths))
    return [torch.randint(30, (length,)) for length in lengths]


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_pytorch_tanh"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_states_are_those_of_transformers(lengths, activation):
    model, rows = build(activation), rows_of(lengths)
    with torch.no_grad():
        each = [model.transformer(row[None]).last_hidden_state[0] for row in rows]
    expected, last = torch.cat(each), torch.stack([states[-1] for states in each])
    ids, packed = torch.cat(rows), PackedRows(lengths)
    exact, in_bf16 = (FixedGpt2(model, dtype) for dtype in DTYPES)
    near = {"atol": 1e-4, "rtol": 1e-4}
    torch.testing.assert_close(exact.hidden_states(ids, packed), expected, **near)
    torch.testing.assert_close(exact.last_states(ids, packed), last, **near)
    for found, right in (
        (in_bf16.hidden_states(ids, packed), expected),
        (in_bf16.last_states(ids, packed), last),
    ):
        assert (found - right).norm() <= 0.02 * right.norm()


@pytest.mark.parametrize("dtype", DTYPES)
def test_training_the_model_afterwards_changes_nothing(dtype):
    model, ids, rows = build(), torch.cat(rows_of([6, 3])), PackedRows([6, 3])
    fixed = FixedGpt2(model, dtype)
    before = fixed.hidden_states(ids, rows), fixed.last_states(ids, rows)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    after = fixed.hidden_states(ids, rows), fixed.last_states(ids, rows)
    assert all(map(torch.equal, before, after))


def test_a_fixed_forward_pass_keeps_its_weights_and_another_follows_the_model():
    model, ids = build(), torch.cat(rows_of([6, 3]))
    precision = Precision("fp32", "tests")
    fixed, other = Forward(model, precision, fixed=True), Forward(model, precision)
    with torch.no_grad():
        before = other(ids, [6, 3], "last")
        torch.testing.assert_close(fixed(ids, [6, 3], "last"), before, atol=1e-5, rtol=1e-5)
        model.transformer.wte.weight.mul_(3)
        torch.testing.assert_close(fixed(ids, [6, 3], "last"), before, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(other(ids, [6, 3], "last"), before, atol=1e-2)
        now = packed_hidden_states(model, ids, PackedRows([6, 3]), torch.float32)
        assert torch.equal(other(ids, [6, 3]), now)
