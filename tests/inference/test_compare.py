"""Comparison of models: the same rows, paired tests, settings, verdicts, what does not compare."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from command_program import run_here
from PIL import Image
from scipy import stats
from small_rows import json_lines
from trained_models import BEST_MODEL
from training_runs import ROOT, small_settings, write_rule_rows

from inference import main
from smallgpt.charts import is_own_chart
from smallgpt.model.weights_file import read_validation
from train_gpt import train


def train_two(folder: Path) -> None:
    """Two models of the same rows, one trained for longer, and their evaluations of other rows."""
    settings = replace(small_settings(folder), learning_rate=1e-2, early_stopping_patience=0)
    write_rule_rows(folder, 240)
    rows = json_lines(folder / "rows.jsonl")
    with open(settings.data_path, "w") as handle:
        handle.writelines(json.dumps(row) + "\n" for row in rows[:220])
    with open(folder / "test.jsonl", "w") as handle:
        for number, row in enumerate(rows[220:] * 2):  # each person wrote two of them
            handle.write(json.dumps({**row, "meta": {"source": number % 20}}) + "\n")
    for name, changes in {
        "short": {"num_epochs": 1},
        "long": {"num_epochs": 15},
        "head": {"classifier": "head"},
    }.items():
        train(replace(settings, output_dir=str(folder / name), **changes))
        done = run_here(main, *models(folder, name), *rows_of(folder))
        assert done.returncode == 0, done.stderr


def models(two: Path, *names: str) -> list[object]:
    """The words that name the models of runs, by default of the two."""
    names = names or ("short", "long")
    return ["--model_path", *(two / name / "best_model" for name in names)]


def rows_of(two: Path) -> list[object]:
    """The words that name the rows to compare on."""
    return ["--test_data", two / "test.jsonl"]


@pytest.fixture(scope="module")
def two(made_once) -> Path:
    return made_once("two models", train_two)


@pytest.fixture
def compare(tmp_path):
    """A function that compares what is named, and gives the process and compare.json."""

    def run(*words: object) -> tuple[subprocess.CompletedProcess, dict]:
        out = tmp_path / "out"
        done = run_here(main, "--mode", "compare", "--output_dir", out, *words)
        found = out / "compare.json"
        return done, json.loads(found.read_text()) if found.exists() else {}

    return run


def test_models_are_compared_on_the_rows_of_a_file(two, compare, tmp_path):
    done, found = compare(*models(two), *rows_of(two))
    assert done.returncode == 0, done.stderr
    (test,) = found["comparisons"]
    accuracy = test["labels"]["accuracy"]
    evaluations = [two / name / "evaluation_test" for name in ("short", "long")]
    right = [
        [row["prediction"] == row["label"] for row in json_lines(folder / "predictions.jsonl")]
        for folder in evaluations
    ]
    first = sum(a and not b for a, b in zip(*right, strict=True))
    second = sum(b and not a for a, b in zip(*right, strict=True))
    assert (accuracy["only_first"], accuracy["only_second"]) == (first, second)
    assert second > 5  # the one trained for longer is better
    # Both rows of a person are one: 20 of them decide.
    assert test["rows"] == 40 and test["groups"] == accuracy["groups"] == 20
    ahead = (accuracy["groups_first_ahead"], accuracy["groups_second_ahead"])
    assert accuracy["p_value"] == stats.binomtest(ahead[0], sum(ahead)).pvalue
    assert found["settings"] == {"num_epochs": [1, 15]}
    assert "B is better than A: +" in done.stdout and "only A" in done.stdout
    assert [side["version"] for side in found["compared"]] == ["1.0.0"] * 2
    with Image.open(tmp_path / "out" / "compare.png") as image:
        assert image.width > 500
    assert is_own_chart(tmp_path / "out" / "compare.png")


def test_evaluation_folders_tell_the_same_as_their_models(two, compare):
    _, of_models = compare(*models(two), *rows_of(two))
    folders = [two / name / "evaluation_test" for name in ("short", "long")]
    done, found = compare("--model_path", *folders, "--overwrite")
    assert done.returncode == 0, done.stderr
    assert found["comparisons"] == of_models["comparisons"]
    assert found["settings"] == of_models["settings"]
    assert [side["figures"] for side in found["compared"]] == [
        side["figures"] for side in of_models["compared"]
    ]


def test_tokens_are_compared_by_the_ratio_of_perplexities(two, compare):
    _, found = compare(*models(two), *rows_of(two))
    tokens, figures = found["comparisons"][0]["tokens"], [s["figures"] for s in found["compared"]]
    for test, name in (("all", "perplexity"), ("body", "body_perplexity")):
        ratio = figures[1][name] / figures[0][name]
        assert tokens[test]["ratio"] == pytest.approx(ratio)
        low, high = tokens[test]["interval"]
        assert low < ratio < high


def test_a_run_stands_for_its_best_model(two, compare):
    words = ["--model_path", two / "long", two / "short", *rows_of(two)]
    _, found = compare(*words)
    assert [Path(side["model"]) for side in found["compared"]] == models(two, "long", "short")[1:]


def test_a_model_that_names_labels_alone_is_compared_by_its_labels(two, compare):
    done, found = compare(*models(two, "long", "head"), *rows_of(two))
    (test,) = found["comparisons"]
    assert test["labels"]["label_loss"] is None and test["tokens"] is None
    assert test["labels"]["rows"] == 40
    assert "label losses are not compared: one model names a label among" in done.stdout
    assert "perplexities are not compared: a model that names labels alone" in done.stdout


def test_rows_without_labels_are_compared_by_perplexity(two, compare, tmp_path):
    bare = tmp_path / "bare.jsonl"
    rows = [json.dumps({"tokens": row["tokens"]}) for row in json_lines(two / "test.jsonl")]
    bare.write_text("\n".join(rows))
    done, found = compare(*models(two), "--test_data", bare)
    (test,) = found["comparisons"]
    assert test["labels"] is None and test["groups"] is None
    assert "B is better than A: perplexity ratio 0." in done.stdout
    assert "labels are not compared: no row has a label" in done.stdout


def test_the_better_model_is_named_whichever_comes_first(two, compare):
    done, _ = compare(*models(two, "long", "short"), *rows_of(two))
    assert "A is better than B: +" in done.stdout


def test_a_model_beside_itself_is_not_told_apart(two, compare):
    done, found = compare(
        "--model_path", two / "long", two / "long", "--test_data", two / "test.jsonl"
    )
    assert found["comparisons"][0]["labels"]["accuracy"]["p_value"] == 1
    assert "A and B are not told apart by their label accuracy: +0.0 points" in done.stdout
    assert "no option differs" in done.stdout
    (kinds,) = (line for line in done.stdout.splitlines() if line.startswith("intervals (95 %): "))
    assert "Wilson" in kinds and "Tango" in kinds and "Student's t" in kinds


def test_of_three_models_each_is_compared_with_the_first_and_corrected(two, compare):
    done, found = compare(*models(two, "short", "long", "short"), *rows_of(two))
    tests = [each["labels"]["accuracy"] for each in found["comparisons"]]
    assert [(each["model"], each["against"]) for each in found["comparisons"]] == [
        ("B", "A"),
        ("C", "A"),
    ]
    assert tests[0]["corrected_p_value"] == pytest.approx(2 * tests[0]["p_value"])
    assert done.stdout.count("(Holm)") == 1


def test_without_rows_models_are_compared_on_the_validation_rows_they_share(two, compare):
    done, found = compare(*models(two), "--precision", "fp32")  # as in training
    assert done.returncode == 0, done.stderr
    (test,) = found["comparisons"]
    stored = read_validation(two / "long" / "best_model")
    assert test["rows"] == stored["rows"] and found["data"].endswith("(the validation rows)")
    assert "which chose the models too" in done.stdout and "learned" not in done.stdout
    # The same weights on the same rows.
    assert found["compared"][1]["figures"]["label_loss"] == pytest.approx(
        best_evaluation(two / "long")["label_loss"], rel=1e-4
    )


def best_evaluation(run: Path) -> dict:
    """The evaluation in metrics.jsonl that became the best model."""
    rows = [row for row in json_lines(run / "metrics.jsonl") if row["kind"] == "validation"]
    return min(rows, key=lambda row: row["label_loss"])


@pytest.fixture
def without_rows(two, tmp_path) -> Path:
    """The two runs, whose training file has changed since."""
    folder = tmp_path / "changed"
    for name in ("short", "long"):
        shutil.copytree(two / name, folder / name)
        settings = folder / name / "best_model" / "settings.yaml"
        text = settings.read_text().replace(str(two / "rows.jsonl"), str(folder / "rows.jsonl"))
        settings.write_text(text)
    lines = (two / "rows.jsonl").read_text().splitlines(keepends=True)
    (folder / "rows.jsonl").write_text("".join(lines[:100]))
    return folder


def test_models_without_rows_to_compare_are_laid_side_by_side(without_rows, compare, tmp_path):
    done, found = compare(*models(without_rows))
    assert done.returncode == 0 and found["comparisons"] == []
    assert "num_epochs" in done.stdout and "needs the same rows" in done.stdout
    stored = read_validation(without_rows / "short" / "best_model")
    assert found["compared"][0]["figures"]["accuracy"] == stored["accuracy"]
    assert not (tmp_path / "out" / "compare.png").exists()


def test_models_of_other_vocabularies_compare_their_labels_alone(two, bars, compare, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(two / "long" / "evaluation_test", other)
    figures = json.loads((other / "metrics.json").read_text())
    (other / "metrics.json").write_text(
        json.dumps({**figures, "model": str(bars / BEST_MODEL)}, indent=2)
    )
    done, found = compare("--model_path", two / "short" / "evaluation_test", other)
    (test,) = found["comparisons"]
    assert test["tokens"] is None and test["labels"]["rows"] == 40
    assert "perplexities are not compared: the models have different vocabularies" in done.stdout


def changed_evaluation(two: Path, tmp_path: Path, change) -> Path:
    """A copy of an evaluation whose predictions went through `change`."""
    copy = tmp_path / "changed"
    shutil.copytree(two / "long" / "evaluation_test", copy)
    rows = json_lines(copy / "predictions.jsonl")
    change(rows)
    (copy / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return copy


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: rows[6].update(label="down" if rows[6]["label"] == "up" else "up"),
         "row 7 has the label"),
        (lambda rows: rows[4].update(row={"meta": {"source": 99}}), "row 5 has other keys"),
        (lambda rows: rows.pop(2), "row 3 is not in"),
        (lambda rows: rows.pop(), "row 40 is not in"),
        (lambda rows: rows[1].update(token_count="many"), "predictions.jsonl:2: no prediction"),
    ],
)  # fmt: skip
def test_the_first_row_that_differs_is_told_in_one_line(two, compare, tmp_path, change, told):
    copy = changed_evaluation(two, tmp_path, change)
    done, _ = compare("--model_path", two / "short" / "evaluation_test", copy)
    assert done.returncode == 1 and told in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_rows_that_one_model_could_not_score_are_left_out(two, compare, tmp_path):
    def fail(rows):
        rows[3] = {"line": 4, "label": None, "prediction": None, "reason": "x", "row": {}}

    copy = changed_evaluation(two, tmp_path, fail)
    done, found = compare("--model_path", two / "short" / "evaluation_test", copy)
    assert found["comparisons"][0]["left_out"] == 1 and found["comparisons"][0]["rows"] == 39
    assert "1 row left out" in done.stdout


def test_answers_withheld_for_their_confidence_are_compared(two, compare, tmp_path):
    folder = tmp_path / "withheld"
    run_here(main, *models(two, "long"), *rows_of(two), "--output_dir", folder,
             "--abstain_below", 0.99)  # fmt: skip
    assert any("reason" in row for row in json_lines(folder / "predictions.jsonl"))
    _, found = compare("--model_path", two / "long" / "evaluation_test", folder)
    (test,) = found["comparisons"]
    accuracy = test["labels"]["accuracy"]
    assert test["left_out"] == 0 and accuracy["only_first"] == accuracy["only_second"] == 0


def test_an_evaluation_whose_model_is_gone_is_compared_by_its_labels(two, compare, tmp_path):
    copy = changed_evaluation(two, tmp_path, lambda rows: None)
    figures = json.loads((copy / "metrics.json").read_text())
    damaged = {**figures, "model": "gone", "accuracy_interval": ["\x1b[31m", 2]}
    (copy / "metrics.json").write_text(json.dumps(damaged))
    done, found = compare("--model_path", two / "short" / "evaluation_test", copy)
    assert done.returncode == 0, done.stderr
    (test,) = found["comparisons"]
    assert test["labels"]["rows"] == 40
    assert test["no_tokens"].startswith("the model of ") and "\x1b" not in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--mode", "compare", "--model_path", "RUN"], 1, "needs two models or more"),
        (["--mode", "compare", "--model_path", "RUN", "none"], 1, "none: no model there"),
        (["--mode", "compare", "--model_path", "RUN", "EVALUATION"], 1, "compare models with"),
        (["--mode", "compare", "--model_path", "RUN", "EVALUATION", "--test_data", "x.jsonl"], 1,
         "is an evaluation folder: name its model"),
        (["--model_path", "RUN", "RUN", "--prompt", "a"], 2, "--mode compare takes several"),
        (["--mode", "compare", "--model_path", "RUN", "RUN", "--prompt", "a"], 2,
         "--prompt does not go with --mode compare"),
        (["--mode", "compare", "--model_path", "RUN", "RUN", "--test_data", "-"], 2,
         "give a file, not standard input"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_line(two, words, code, told):
    places = {"RUN": two / "long", "EVALUATION": two / "long" / "evaluation_test"}
    done = run_here(main, *[places.get(word, word) for word in words])
    assert done.returncode == code and told in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error")]) == 1


def test_results_of_another_comparison_stay(two, compare):
    done, _ = compare(*models(two), *rows_of(two))
    assert compare(*models(two), *rows_of(two))[0].returncode == 0  # the same
    done, _ = compare(*models(two, "long", "short"), *rows_of(two))
    assert done.returncode == 1 and "holds a comparison of" in done.stderr


def test_the_command_prints_json_for_machines(two, tmp_path):
    words = [*models(two), *rows_of(two), "--output_dir", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "inference.py", "--mode", "compare", "--json", *map(str, words)],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((tmp_path / "out" / "compare.json").read_text())
