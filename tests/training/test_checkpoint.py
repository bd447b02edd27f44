"""Checkpoints: what comes back, what verifies, which are kept, what may change meanwhile."""

import hashlib
import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain_settings import plain_settings
from safetensors.torch import save_file

from smallgpt.errors import UserError
from smallgpt.training.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from smallgpt.training.loop_state import LoopState
from smallgpt.training.resume import what_changed

ABOUT = {
    "settings": {"seed": 1},
    "belongs_to": {"rows": "3"},
    "computed_by": {"threads": 1},
    "config": {"model_type": "gpt2"},
}
FILES = ("model.safetensors", "training.safetensors", "state.json")


class Small:
    """A model with optimizer and loss scaler, trained for some steps."""

    def __init__(self, seed: int, steps: int = 0, width: int = 3):
        torch.manual_seed(seed)
        self.model = torch.nn.Linear(width, 2)
        self.optimizers = [torch.optim.AdamW(self.model.parameters())]
        self.scaler = torch.amp.GradScaler("cpu", enabled=False)
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        self.optimizers[0].zero_grad()
        self.model(torch.rand(self.model.in_features)).square().sum().backward()
        self.optimizers[0].step()

    def save(self, folder: Path, step: int, keep: int = 2, **loop) -> Path:
        loop = {"step": step, "epoch_step": step, **loop}
        parts = (self.model, self.optimizers, self.scaler, LoopState(**loop), ABOUT)
        return save_checkpoint(folder, *parts, keep=keep, evaluated={})

    def load(self, folder: Path) -> LoopState:
        found = find_checkpoint(folder)
        load_checkpoint(found, self.model, self.optimizers, self.scaler, {"rows": "3"})
        return found.loop


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def forge(path: Path, **values) -> None:
    """Change state.json and make its checksum fit, as somebody would who means harm."""
    document = json.loads((path / "state.json").read_text())
    sums = document.pop("sha256")
    document |= values
    for name in FILES[:2]:
        sums[name] = hashlib.sha256((path / name).read_bytes()).hexdigest()
    text = json.dumps(document, sort_keys=True)
    sums["state.json"] = hashlib.sha256(text.encode()).hexdigest()
    (path / "state.json").write_text(json.dumps({**document, "sha256": sums}))


def test_what_is_saved_comes_back_and_goes_on_alike(tmp_path):
    first = Small(1, steps=3)
    loop = {"seconds": 0.1 + 0.2, "best_value": 1 / 3, "window_nll": 1e-300}
    first.save(tmp_path, 3, **loop)
    first.step()
    number = torch.rand(1)
    other = Small(2)
    assert other.load(tmp_path) == LoopState(step=3, epoch_step=3, **loop)
    other.step()
    assert torch.equal(first.model.weight, other.model.weight)
    assert torch.equal(number, torch.rand(1))


def test_configuration_with_many_labels_comes_back(tmp_path):
    run = Small(seed=1, steps=1)
    labels = {str(number): "\u732b" * 900 + str(number) for number in range(800)}
    about = {**ABOUT, "config": {"model_type": "gpt2", "id2label": labels}}  # 2 MB
    parts = (run.model, run.optimizers, run.scaler, LoopState(), about)
    save_checkpoint(tmp_path, *parts, keep=1, evaluated={})
    assert find_checkpoint(tmp_path).config["id2label"] == labels


def test_newest_ones_are_kept(tmp_path):
    run = Small(1, steps=1)
    for step in range(1, 6):
        run.save(tmp_path, step, keep=2)
    assert names_in(tmp_path) == ["step_00000004", "step_00000005"]


def test_evaluated_and_finished_come_after_their_step(tmp_path):
    run = Small(1, steps=1)
    run.save(tmp_path, 4, keep=3)
    run.save(tmp_path, 4, keep=3, epoch=1, epoch_step=0)
    run.save(tmp_path, 4, keep=3, epoch=1, epoch_step=0, finished="1 epoch")
    assert names_in(tmp_path) == [
        "step_00000004", "step_00000004_evaluated", "step_00000004_finished"
    ]  # fmt: skip
    assert find_checkpoint(tmp_path).loop.finished == "1 epoch"


