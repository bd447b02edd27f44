"""The evaluation folder: every figure from the predictions, calibration, chance, odd files."""

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from plain_settings import plain_settings
from safetensors.torch import load_file, save_file
from scipy import stats
from sklearn import metrics as sklearn_metrics

from inference import main
from smallgpt.engines.torch_engine import TorchEngine
from smallgpt.engines.trained import load_trained_model
from smallgpt.errors import UserError
from smallgpt.evaluation import label_probabilities, metrics
from smallgpt.evaluation import scoring as evaluation_module
from smallgpt.evaluation.scoring import labelled_in_drawn_order, score_rows
from smallgpt.inference.classify import classify, classify_file
from smallgpt.inference.evaluate import evaluate_file
from smallgpt.model.build import build_model
from smallgpt.model.folder import save_model_folder
from smallgpt.model.hardware import Precision
from smallgpt.model.weights_file import read_validation
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.reading import dataset_from_records
from smallgpt.rows.splitting import fold_rows
from smallgpt.tokens.vocabulary import Vocabulary
from train_gpt import train

LABELS = ["a", "b", "c", "d", "e"]
BODY = ["A", "B", "C", "D", "E", "F"]
SETTINGS = plain_settings(n_layer=1, n_head=2, n_embd=16, n_positions=32, max_length=32)
STORED = {
    "measured_on": "the validation rows of the training run",
    "step": 7,
    "rows": 50,
    "loss": 1.0,
    "perplexity": math.e,
    "body_perplexity": 3.0,
    "labelled_records": 50,
    "accuracy": 0.6,
    "accuracy_interval": [0.46, 0.72],
    "chance_accuracy": 0.2,
    "above_chance": True,
    "not_above_chance": [],
    "too_few_rows": [],
    "calibration": {"temperature": 1.7, "rows": 50, "raw_ece": 0.2, "ece": 0.1},
    "baselines": {"majority_class_accuracy": 0.3, "unigram_perplexity": 9.0},
}


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_rows(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def save_random_model(folder: Path, seed: int, validation: dict | None) -> Path:
    """A model of random weights, large enough that its answers differ from row to row."""
    special = ["<PAD>", "<UNK>", "<CLS>", "<EOS>"]
    vocabulary = Vocabulary([*special, *BODY, *[f"<CLS_{label}>" for label in LABELS]])
    model = build_model(SETTINGS, vocabulary)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    save_model_folder(model, folder, vocabulary, SETTINGS, None, validation)
    return folder


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("models") / "model", 1, STORED)


@pytest.fixture(scope="module")
def trained(model_folder):
    return load_trained_model(model_folder, "cpu", "fp32")


@pytest.fixture(scope="module")
def evaluation(trained, tmp_path_factory):
    """Rows of which about six in ten are told right, some without a label, two unreadable."""
    folder = tmp_path_factory.mktemp("evaluation")
    random = np.random.default_rng(0)
    bodies = [" ".join(random.choice(BODY, random.integers(1, 12))) for _ in range(150)]
    rows = [{"tokens": body} for body in bodies]
    told = [
        row["prediction"]
        for row in classify_file(trained, write_rows(folder / "bodies.jsonl", rows), folder)
    ]
    for number, row in enumerate(rows):
        if number % 10:
            keep = random.random() < 0.5
            row["label"] = told[number] if keep else str(random.choice(LABELS[:4]))
        else:
            row["tokens"] += " D E <EOS>"
    rows[33:33] = [{"tokens": "A nonsense", "label": "a"}, {"label": "b"}]
    figures = evaluate_file(trained, write_rows(folder / "rows.jsonl", rows), folder / "out", 16)
    return figures, lines_of(folder / "out" / "predictions.jsonl"), folder / "out"


@pytest.fixture(scope="module")
def largest_only(trained, evaluation):
    """The same rows where five labels are too many to keep every share of every row."""
    folder = evaluation[2].parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_probabilities, "MOST_LABELS_WHOLE", 3)
        patch.setattr(metrics, "MOST_LABELS_WHOLE", 3)
        patch.setattr(label_probabilities, "LARGEST_KEPT", 2)
        figures = evaluate_file(trained, folder / "rows.jsonl", folder / "largest", 16)
    return figures, lines_of(folder / "largest" / "predictions.jsonl"), folder / "largest"


# ------------------------------------------------------------------------------- every figure


