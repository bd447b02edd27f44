"""Muon: steps are orthogonal, as long as promised, and it learns."""

import pytest
import torch

from smallgpt.training.muon import Muon, orthogonalize


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(24, 96), (96, 24), (40, 40), (1, 7)])
def test_orthogonalize_gives_the_polar_factor(shape, dtype):
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(shape[0], min(shape), generator=generator))[0]
    right = torch.linalg.qr(torch.randn(shape[1], min(shape), generator=generator))[0]
    # Values from 0.1 to 1, so that none is below 0.02 of the norm.
    values = torch.linspace(0.1, 1, min(shape))
    result = orthogonalize(((left * values) @ right.T[None] * 1000).to(dtype)).float()[0]
    polar = left @ right.T
    singular = torch.linalg.svdvals(result)
    assert singular.min() > 0.88 and singular.max() < 1.12
    assert torch.linalg.matrix_norm(result - polar) < 0.12 * min(shape) ** 0.5


def test_matrices_of_one_shape_do_not_mix():
    first, second = torch.randn(2, 12, 30, generator=torch.Generator().manual_seed(1)).unbind()
    together = orthogonalize(torch.stack([first, second * 1e-4]))
    assert torch.equal(together[0], orthogonalize(first[None])[0])
    assert torch.equal(together[1], orthogonalize(second[None] * 1e-4)[0])


def test_zero_gradient_moves_nothing_but_decay():
    weight = torch.nn.Parameter(torch.ones(4, 6))
    optimizer = Muon([weight], lr=0.5, weight_decay=0.1)
    weight.grad = torch.zeros(4, 6)
    optimizer.step()
    assert torch.allclose(weight, torch.full((4, 6), 0.95))


def test_step_is_nesterov_momentum_made_orthogonal_as_long_as_adamws():
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(8, 20, generator=generator)
    gradients = torch.randn(3, 8, 20, generator=generator)
    weight = torch.nn.Parameter(start.clone())
    optimizer = Muon([weight], lr=0.01, momentum=0.9, weight_decay=0.2)
    expected, mean = start.clone(), torch.zeros(8, 20)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
        mean = 0.9 * mean + 0.1 * gradient
        left, _, right = torch.linalg.svd(0.1 * gradient + 0.9 * mean, full_matrices=False)
        expected = expected * (1 - 0.01 * 0.2) - 0.01 * 0.2 * 20**0.5 * (left @ right)
    moved = (weight.detach() - start).norm()
    assert (weight.detach() - expected).norm() < 0.1 * moved


def test_learns_a_linear_map_that_mixes_strong_and_weak_directions():
    generator = torch.Generator().manual_seed(3)
    target = torch.randn(16, 32, generator=generator)
    inputs = torch.randn(256, 16, generator=generator) * torch.logspace(0, -1.5, 16)
    weight = torch.nn.Parameter(torch.zeros(16, 32))
    optimizer = Muon([weight], lr=0.05, weight_decay=0.0)
    losses = []
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 200)
        loss = ((inputs @ weight - inputs @ target) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.05 * losses[0]
