"""TensorBoard event files: readable at once, and forgetful where a run goes on."""

import time

import pytest

pytest.importorskip("tensorboard", reason="tensorboard is not installed")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from smallgpt.training.event_files import EventFiles


def points_of(folder, tag):
    events = EventAccumulator(str(folder)).Reload()
    return [(point.step, point.value) for point in events.Scalars(tag)]


def row_at(step: int, loss: float | None) -> dict:
    return {"kind": "train", "step": step, "loss": loss, "epoch": 0.5}


def test_a_row_can_be_read_while_the_run_goes_on(tmp_path):
    events = EventFiles(tmp_path)
    events.record(row_at(1, 2.5))
    assert points_of(tmp_path, "train/loss") == [(1, 2.5)]
    events.record(row_at(2, None))
    assert points_of(tmp_path, "train/loss") == [(1, 2.5)]
    assert points_of(tmp_path, "train/epoch") == [(1, 0.5), (2, 0.5)]
    events.close()


def test_points_after_the_step_gone_on_from_are_forgotten(tmp_path):
    killed = EventFiles(tmp_path)  # never closed
    for step in range(1, 8):
        killed.record(row_at(step, float(step)))
    time.sleep(1.1)  # TensorBoard reads files in the order of their names, which hold the second
    resumed = EventFiles(tmp_path, resumed_at=4)
    for step in range(5, 10):
        resumed.record(row_at(step, 10.0 * step))
    found = points_of(tmp_path, "train/loss")
    assert found == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)] + [
        (step, 10.0 * step) for step in range(5, 10)
    ]
    resumed.close()
    killed.close()