def reliability_of(rows: list[dict], name: str) -> list[dict]:
    """Fifteen bins from the predictions, written down again."""
    bins = []
    for place in range(15):
        inside = [row for row in rows if place < row[name] * 15 <= place + 1]
        if inside:
            right = sum(row["prediction"] == row["label"] for row in inside)
            interval = stats.binomtest(right, len(inside)).proportion_ci(method="wilson")
            bins.append(
                {
                    "from": place / 15,
                    "to": (place + 1) / 15,
                    "count": len(inside),
                    "confidence": math.fsum(row[name] for row in inside) / len(inside),
                    "accuracy": right / len(inside),
                    "accuracy_interval": [interval.low, interval.high],
                }
            )
    return bins


def coverage_of(rows: list[dict]) -> tuple[list[dict], list[float]]:
    """The rows answered at each threshold of a report, and the share wrong at each confidence."""
    found, shares_wrong = [], []
    for lowest in [row["confidence"] for row in rows]:
        answered = [row for row in rows if row["confidence"] >= lowest]
        right = sum(row["prediction"] == row["label"] for row in answered)
        interval = stats.binomtest(right, len(answered)).proportion_ci(method="wilson")
        found.append(
            {
                "threshold": lowest,
                "answered": len(answered),
                "coverage": len(answered) / len(rows),
                "accuracy": right / len(answered),
                "accuracy_interval": [interval.low, interval.high],
            }
        )
        shares_wrong.append(1 - right / len(answered))
    points = []
    for share in (0.95, 0.9, 0.8, 0.5):
        least = math.ceil(share * len(rows))
        enough = [point for point in found if point["answered"] >= least]
        points.append(min(enough, key=lambda point: point["answered"]))
    return points, shares_wrong


def perplexity_ends(rows: list[dict]) -> list[float]:
    """The interval of the perplexity, from the residuals of a mean weighted by tokens."""
    nll, counts = (np.array([row[name] for row in rows]) for name in ("nll_sum", "token_count"))
    loss = nll.sum() / counts.sum()
    error = np.std(nll - loss * counts, ddof=1) * math.sqrt(len(rows)) / counts.sum()
    return [math.exp(end) for end in stats.t.interval(0.95, len(rows) - 1, loss, error)]


def figures_of(rows: list[dict], temperature: float) -> dict:
    """The figures of metrics.json from predictions.jsonl alone, by scikit-learn and SciPy."""
    scored = [row for row in rows if "reason" not in row]
    labelled = [row for row in scored if row["label"] is not None]
    true = [row["label"] for row in labelled]
    told = [row["prediction"] for row in labelled]
    present = [label for label in LABELS if label in true or label in told]
    tokens = sum(row["token_count"] for row in scored)
    loss = math.fsum(row["nll_sum"] for row in scored) / tokens
    body = math.fsum(row["body_nll_sum"] for row in scored)
    label_loss = math.fsum(row["label_nll"] for row in labelled) / len(labelled)
    right = sum(one == other for one, other in zip(true, told, strict=True))
    shares = np.array(
        [[row["probabilities"].get(label, 0) for label in LABELS] for row in labelled]
    )
    interval = stats.binomtest(right, len(true)).proportion_ci(method="wilson")
    chance = sum(true.count(label) * told.count(label) for label in LABELS) / len(true) ** 2
    chance_p = stats.binomtest(right, len(true), chance, alternative="greater").pvalue
    perfect_p = sum((true.count(label) / len(true)) ** 2 for label in LABELS) ** len(true)

    p_values = {}
    for label in dict.fromkeys(true):
        table = sklearn_metrics.confusion_matrix(
            [one == label for one in true], [one == label for one in told], labels=[True, False]
        )
        p_values[label] = stats.fisher_exact(table, alternative="greater").pvalue
    corrected, highest = {}, 0.0
    for place, label in enumerate(sorted(p_values, key=p_values.get)):
        highest = max(highest, p_values[label] * (len(p_values) - place))
        corrected[label] = min(highest, 1.0)
    not_above = [label for label in present if corrected.get(label, 0) > 0.05]

    report = sklearn_metrics.classification_report(
        true, told, labels=present, output_dict=True, zero_division=0
    )
    bins, raw_bins = reliability_of(labelled, "confidence"), reliability_of(
        labelled, "raw_confidence"
    )  # fmt: skip

    points, shares_wrong = coverage_of(labelled)

    def error(of: list[dict]) -> float:
        return sum(b["count"] * abs(b["accuracy"] - b["confidence"]) for b in of) / len(true)

    return {
        "records": len(rows),
        "unscored": len(rows) - len(scored),
        "unlabelled": len(scored) - len(labelled),
        "labelled_records": len(labelled),
        "tokens": tokens,
        "loss": loss,
        "perplexity": math.exp(loss),
        "perplexity_interval": perplexity_ends(scored),
        "body_perplexity": math.exp(body / sum(row["body_token_count"] for row in scored)),
        "label_loss": label_loss,
        "label_perplexity": math.exp(label_loss),
        "next_token_accuracy": sum(row["correct_tokens"] for row in scored) / tokens,
        "labels": present,
        "accuracy": sklearn_metrics.accuracy_score(true, told),
        "accuracy_interval": [interval.low, interval.high],
        "top2_accuracy": sklearn_metrics.top_k_accuracy_score(true, shares, k=2, labels=LABELS),
        "chance_accuracy": chance,
        "chance_p_value": chance_p,
        "chance_lowest_p_value": perfect_p,
        "above_chance": bool(chance_p <= 0.025),
        "not_above_chance": not_above,
        "too_few_rows": [
            label
            for label in not_above
            if 1 / math.comb(len(true), true.count(label)) > 0.05 / len(p_values)
        ],
        "macro_f1": report["macro avg"]["f1-score"],
        "macro_precision": report["macro avg"]["precision"],
        "macro_recall": report["macro avg"]["recall"],
        "temperature": temperature,
        "ece": error(bins),
        "raw_ece": error(raw_bins),
        "per_class": {
            label: {
                "precision": report[label]["precision"],
                "recall": report[label]["recall"],
                "f1": report[label]["f1-score"],
                "support": true.count(label),
                "predicted": told.count(label),
                "p_value": corrected.get(label),
            }
            for label in present
        },
        "confusion_matrix": sklearn_metrics.confusion_matrix(true, told, labels=present).tolist(),
        "coverage": points,
        "aurc": math.fsum(shares_wrong) / len(labelled),
        "reliability": bins,
        "raw_reliability": raw_bins,
    }


