"""Files of a run: atomic writes, the lock, records, signals."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from smallgpt.errors import SettingsError, UserError
from smallgpt.exit_codes import EXIT_HUNG_UP, EXIT_INTERRUPTED, EXIT_TERMINATED
from smallgpt.files.writing import (
    atomic_folder,
    atomic_write,
    json_line,
    make_folder,
    naming_file,
    remove,
    remove_leftovers,
    write_json,
    write_tensors,
    write_text,
)
from smallgpt.options.config_file import to_yaml
from smallgpt.options.training import TrainSettings
from smallgpt.training import run_folder
from smallgpt.training.metrics_file import read_metrics
from smallgpt.training.run_folder import RunFolder, disk_error
from smallgpt.training.run_log import RunLog
from smallgpt.training.stopping import StopRequestedError, StopSignal

ROOT = Path(__file__).parents[2]


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# ---- atomic writes -------------------------------------------------------------------


def test_written_file_holds_its_text_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "new" / "文件.txt"
    write_text(path, "训练\n")
    write_text(path, "second\n")
    assert path.read_bytes() == b"second\n"
    assert names_in(path.parent) == {"文件.txt"}


def test_bytes_can_be_written(tmp_path):
    with atomic_write(tmp_path / "x.bin", "wb") as handle:
        handle.write(b"\xff\x00\r\n")
    assert (tmp_path / "x.bin").read_bytes() == b"\xff\x00\r\n"


def test_tensors_with_equal_metadata_are_equal_bytes(tmp_path):
    tensors = {name: torch.arange(3.0) for name in ("b", "a", '"')}
    facts = {f"键 {n}": f'"{n}"\\\n\t\x01\x7f é' for n in range(20)}
    paths = [tmp_path / "one", tmp_path / "two"]
    for path, order in zip(paths, (facts, dict(reversed(facts.items()))), strict=True):
        write_tensors(path, tensors, order)
        with safe_open(path, framework="pt") as handle:
            assert handle.metadata() == facts
            assert all(torch.equal(handle.get_tensor(name), tensors[name]) for name in tensors)
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_weights_may_be_read_by_whom_the_umask_allows(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_tensors(tmp_path / "x.safetensors", {"weight": torch.zeros(2)})
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == mode


def test_old_file_is_there_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "old")
    with atomic_write(path) as handle:
        handle.write("new")
        handle.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_reader_of_the_old_file_reads_it_to_its_end(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "old")
    with open(path) as reader:
        write_text(path, "new")
        assert reader.read() == "old"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_error_while_writing_leaves_the_old_file_alone(tmp_path, error):
    path = tmp_path / "x.txt"
    write_text(path, "old")
    with pytest.raises(error), atomic_write(path) as handle:
        handle.write("half")
        raise error
    assert path.read_text() == "old"
    assert names_in(tmp_path) == {"x.txt"}


def test_json_is_indented_readable_and_refuses_nan(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"标签": [1, None]})
    assert path.read_text(encoding="utf-8") == '{\n  "标签": [\n    1,\n    null\n  ]\n}\n'
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError):
            write_json(path, {"loss": value})
    assert json.loads(path.read_text(encoding="utf-8")) == {"标签": [1, None]}


def test_deep_levels_of_json_can_stand_in_one_line(tmp_path):
    value = {"a": {"x": {"y": [1, 2]}, "标签": None}, "b": [[1, [2]], {}], "c": [], "d": 0.1}
    lines = {}
    for levels in (None, 0, 1, 2):
        write_json(tmp_path / "file.json", value, levels)
        text = (tmp_path / "file.json").read_text(encoding="utf-8")
        assert json.loads(text) == value
        lines[levels] = text.splitlines()
    assert len(lines[0]) == 1 and len(lines[1]) == 6
    assert lines[2][1:5] == ['  "a": {', '    "x": {"y": [1, 2]},', '    "标签": null', "  },"]
    assert "\n".join(lines[None]) == json.dumps(value, indent=2, ensure_ascii=False)


def test_log_holds_no_escape_sequence(tmp_path, capsys):
    folder = RunFolder(tmp_path / "run")
    with RunLog(folder) as log:
        log.say("label \x1b[31mred\r\nsecond line")
    (first, second) = folder.log.read_text().splitlines()
    assert first.endswith(r"  label \x1b[31mred\r") and second.endswith("  second line")
    assert "\x1b" not in capsys.readouterr().out


def test_folder_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "model"
    with pytest.raises(ValueError), atomic_folder(path) as folder:
        (folder / "half.txt").write_text("half")
        raise ValueError
    assert names_in(tmp_path / "deep") == set()
    with atomic_folder(path) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "x.txt").write_text("whole")
        assert not path.exists()
    assert (path / "sub" / "x.txt").read_text() == "whole"
    assert names_in(tmp_path / "deep") == {"model"}


def test_folder_does_not_replace_another(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError), atomic_folder(tmp_path / "model"):
        pass
    assert names_in(tmp_path / "model") == {"mine.txt"}


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(tmp_path):
    program = (
        "import os, signal, sys\n"
        "from smallgpt.files.writing import atomic_folder, atomic_write\n"
        "with atomic_folder(sys.argv[1] + '/model') as folder, "
        "atomic_write(sys.argv[1] + '/x.json') as handle:\n"
        "    (folder / 'half.txt').write_text('half')\n"
        "    handle.write('half')\n"
        "    handle.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, check=False)
    assert len(names_in(tmp_path)) == 2
    assert not names_in(tmp_path) & {"model", "x.json"}
    mine = {
        "mine.tmp",
        ".hidden",
        "y.json",
        ".notes.2024.tmp",
        ".x.json.old.tmp",
        ".a.x.json.1.tmp",
    }
    for name in mine:
        (tmp_path / name).write_text("mine")
    (tmp_path / ".backup.20241124.tmp").mkdir()
    remove_leftovers(tmp_path, re.compile(r"model|x\.json"))
    assert names_in(tmp_path) == mine | {".backup.20241124.tmp"}


def test_folder_leaves_its_place_whole(tmp_path, monkeypatch):
    """A reader that polls a folder must not meet a half of it while it is deleted."""
    folder = tmp_path / "best_model"
    folder.mkdir()
    (folder / "a.bin").write_text("x")
    (folder / "b.bin").write_text("x")
    seen = []
    for name in ("unlink", "rmdir"):
        real = getattr(os, name)

        def watched(*args, real=real, **kwargs):
            seen.append(folder.exists())
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, watched)
    remove(folder)
    assert len(seen) >= 3 and not any(seen)
    assert names_in(tmp_path) == set()
    remove(folder)


class Synced:
    """Watches that what is renamed was synced before, and the name of it after."""

    def __init__(self, monkeypatch):
        self.synced, self.waiting, self.renames = set(), None, 0
        monkeypatch.setattr(os, "fsync", self.watch_sync(os.fsync))
        for name in ("rename", "replace"):
            monkeypatch.setattr(os, name, self.watch_rename(getattr(os, name)))

    def watch_sync(self, real):
        def fsync(handle):
            place = Path(os.readlink(f"/proc/self/fd/{handle}"))
            # The state that was synced: what is written later is not.
            self.synced.add((place.stat().st_ino, place.stat().st_mtime_ns))
            if place == self.waiting:
                self.waiting = None
            real(handle)

        return fsync

    def watch_rename(self, real):
        def rename(source, target):
            assert self.waiting is None, f"{self.waiting} was not synced after a rename"
            source, target = Path(source), Path(target)
            if ".tmp" in source.name or ".tmp" in source.parent.name:  # not a folder to delete
                for place in [source, *source.rglob("*")]:
                    assert (place.stat().st_ino, place.stat().st_mtime_ns) in self.synced, place
                self.waiting, self.renames = target.parent.resolve(), self.renames + 1
            real(source, target)

        return rename


@pytest.fixture
def synced(monkeypatch):
    watch = Synced(monkeypatch)
    yield watch
    assert watch.waiting is None


def test_files_and_folders_are_durable_before_they_get_their_name(tmp_path, synced):
    write_text(tmp_path / "x.txt", "x")
    with atomic_folder(tmp_path / "deep" / "model") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "x.bin").write_text("x")
    assert synced.renames == 2


def test_new_folders_are_durable(tmp_path, monkeypatch):
    seen, real = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda h: (seen.append(os.readlink(f"/proc/self/fd/{h}")), real(h))
    )
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert seen == [str(tmp_path), str(tmp_path / "a")]


# ---- the lock ------------------------------------------------------------------------

HOLDER = """
import sys
from smallgpt.training.run_folder import RunFolder
with RunFolder(sys.argv[1]).locked():
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of `tmp_path / "run"` until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.communicate()


