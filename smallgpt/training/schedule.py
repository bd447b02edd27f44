"""The plan of a run, the learning rate of each update, and the estimated time.

A plan is a number of updates. With --max_minutes it is made anew where the machine turns out slower
or faster than it looked (`budget.py`). So a run has a list of plans, each a pair: the updates that
were done when it was made, and the updates of the whole run. The learning rate then goes on from
where it is, and still reaches its end at the last update.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from smallgpt.console import format_duration, plural
from smallgpt.model.flops import counted_parameters, training_flops
from smallgpt.model.hardware import random_states, set_random_states
from smallgpt.options.option import AUTO
from smallgpt.options.training import TrainSettings
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.lengths import covering_length, describe_cut
from smallgpt.training.muon import Muon
from smallgpt.training.recipe import epochs_in_time
from smallgpt.training.run import Run

# Of the time that one thread takes, what two take; small models gain little from more.
_SHARE_OF_THREADS = 0.65
_MUCH_EXCHANGE = 0.5  # of an update
_MUCH_SLOWER = 5  # times: from here on the plan names the length that would be faster


def place_in_schedule(step: int, plan: list[list[int]]) -> float:
    """Where update `step` (from 0) stands in the schedule of the first plan's updates.

    The last update of a plan that was made anew stands where that of the first one stood.
    """
    last = plan[0][1] - 1
    ends = [made for made, _ in plan[1:]] + [step]
    place = 0.0
    for (made, total), end in zip(plan, ends, strict=True):
        updates = min(step, end) - made
        if updates > 0:
            place += updates * (last - place) / max(1, total - 1 - made)
    return min(place, last)


def learning_rate_at(step: float, total_steps: int, settings: TrainSettings) -> float:
    """Learning rate of update `step` (from 0): linear warm-up, then half a cosine."""
    warmup = round(settings.warmup_fraction * total_steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, total_steps - 1 - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    lowest = settings.final_lr_fraction
    return settings.learning_rate * (lowest + (1 - lowest) * cosine)


def within_usual_time(run: Run) -> Run:
    """The run with the epochs of the recipe, halved until they fit into the time it allows."""
    epochs = run.settings.num_epochs
    if epochs == AUTO:  # max_minutes or steps say how long
        return run
    update, evaluation = _seconds_if_idle(run)
    evaluations = 1 / run.epochs_an_evaluation(run.total_steps)
    of_epoch = run.steps_per_epoch * update + evaluations * evaluation
    fits = epochs_in_time(run.settings, run.rows, of_epoch)
    if fits == epochs:
        return run
    run.log.say(
        f"{plural(fits, 'epoch')} instead of {epochs}, which would take "
        f"{format_duration(epochs * of_epoch)} on this machine (--num_epochs {epochs} takes them)"
    )
    run.state.plan = [[0, run.steps_per_epoch * fits]]
    return replace(run, settings=replace(run.settings, num_epochs=fits))


def tokens_in_time(run: Run, seconds: float, share: float) -> float:
    """Tokens that a run visits in its `max_minutes`, evaluations left out.

    `seconds` of an update; `share` of the time, where other runs have the rest.
    """
    assert run.settings.max_minutes is not None
    updates = 60 * run.settings.max_minutes * share / seconds
    return updates * _tokens_of_epoch(run) / run.steps_per_epoch


def say_plan(run: Run, seconds: tuple[float, float]) -> None:
    """Print the steps to go and their estimated time; `seconds`: of `measured_seconds`."""
    settings, total = run.settings, run.state.plan[-1][1]
    left = total - run.state.step
    if left > 0:
        epochs = total / run.steps_per_epoch
        whole = f"{epochs:.1f} epochs" if epochs % 1 else plural(int(epochs), "epoch")
        run.log.say(
            f"plan: {whole} of {plural(run.steps_per_epoch, 'step')} "
            f"({plural(settings.batch_size * settings.grad_accumulation_steps, 'row')} each), "
            f"{plural(left, 'step')} to go, {plural(round(_tokens_of_epoch(run)), 'token')} an "
            f"epoch; about {format_duration(planned_seconds(run, seconds, left))}"
        )
        _say_cost_of_longest_rows(run)


def say_exchange(run: Run, seconds: tuple[float, float]) -> None:
    """Print what the exchange of the gradients costs; `seconds`: of `measured_seconds`."""
    numbers = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    message, times = torch.zeros(numbers, device=run.device), []
    for _ in range(3):
        began = time.perf_counter()
        run.processes.sum(message)
        getattr(torch, run.device.type).synchronize()
        times.append(time.perf_counter() - began)
    exchange = run.processes.of_first(min(times[1:]))
    share = exchange / seconds[0]
    run.log.say(
        f"an update sends {message.nbytes / 1e6:.1f} MB between the processes, which takes "
        f"{1000 * exchange:.1f} ms, {100 * share:.0f} % of it"
    )
    if share > _MUCH_EXCHANGE:
        run.log.say(
            "warning: most of an update is the exchange: take fewer processes, or a faster "
            "network, or fewer and larger updates (--batch_size, --grad_accumulation_steps)"
        )


def planned_seconds(run: Run, seconds: tuple[float, float], updates: int) -> float:
    """Estimated time of so many updates of the plan; `seconds`: of `measured_seconds`."""
    update, evaluation = seconds
    each = run.steps_per_epoch * run.epochs_an_evaluation(run.state.plan[-1][1])
    return updates * (update + evaluation / each)


def _say_cost_of_longest_rows(run: Run) -> None:
    """Say where a run takes several times as long because a few rows are far longer than all."""
    # A frozen backbone reads each row once.
    if run.settings.freeze_backbone:
        return
    length = covering_length(run.rows.lengths_N)
    flops = [_flops(run, rows) for rows in (run.rows, run.validation_rows)]
    cut = [_flops(run, rows, length) for rows in (run.rows, run.validation_rows)]
    # A forward pass is a third of a step's arithmetic.
    whole, without = (train_N @ run.rows.visits + v_N.sum() / 3 for train_N, v_N in (flops, cut))
    if whole >= _MUCH_SLOWER * without:
        run.log.say(
            f"warning: a few long rows make this plan {whole / without:.0f} times slower: "
            f"--max_length {length} {describe_cut(run.rows.lengths_N, length)}"
        )


def _seconds_if_idle(run: Run) -> tuple[float, float]:
    """`measured_seconds` of a machine that does nothing else, on a CPU."""
    threads = torch.get_num_threads()
    if run.device.type != "cpu":
        return measured_seconds(run)
    # The CPU time of one thread is the same beside other work; threads that wait for one another
    # use it up.
    torch.set_num_threads(1)
    try:
        update, evaluation = measured_seconds(run, time.thread_time)
    finally:
        torch.set_num_threads(threads)
    share = 1 if threads == 1 else _SHARE_OF_THREADS
    return share * update, share * evaluation


def measured_seconds(
    run: Run, clock: Callable[[], float] = time.perf_counter
) -> tuple[float, float]:
    """Seconds of one update, as measured, and of one evaluation; leaves the run unchanged.

    Of several processes all compute at once, and the clock of the first one counts.
    """
    flops_N = _flops(run, run.rows)
    updates = run.updates_of_epoch(run.state.epoch)
    flops = [sum(float(flops_N[rows].sum()) for rows in batches) for batches in updates]
    mean = sum(flops) / len(flops)
    typical = min(range(len(flops)), key=lambda number: abs(flops[number] - mean))
    times = []  # the first allocates memory and takes longer
    # Dropout draws random numbers; the run's generators must stay as they are.
    states = random_states(run.device)
    for _ in range(3):
        began = clock()
        float(run.gradients.add_gradients(updates[typical], run.state.step))
        for optimizer in run.optimizers:
            if isinstance(optimizer, Muon):  # AdamW's arithmetic is little
                optimizer.rehearse()
        getattr(torch, run.device.type).synchronize()
        times.append(clock() - began)
        run.gradients.clear_gradients()
    set_random_states(states, run.device)
    # Where one row is as long as all others together, no update is of average size.
    a_flop = min(times[1:]) / flops[typical]
    # A forward pass is a third of a step's arithmetic.
    evaluation = float(_flops(run, run.validation_rows).sum()) / 3
    return run.processes.of_first((1.1 * a_flop * mean, a_flop * evaluation))


def _flops(run: Run, rows: TokenLabelDataset, max_length: int | None = None) -> np.ndarray:
    """FLOPs of each row in a training step, also were it cut to `max_length` tokens."""
    parameters, config = counted_parameters(run.model, head=True), run.model.config
    lengths_N = np.minimum(rows.lengths_N, max_length or run.settings.max_length)
    return training_flops(parameters, config.num_hidden_layers, config.hidden_size, lengths_N)


def _tokens_of_epoch(run: Run) -> float:
    """Tokens that an epoch visits; an average where rows have variants."""
    return float(run.tokens_N @ run.rows.visits)