def assert_same(found, expected, where: str = "") -> None:
    """Counts and names exactly, floats to 1e-9."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            assert_same(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for number, pair in enumerate(zip(found, expected, strict=True)):
            assert_same(*pair, f"{where}[{number}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=0, abs=1e-9), where
    else:
        assert found == expected and type(found) is type(expected), where


def at_confidences_of(rows: list[dict], points: list[dict]) -> list[dict]:
    """Points of metrics.json, their thresholds as the lowest confidence that they answer."""
    labelled = [row["confidence"] for row in rows if row["label"] is not None]
    lowest = [min(c for c in labelled if c >= point["threshold"]) for point in points]
    return [{**point, "threshold": low} for point, low in zip(points, lowest, strict=True)]


# Figures of the reading, not of the scores.
OF_READING = {
    *(
        "rows_cut",
        "tokens_left_out",
        "learned_unknown",
        "model_labels",
        "learned_rows",
        "learned_from",
    ),
    *("unknown_tokens", "unknown_names", "unknown_names_left_out"),
}


def test_every_figure_recomputes_from_the_predictions(evaluation):
    figures, rows, folder = evaluation
    assert figures == json.loads((folder / "metrics.json").read_text())
    words = {"model", "data", "device", "precision", "engine", "validation"}
    words |= OF_READING
    measured = {name: value for name, value in figures.items() if name not in words}
    measured["coverage"] = at_confidences_of(rows, measured["coverage"])
    assert_same(measured, figures_of(rows, 1.7))


def test_the_recomputed_evaluation_has_something_of_everything(evaluation):
    figures = evaluation[0]
    assert (figures["records"], figures["unscored"], figures["unlabelled"]) == (152, 2, 15)
    assert 0.4 < figures["accuracy"] < figures["top2_accuracy"] < 1
    assert len(figures["labels"]) >= 4 and len(figures["reliability"]) > 3
    assert figures["ece"] != figures["raw_ece"]
    assert figures["body_perplexity"] != figures["perplexity"] != figures["label_perplexity"]


def test_every_figure_recomputes_from_the_largest_probabilities(largest_only):
    figures, rows, folder = largest_only
    assert figures == json.loads((folder / "metrics.json").read_text())
    words = {"model", "data", "device", "precision", "engine", "validation"}
    words |= OF_READING
    measured = {name: value for name, value in figures.items() if name not in words}
    measured["coverage"] = at_confidences_of(rows, measured["coverage"])
    cells = measured["confusion_matrix"]
    table = np.zeros((cells["labels"],) * 2, int)
    for true, told, count in cells["entries"]:
        table[true, told] = count
    measured["confusion_matrix"] = table.tolist()
    assert_same(measured, figures_of(rows, 1.7))


def test_largest_probabilities_and_the_rest_are_those_of_all(largest_only, evaluation):
    for row, whole in zip(largest_only[1], evaluation[1], strict=True):
        if "reason" in row:
            assert row == whole
            continue
        expected = sorted(whole["probabilities"].items(), key=lambda pair: -pair[1])
        kept, rest = expected[:2], sum(share for _, share in expected[2:])
        assert list(row["probabilities"]) == [label for label, _ in kept]
        assert list(row["probabilities"].values()) == pytest.approx([share for _, share in kept])
        assert row["probabilities_left_out"] == {"labels": 3, "share": pytest.approx(rest)}
        same = [name for name in whole if name != "probabilities"]
        assert_same({name: row[name] for name in same}, {name: whole[name] for name in same})
        assert "probabilities_left_out" not in whole


def test_classifying_keeps_the_largest_probabilities_as_well(
    largest_only, trained, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(label_probabilities, "MOST_LABELS_WHOLE", 3)
    monkeypatch.setattr(metrics, "MOST_LABELS_WHOLE", 3)
    monkeypatch.setattr(label_probabilities, "LARGEST_KEPT", 2)
    rows = classify_file(trained, largest_only[2].parent / "rows.jsonl", tmp_path, 16)
    for row, scored in zip(rows, largest_only[1], strict=True):
        if "reason" not in row:
            names = ("probabilities", "probabilities_left_out")
            for name in names:
                assert row[name] == pytest.approx(scored[name], abs=1e-6)
    assert len(classify(trained, "A B C")[1]) == 2
    monkeypatch.setattr("smallgpt.inference.classify.MOST_LABELS_SHOWN", 1)
    argv = ["--model_path", str(trained.folder), "--device", "cpu", "--mode", "classify"]
    main([*argv, "--prompt", "A B C"])
    assert "the other 4 labels together 0." in capsys.readouterr().out
    main([*argv, "--prompt", "A B C", "--json"])
    answer = json.loads(capsys.readouterr().out)
    rest = answer["probabilities_left_out"]
    assert (len(answer["probabilities"]), rest["labels"]) == (2, 3)
    assert sum(answer["probabilities"].values()) + rest["share"] == pytest.approx(1)
    data = str(largest_only[2].parent / "rows.jsonl")
    main([*argv, "--test_data", data, "--output_dir", str(tmp_path / "told")])
    told = capsys.readouterr().out.split("\n\n")[2].splitlines()  # after the first rows
    counts = [row["prediction"] for row in rows]
    most = max(set(counts), key=counts.count)
    assert told[1].split() == [most, str(counts.count(most))]
    assert told[2].startswith(f"and {len(set(counts)) - 1} more labels of ")


def test_calibrated_and_raw_confidence_belong_together(evaluation):
    for row in evaluation[1]:
        if "reason" not in row:
            raw = {label: share**1.7 for label, share in row["probabilities"].items()}
            total = math.fsum(raw.values())
            assert row["raw_confidence"] == pytest.approx(max(raw.values()) / total, abs=1e-12)
            assert row["confidence"] == row["probabilities"][row["prediction"]]
            assert row["prediction"] == max(raw, key=raw.get)


def test_body_is_what_stands_before_the_label_tail(evaluation, trained):
    ids_of = trained.vocabulary.ids
    records = lines_of(evaluation[2].parent / "rows.jsonl")
    for record, row in list(zip(records, evaluation[1], strict=True))[:12]:
        body = record["tokens"].removesuffix(" <EOS>").split()
        tail = ["<CLS>", f"<CLS_{record['label']}>", "<EOS>"] if "label" in record else ["<EOS>"]
        ids = torch.tensor([[ids_of[token] for token in body + tail]])
        with torch.no_grad():
            log_probs = trained.model(ids).logits[0, :-1].log_softmax(-1)
        nll = -log_probs[torch.arange(ids.shape[1] - 1), ids[0, 1:]]
        assert row["body_token_count"] == len(body) - 1
        assert row["body_nll_sum"] == pytest.approx(float(nll[: len(body) - 1].sum()), abs=1e-4)
        if "label" in record:
            assert row["label_nll"] == pytest.approx(float(nll[len(body)]), abs=1e-5)
            assert row["token_count"] == row["body_token_count"] + 3


# ------------------------------------------------------------------------------- calibration


def test_transformers_loads_the_weights_and_their_calibration_goes_when_it_saves(
    model_folder, trained, tmp_path
):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_folder).eval()
    ids = torch.tensor([[4, 5, 6, 2]])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, trained.model(ids).logits)
    again = tmp_path / "again"
    shutil.copytree(model_folder, again)
    model.save_pretrained(again)
    loaded = load_trained_model(again, "cpu", "fp32")
    assert (loaded.validation, loaded.temperature) == ({}, 1.0)


def test_calibration_goes_with_the_weights(model_folder, tmp_path):
    other = {**STORED, "calibration": {**STORED["calibration"], "temperature": 0.6}}
    folders = [shutil.copytree(model_folder, tmp_path / "one")]
    folders.append(save_random_model(tmp_path / "other", 2, other))
    for folder, temperature in zip(folders, (1.7, 0.6), strict=True):
        assert load_trained_model(folder, "cpu").temperature == temperature
    files = [folder / "model.safetensors" for folder in folders]
    contents = [path.read_bytes() for path in files]
    for path, content in zip(files, reversed(contents), strict=True):
        path.write_bytes(content)
    for folder, temperature in zip(folders, (0.6, 1.7), strict=True):
        assert load_trained_model(folder, "cpu").temperature == temperature


def test_model_without_validation_figures_says_that_it_is_not_calibrated(tmp_path, capsys):
    folder = save_random_model(tmp_path / "model", 3, None)
    data = write_rows(tmp_path / "rows.jsonl", [{"tokens": "A B", "label": "a"}] * 5)
    argv = ["--model_path", str(folder), "--device", "cpu"]
    main([*argv, "--test_data", str(data)])
    told = capsys.readouterr().out
    assert "not calibrated: the model folder holds no validation figures" in told
    assert "for comparison" not in told
    figures = json.loads((tmp_path / "evaluation_rows" / "metrics.json").read_text())
    assert figures["temperature"] == 1.0 and figures["validation"] is None
    main([*argv, "--mode", "classify", "--prompt", "A B"])
    assert "confidence is not calibrated" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"rows": 3}']
    + [json.dumps({**STORED, "calibration": {"temperature": bad}}) for bad in (0, "x", None)],
)
def test_damaged_validation_figures_are_told(model_folder, tmp_path, text):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt", "validation": text})
    with pytest.raises(UserError, match=r"model\.safetensors: its stored validation figures"):
        load_trained_model(folder)


def test_classifying_gives_the_calibrated_confidence_everywhere(
    model_folder, trained, tmp_path, capsys
):
    data = write_rows(tmp_path / "rows.jsonl", [{"tokens": "A B C"}])
    row = classify_file(trained, data, tmp_path)[0]
    argv = ["--model_path", str(model_folder), "--device", "cpu", "--precision", "fp32"]
    main([*argv, "--mode", "classify", "--prompt", "A B C", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert list(answer) == ["label", "confidence", "raw_confidence", "probabilities"]
    for name in ("confidence", "raw_confidence"):
        assert answer[name] == pytest.approx(row[name])
    assert answer["confidence"] < answer["raw_confidence"]
    assert classify(trained, "A B C")[1] == pytest.approx(row["probabilities"])


def shuffled(dataset: TokenLabelDataset, seed: int) -> tuple[TokenLabelDataset, np.ndarray]:
    order = np.random.default_rng(seed).permutation(len(dataset))
    return dataset.subset(order), order


@pytest.fixture(scope="module")
def labelled_rows(trained):
    """Rows of which a third stand there several times."""
    random = np.random.default_rng(3)
    records = [
        {
            "tokens": " ".join(random.choice(BODY, random.integers(1, 9))),
            "label": str(random.choice(LABELS)),
        }
        for _ in range(60)
    ]
    records += [records[0]] * 20 + [{**records[1], "label": "a"}, {"tokens": "A B"}]
    return dataset_from_records(records, trained.vocabulary, max_length=32)


def test_drawn_order_follows_from_the_rows_and_not_from_their_places(labelled_rows):
    order = labelled_in_drawn_order(labelled_rows)
    assert sorted(order) == list(range(len(labelled_rows) - 1))  # the last has no label
    rows = [(labelled_rows.row(i).tolist(), labelled_rows.classes_N[i]) for i in order]
    for seed in range(3):
        other, _ = shuffled(labelled_rows, seed)
        again = labelled_in_drawn_order(other)
        assert [(other.row(i).tolist(), other.classes_N[i]) for i in again] == rows
    # Copies of one row are spread over the order, not side by side.
    copies = [place for place, index in enumerate(order) if 60 <= index < 80]
    assert min(copies) < 20 and max(copies) > 60


@pytest.mark.parametrize("whole", [True, False])
def test_calibration_depends_neither_on_the_order_of_rows_nor_on_batches(
    trained, labelled_rows, monkeypatch, whole
):
    if not whole:
        monkeypatch.setattr(label_probabilities, "MOST_LABELS_WHOLE", 3)
        monkeypatch.setattr(metrics, "MOST_LABELS_WHOLE", 3)
        monkeypatch.setattr(label_probabilities, "LARGEST_KEPT", 2)
        monkeypatch.setattr(evaluation_module, "MOST_LABELS_WHOLE", 3)
        monkeypatch.setattr(evaluation_module, "_MOST_PROBS_SAMPLED", 40 * len(LABELS))
    found = []
    for rows, batch in ((labelled_rows, 64), (shuffled(labelled_rows, 1)[0], 7)):
        how = {"batch_size": batch, "to_calibrate": True}
        scores = score_rows(trained.engines.torch, rows, **how)
        fold_N = fold_rows(rows, rows.classes_N >= 0, 5)
        results = scores.cross_fitted_results(rows, fold_N)
        found.append(results.validation_figures(rows)["calibration"])
    assert found[0]["rows"] == (81 if whole else 40)
    assert found[0] == pytest.approx(found[1], rel=1e-3)


# ------------------------------------------------------------------------------- odd files


def test_validation_figures_stand_apart_and_say_where_they_come_from(evaluation):
    assert evaluation[0]["validation"] == STORED
    assert "validation rows of the training run" in evaluation[0]["validation"]["measured_on"]


def test_file_without_labels_has_the_language_figures_alone(trained, tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", [{"tokens": "A B C <EOS>"}] * 3)
    figures = evaluate_file(trained, data, tmp_path / "out")
    assert figures["unlabelled"] == figures["records"] == 3
    assert figures["body_perplexity"] > 1
    assert not {"accuracy", "label_loss", "label_perplexity", "ece"} & figures.keys()
    row = lines_of(tmp_path / "out" / "predictions.jsonl")[0]
    assert row["prediction"] in LABELS and "label_nll" not in row
    assert row["raw_confidence"] > row["confidence"]


def test_pictures_of_an_earlier_evaluation_go_away(trained, tmp_path):
    out = tmp_path / "out"
    labelled = write_rows(tmp_path / "one.jsonl", [{"tokens": "A", "label": "a"}] * 4)
    evaluate_file(trained, labelled, out)
    assert (out / "reliability.png").exists()
    (out / "mistakes.png").write_bytes(b"old")
    (out / "mine.png").write_bytes(b"the user's own")
    plain = write_rows(tmp_path / "two.jsonl", [{"tokens": "A B"}])
    evaluate_file(trained, plain, out, overwrite=True)
    assert {path.name for path in out.glob("*.png")} == {"mine.png"}


def test_row_without_a_finite_number_is_kept_with_its_reason(tmp_path):
    folder = save_random_model(tmp_path / "model", 4, STORED)
    trained = load_trained_model(folder, "cpu", "fp32")
    with torch.no_grad():
        trained.model.transformer.wte.weight[trained.vocabulary.ids["F"]] = float("nan")
        trained.model.lm_head.weight = torch.nn.Parameter(
            torch.nan_to_num(trained.model.lm_head.weight)
        )
    rows = [{"tokens": "A B", "label": "a", "n": 1}, {"tokens": "A F", "label": "a", "n": 2}]
    figures = evaluate_file(trained, write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "out")
    assert (figures["records"], figures["unscored"], figures["labelled_records"]) == (2, 1, 1)
    bad = lines_of(tmp_path / "out" / "predictions.jsonl")[1]
    assert "no finite number" in bad["reason"] and bad["row"] == {"n": 2}
    with pytest.raises(UserError, match="not one of 1 row can be scored"):
        evaluate_file(trained, write_rows(tmp_path / "bad.jsonl", rows[1:]), tmp_path / "bad")


# ------------------------------------------------------------------------------- chance


@pytest.fixture(scope="module")
def random_labels(tmp_path_factory):
    """A run on rows that follow a rule and whose labels follow none, and a file to test on."""
    folder = tmp_path_factory.mktemp("random")
    random = np.random.default_rng(0)
    tokens = ["<PAD>", "<UNK>", "<CLS>", "<EOS>", *BODY, *[f"<CLS_{name}>" for name in LABELS[:3]]]
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    for name, count in (("train", 500), ("test", 300)):
        rows = []
        for _ in range(count):
            start = random.integers(6)
            body = " ".join(BODY[(start + place) % 6] for place in range(random.integers(20, 28)))
            rows.append({"tokens": body, "label": LABELS[random.integers(3)]})
        write_rows(folder / f"{name}.jsonl", rows)
    settings = plain_settings(
        data_path=str(folder / "train.jsonl"), vocab_path=str(folder / "vocab.json"),
        output_dir=str(folder / "run"), n_layer=1, n_head=2, n_embd=32, n_positions=32,
        max_length=32, num_epochs=6, batch_size=16, learning_rate=1e-2, precision="fp32",
        dropout=0.0, device="cpu", early_stopping_patience=0, validation_fraction=0.4,
    )  # fmt: skip
    result = train(settings)
    return folder, result.folder


def test_random_labels_end_at_chance_with_an_interval_that_covers_it(random_labels, capsys):
    folder, run = random_labels
    argv = ["--model_path", str(run.final_model), "--test_data", str(folder / "test.jsonl")]
    main([*argv, "--device", "cpu", "--output_dir", str(folder / "out")])
    told = capsys.readouterr().out
    figures = json.loads((folder / "out" / "metrics.json").read_text())
    low, high = figures["accuracy_interval"]
    assert low < figures["chance_accuracy"] < high and low < 1 / 3 < high
    assert figures["above_chance"] is False
    assert figures["not_above_chance"] == figures["labels"]
    # The rule of the bodies is learned, so the perplexity looks splendid all the same.
    assert figures["body_perplexity"] < 1.2
    assert "!!! THE LABELS ARE NOT CLEARLY BETTER THAN GUESSES" in told.split("labels\n")[0]
    assert f"perplexity {figures['perplexity']:.2f} says nothing of the labels" in told
    assert "labels not clearly better than guesses: a, b, c" in told


def test_training_tells_chance_baselines_and_calibration(random_labels):
    log = random_labels[1].log.read_text()
    assert "!!! THE LABELS ARE NOT CLEARLY BETTER THAN GUESSES" in log
    assert "best baseline" in log and "labels: not clearly better than the baseline" in log
    assert "measured on held-out parts of" in log


def test_training_stores_what_it_measured_with_the_weights(random_labels):
    run = random_labels[1]
    report = json.loads(run.data_report.read_text())
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    measured = [row for row in rows if row["kind"] == "validation"]
    best_step = read_validation(run.best_model)["step"]
    (best,) = (row for row in measured if row["step"] == best_step)
    for folder, row in ((run.best_model, best), (run.final_model, measured[-1])):
        stored = read_validation(folder)
        assert stored["step"] == row["step"]
        assert stored["baselines"] == report["baselines"]
        assert (
            stored["rows"]
            == stored["calibration"]["rows"]
            == report["splits"]["validation"]["rows"]
        )
    assert read_validation(run.best_model)["best_value"] == best["calibrated_label_loss"]
    # The last model was not chosen: its figures are those of its evaluation.
    assert stored["accuracy"] == row["label_accuracy"]
    assert stored["label_perplexity"] == row["label_perplexity"]
    assert stored["calibration"]["raw_ece"] == row["raw_ece"]
    assert stored["calibration"]["ece"] == row["ece"]


# ------------------------------------------------------------------------------- rows of text


def test_scores_of_instructions_are_those_of_transformers_on_the_answer(text_vocabulary):
    records = [
        {"instruction": "Say fox.", "output": "fox"},
        {"text": "the quick brown fox"},
        {"instruction": "Say it.", "input": "the lazy dog", "output": "the dog is lazy"},
        {"text": "房间很好", "label": "good"},
    ]
    dataset = dataset_from_records(records, text_vocabulary, max_length=100)
    settings = replace(SETTINGS, n_positions=100, max_length=100)
    model = build_model(settings, text_vocabulary).eval()
    scores = score_rows(
        TorchEngine(model, Precision("fp32", "tests"), text_vocabulary.label_ids),
        dataset,
        batch_size=3,
    )
    total = 0.0
    for index in range(len(dataset)):
        prompt = int(dataset.prompt_lengths_N[index])
        ids = torch.from_numpy(dataset.row(index).astype(np.int64))[None]
        labels = ids.clone()
        labels[:, :prompt] = -100
        count = ids.shape[1] - max(prompt, 1)
        with torch.no_grad():
            output = model(ids, labels=labels)
        assert dataset.scored_counts[index] == count
        assert scores.tokens.nll_sum_N[index] == pytest.approx(output.loss.item() * count, rel=1e-5)
        right = output.logits[0, :-1].argmax(-1) == ids[0, 1:]
        assert scores.tokens.correct_N[index] == int(right[max(prompt, 1) - 1 :].sum())
        total += output.loss.item() * count
    tail = np.where(dataset.classes_N >= 0, 3, 1)
    assert (dataset.scored_counts - dataset.scored_body_counts).tolist() == tail.tolist()
    figures = scores.figures(dataset)
    assert figures["loss"] == pytest.approx(total / dataset.target_count, rel=1e-5)


# ------------------------------------------------------------------------------- scale


AT_SCALE = """
import json, resource, sys
from pathlib import Path

