"""Where results are written: nothing of others is overwritten, and nothing is lost."""

import json
import os
import shutil

import pytest
from small_rows import json_lines
from trained_models import BEST_MODEL, body_of

from inference import (
    classify_file,
    evaluate_file,
    main,
)
from smallgpt.errors import SettingsError, UserError
from smallgpt.evaluation.folder import named_after
from smallgpt.files.locks import hold_folder


@pytest.mark.parametrize("link", ["itself", "symbolic", "hard"])
@pytest.mark.parametrize("name", ["predictions.jsonl", "metrics.json", "reliability.png"])
@pytest.mark.parametrize("use", [classify_file, evaluate_file])
def test_no_evaluation_overwrites_its_own_input(untrained, tmp_path, use, name, link):
    path = tmp_path / name
    path.write_text('{"tokens": "A B"}\n')
    given = tmp_path / "other.jsonl"
    if link == "symbolic":
        given.symlink_to(path)
    elif link == "hard":
        given.hardlink_to(path)
    else:
        given = tmp_path / "." / name
    with pytest.raises(SettingsError, match="would be overwritten: give another --output_dir"):
        use(untrained["tokens"], given, tmp_path)
    assert path.read_text() == '{"tokens": "A B"}\n'


@pytest.mark.parametrize("name", ["predictions.jsonl", "metrics.json", "mistakes.png"])
@pytest.mark.parametrize("use", [classify_file, evaluate_file])
def test_no_evaluation_overwrites_files_of_others(untrained, bars, tmp_path, use, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name} was left by no evaluation, and one writes under"):
        use(untrained["tokens"], bars / "test.jsonl", tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "mine"}


def test_a_file_in_the_place_of_the_output_folder_is_told(trained, bars, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="out is a file: give a folder as --output_dir"):
        evaluate_file(trained, bars / "test.jsonl", tmp_path / "out")


def test_labels_told_into_the_folder_of_an_evaluation_stand_alone(trained, bars, tmp_path):
    evaluate_file(trained, bars / "test.jsonl", tmp_path)
    assert len(list(tmp_path.iterdir())) > 2
    (tmp_path / "mine.png").write_text("not an evaluation's")
    classify_file(trained, bars / "test.jsonl", tmp_path, overwrite=True)
    left = {"predictions.jsonl", "made_from.json", "mine.png"}
    assert {path.name for path in tmp_path.iterdir()} == left


@pytest.mark.parametrize("name", ["best_model", "best_model/.", ".", "../best_model"])
def test_result_files_lie_beside_the_model_folder_however_it_is_named(
    bars, tmp_path, monkeypatch, name
):
    shutil.copytree(bars / BEST_MODEL, tmp_path / "best_model")
    monkeypatch.chdir(tmp_path if name.startswith("best") else tmp_path / "best_model")
    before = set(os.listdir(tmp_path / "best_model"))
    flags = ["--model_path", name, "--test_data", str(bars / "test.jsonl"), "--device", "cpu"]
    assert main([*flags, "--mode", "classify"]) == 0
    assert (tmp_path / "classification_test" / "predictions.jsonl").exists()
    assert set(os.listdir(tmp_path / "best_model")) == before


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("data/new rows.csv", "x_new_rows"),
        ("pictures/", "x_pictures"),
        ("数据.jsonl", "x_数据"),
        ("a\udcff\x1b[1m/b\udcff\n.jsonl", "x_b_"),
        ("n" * 300, "x_" + "n" * 198),
    ],
)
def test_results_are_named_after_their_rows(source, name):
    assert named_after("x", source) == name


# ---- several evaluations --------------------------------------------------------------


@pytest.fixture
def two_files(trained, tmp_path):
    """A model folder of its own, and a file of rows beside another of the same name."""
    shutil.copytree(trained.folder, tmp_path / "model")
    for number, place in enumerate(("a", "b")):
        (tmp_path / place).mkdir()
        rows = [{"tokens": body_of(k) + " <EOS>", "k": number} for k in (0, 1)]  # no pictures
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / place / "test.jsonl").write_text(text)
    return tmp_path


def evaluate_in(folder, data, *flags):
    argv = ["--model_path", str(folder / "model"), "--device", "cpu", "--precision", "fp32"]
    return main([*argv, "--test_data", str(folder / data / "test.jsonl"), *flags])