def damage(path: Path, how: str) -> None:
    if how == "gone":
        path.unlink()
    elif how == "cut":
        os.truncate(path, path.stat().st_size // 2)
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "pipe":
        path.unlink()
        os.mkfifo(path)
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["gone", "cut", "empty", "folder", "pipe", "bit"])
def test_damaged_one_is_passed_over_with_a_line(tmp_path, name, how):
    run = Small(1, steps=1)
    run.save(tmp_path, 1)
    damage(run.save(tmp_path, 2) / name, how)
    found = find_checkpoint(tmp_path)
    assert found.loop.step == 1
    assert len(found.passed_over) == 1 and "step_00000002 is damaged (" in found.passed_over[0]


def test_no_digit_of_the_position_can_change_unnoticed(tmp_path):
    path = Small(1, steps=1).save(tmp_path, 2, best_value=0.1234) / "state.json"
    text = path.read_text()
    path.write_text(text.replace("0.1234", "0.1235"))
    with pytest.raises(UserError, match="does not match its checksum"):
        find_checkpoint(tmp_path)
    path.write_text(text)
    assert find_checkpoint(tmp_path).loop.best_value == 0.1234


def test_damaged_newer_one_never_costs_a_good_one(tmp_path):
    run = Small(1, steps=1)
    run.save(tmp_path, 3)
    damage(run.save(tmp_path, 9) / "state.json", "cut")
    run.save(tmp_path, 4, keep=1)
    assert names_in(tmp_path) == ["step_00000004"]
    assert find_checkpoint(tmp_path).loop.step == 4


def test_where_all_are_damaged_nothing_is_taken_or_deleted(tmp_path):
    for step in (1, 2):
        damage(Small(1, steps=1).save(tmp_path, step) / "state.json", "cut")
    with pytest.raises(UserError, match=r"step_00000002 is damaged .*--overwrite"):
        find_checkpoint(tmp_path)
    assert names_in(tmp_path) == ["step_00000001", "step_00000002"]


