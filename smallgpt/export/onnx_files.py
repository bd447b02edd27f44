"""The formats onnx and onnx-int8: graphs, and what other programs read beside them."""

from __future__ import annotations

import importlib.util
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from smallgpt.distribution import install_extra
from smallgpt.engines.graph_engine import GraphEngine
from smallgpt.engines.trained import TrainedModel
from smallgpt.errors import UserError
from smallgpt.export.agreement import seconds_of_tokens
from smallgpt.export.formats import Reader
from smallgpt.export.onnx_readme import ABOUT, readme_of
from smallgpt.files.writing import write_json
from smallgpt.graphs.graph_files import CLASSIFY, DECODE, row_rules, write_graphs
from smallgpt.model.cpu_forward import is_gpt2
from smallgpt.model.weights_file import CODEBOOK, SETTINGS
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.tokens.text_tokenizer import TOKENIZER

_COPIED = (SETTINGS, "vocab.json", TOKENIZER, CODEBOOK)


class OnnxReader(GraphEngine):
    """As `Reader`: ONNX Runtime."""

    def token_seconds(self, first_id: int, tokens: int) -> list[float]:
        """As `Reader.token_seconds`."""
        return seconds_of_tokens(self.decoder(1), first_id, tokens)


class OnnxFormat:
    """As `ExportFormat`."""

    def __init__(self, precision: str):
        """`precision`: fp32 or int8."""
        self.precision = precision

    def require(self) -> None:
        """As `ExportFormat.require`."""
        if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime")):
            raise UserError(
                f"ONNX files need the onnx and onnxruntime libraries: {install_extra('onnx')}"
            )

    def refuse(self, trained: TrainedModel) -> None:
        """As `ExportFormat.refuse`."""
        if not is_gpt2(trained.model):
            raise UserError(
                f"{trained.folder} is a {trained.model.config.model_type} model; ONNX files are "
                f"written of GPT-2 models, as training from scratch makes them"
            )

    def write(self, trained: TrainedModel, folder: Path, digest: str) -> list[str]:
        """As `ExportFormat.write`.

        Raises:
            UserError: see `write_graphs`.
        """
        facts = {
            "weights": digest,
            "labels": trained.label_names,
            "validation": {**trained.validation, "first_tokens": trained.first_tokens},
        }
        length = trained.max_length
        write_graphs(
            trained.model, trained.vocabulary, length, trained.temperature, folder,
            self.precision, facts,
        )  # fmt: skip
        if (folder / CLASSIFY).exists():
            rules = row_rules(trained.vocabulary, length, trained.is_classifier)
            write_json(folder / ABOUT, {"labels": trained.label_names, "row": rules})
        for name in _COPIED:
            if (trained.folder / name).exists():
                shutil.copyfile(trained.folder / name, folder / name)
        return [name for name in (CLASSIFY, DECODE) if (folder / name).exists()]

    def readers(self, trained: TrainedModel, folder: Path) -> tuple[dict[str, Reader], str]:
        """As `ExportFormat.readers`."""
        reader = OnnxReader("onnx", folder, self.precision, trained.vocabulary)
        return {self.precision: reader}, f"ONNX Runtime {version('onnxruntime')}"

    def readme(
        self,
        trained: TrainedModel,
        folder: Path,
        labels: TokenLabelDataset | None,
        report: dict[str, Any],
    ) -> str:
        """As `ExportFormat.readme`."""
        return readme_of(trained, folder, labels)
