"""The same weights in all processes that train a model."""

from __future__ import annotations

import hashlib

import torch

from smallgpt.training.optimizers import parameters_of
from smallgpt.training.run import Run


def share_weights(run: Run) -> None:
    """Give all processes the weights and the optimizers' states of the first one."""
    processes = run.processes
    if not processes.are_many:
        return
    owned = [(optimizer.state[p], p) for optimizer, p in parameters_of(run.optimizers)]
    kinds = [{key: (t.shape, t.dtype) for key, t in state.items()} for state, _ in owned]
    for (state, parameter), kind in zip(owned, processes.of_first(kinds), strict=True):
        for key, (shape, dtype) in kind.items():
            if not processes.is_first:
                state[key] = torch.zeros(shape, dtype=dtype, device=parameter.device)
            processes.take_of_first(state[key])
    for weight in run.model.parameters():
        processes.take_of_first(weight.data)
    run.scaler.load_state_dict(processes.of_first(run.scaler.state_dict()))


def keep_alike(run: Run) -> None:
    """See to it that all processes have the same weights, which they do on machines of one kind."""
    if not run.processes.are_many:
        return
    digests = run.processes.of_all(weights_digest(run.model))
    others = [f"{rank}" for rank, digest in enumerate(digests) if digest != digests[0]]
    if others:
        run.log.say(
            f"warning: process {', '.join(others)} computes in other last bits than the first one "
            f"(another kind of CPU?), and has its weights again"
        )
        share_weights(run)


def weights_digest(model: torch.nn.Module) -> str:
    """A digest of all weights, to the bit."""
    digest = hashlib.sha256()
    for weight in model.parameters():
        digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