def test_second_process_is_refused_while_the_first_lives(tmp_path, holder):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(UserError, match=r"another training run .* --output_dir"), folder.locked():
        pass
    holder.communicate()
    with folder.locked():
        pass


def test_lock_of_a_killed_process_is_free(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with RunFolder(tmp_path / "run").locked():
        pass


def test_lock_is_freed_by_an_error_and_held_against_this_process_too(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(KeyError), folder.locked():
        with pytest.raises(UserError), RunFolder(tmp_path / "run").locked():
            pass
        raise KeyError
    with folder.locked():
        pass


def test_other_folders_are_not_locked(tmp_path, holder):
    with RunFolder(tmp_path / "other").locked():
        pass


# ---- the folder ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["checkpoints/step_00000000", "best_model", "final_model"])
def test_folder_with_a_model_or_checkpoint_holds_a_run(tmp_path, name):
    folder = RunFolder(tmp_path)
    assert not folder.holds_run()
    (tmp_path / name).mkdir(parents=True)
    assert folder.holds_run()


@pytest.mark.parametrize("name", [".step_00000000.1.tmp", "mine.pt", ""])
def test_checkpoints_folder_without_a_checkpoint_holds_no_run(tmp_path, name):
    (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert not RunFolder(tmp_path).holds_run()


def test_folder_with_figures_holds_a_run_and_one_with_a_data_report_does_not(tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert not folder.holds_run()
    with RunLog(folder) as log:
        log.say("checking")
        write_json(folder.data_report, {})
        assert not folder.holds_run()
        log.record({"kind": "train", "step": 1})
        assert folder.holds_run()


RUN = [
    "settings.yaml",
    "data_report.json",
    "data_report.png",
    "metrics.jsonl",
    "train.log",
    "plots/loss.png",
    "plots/perplexity.png",
    "plots/accuracy.png",
    "checkpoints/step_00000000/state.json",
    "checkpoints/step_00000012_finished/state.json",
    "checkpoints/.step_00000014.7.tmp",
    ".best_model.7.tmp",
    "best_model/settings.yaml",
    "best_model/model.safetensors",
    "final_model/settings.yaml",
    "evaluation/metrics.json",
    "evaluation/predictions.jsonl",
    "evaluation/mistakes.png",
    "events.out.tfevents.1.host.2.0",
]
MINE = [
    "notes.txt",
    ".gitkeep",
    ".notes.2024.tmp",
    "mine/x.bin",
    "plots/mine.png",
    "plots/loss.png.old",
    "checkpoints/step_12/model.bin",
    "checkpoints/best.ckpt",
    "evaluation/old/metrics.json",
]


def write_files(root: Path, names: list[str]) -> None:
    contents = {
        "settings.yaml": to_yaml(TrainSettings()),
        "train.log": "2026-11-24 21:15:26  data: 3 rows\n",
        "metrics.jsonl": '{"kind": "train", "step": 1}\n',
        "data_report.json": '{\n  "rows": 3\n}\n',
        "metrics.json": '{\n  "model": "best_model"\n}\n',
        "predictions.jsonl": '{"line": 1, "label": "7"}\n',
    }
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(contents.get(Path(name).name, "x"))


def files_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_clearing_deletes_the_run_and_nothing_else(tmp_path):
    write_files(tmp_path, RUN + MINE)
    folder = RunFolder(tmp_path)
    folder.check_start(clearing=True)
    told = folder.clear()
    folder.remove_leftovers()
    assert files_in(tmp_path) == sorted(MINE)
    assert {str(path.relative_to(tmp_path)) for path in told} == {
        "plots/mine.png", "plots/loss.png.old", "checkpoints/step_12", "checkpoints/best.ckpt",
        "evaluation/old",
    }  # fmt: skip
    assert not folder.holds_run() and not (tmp_path / "best_model").exists()


def test_clearing_takes_the_folders_that_held_the_run_alone(tmp_path):
    write_files(tmp_path, RUN)
    folder = RunFolder(tmp_path)
    assert folder.clear() == []
    folder.remove_leftovers()
    assert names_in(tmp_path) == set()
    assert folder.clear() == []


def test_the_newest_checkpoint_is_cleared_last_of_them_and_before_the_rest(tmp_path, monkeypatch):
    write_files(tmp_path, RUN)
    gone = []
    monkeypatch.setattr(run_folder, "remove", lambda path: gone.append(path.name))
    RunFolder(tmp_path).clear()
    assert gone[:2] == ["step_00000000", "step_00000012_finished"]


@pytest.mark.parametrize("lost", [[], ["best_model", "final_model"]])
def test_deletion_that_was_killed_does_not_stand_in_the_way(tmp_path, monkeypatch, lost):
    write_files(tmp_path, [name for name in RUN if name.split("/")[0] not in lost])
    folder = RunFolder(tmp_path)

    def killed(path):
        folder.check_start(clearing=True)  # what the same command does when it is given again
        remove(path)

    monkeypatch.setattr(run_folder, "remove", killed)
    folder.clear()
    folder.check_start(clearing=False)


@pytest.mark.parametrize(
    ("name", "gone"),
    [("metrics.json", []), ("mistakes.png", ["metrics.json", "predictions.jsonl"])],
)
def test_foreign_file_in_the_place_of_an_evaluation_s_is_not_cleared(tmp_path, name, gone):
    left = [path for path in RUN if path not in [f"evaluation/{file}" for file in gone]]
    write_files(tmp_path, left)
    (tmp_path / "evaluation" / name).write_text("mine")
    with pytest.raises(UserError, match=f"evaluation/{name} was left by no evaluation, and --over"):
        RunFolder(tmp_path).check_start(clearing=True)


@pytest.mark.parametrize("name", ["best_model/notes.md", "final_model/onnx/x.onnx",
                                  "checkpoints/step_00000000/pytorch_model.bin"])  # fmt: skip
def test_foreign_file_within_what_goes_as_a_whole_is_not_cleared(tmp_path, name):
    write_files(tmp_path, [*RUN, name])
    folder = RunFolder(tmp_path)
    folder.check_start(clearing=False)
    with pytest.raises(UserError, match=rf"{name.split('/')[-2]}.* is no file of a training run"):
        folder.check_start(clearing=True)


OTHERS = {
    "settings.yaml": ["", "theme: dark\n", "- 1\n", to_yaml(TrainSettings(), explain=True),
                      "# mine\n" + to_yaml(TrainSettings())],
    "train.log": ["epoch 1: loss 2.1\n", "2026-11-24 my diary\n"],
    "metrics.jsonl": ['{"loss": 1.0}\n', "x"],
    "data_report.json": ["", "{}", '{"rows": 3}'],
    "data_report.png": ["x"],
    "plots/loss.png": ["x", ""],
    "best_model/config.json": ["{}"],
    "checkpoints/step_00001000/model.safetensors": ["x"],
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("clearing", [False, True])
def test_file_of_others_in_the_place_of_a_run_s_is_refused(tmp_path, name, clearing):
    for content in OTHERS[name]:
        write_files(tmp_path, [name])
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match=r"was left by no training run.*--output_dir"):
            RunFolder(tmp_path).check_start(clearing)


def test_pipe_in_the_place_of_a_run_s_file_is_refused_and_not_read(tmp_path):
    for name in ("settings.yaml", "train.log", "data_report.json"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(UserError, match=name):
            RunFolder(tmp_path).check_start(clearing=False)
        (tmp_path / name).unlink()


def test_files_of_a_start_that_came_to_no_checkpoint_are_the_run_s(tmp_path):
    left = [
        "settings.yaml",
        "train.log",
        "data_report.json",
        "data_report.png",
        "checkpoints/x",
        ".lock",
    ]
    write_files(tmp_path, left)
    (tmp_path / "metrics.jsonl").touch()
    folder = RunFolder(tmp_path)
    folder.check_start(clearing=False)
    folder.log.write_text("")
    folder.check_start(clearing=True)
    assert not folder.holds_run()


@pytest.mark.parametrize("damaged", ["settings.yaml", "train.log", "data_report.json"])
def test_damaged_file_of_a_run_is_still_the_run_s(tmp_path, damaged):
    write_files(tmp_path, RUN)
    (tmp_path / damaged).write_text("[")
    RunFolder(tmp_path).check_start(clearing=True)


@pytest.mark.parametrize("name", ["run", "run/plots", "run/checkpoints"])
def test_file_in_the_place_of_a_folder_is_told(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).symlink_to("nowhere")
    for _ in range(2):
        with pytest.raises(UserError, match=rf"{name} is no folder, .* another --output_dir$"):
            RunFolder(tmp_path / "run").check_start(clearing=False)
        (tmp_path / name).unlink()
        (tmp_path / name).write_text("x")


def test_what_the_new_run_reads_is_not_cleared(tmp_path, monkeypatch):
    root = tmp_path / "run"
    write_files(root, RUN + MINE)
    folder = RunFolder(root)
    (tmp_path / "link").symlink_to(root / "best_model")
    (tmp_path / "base").mkdir()
    (tmp_path / "base/model.safetensors").symlink_to(root / "best_model/model.safetensors")
    (tmp_path / "linked_run").symlink_to(root)
    monkeypatch.chdir(root)
    for path in (
        root / "best_model", "best_model", root / "best_model/model.safetensors", root,
        root / "plots/../best_model/", tmp_path / "link", tmp_path / "base",
        tmp_path / "linked_run/best_model", root / "evaluation/predictions.jsonl",
    ):  # fmt: skip
        with pytest.raises(SettingsError, match=r"^--init_from .* deletes .*--output_dir$"):
            folder.check_inputs({"--init_from": path})
    with pytest.raises(
        SettingsError, match=r"--data_path .*predictions.*\n--vocab_path .*best_model"
    ):
        folder.check_inputs({"--data_path": root / "evaluation/predictions.jsonl",
                             "--vocab_path": root / "best_model/settings.yaml"})  # fmt: skip
    folder.check_inputs({"--data_path": root / "mine/x.bin", "--val_data_path": None,
                         "--vocab_path": root / "notes.txt", "--init_from": "gpt2"})  # fmt: skip


def test_clearing_follows_no_link_out_of_the_folder(tmp_path):
    for name in ("best_model", "plots"):
        (tmp_path / "elsewhere" / name).mkdir(parents=True)
        (tmp_path / "elsewhere" / name / "loss.png").write_text("x")
    (tmp_path / "run").mkdir()
    for name in ("best_model", "plots"):
        (tmp_path / "run" / name).symlink_to(tmp_path / "elsewhere" / name)
    told = RunFolder(tmp_path / "run").clear()
    assert names_in(tmp_path / "run") == set()
    assert set(told) == {tmp_path / "elsewhere" / name for name in ("best_model", "plots")}
    assert files_in(tmp_path / "elsewhere") == ["best_model/loss.png", "plots/loss.png"]


# ---- records -------------------------------------------------------------------------


def test_log_is_printed_and_appended_with_the_time(tmp_path, capsys):
    folder = RunFolder(tmp_path / "run")
    for text in ("first", "second\nthird 训练"):
        with RunLog(folder) as log:
            log.say(text)
    assert capsys.readouterr().out == "first\nsecond\nthird 训练\n"
    lines = folder.log.read_text(encoding="utf-8").splitlines()
    assert [line.split("  ", 1)[1] for line in lines] == ["first", "second", "third 训练"]


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full here")
def test_log_goes_on_when_standard_output_is_full(tmp_path, monkeypatch):
    with open("/dev/full", "w") as full, RunLog(RunFolder(tmp_path)) as log:
        monkeypatch.setattr(sys, "stdout", full)
        log.say("first")
        log.say("second")
        monkeypatch.undo()
        with pytest.raises(OSError):
            full.close()
    lines = (tmp_path / "train.log").read_text().splitlines()
    told = "warning: standard output: No space left on device"
    assert [line.split("  ", 1)[1].split(";")[0] for line in lines] == ["first", told, "second"]


def test_log_that_opens_later_keeps_what_was_said_before(tmp_path, capsys):
    folder = RunFolder(tmp_path / "run")
    with RunLog(folder, later=True) as log:
        log.say("first\nsecond")
        assert not folder.root.exists()
        log.open()
        log.say("third")
    assert capsys.readouterr().out == "first\nsecond\nthird\n"
    lines = folder.log.read_text().splitlines()
    assert [line.split("  ", 1)[1] for line in lines] == ["first", "second", "third"]


def test_figures_are_readable_at_once_and_refuse_nan(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with RunLog(folder) as log:
        log.record({"kind": "train", "step": 1, "loss": 2.5})
        assert read_metrics(folder.metrics) == [{"kind": "train", "step": 1, "loss": 2.5}]
        with pytest.raises(ValueError):
            log.record({"kind": "train", "step": 2, "loss": float("nan")})
    assert len(read_metrics(folder.metrics)) == 1


@pytest.mark.parametrize(
    "half", [b'{"step": 3, "lo', b'{"step": 3, "\xe8\xae', b"\x00" * 50, b'{"step"', b"\n\n"]
)
def test_half_written_last_row_is_left_out(tmp_path, half):
    path = tmp_path / "metrics.jsonl"
    rows = [{"kind": "train", "step": step} for step in (1, 2)]
    path.write_bytes("".join(map(json_line, rows)).encode() + half)
    assert read_metrics(path) == rows


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000, b"7", b"[]", b"null", b'{"kind": "train"}', b'{"step": 3}',
        b'{"kind": "train", "step": "3"}', b'{"kind": "train", "step": true}',
        b'{"kind": "train", "step": 3, "loss": [1]}', b'{"kind": 1, "step": 3}',
        b'{"kind": "train", "step": 1' + b"0" * 400 + b"}", b"\xff\xfe\x00",
    ],
    ids=lambda line: repr(line[:40]),
)  # fmt: skip
def test_line_that_no_run_wrote_ends_the_figures(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    good = b'{"kind": "train", "step": 1}\n'
    path.write_bytes(good + line + b"\n" + good)
    assert read_metrics(path) == [{"kind": "train", "step": 1}]


def test_rows_end_at_line_feeds_alone(tmp_path):
    folder = RunFolder(tmp_path)
    rows = [{"kind": kind, "step": 1} for kind in ("a\u2028b", "c\x85d", "训练")]
    with RunLog(folder) as log:
        for row in rows:
            log.record(row)
    assert read_metrics(folder.metrics) == rows


def test_no_metrics_file_means_no_rows(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_rows_that_a_resumed_run_writes_again_are_dropped(tmp_path):
    folder = RunFolder(tmp_path)
    rows = [{"kind": kind, "step": step} for step in (10, 20, 30) for kind in ("train", "验证")]
    with RunLog(folder) as log:
        for row in rows:
            log.record(row)
    with open(folder.metrics, "a") as handle:
        handle.write('{"kind": "tra')
    with RunLog(folder) as log:
        log.keep_rows(3)  # also of two rows of one step
        assert read_metrics(folder.metrics) == rows[:3]
        log.record({"kind": "train", "step": 21})
    assert read_metrics(folder.metrics) == [*rows[:3], {"kind": "train", "step": 21}]


def test_lost_rows_are_told(tmp_path, capsys):
    folder = RunFolder(tmp_path)
    with RunLog(folder) as log:
        for step in (1, 2, 3):
            log.record({"kind": "train", "step": step})
    folder.metrics.write_bytes(folder.metrics.read_bytes().replace(b'"step": 2', b'"step": x'))
    with RunLog(folder) as log:
        log.keep_rows(3)
    assert len(read_metrics(folder.metrics)) == 1
    assert "damaged after row 1: 2 rows of figures lost" in capsys.readouterr().out


def test_log_holds_whole_lines_whatever_is_said(tmp_path):
    folder = RunFolder(tmp_path)
    with RunLog(folder) as log:
        log.say("name \udcff of a file")
    assert folder.log.read_text().endswith("name \\udcff of a file\n")


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full here")
def test_full_disk_is_told_with_the_name_of_the_file(tmp_path):
    folder = RunFolder(tmp_path)
    folder.metrics.symlink_to("/dev/full")
    with RunLog(folder) as log:
        with pytest.raises(OSError) as full:
            log.record({"kind": "train", "step": 1})
        assert (full.value.errno, full.value.filename) == (errno.ENOSPC, str(folder.metrics))
    text = str(disk_error(full.value, folder, 7))
    assert f"no space left on the disk of {folder.metrics}" in text
    assert "checkpoint of step 7" in text and f"--resume --output_dir {tmp_path}" in text


def test_error_of_an_open_file_gets_its_name_and_keeps_another(tmp_path):
    for given, named in ((None, "x.json"), ("y.json", "y.json")):
        with pytest.raises(OSError) as caught, naming_file("x.json"):
            raise OSError(errno.EIO, "failed", given)
        assert caught.value.filename == named


# ---- stopping ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, EXIT_INTERRUPTED),
        (signal.SIGTERM, EXIT_TERMINATED),
        (signal.SIGHUP, EXIT_HUNG_UP),
    ],
)
def test_first_signal_is_a_wish_that_can_be_asked_for(number, code):
    with StopSignal() as stop:
        stop.raise_if_requested()
        assert not stop.requested()
        os.kill(os.getpid(), number)
        assert stop.requested()
        assert stop.exit_code == code
        with pytest.raises(StopRequestedError):
            stop.raise_if_requested()


def test_second_ctrl_c_leaves_at_once():
    with pytest.raises(KeyboardInterrupt), StopSignal():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_second_sigterm_waits_for_the_save_that_is_under_way():
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.exit_code == EXIT_TERMINATED


STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in STOPPING]
    with StopSignal():
        assert not any(signal.getsignal(n) == b for n, b in zip(STOPPING, before, strict=True))
    assert [signal.getsignal(number) for number in STOPPING] == before


@pytest.mark.parametrize("number", STOPPING)
def test_signal_that_the_caller_ignores_stays_ignored(number):
    """As under `nohup`, or in the background of a script."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), number)
        assert not stop.requested()
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_outside_the_main_thread_it_leaves_the_signals_alone():
    seen = []

    def work():
        with StopSignal() as stop:
            seen.append((stop.requested(), signal.getsignal(signal.SIGINT)))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