import numpy as np

sys.path.append("tests")
from inference import main
from plain_settings import plain_settings
from smallgpt.training.run_folder import RunFolder
from smallgpt.training.run_log import RunLog

from smallgpt.training.best_model import BestModel
from smallgpt.training.checkpoint import Checkpoints
from smallgpt.training.data import read_data
from smallgpt.training.journal import Journal
from smallgpt.training.setup import build_run
from smallgpt.training.update import Updater
from train_gpt import train_epochs

rows, labels, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
random = np.random.default_rng(0)
tokens = [f"T{number}" for number in range(50)]
names = [f"a_label_of_some_length_{number:05}" for number in range(labels)]
special = ["<PAD>", "<UNK>", "<CLS>", "<EOS>"]
vocabulary = [*special, *tokens, *(f"<CLS_{name}>" for name in names)]
(folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(vocabulary)}))
with open(folder / "rows.jsonl", "w") as handle:
    for body, label in zip(random.integers(0, 50, (rows, 50)), random.integers(0, labels, rows)):
        text = " ".join(tokens[number] for number in body)
        handle.write(json.dumps({"tokens": text, "label": names[label]}) + "\\n")
with open(folder / "rows.jsonl") as handle:
    (folder / "train.jsonl").write_text("".join(next(handle) for _ in range(640)))
