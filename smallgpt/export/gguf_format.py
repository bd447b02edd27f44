"""The format gguf: one file in f32 and one in 8 bits, and what programs read beside them."""

from __future__ import annotations

import importlib.util
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from smallgpt.distribution import install_extra
from smallgpt.engines.trained import TrainedModel
from smallgpt.errors import UserError
from smallgpt.export.formats import Reader
from smallgpt.export.gguf_files import (
    PRECISIONS,
    Q8_0,
    file_name,
    kept_in_f32,
    refuse_config,
    write_gguf,
)
from smallgpt.export.gguf_readme import ABOUT, readme_of
from smallgpt.export.gguf_tokenizer import GgufTokenizer
from smallgpt.export.llama_server import LlamaServer
from smallgpt.files.writing import write_json
from smallgpt.graphs.graph_files import row_rules
from smallgpt.model.cpu_forward import is_gpt2
from smallgpt.model.weights_file import CODEBOOK
from smallgpt.rows.dataset import TokenLabelDataset

_COPIED = ("vocab.json", CODEBOOK)


class GgufFormat:
    """As `ExportFormat`."""

    def require(self) -> None:
        """As `ExportFormat.require`."""
        if importlib.util.find_spec("gguf") is None:
            raise UserError(f"GGUF files need the gguf library: {install_extra('gguf')}")

    def refuse(self, trained: TrainedModel) -> None:
        """As `ExportFormat.refuse`."""
        if trained.is_classifier:
            raise UserError(
                f"{trained.folder} has a label head, which llama.cpp does not compute: export it "
                f"as onnx, or train with --classifier label_token"
            )
        if not is_gpt2(trained.model):
            raise UserError(
                f"{trained.folder} is a {trained.model.config.model_type} model; GGUF files are "
                f"written of GPT-2 models, as training from scratch makes them"
            )
        refuse_config(trained)
        GgufTokenizer.of(trained.vocabulary)

    def write(self, trained: TrainedModel, folder: Path, digest: str) -> list[str]:
        """As `ExportFormat.write`."""
        for precision in PRECISIONS:
            write_gguf(trained, folder / file_name(precision), precision, digest)
        kept = kept_in_f32(trained)
        if kept:
            print(
                f"{file_name(Q8_0)}: {len(kept)} of its matrices stay in f32, since their rows are "
                f"no multiple of 32 numbers"
            )
        vocabulary = trained.vocabulary
        if vocabulary.labels:
            about = {
                "labels": trained.label_names,
                "label_ids": vocabulary.label_ids,
                "temperature": trained.temperature,
                "row": row_rules(vocabulary, trained.max_length, by_head=False),
            }
            write_json(folder / ABOUT, about)
        for name in _COPIED:
            if (trained.folder / name).exists():
                shutil.copyfile(trained.folder / name, folder / name)
        return [file_name(precision) for precision in PRECISIONS]

    def readers(self, trained: TrainedModel, folder: Path) -> tuple[dict[str, Reader], str]:
        """As `ExportFormat.readers`."""
        if not _can_read():
            return {}, f"this needs llama.cpp, which xllamacpp has: {install_extra('gguf')}"
        readers: dict[str, Reader] = {
            precision: LlamaServer(
                folder / file_name(precision), trained.vocabulary.label_ids, trained.temperature
            )
            for precision in PRECISIONS
        }
        return readers, f"llama.cpp (xllamacpp {version('xllamacpp')})"

    def readme(
        self,
        trained: TrainedModel,
        folder: Path,
        labels: TokenLabelDataset | None,
        report: dict[str, Any],
    ) -> str:
        """As `ExportFormat.readme`."""
        server = None
        if _can_read():
            path, label_ids = folder / file_name(Q8_0), trained.vocabulary.label_ids
            server = LlamaServer(path, label_ids, trained.temperature)
        return readme_of(trained, labels, server)


def _can_read() -> bool:
    return importlib.util.find_spec("xllamacpp") is not None
