"""TensorBoard event files: readable at once, and forgetful where a run goes on."""

import time
from pathlib import Path

import pytest
from training_runs import change, small_settings

from smallgpt.errors import UserError
from smallgpt.evaluation.metrics_file import read_metrics
from smallgpt.training.event_files import EventFiles
from smallgpt.training.update import Updater
from train_gpt import train


@pytest.fixture
def settings(tmp_path, unpainted):
    return small_settings(tmp_path)


def all_points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The scalars of the event files of a folder, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(point.step, point.value) for point in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def points_of_metrics(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The same from metrics.jsonl."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in read_metrics(folder / "metrics.jsonl"):
        for name, value in row.items():
            if name not in ("kind", "step") and value is not None:
                tag = f"{row['kind']}/{name}"
                found.setdefault(tag, []).append((row["step"], pytest.approx(value, rel=1e-6)))
    return found


@pytest.fixture
def with_tensorboard():
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")


def test_event_files_hold_the_figures_of_metrics(with_tensorboard, settings):
    train(change(settings, tensorboard=True))
    found = all_points(Path(settings.output_dir))
    assert found == points_of_metrics(Path(settings.output_dir))
    assert {"train/loss", "train/learning_rate", "validation/label_accuracy"} <= set(found)


def test_a_resumed_run_leaves_no_doubled_points(with_tensorboard, settings, monkeypatch):
    settings = change(settings, tensorboard=True, checkpoint_steps=5, log_steps=1, num_epochs=4)
    compute = Updater.compute_gradients
    crash_at = iter((8, 13))

    def crash(self, batches, limit):
        if self.run.state.step == limit:
            raise RuntimeError("killed")
        compute(self, batches)

    for limit in crash_at:
        with monkeypatch.context() as patch:
            patch.setattr(Updater, "compute_gradients", lambda *args, at=limit: crash(*args, at))
            with pytest.raises(RuntimeError, match="killed"):
                train(change(settings, resume=True))
        found = all_points(Path(settings.output_dir))["train/loss"]
        assert [step for step, _ in found] == list(range(1, limit + 1))
        time.sleep(1.1)  # TensorBoard reads files in the order of their names: by the second
    train(change(settings, resume=True))
    found = all_points(Path(settings.output_dir))
    assert found == points_of_metrics(Path(settings.output_dir))
    steps = [step for step, _ in found["train/loss"]]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) > 13


def test_event_files_that_begin_late_have_the_earlier_points(with_tensorboard, settings):
    train(settings)
    assert not list(Path(settings.output_dir).glob("events.*"))
    train(change(settings, resume=True, tensorboard=True, num_epochs=3))
    folder = Path(settings.output_dir)
    assert all_points(folder) == points_of_metrics(folder)


def test_overwrite_deletes_the_event_files(with_tensorboard, settings):
    train(change(settings, tensorboard=True))
    train(change(settings, overwrite=True))
    assert not list(Path(settings.output_dir).glob("events.*"))


def test_missing_tensorboard_is_told_before_anything_is_touched(settings, monkeypatch):
    train(settings)
    before = sorted(Path(settings.output_dir).rglob("*"))
    monkeypatch.setattr("smallgpt.training.event_files.importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[tensorboard\]' -c constraints.txt$"):
        train(change(settings, tensorboard=True, overwrite=True))
    assert sorted(Path(settings.output_dir).rglob("*")) == before


# ---- the writer alone ---


def points_of(folder, tag):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return [(point.step, point.value) for point in events.Scalars(tag)]


def row_at(step: int, loss: float | None) -> dict:
    return {"kind": "train", "step": step, "loss": loss, "epoch": 0.5}


def test_a_row_can_be_read_while_the_run_goes_on(with_tensorboard, tmp_path):
    events = EventFiles(tmp_path)
    events.record(row_at(1, 2.5))
    assert points_of(tmp_path, "train/loss") == [(1, 2.5)]
    events.record(row_at(2, None))
    assert points_of(tmp_path, "train/loss") == [(1, 2.5)]
    assert points_of(tmp_path, "train/epoch") == [(1, 0.5), (2, 0.5)]
    events.close()


def test_points_after_the_step_gone_on_from_are_forgotten(with_tensorboard, tmp_path):
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
