"""Exports a trained model: graphs, their check, the folder.

report = export_model(ExportSettings(model_path="outputs/best_model", format="onnx-int8"))
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from smallgpt.console import plural, printable_lines
from smallgpt.distribution import VERSION, install_extra
from smallgpt.engines.graph_engine import GraphEngine
from smallgpt.engines.trained import TrainedModel, load_trained_model
from smallgpt.errors import UserError
from smallgpt.export.agreement import compare_labels, compare_tokens
from smallgpt.export.folder import REPORT, export_folder
from smallgpt.export.readme import ABOUT, readme_of
from smallgpt.export.report import describe_export
from smallgpt.files.writing import write_json
from smallgpt.graphs.graph_files import CLASSIFY, DECODE, row_rules, write_graphs
from smallgpt.inference.columns import Columns
from smallgpt.inference.files import GivenRows, read_rows, refuse_unusable
from smallgpt.inference.model_facts import VALIDATION_DATA, ModelFacts
from smallgpt.inference.results import digest_of_folder
from smallgpt.inference.validation_rows import read_validation_rows
from smallgpt.model.build import count_parameters
from smallgpt.model.cpu_forward import is_gpt2
from smallgpt.model.processor import processor_name
from smallgpt.model.weights_file import CODEBOOK, SETTINGS
from smallgpt.options.export import ExportSettings
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.tokens.text_tokenizer import TOKENIZER

_COPIED = (SETTINGS, "vocab.json", TOKENIZER, CODEBOOK)


def export_model(settings: ExportSettings) -> dict[str, Any]:
    """Export a model, check it, print the report; returns the content of export_report.json.

    Raises:
        UserError: a model or rows that cannot be read, an architecture other than GPT-2, files of
            others in the folder, or less agreement than asked for; then nothing is written.
    """
    require_onnx()
    trained = load_trained_model(settings.model_path, "cpu", "fp32", engine="torch")
    if not is_gpt2(trained.model):  # before the rows are read
        raise UserError(
            f"{trained.folder} is a {trained.model.config.model_type} model; ONNX files are "
            f"written of GPT-2 models, as training from scratch makes them"
        )
    labels, tokens, source = rows_to_check(trained, settings)
    digest = digest_of_folder(trained.folder)
    with export_folder(Path(settings.resolved_output_dir()), digest, settings.overwrite) as new:
        precision = "int8" if settings.format == "onnx-int8" else "fp32"
        write_export(trained, new, precision, digest)
        report = check_export(trained, new, precision, labels, tokens)
        report = {
            "format": settings.format,
            "model": str(trained.folder),
            "weights": digest,
            "smallgpt": VERSION,
            "date": time.strftime("%Y-%m-%d"),
            "machine": processor_name(),
            "threads": torch.get_num_threads(),
            "onnxruntime": version("onnxruntime"),
            "data": source,
            "model_bytes": 4 * count_parameters(trained.model),
            "least_agreement": settings.least_agreement,
            **report,
        }
        print(printable_lines(describe_export(report)))
        refuse_disagreement(report)
        write_json(new / REPORT, report)
        (new / "README.md").write_text(readme_of(trained, new, labels), encoding="utf-8")
    return report


def require_onnx() -> None:
    """Check early that the libraries are there.

    Raises:
        UserError: they are not.
    """
    if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime")):
        raise UserError(
            f"ONNX files need the onnx and onnxruntime libraries: {install_extra('onnx')}"
        )


def write_export(trained: TrainedModel, folder: Path, precision: str, digest: str) -> None:
    """Write the graphs, and what inference.py and other programs read beside them.

    Raises:
        UserError: see `write_graphs`.
    """
    facts = {
        "weights": digest,
        "labels": trained.label_names,
        "validation": {**trained.validation, "first_tokens": trained.first_tokens},
    }
    length, temperature = trained.max_length, trained.temperature
    write_graphs(trained.model, trained.vocabulary, length, temperature, folder, precision, facts)
    if (folder / CLASSIFY).exists():
        rules = row_rules(trained.vocabulary, length, trained.is_classifier)
        write_json(folder / ABOUT, {"labels": trained.label_names, "row": rules})
    for name in _COPIED:
        if (trained.folder / name).exists():
            shutil.copyfile(trained.folder / name, folder / name)


def check_export(
    trained: TrainedModel,
    folder: Path,
    precision: str,
    labels: TokenLabelDataset | None,
    tokens: TokenLabelDataset | None,
) -> dict[str, Any]:
    """What of the report depends on rows: the model and the files in `folder` on the same ones."""
    engine = GraphEngine("onnx", folder, precision, trained.vocabulary)
    report: dict[str, Any] = {"files": {}}
    for name in (CLASSIFY, DECODE):
        if (folder / name).exists():
            report["files"][name] = (folder / name).stat().st_size
    if tokens is not None:
        found = compare_tokens(trained, engine, tokens)
        report = {"agreement": found.agreement, **report, "tokens": found.figures()}
    if labels is not None:
        of_labels = compare_labels(trained, engine, labels)
        report = {**report, "agreement": of_labels.agreement, "labels": of_labels.figures()}
    return report


def refuse_disagreement(report: dict[str, Any]) -> None:
    """Raise UserError, with what to try, where an export agrees too little with its model."""
    agreement, least = report["agreement"], report["least_agreement"]
    if agreement >= least:
        return
    tries = []
    if report["format"] == "onnx-int8":
        tries.append("--format onnx computes in fp32 and agrees to the last digits")
    rows = report.get("labels", {}).get("rows")
    if rows is not None and (1 - least) * rows < 1:
        tries.append(f"with {plural(rows, 'row')} a single other answer is more: check on more")
    tries.append(f"where the figures above are good enough, --least_agreement {agreement:.3f}")
    raise UserError(
        f"the export agrees with its model on {agreement:.4f}, and --least_agreement is {least}: "
        f"nothing is written\n{'; '.join(tries)}"
    )


# ------------------------------------------------------------------------------- rows


def rows_to_check(
    trained: TrainedModel, settings: ExportSettings
) -> tuple[TokenLabelDataset | None, TokenLabelDataset | None, str]:
    """The rows to classify and the rows whose tokens to predict, None where the model does not.

    Raises:
        UserError: not one usable row, or neither test nor validation rows.
    """
    if settings.test_data is not None:
        columns = Columns(settings.text_column, settings.tokens_column, settings.label_column)
        found = [
            _usable(trained, read_rows(trained, settings.test_data, for_label, columns))
            if needed
            else None
            for for_label, needed in ((True, bool(trained.vocabulary.labels)),
                                      (False, not trained.is_classifier))
        ]  # fmt: skip
        return found[0], found[1], settings.test_data
    facts = ModelFacts.of(trained.folder)
    rows = read_validation_rows(trained, facts) if VALIDATION_DATA in facts.data else None
    if rows is None:
        raise UserError(
            f"the validation rows of {trained.folder} are not where training found them: name rows "
            f"to check the export on with --test_data FILE"
        )
    dataset = rows.dataset
    labelled = None
    if trained.vocabulary.labels:
        # Rows without a label may fill all of max_length and have no room for <CLS>.
        labelled = dataset.subset((dataset.classes_N >= 0).nonzero()[0])
        labelled = labelled if len(labelled) else None
    return labelled, None if trained.is_classifier else dataset, rows.source


def _usable(trained: TrainedModel, rows: GivenRows) -> TokenLabelDataset:
    """The rows that can be used; how many cannot is told."""
    if not len(rows.dataset):
        refuse_unusable(trained, rows, "used")
    bad = rows.dataset.bad_rows
    if bad:
        print(
            printable_lines(
                f"{rows.source}: {plural(len(bad), 'row')} could not be used, the first in line "
                f"{bad[0].line}: {bad[0].reason}"
            ),
            file=sys.stderr,
        )
    return rows.dataset
