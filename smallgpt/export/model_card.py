"""The README.md of a model on the Hugging Face hub: its model card.

What it tells comes from the model folder, the data report of its run, and the check of the export.
No row of the data is shown and no folder named: a card may become public.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from smallgpt.console import format_table, plural
from smallgpt.distribution import VERSION
from smallgpt.engines.trained import TrainedModel
from smallgpt.errors import UserError
from smallgpt.export.card_programs import continue_program, label_program
from smallgpt.export.decision import DECISION
from smallgpt.export.formats import Reader
from smallgpt.files.reading import parse_json, read_text
from smallgpt.inference.columns import reads_pairs
from smallgpt.inference.files import beside
from smallgpt.model.build import count_parameters
from smallgpt.tokens.text_tokenizer import SEP

_MOST_BYTES = 2**26  # of data_report.json, which grows with the vocabulary
_MOST_VALUES = 10_000_000
_MOST_LABELS = 30  # named in the card
HERE = "."  # the name of a model that is not on the hub yet: programs run in its folder


def model_card(trained: TrainedModel, folder: Path, reader: Reader, report: dict[str, Any]) -> str:
    """The text of the card. `report`: the content of export_report.json."""
    name = report.get("repo_id") or HERE
    title = name.rpartition("/")[2] if name != HERE else _name_of(trained)
    parts = [
        f"---\n{_metadata(trained, title, report)}\n---",
        f"# {title}",
        _what_it_is(trained),
        '## Use it\n\n`pip install torch "transformers>=5.23" jinja2` is all these programs need.',
    ]
    if trained.vocabulary.labels:
        parts += label_program(trained, folder, reader, name)
    if (folder / DECISION).exists():
        parts.append(_ABOUT_DECISIONS)
    if not trained.is_classifier:
        parts += ["A row continued:", continue_program(trained, name)]
    parts += [
        _WITH_THE_TOOLKIT.format(name="OWNER/NAME" if name == HERE else name),
        "## How good it is",
        _figures(trained, report),
        "## What it was trained on",
        _training(trained),
        "## Limits",
        _limits(trained, folder),
    ]
    return "\n\n".join(parts) + "\n"


def _name_of(trained: TrainedModel) -> str:
    """A name for a model without one: its run's, or for the run in outputs/ that of its data."""
    run = trained.folder.resolve().parent.name
    data = Path(trained.settings.data_path).parent.name
    return data if run == "outputs" and data else run


# ------------------------------------------------------------------------------- metadata


def _metadata(trained: TrainedModel, title: str, report: dict[str, Any]) -> str:
    """The YAML at the head of the card, by which the hub finds and shows the model."""
    source = report["data"].removesuffix(" (the validation rows)")
    rows = {
        "dataset_type": "csv" if source.endswith((".csv", ".tsv")) else "json",
        "dataset_name": report["data"],
    }
    results = []
    labels, tokens = report.get("labels", {}), report.get("tokens")
    if "accuracy" in labels:
        low, high = labels["accuracy_interval"]["export"]
        results.append(
            EvalResult(
                task_type="text-classification",
                metric_type="accuracy",
                metric_name="Accuracy of the label",
                metric_value=labels["accuracy"]["export"],
                metric_args={
                    "interval_95": [low, high],
                    "interval": "Wilson",
                    "rows": labels["labelled_rows"],
                },
                **rows,
            )
        )
    if tokens is not None:
        results.append(
            EvalResult(
                task_type="text-generation",
                metric_type="perplexity",
                metric_name="Perplexity of the next token",
                metric_value=tokens["perplexity"]["export"],
                metric_args={"tokens": tokens["tokens"]},
                **rows,
            )
        )
    card = ModelCardData(
        model_name=title,
        library_name="transformers",
        pipeline_tag="text-classification" if trained.is_classifier else "text-generation",
        tags=["smallgpt", _kind_of_rows(trained).replace(" ", "-")],
        base_model=_base_on_the_hub(trained),
        metrics=[result.metric_type for result in results] or None,
        eval_results=results or None,
    )
    return card.to_yaml()


