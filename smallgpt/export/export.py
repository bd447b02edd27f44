"""Exports a trained model: its files, their check, the folder.

report = export_model(ExportSettings(model_path="outputs/best_model", format="onnx-int8"))
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch

from smallgpt.console import plural, printable_lines
from smallgpt.distribution import VERSION
from smallgpt.engines.trained import TrainedModel, load_trained_model
from smallgpt.errors import UserError
from smallgpt.export.agreement import compare_labels, compare_tokens
from smallgpt.export.checked_rows import rows_to_check
from smallgpt.export.folder import export_folder, write_report
from smallgpt.export.formats import ExportFormat, Reader
from smallgpt.export.gguf_format import GgufFormat
from smallgpt.export.hub_format import HubFormat
from smallgpt.export.onnx_files import OnnxFormat
from smallgpt.export.report import describe_export
from smallgpt.export.web_files import WebFormat
from smallgpt.inference.results import digest_of_folder
from smallgpt.model.build import count_parameters
from smallgpt.model.processor import processor_name
from smallgpt.options.export import HUB_FORMAT, ExportSettings
from smallgpt.rows.dataset import TokenLabelDataset

_FORMATS: dict[str, ExportFormat] = {
    "onnx": OnnxFormat("fp32"),
    "onnx-int8": OnnxFormat("int8"),
    "gguf": GgufFormat(),
    "web": WebFormat(),
    HUB_FORMAT: HubFormat(),
}


def export_model(settings: ExportSettings) -> dict[str, Any]:
    """Export a model, check it, print the report; returns the content of export_report.json.

    Raises:
        UserError: a model or rows that cannot be read, a model that the format cannot hold, files
            of others in the folder, or less agreement than asked for; then nothing is written.
    """
    format = _FORMATS[settings.format]
    format.require()
    trained = load_trained_model(settings.model_path, "cpu", "fp32", engine="torch")
    if trained.is_pretrained:
        raise UserError(f"{trained.name}: training did not write this model, so it is not exported")
    format.refuse(trained)
    labels, tokens, source = rows_to_check(trained, settings)
    digest = digest_of_folder(trained.folder)
    with export_folder(Path(settings.resolved_output_dir()), digest, settings.overwrite) as new:
        names = format.write(trained, new, digest)
        readers, read_by = format.readers(trained, new)
        report = {
            "format": settings.format,
            "model": _handed_on(str(trained.folder)),
            "weights": digest,
            "smallgpt": VERSION,
            "date": time.strftime("%Y-%m-%d"),
            "machine": processor_name(),
            "threads": torch.get_num_threads(),
            "checked": bool(readers),
            "read_by": read_by,
            "data": _handed_on(source),
            "model_bytes": 4 * count_parameters(trained.model),
            "files": {name: (new / name).stat().st_size for name in names},
            "least_agreement": settings.least_agreement,
        }
        if settings.repo_id is not None:
            report["repo_id"] = settings.repo_id
        found = {
            name: _agreement(trained, reader, labels, tokens) for name, reader in readers.items()
        }
        if len(found) > 1:
            worst = min(each["agreement"] for each in found.values())
            report |= {"agreement": worst, "precisions": found}
        else:
            report |= next(iter(found.values()), {})
        print(printable_lines(describe_export(report)))
        if readers:
            _refuse_disagreement(report)
        readme = format.readme(trained, new, labels, report)
        (new / "README.md").write_text(readme, encoding="utf-8")
        write_report(new, report)
    return report


def _handed_on(path: str) -> str:
    """A path as others may read it: from the working directory, and of one elsewhere its name."""
    here = os.path.join(os.getcwd(), "")
    if os.path.isabs(path) and not path.startswith(here):
        return Path(path).name
    return path.removeprefix(here)


def _agreement(
    trained: TrainedModel,
    reader: Reader,
    labels: TokenLabelDataset | None,
    tokens: TokenLabelDataset | None,
) -> dict[str, Any]:
    """What of the report depends on rows: the model and its export on the same ones."""
    report: dict[str, Any] = {}
    if tokens is not None:
        found = compare_tokens(trained, reader, tokens)
        report = {"agreement": found.agreement, "tokens": found.figures()}
    if labels is not None:
        of_labels = compare_labels(trained, reader, labels)
        report = {**report, "agreement": of_labels.agreement, "labels": of_labels.figures()}
    return report


def _refuse_disagreement(report: dict[str, Any]) -> None:
    """Raise UserError, with what to try, where an export agrees too little with its model."""
    agreement, least = report["agreement"], report["least_agreement"]
    if agreement >= least:
        return
    tries = []
    if report["format"] in ("onnx-int8", "web"):
        tries.append("--format onnx computes in fp32 and agrees to the last digits")
    parts = next(iter(report.get("precisions", {"": report}).values()))
    rows = parts.get("labels", {}).get("rows")
    if rows is not None and (1 - least) * rows < 1:
        tries.append(f"with {plural(rows, 'row')} a single other answer is more: check on more")
    tries.append(f"where the figures above are good enough, --least_agreement {agreement:.3f}")
    raise UserError(
        f"the export agrees with its model on {agreement:.4f}, and --least_agreement is {least}: "
        f"nothing is written\n{'; '.join(tries)}"
    )
