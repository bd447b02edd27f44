"""The loss of a CPU against autograd's through a linear map and cross_entropy, in fp64."""

import pytest
import torch
from torch.nn import functional

from smallgpt.model import cpu_loss
from smallgpt.model.cpu_loss import WeightedNll


def both_ways(tokens: int, width: int, vocabulary: int, dtype: torch.dtype):
    """Loss, losses of tokens and gradients of both: ours, and the reference."""
    generator = torch.Generator().manual_seed(tokens)
    hidden_MxE = torch.randn(tokens, width, generator=generator)
    head_VxE = torch.randn(vocabulary, width, generator=generator) / 3
    targets_M = torch.randint(vocabulary, (tokens,), generator=generator)
    weights_M = torch.rand(tokens, generator=generator)
    weights_M[::3] = 0.0
    found = []
    for ours in (True, False):
        kind = torch.float32 if ours else torch.float64
        hidden, head = (x.detach().to(kind).requires_grad_() for x in (hidden_MxE, head_VxE))
        if ours:
            loss, nll_M = WeightedNll.apply(hidden, head, targets_M, weights_M, dtype)
            assert not nll_M.requires_grad
        else:
            nll_M = functional.cross_entropy(hidden @ head.T, targets_M, reduction="none")
            loss = nll_M @ weights_M.double()
        (loss / 7).backward()
        found.append([x.detach().double() for x in (loss, nll_M, hidden.grad, head.grad)])
    return found


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("tokens", [1, 5, 12, 25])
def test_loss_and_gradients_are_those_of_cross_entropy(monkeypatch, tokens, dtype, error):
    monkeypatch.setattr(cpu_loss, "_LOGITS", 40)  # 5 tokens of 8 logits a chunk
    monkeypatch.setattr(cpu_loss, "_FEWEST_TOKENS", 5)
    for ours, reference in zip(*both_ways(tokens, 6, 8, dtype), strict=True):
        assert (ours - reference).norm() <= error * (1e-6 + reference.norm())


def test_frozen_embeddings_and_frozen_states_get_no_gradient():
    hidden, head = torch.randn(4, 3, requires_grad=True), torch.randn(5, 3)
    targets, weights = torch.tensor([0, 4, 2, 2]), torch.ones(4)
    WeightedNll.apply(hidden, head, targets, weights, torch.float32)[0].backward()
    assert hidden.grad is not None and head.grad is None
    with torch.no_grad():
        loss, _ = WeightedNll.apply(hidden, head, targets, weights, torch.float32)
    expected = functional.cross_entropy(hidden @ head.T, targets, reduction="sum")
    assert torch.allclose(loss, expected.detach())


def test_large_logits_do_not_overflow():
    hidden = torch.tensor([[300.0], [-300.0]])
    head = torch.tensor([[1.0], [-1.0]])
    loss, nll = WeightedNll.apply(hidden, head, torch.tensor([0, 0]), torch.ones(2), torch.float32)
    assert nll.tolist() == [0.0, 600.0] and loss == 600.0
