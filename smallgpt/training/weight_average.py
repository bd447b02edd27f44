"""Exponential moving average (EMA) of the weights: generalizes better than the last weights.

Averages of weights along a run lie in the middle of a flat minimum, while single steps climb its
walls (Polyak and Juditsky, 1992; Izmailov et al., 2018, https://arxiv.org/abs/1803.05407). The mean
is kept in the optimizer's state, so that checkpoints hold it; the model has it only while it is
evaluated or saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from smallgpt.training.optimizers import parameters_of

_KEY = "average"  # in the optimizer's state of a parameter
# Early means are over fewer updates: with the full decay they would consist of initial weights.
_EARLY = 10


@torch.no_grad()
def update_average(optimizers: Sequence[torch.optim.Optimizer], decay: float, updates: int) -> None:
    """Move the mean of each parameter towards it by 1 - decay, at first by more; after each update.

    The mean's memory is some 1 / (1 - decay) updates; `updates`: done so far, at least 1. An
    optimizer whose `found_inf` is 1.0 has skipped this update, and so do the means.
    """
    decay = min(decay, updates / (updates + _EARLY))
    means, weights = [], []
    for optimizer, parameter in parameters_of(optimizers):
        state = optimizer.state.get(parameter)
        if not state:
            continue  # it has had no gradient yet; an optimizer takes a state for its own
        found_inf = getattr(optimizer, "found_inf", None)
        if _KEY not in state:
            state[_KEY] = parameter.detach().clone()
        elif found_inf is None:
            means.append(state[_KEY])
            weights.append(parameter)
        else:
            means.append(state[_KEY])
            weights.append(torch.where(found_inf.bool(), state[_KEY], parameter))
    if means:
        torch._foreach_lerp_(means, weights, 1 - decay)


@contextmanager
def averaged(optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[None]:
    """Context in which each parameter has its mean, where there is one."""
    held = [
        (parameter, parameter.detach().clone(), optimizer.state[parameter][_KEY])
        for optimizer, parameter in parameters_of(optimizers)
        if _KEY in optimizer.state.get(parameter, ())
    ]
    with torch.no_grad():
        for parameter, _, mean in held:
            parameter.copy_(mean)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, own, _ in held:
                parameter.copy_(own)