def test_evaluations_of_several_files_lie_side_by_side(two_files, capsys):
    for data in ("a", "b", "a", "b"):
        assert evaluate_in(two_files, data) == 0
    assert evaluate_in(two_files, "a", "--mode", "classify") == 0
    out = capsys.readouterr().out
    folders = {"a": "evaluation_test", "b": "evaluation_test_2"}
    for data, name in folders.items():
        metrics = json.loads((two_files / name / "metrics.json").read_text())
        assert metrics["data"] == str(two_files / data / "test.jsonl")
        assert json_lines(two_files / name / "predictions.jsonl")[0]["row"] == {
            "k": "ab".index(data)
        }
        assert out.count(f"written to {two_files / name}: ") == 2
    first = f"{two_files / 'evaluation_test'} holds an evaluation of "
    assert out.count(first) == 2
    made = {path.name for path in two_files.iterdir()}
    assert made == {"model", "a", "b", *folders.values(), "classification_test"}


def test_figures_of_other_weights_or_contents_stay(two_files):
    assert evaluate_in(two_files, "a") == 0
    with open(two_files / "a" / "test.jsonl", "a") as handle:
        handle.write(json.dumps({"tokens": body_of(0)}) + "\n")
    assert evaluate_in(two_files, "a") == 0
    settings = two_files / "model" / "settings.yaml"
    settings.write_text(settings.read_text().replace("seed: ", "seed: 1"))  # another run
    assert evaluate_in(two_files, "a") == 0
    assert evaluate_in(two_files, "a") == 0
    found = {
        path.parent.name: json.loads(path.read_text())["records"]
        for path in two_files.glob("*/metrics.json")
    }
    assert found == {"evaluation_test": 2, "evaluation_test_2": 3, "evaluation_test_3": 3}


def test_another_model_is_named_and_not_its_rows(two_files):
    out = "--output_dir", str(two_files / "out")
    assert evaluate_in(two_files, "a", *out) == 0
    settings = two_files / "model" / "settings.yaml"
    settings.write_text(settings.read_text().replace("seed: ", "seed: 1"))
    with pytest.raises(UserError, match=r"a/test.jsonl by another model: give another"):
        evaluate_in(two_files, "a", *out)


def test_named_folder_with_another_evaluation_needs_overwrite(two_files):
    out = "--output_dir", str(two_files / "out")
    assert evaluate_in(two_files, "a", *out) == 0
    before = (two_files / "out" / "predictions.jsonl").read_bytes()
    for changed in (["b"], ["a", "--mode", "classify"], ["a", "--max_new_tokens", "3"]):
        with pytest.raises(UserError, match=r"out holds an evaluation of .*--overwrite$"):
            evaluate_in(two_files, *changed, *out)
    with pytest.raises(UserError, match=r"a/test.jsonl with other settings: give another"):
        evaluate_in(two_files, "a", "--max_new_tokens", "3", *out)
    assert evaluate_in(two_files, "a", *out) == 0
    assert (two_files / "out" / "predictions.jsonl").read_bytes() == before
    assert evaluate_in(two_files, "b", *out, "--overwrite") == 0
    assert json_lines(two_files / "out" / "predictions.jsonl")[0]["row"] == {"k": 1}


def test_evaluation_of_an_earlier_version_needs_overwrite(two_files):
    assert evaluate_in(two_files, "a") == 0
    (two_files / "evaluation_test" / "made_from.json").unlink()
    assert evaluate_in(two_files, "a") == 0
    assert (two_files / "evaluation_test_2" / "metrics.json").exists()
    with pytest.raises(UserError, match="holds an evaluation: give another"):
        evaluate_in(two_files, "a", "--output_dir", str(two_files / "evaluation_test"))


def test_evaluation_that_was_killed_is_taken_up_again(two_files):
    assert evaluate_in(two_files, "a") == 0
    folder = two_files / "evaluation_test"
    # Killed after the first file, in the middle of the second.
    (folder / "metrics.json").unlink()
    (folder / "predictions.jsonl").unlink()
    (folder / ".predictions.jsonl.1.tmp").write_text("half")
    assert evaluate_in(two_files, "b") == 0  # nothing is there that could be lost
    assert json.loads((folder / "metrics.json").read_text())["records"] == 2
    assert not list(folder.glob(".*"))


def test_folder_in_use_is_left_alone(two_files, capsys):
    with hold_folder(two_files / "evaluation_test", "evaluation"):
        assert evaluate_in(two_files, "a") == 0
        assert "evaluation_test is in use\nwritten to " in capsys.readouterr().out
        with pytest.raises(UserError, match="another evaluation uses this folder"):
            evaluate_in(two_files, "a", "--output_dir", str(two_files / "evaluation_test"))
    assert (two_files / "evaluation_test_2" / "metrics.json").exists()


def test_foreign_file_in_the_usual_folder_is_left_alone(two_files):
    (two_files / "evaluation_test").mkdir()
    (two_files / "evaluation_test" / "metrics.json").write_text("{}")
    (two_files / "evaluation_test_2").write_text("a file")
    assert evaluate_in(two_files, "a") == 0
    assert (two_files / "evaluation_test" / "metrics.json").read_text() == "{}"
    assert (two_files / "evaluation_test_3" / "metrics.json").exists()
