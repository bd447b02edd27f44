"""Answers withheld below a confidence, wherever rows come from."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_rows import json_lines
from trained_models import BEST_MODEL, SIDE, body_of, image_of

from inference import EventColumns, classify, classify_file, evaluate_file
from smallgpt.engines.torch_engine import TorchEngine
from smallgpt.engines.trained import TrainedModel
from smallgpt.errors import SettingsError, UserError
from smallgpt.model.build import build_model
from smallgpt.model.hardware import Precision
from smallgpt.tokens.vocabulary import Vocabulary

ROOT = Path(__file__).parent.parent.parent


def as_withheld(row: dict, threshold: float) -> dict:
    """What becomes of an object of predictions.jsonl."""
    if row["confidence"] is None or row["confidence"] >= threshold:
        return row
    return {**row, "prediction": None, "reason": f"confidence below {threshold}"}


@pytest.fixture(scope="module")
def all_answered(trained, bars, tmp_path_factory) -> list[dict]:
    """predictions.jsonl of the test rows, every row answered."""
    folder = tmp_path_factory.mktemp("all")
    return classify_file(trained, bars / "test.jsonl", folder)


@pytest.fixture(scope="module")
def threshold(all_answered) -> float:
    """A confidence that about half of the test rows have."""
    return round(float(np.median([row["confidence"] for row in all_answered])), 6)


# ------------------------------------------------------------------------------- classify


def test_a_classified_file_keeps_all_of_a_row_but_its_prediction(
    trained, bars, tmp_path, all_answered, threshold
):
    told = classify_file(trained, bars / "test.jsonl", tmp_path, abstain_below=threshold)
    assert told == json_lines(tmp_path / "predictions.jsonl")
    assert told == [as_withheld(row, threshold) for row in all_answered]
    assert 0 < sum(row["prediction"] is None for row in told) < len(told)


def test_one_row_and_many_from_python_have_no_label_below_the_threshold(trained):
    label, shares = classify(trained, body_of(0))
    assert classify(trained, body_of(0), abstain_below=shares[label]) == (label, shares)
    above = np.nextafter(shares[label], 2)
    assert classify(trained, body_of(0), abstain_below=above) == (None, shares)
    assert classify(trained, [body_of(0)], abstain_below=above) == [(None, shares)]


def test_a_prompt_is_told_that_it_has_no_answer(run):
    flags = ("--mode", "classify", "--prompt", body_of(0), "--abstain_below", "1")
    done = run(*flags)
    assert done.returncode == 0
    assert done.stdout.startswith("no answer: confidence below 1.0\n\nlabel  probability\n0 ")
    told = json.loads(run(*flags, "--json").stdout)
    assert (told["label"], told["reason"]) == (None, "confidence below 1.0")
    assert told["confidence"] == max(told["probabilities"].values())
    assert "no answer" not in run(*flags[:-1], "0.01").stdout


def test_rows_without_an_answer_are_counted_apart_from_rows_that_could_not_be_used(
    run, tmp_path, threshold, bars
):
    data = tmp_path / "rows.jsonl"
    data.write_text((bars / "test.jsonl").read_text() + "not json\n")
    flags = ("--mode", "classify", "--test_data", data, "--output_dir", tmp_path / "out")
    done = run(*flags, "--abstain_below", threshold, "--overwrite")
    withheld = [
        row
        for row in json_lines(tmp_path / "out" / "predictions.jsonl")
        if row.get("reason") == f"confidence below {threshold}"
    ]
    counts = dict(re.findall(r"^(.+?) +(\d+)$", done.stdout, flags=re.M))
    assert counts[f"confidence below {threshold}"] == str(len(withheld))
    assert counts["could not be classified"] == "1"
    assert sum(int(counts.get(name, 0)) for name in ("0", "1")) == 40 - len(withheld)
    assert "!!! 1 of 41 rows could not be classified" in done.stdout


def test_an_answer_withheld_is_no_failure_to_strict(run, bars, tmp_path):
    done = run("--test_data", bars / "test.jsonl", "--abstain_below", 1, "--strict",
               "--output_dir", tmp_path / "out")  # fmt: skip
    assert done.returncode == 0 and "could not" not in done.stdout


def test_standard_input_as_a_table_has_an_empty_prediction_and_the_reason(
    bars, all_answered, threshold
):
    rows = json_lines(bars / "test.jsonl")
    lines = [["id", "tokens", "label"], *([r["id"], r["tokens"], str(r["label"])] for r in rows)]
    done = subprocess.run(
        [
            *(sys.executable, ROOT / "inference.py", "--model_path", bars / BEST_MODEL),
            *("--device", "cpu", "--precision", "fp32", "--mode", "classify"),
            *("--test_data", "-", "--abstain_below", str(threshold)),
        ],
        input="".join(",".join(line) + "\n" for line in lines),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = list(csv.DictReader(done.stdout.splitlines()))
    for own, row in zip(told, all_answered, strict=True):
        expected = as_withheld(row, threshold)
        assert own["prediction"] == (expected["prediction"] or "")
        assert own["reason"] == expected.get("reason", "")
        assert float(own["confidence"]) == pytest.approx(row["confidence"], abs=1e-6)
        assert float(own["probability 0"]) == pytest.approx(row["probabilities"]["0"], abs=1e-6)
    assert "could not" not in done.stderr and "not calibrated" not in done.stderr


def test_pictures_without_an_answer_are_named(run, tmp_path):
    random = np.random.default_rng(1)
    images = np.array([image_of(number % 2, random) for number in range(6)], np.float32)
    np.savez(tmp_path / "new.npz", images=images.reshape(6, SIDE, SIDE, 1))
    flags = ("--images", tmp_path / "new.npz", "--output_dir", tmp_path / "out")
    done = run(*flags, "--abstain_below", "1")
    told = json_lines(tmp_path / "out" / "predictions.jsonl")
    withheld = [row for row in told if row["confidence"] < 1]
    assert withheld and all(row["prediction"] is None for row in withheld)
    for row in withheld:
        assert f"\n{row['line']:<7}  confidence below 1.0  " in done.stdout


def test_sessions_of_a_log_without_an_answer_have_the_reason(trained, bars, tmp_path):
    bodies = [row["tokens"].split()[1:-1] for row in json_lines(bars / "test.jsonl")[:4]]
    events = [f"{number},{token}\n" for number, body in enumerate(bodies) for token in body]
    (tmp_path / "log.csv").write_text("session,event\n" + "".join(events))
    columns = EventColumns("session", "event")
    told = classify_file(trained, tmp_path / "log.csv", tmp_path / "out", columns=columns)
    highest = max(row["confidence"] for row in told)
    told = classify_file(trained, tmp_path / "log.csv", tmp_path / "out", columns=columns,
                         abstain_below=highest, overwrite=True)  # fmt: skip
    assert {row["confidence"] < highest for row in told} == {True, False}
    for row in told:
        assert (row["prediction"] is None) == ("reason" in row) == (row["confidence"] < highest)
    with open(tmp_path / "out" / "predictions.csv", newline="") as handle:
        assert [row["reason"] for row in csv.DictReader(handle)] == [
            row.get("reason", "") for row in told
        ]


# ------------------------------------------------------------------------------- evaluate


def test_an_evaluation_judges_the_answered_rows_beside_all_of_them(
    trained, bars, tmp_path, threshold
):
    every = evaluate_file(trained, bars / "test.jsonl", tmp_path / "all")
    some = evaluate_file(trained, bars / "test.jsonl", tmp_path / "some", abstain_below=threshold)
    answered, of_option = some["answered"], {"abstain_below", "abstained", "answered"}
    assert {name: some[name] for name in some if name not in of_option} == every
    told = json_lines(tmp_path / "some" / "predictions.jsonl")
    kept = [row for row in told if row["prediction"] is not None]
    assert (some["abstain_below"], some["abstained"]) == (threshold, len(told) - len(kept))
    assert (answered["answered"], answered["coverage"]) == (len(kept), len(kept) / len(told))
    right = sum(row["prediction"] == row["label"] for row in kept)
    assert answered["accuracy"] == right / len(kept)
    # The accuracy of all rows can be told still: the likeliest label is the one withheld.
    likeliest = [max(row["probabilities"], key=row["probabilities"].get) for row in told]
    labels = [row["label"] for row in told]
    assert some["accuracy"] == np.mean(np.array(likeliest) == np.array(labels))
    every_told = json_lines(tmp_path / "all" / "predictions.jsonl")
    assert told == [as_withheld(row, threshold) for row in every_told]


def test_the_report_says_how_many_rows_have_no_answer(run, bars, tmp_path, threshold):
    flags = ("--test_data", bars / "test.jsonl", "--output_dir", tmp_path / "out")
    done = run(*flags, "--abstain_below", threshold)
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    count = figures["answered"]["answered"]
    assert f"\nno answer to {40 - count} of 40 rows: confidence below {threshold}\n" in done.stdout
    assert f", {count} of 40 rows answered ({2.5 * count:.1f} %)\n" in done.stdout
    assert "coverage.png" in done.stdout and (tmp_path / "out" / "coverage.png").exists()


def test_an_evaluation_that_answers_no_row_says_so(run, bars, tmp_path, all_answered):
    flags = ("--test_data", bars / "test.jsonl", "--output_dir", tmp_path / "out")
    assert max(row["confidence"] for row in all_answered) < 1
    done = run(*flags, "--abstain_below", 1)
    assert "of answered rows" in done.stdout and "0 of 40 rows answered\n" in done.stdout
    answered = json.loads((tmp_path / "out" / "metrics.json").read_text())["answered"]
    assert (answered["answered"], answered["coverage"], answered["accuracy"]) == (0, 0, None)


def test_rows_without_labels_are_withheld_and_counted_too(trained, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"tokens": body_of(label)}) + "\n" for label in (0, 1)))
    figures = evaluate_file(trained, data, tmp_path / "out", abstain_below=1)
    assert figures["abstained"] == 2 and "answered" not in figures
    assert {row["reason"] for row in json_lines(tmp_path / "out" / "predictions.jsonl")} == {
        "confidence below 1"
    }


def test_results_of_another_threshold_are_other_results(trained, bars, tmp_path):
    evaluate_file(trained, bars / "test.jsonl", tmp_path, abstain_below=0.6)
    evaluate_file(trained, bars / "test.jsonl", tmp_path, abstain_below=0.6)
    for other in (None, 0.7):
        with pytest.raises(UserError, match="with other settings: give another --output_dir"):
            evaluate_file(trained, bars / "test.jsonl", tmp_path, abstain_below=other)


# ------------------------------------------------------------------------------- what does not go


def test_a_model_without_a_calibrated_confidence_says_so_in_one_line(untrained, tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"tokens": "A B", "label": 0}\n')
    trained = untrained["tokens"]
    uses = (
        lambda: classify(trained, "A B", abstain_below=0.5),
        lambda: classify_file(trained, path, tmp_path / "classified", abstain_below=0.5),
        lambda: evaluate_file(trained, path, tmp_path / "evaluated", abstain_below=0.5),
    )
    for use in uses:
        use()
        assert capsys.readouterr().err.endswith(
            "answers are withheld by a confidence that is not calibrated: the model folder holds "
            "no validation figures\n"
        )
    classify(trained, "A B")
    assert not capsys.readouterr().err


def test_a_model_without_labels_has_no_answer_to_withhold(untrained, vocabulary, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"tokens": "A B C"}\n')
    settings = untrained["tokens"].settings
    plain = Vocabulary(vocabulary.tokens[:10])
    engine = TorchEngine(build_model(settings, plain).eval(), Precision("fp32", ""), [])
    trained = TrainedModel.of(engine, plain, settings, untrained["tokens"].folder)
    evaluate_file(trained, path, tmp_path / "out")
    with pytest.raises(UserError, match="no label tokens"):
        evaluate_file(trained, path, tmp_path / "out", abstain_below=0.5, overwrite=True)


@pytest.mark.parametrize("threshold", [0, -0.5, 1.5, float("nan")])
def test_a_threshold_that_is_no_confidence_is_refused(trained, bars, tmp_path, threshold):
    with pytest.raises(SettingsError, match="abstain_below"):
        classify(trained, body_of(0), abstain_below=threshold)
    with pytest.raises(SettingsError, match="abstain_below"):
        classify_file(trained, bars / "test.jsonl", tmp_path, abstain_below=threshold)
    with pytest.raises(SettingsError, match="abstain_below"):
        evaluate_file(trained, bars / "test.jsonl", tmp_path, abstain_below=threshold)


@pytest.mark.parametrize("flags", [("--prompt", "<IMG>"), ("--mode", "generate")])
def test_where_no_label_is_asked_for_none_is_withheld(run, flags):
    done = run(*flags, "--abstain_below", "0.5")
    assert done.returncode == 2
    assert "--abstain_below needs --mode classify, or rows to evaluate" in done.stderr