def _base_on_the_hub(trained: TrainedModel) -> str | None:
    """The name of the pretrained model that training began from, where it is one of the hub."""
    start = trained.settings.init_from
    local = start is None or start.startswith((".", "/", "~")) or start.count("/") > 1
    return None if local or Path(str(start)).exists() else start


# ------------------------------------------------------------------------------- parts


def _kind_of_rows(trained: TrainedModel) -> str:
    if trained.codebook is not None:
        return "images"
    if trained.is_instructed:
        return "instructions"
    return "token rows" if trained.vocabulary.tokenizer is None else "texts"


def _what_it_is(trained: TrainedModel) -> str:
    model, settings, count = trained.model, trained.settings, len(trained.vocabulary.labels)
    kind = {
        "images": "images as rows of tokens: a code for each patch",
        "instructions": "instructions with their answers",
        "token rows": "rows of tokens",
        "texts": f"pairs of texts, ` {SEP} ` between the two" if reads_pairs(trained) else "texts",
    }[_kind_of_rows(trained)]
    does = []
    if count:
        does.append(f"names the label of a row (one of {count:,})")
    if not trained.is_classifier:
        does.append("predicts the next token")
    return (
        f"A small {model.config.model_type} model ({settings.n_layer} layers, width "
        f"{settings.n_embd}, {count_parameters(model):,} parameters) of {kind}. It "
        f"{' and '.join(does)}. Trained and exported with smallgpt {VERSION}."
    )


def _figures(trained: TrainedModel, report: dict[str, Any]) -> str:
    labels, tokens = report.get("labels", {}), report.get("tokens")
    lines, table = [f"Measured on {report['data']}."], []
    if "accuracy" in labels:
        low, high = labels["accuracy_interval"]["export"]
        rows = plural(labels["labelled_rows"], "labelled row")
        table += [
            ["accuracy of the label", f"{100 * labels['accuracy']['export']:.2f} % of {rows}"],
            ["its 95 % interval (Wilson)", f"{100 * low:.1f} .. {100 * high:.1f} %"],
        ]
    if tokens is not None:
        perplexity = tokens["perplexity"]["export"]
        table.append(["perplexity", f"{perplexity:.4g} over {tokens['tokens']:,} tokens"])
    if table:
        lines.append(f"```text\n{format_table(['', 'this model'], table)}\n```")
    if "(the validation rows)" in report["data"]:
        lines.append(
            "The validation rows also chose this model among the evaluations of its training, "
            "which flatters it a little. `--test_data` gives figures of rows that had no say."
        )
    stored = trained.validation
    if stored.get("above_chance") is False:
        lines.append("**On its validation rows the labels were no better than guesses.**")
    if "calibration" in stored:
        found = stored["calibration"]
        lines.append(
            f"The shares of the labels are calibrated: logits are divided by "
            f"{found['temperature']:.4g}, found on {plural(found['rows'], 'validation row')}. "
            f"Their expected calibration error went from {found['raw_ece']:.3f} to "
            f"{found['ece']:.3f}."
        )
    baselines = {
        name: value
        for name, value in stored.get("baselines", {}).items()
        if (name.endswith("_accuracy") and labels) or (name.endswith("_perplexity") and tokens)
    }
    if baselines:
        table = [[name.replace("_", " "), f"{value:.4g}"] for name, value in baselines.items()]
        head = ["baseline on the validation rows", ""]
        lines.append(f"```text\n{format_table(head, table)}\n```")
    return "\n\n".join(lines)