settings = plain_settings(
    data_path=str(folder / "train.jsonl"), val_data_path=str(folder / "rows.jsonl"),
    vocab_path=str(folder / "vocab.json"), output_dir=str(folder / "run"), classifier="head",
    n_layer=1, n_head=2, n_embd=32, n_positions=64, max_length=64, num_epochs=1, device="cpu",
)
train_rows, validation_rows = read_data(settings, print)
run_folder = RunFolder(settings.output_dir)
peaks = []
def note_peak():
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
with RunLog(run_folder) as log:
    run = build_run(settings, run_folder, log, train_rows, validation_rows)
    updater = Updater(run)
    train_epochs(run, updater, BestModel(run), Journal(run), Checkpoints(run, updater))
note_peak()
asked = ["--model_path", str(run_folder.best_model), "--test_data", str(folder / "rows.jsonl")]
for mode in ("evaluate", "classify"):
    main([*asked, "--device", "cpu", "--mode", mode, "--output_dir", str(folder / mode)])
    note_peak()
print(json.dumps(peaks))
"""


@pytest.mark.long
def test_many_rows_of_many_labels_are_evaluated_in_bounded_memory(tmp_path):
    rows, labels = 100_000, 10_000
    argv = [sys.executable, "-c", AT_SCALE, str(rows), str(labels), str(tmp_path)]
    root = Path(__file__).parents[2]
    done = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *told, peaks = done.stdout.splitlines()
    assert max(json.loads(peaks)) < 4e9
    assert len(told) < 250 and max(map(len, told)) < 2000
    figures = json.loads((tmp_path / "evaluate" / "metrics.json").read_text())
    assert figures["labelled_records"] == rows and len(figures["labels"]) > labels / 2
    stored = figures["validation"]
    assert len(json.dumps(stored)) < 100_000
    assert stored["accuracy"] == pytest.approx(figures["accuracy"], abs=1e-3)
    assert 100 < stored["calibration"]["rows"] < rows
    assert (tmp_path / "evaluate" / "metrics.json").stat().st_size < 10e6
    for mode in ("evaluate", "classify"):
        with open(tmp_path / mode / "predictions.jsonl") as handle:
            lengths = [len(line) for line in handle]
        assert len(lengths) == rows and max(lengths) < 5000
    assert (tmp_path / "evaluate" / "confusion_matrix.png").stat().st_size < 2e6
