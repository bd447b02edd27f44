"""The folder of a run: what is a run's, what may be written and deleted."""

import errno
import os
from pathlib import Path

import pytest
from plain_settings import plain_settings

from smallgpt.errors import SettingsError, UserError
from smallgpt.files.writing import remove, write_json
from smallgpt.options.config_file import to_yaml
from smallgpt.training import run_folder
from smallgpt.training.run_folder import RunFolder, disk_error
from smallgpt.training.run_log import RunLog


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


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
    "plots/learning_curve.png",
    "learning_curve.json",
    "learning_curve/part_8.json",
    "learning_curve/part_4/settings.yaml",
    "learning_curve/part_4/best_model/model.safetensors",
    "learning_curve/part_4/checkpoints/step_00000000/state.json",
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
    "evaluation_test_2/made_from.json",
    "evaluation_test_2/metrics.json",
    "evaluation_test_2/reliability.png",
    "events.out.tfevents.1.host.2.0.smallgpt",
]


MINE = [
    "notes.txt",
    "runs/shop/metrics.jsonl",  # other runs, where prepare_data.py suggests them
    "runs/shop/best_model/model.safetensors",
    "runs/evaluation_test/metrics.json",
    "events.out.tfevents.1.host.2.0",  # of another program
    ".gitkeep",
    ".notes.2024.tmp",
    "mine/x.bin",
    "plots/mine.png",
    "learning_curve/mine.json",
    "learning_curve/part_4/notes.txt",
    "plots/loss.png.old",
    "checkpoints/step_12/model.bin",
    "checkpoints/best.ckpt",
    "evaluation/old/metrics.json",
    "evaluation_of_mine/metrics.json",
    "classification_new/made_from.json",
    "classification_new/predictions.jsonl",
]


def write_files(root: Path, names: list[str]) -> None:
    contents = {
        "settings.yaml": to_yaml(plain_settings()),
        "train.log": "2026-11-24 21:15:26  data: 3 rows\n",
        "metrics.jsonl": '{"kind": "train", "step": 1}\n',
        "data_report.json": '{\n  "rows": 3\n}\n',
        "learning_curve.json": '{\n  "figure": "accuracy"\n}\n',
        "made_from.json": '{\n  "mode": "evaluate"\n}\n',
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
        "learning_curve/mine.json", "learning_curve/part_4", "learning_curve/part_4/notes.txt",
        "evaluation/old", "events.out.tfevents.1.host.2.0",
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
    "settings.yaml": ["", "theme: dark\n", "- 1\n", to_yaml(plain_settings(), explain=True),
                      "# mine\n" + to_yaml(plain_settings())],
    "train.log": ["epoch 1: loss 2.1\n", "2026-11-24 my diary\n"],
    "metrics.jsonl": ['{"loss": 1.0}\n', "x"],
    "data_report.json": ["", "{}", '{"rows": 3}'],
    "data_report.png": ["x"],
    "plots/loss.png": ["x", ""],
    "learning_curve.json": ["{}", '{"figure": "accuracy"}'],
    "learning_curve/part_8.json": ["{}"],
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


def test_folder_of_prepared_data_is_refused_with_another_one(tmp_path):
    folder = tmp_path / "shop"
    folder.mkdir()
    write_json(folder / "prepared.json", {"command": "tokens"})
    with pytest.raises(UserError, match=r"holds prepared data: .*--output_dir outputs/runs/shop$"):
        RunFolder(folder).check_start(clearing=False)


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
    folder.check_inputs({"--init_from": root / "runs/shop/best_model"})


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