def _training(trained: TrainedModel) -> str:
    report, vocabulary = _data_report(trained.folder), trained.vocabulary
    parts = []
    if report is not None:
        train, validation = (report["splits"][side] for side in ("train", "validation"))
        parts.append(
            f"{train['rows']:,} training rows of {train['tokens']:,} tokens, and "
            f"{validation['rows']:,} validation rows"
        )
        if report["variants"]:
            parts.append(f"{report['variants']:,} made variants of training rows beside them")
        if train["unlabelled"] and vocabulary.labels:
            parts.append(f"{train['unlabelled']:,} of the training rows without a label")
    parts.append(
        f"a vocabulary of {len(vocabulary):,} tokens; rows of up to {trained.max_length:,} tokens"
    )
    start = _base_on_the_hub(trained)
    if start is not None:
        parts.append(f"it began from {start}")
    elif trained.settings.init_from is not None:
        parts.append("it began from a pretrained checkpoint")
    lines = "\n".join(f"- {part}" for part in parts)
    if vocabulary.labels:
        counts = report["splits"]["train"]["labels"] if report is not None else {}
        shown = [
            f"{name} ({counts[name]:,})" if name in counts else name
            for name in vocabulary.label_names[:_MOST_LABELS]
        ]
        more = len(vocabulary.labels) - len(shown)
        shown += [f"and {more:,} more"] if more else []
        lines += f"\n- labels (training rows): {', '.join(shown)}"
    return f"{lines}\n\nAll options of the training stand in `settings.yaml`."


def _data_report(folder: Path) -> dict[str, Any] | None:
    """The data report of the run that a model lies in; None where there is none."""
    try:
        text = read_text(beside(folder, "data_report.json"), _MOST_BYTES)
        report: Any = parse_json(text, _MOST_VALUES)
        train, validation = (report["splits"][side] for side in ("train", "validation"))
        counts = (train["rows"], train["tokens"], train["unlabelled"], validation["rows"])
        counts += (report["variants"], *train["labels"].values())
        return report if all(type(count) is int for count in counts) else None
    except (UserError, ValueError, TypeError, LookupError, AttributeError):
        return None


def _limits(trained: TrainedModel, folder: Path) -> str:
    length, is_text = trained.max_length, trained.vocabulary.tokenizer is not None
    limits = [
        "It knows what its training rows showed, and nothing else: rows of another kind get "
        "answers that look as sure.",
    ]
    if trained.vocabulary.labels:
        limits.append(
            "One of its labels is always named, also for a row that has none of them; shares are "
            "calibrated for rows like those of its validation."
        )
    if (folder / DECISION).exists() and not is_text:
        limits.append(
            f'Rows have at most {length:,} tokens; `pipeline("decision")` cuts longer ones at '
            f"their start, as training did."
        )
    else:
        limits.append(
            f"It was trained on up to {length:,} tokens (with `<CLS>` and the label): cut longer "
            f"rows at their start; transformers does not."
        )
    if trained.is_classifier:
        limits.append(
            '`pipeline("decision")` and `/v1/systemone` read labels from tokens, and this model '
            "has a label head: the program above takes their place."
        )
    elif trained.vocabulary.labels and not (folder / DECISION).exists():
        limits.append(
            "There is no `decision.json`: transformers' decisions would read a text as other "
            "tokens than training did. The program above reads it as training did."
        )
    if (folder / DECISION).exists() and is_text:
        limits.append(
            "Given to the tokenizer directly, `<EOS>` or `<CLS_...>` in a text is that token "
            "(`split_special_tokens=True` makes it letters); within decisions it is always letters."
        )
    if trained.codebook is not None:
        limits.append(
            "Images become tokens by `codebook.npz`: `inference.py --images` of smallgpt does it."
        )
    return "\n".join(f"- {limit}" for limit in limits)


_ABOUT_DECISIONS = """\
These shares are calibrated. `confidence` in the answer is another number: (N p - 1) / (N - 1) for N
labels and the largest share p. The same over HTTP, by `transformers serve` (`pip install
"transformers[serving]"`): `POST /v1/systemone` with `model`, `state` and `questions` as above."""

_WITH_THE_TOOLKIT = """\
With smallgpt itself:

```bash
hf download {name} --local-dir model
python inference.py --model_path model                   # labels, rows, evaluation
python train_gpt.py --init_from {name}  # train on from here, with rows of your own
```"""