def test_no_folder_and_foreign_files_are_no_checkpoints(tmp_path):
    assert find_checkpoint(tmp_path / "none") is None
    for name in ("step_x", "step_", "step_00000001.old", "notes"):
        (tmp_path / name).mkdir()
    assert find_checkpoint(tmp_path) is None


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["format", "sha256", "loop", "settings", "state.json", "scaler"])
                | st.text(max_size=3),
                inner,
                max_size=5,
            )
        ),
        max_leaves=10,
    ).map(lambda value: json.dumps(value).encode())
    | st.sampled_from(
        [b"[" * 200_000, b'{"a":' * 200_000, b"9" * 100_000, b" " * 2_000_000, b"\xff\xfe{}"]
    )
)
def test_any_state_is_passed_over(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("checkpoints")
    run = Small(1, steps=1)
    run.save(folder, 1)
    (run.save(folder, 2) / "state.json").write_bytes(data)
    found = find_checkpoint(folder)
    assert found.loop.step == 1
    assert len(found.passed_over) == 1


@pytest.mark.parametrize(
    "loop",
    [
        {}, [], 7, {"step": "2"}, {"step": -1}, {"step": True}, {"epoch": 1.5}, {"more": 1},
        {"best_value": float("nan")}, {"seconds": float("inf")}, {"finished": None},
    ],
)  # fmt: skip
def test_impossible_position_is_damage_even_with_a_fitting_checksum(tmp_path, loop):
    path = Small(1, steps=1).save(tmp_path, 2)
    good = json.loads((path / "state.json").read_text())["loop"]
    forge(path, loop=good | loop if loop and isinstance(loop, dict) else loop)
    with pytest.raises(UserError, match="is damaged"):
        find_checkpoint(tmp_path)
    forge(path, loop=good)
    assert find_checkpoint(tmp_path).loop.step == 2


@pytest.mark.parametrize("about", ["settings", "belongs_to", "computed_by", "config"])
def test_other_kinds_of_values_are_damage(tmp_path, about):
    forge(Small(1, steps=1).save(tmp_path, 2), **{about: [1]})
    with pytest.raises(UserError, match="is damaged"):
        find_checkpoint(tmp_path)


@pytest.mark.parametrize(("number", "which"), [(1, "an older"), (99, "a newer")])
def test_checkpoint_of_another_version_is_named_as_such_and_not_passed_over(
    tmp_path, number, which
):
    Small(1, steps=1).save(tmp_path, 1)
    forge(Small(1, steps=2).save(tmp_path, 2), format=number)
    with pytest.raises(UserError, match=f"step_00000002: {which} version of this toolkit wrote"):
        find_checkpoint(tmp_path)


def test_format_that_is_no_number_is_damage(tmp_path):
    Small(1, steps=1).save(tmp_path, 1)
    forge(Small(1, steps=2).save(tmp_path, 2), format="4")
    found = find_checkpoint(tmp_path)
    assert found.loop.step == 1 and "step_00000002 is damaged" in found.passed_over[0]


def test_checkpoint_of_another_shape_is_refused(tmp_path):
    Small(1, steps=1, width=5).save(tmp_path, 1)
    with pytest.raises(UserError, match="another shape"):
        Small(1).load(tmp_path)


@pytest.mark.parametrize(
    "tensors",
    [
        {"random/cpu": torch.zeros(3)},
        {"random/cpu": torch.zeros(3, dtype=torch.uint8)},
        {},
        {"weight/exp_avg": torch.zeros(7, 7)},
        {"foreign/exp_avg": torch.zeros(2)},
        {"noslash": torch.zeros(2)},
    ],
    ids=lambda tensors: str(list(tensors)),
)
def test_tensors_that_do_not_fit_are_refused(tmp_path, tensors):
    path = Small(1, steps=1).save(tmp_path, 1)
    save_file(tensors, path / "training.safetensors")
    forge(path)
    with pytest.raises(UserError, match="not a checkpoint of this run"):
        Small(1).load(tmp_path)


def test_nothing_is_unpickled(tmp_path):
    path = Small(1, steps=1).save(tmp_path, 1)
    torch.save({"weight": torch.zeros(2, 3)}, path / "model.safetensors")
    forge(path)
    with pytest.raises(UserError, match="not a checkpoint of this run"):
        Small(1).load(tmp_path)


def test_other_data_is_named(tmp_path):
    run = Small(1, steps=1)
    run.save(tmp_path, 1)
    found = find_checkpoint(tmp_path)
    with pytest.raises(UserError, match="--resume: rows was 3, is 4, since"):
        load_checkpoint(found, run.model, run.optimizers, run.scaler, {"rows": "4"})


# ---- what may change -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "computed_by", "words", "exact"),
    [
        ({}, {}, [], True),
        ({"log_steps": 5}, {}, ["log_steps was 10, is 5; the weights do not depend on it"], True),
        ({"num_epochs": 20}, {}, ["num_epochs was 16, is 20. The schedule goes on from step 7"],
         False),
        ({"output_dir": "moved", "device": "cpu", "resume": True}, {}, [], True),
        ({}, {"threads": 2}, ["threads was 1, is 2. The run no longer ends bit for bit"], False),
        ({}, {"precision": "bf16"}, ["precision was fp32, is bf16"], False),
        ({}, {"compile": "on"}, ["compile was off, is on"], False),
        ({}, {"device": "cuda"}, ["device was cpu, is cuda"], False),
        ({"num_epochs": 9, "log_steps": 1}, {"threads": 3, "precision": "bf16"},
         ["num_epochs", "log_steps", "threads was 1, is 3; precision was fp32, is bf16"], False),
    ],
)  # fmt: skip
def test_what_changed_is_told_with_what_it_means(tmp_path, changes, computed_by, words, exact):
    computed = {"device": "cpu", "threads": 1, "precision": "fp32", "compile": "off"}
    run, settings = Small(1, steps=1), plain_settings()
    about = {"settings": asdict(settings), "belongs_to": {}, "computed_by": computed, "config": {}}
    parts = (run.model, run.optimizers, run.scaler, LoopState(step=7, epoch_step=7), about)
    save_checkpoint(tmp_path, *parts, keep=1, evaluated={})
    found = find_checkpoint(tmp_path)
    lines, promised = what_changed(
        found, replace(settings, **changes), computed | computed_by, total_steps=30
    )
    assert len(lines) == len(words) and promised == exact
    for line, word in zip(lines, words, strict=True):
        assert word in line


def test_no_bits_are_promised_on_a_gpu(tmp_path):
    run = Small(1, steps=1)
    about = {**ABOUT, "settings": vars(plain_settings()), "computed_by": {"device": "cuda"}}
    save_checkpoint(
        tmp_path, run.model, run.optimizers, run.scaler, LoopState(), about, keep=1, evaluated={}
    )
    found = find_checkpoint(tmp_path)
    lines, exact = what_changed(found, plain_settings(), {"device": "cuda"}, total_steps=30)
    assert not exact and len(lines) == 1 and "on a GPU" in lines[0]
