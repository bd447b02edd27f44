"""The format web: a page that runs the model in the browser, in a folder for any file server."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from smallgpt.distribution import VERSION
from smallgpt.engines.trained import TrainedModel
from smallgpt.export.formats import Reader
from smallgpt.export.npm_packages import RUNTIME, TOKENIZERS
from smallgpt.export.onnx_files import OnnxFormat
from smallgpt.export.web_facts import CENTERS, PAGE, centers_of, page_facts, whole_codebook
from smallgpt.export.web_readme import web_readme
from smallgpt.files.writing import write_json
from smallgpt.graphs.graph_files import CLASSIFY, DECODE
from smallgpt.model.build import count_parameters
from smallgpt.model.weights_file import CODEBOOK, SETTINGS
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.tokens.text_tokenizer import TOKENIZER

_DIST = "package/dist"
# The build for the CPU alone. Names end in .js, since some file servers do not know .mjs.
_RUNTIME_FILES = {
    f"{_DIST}/ort.wasm.min.mjs": "ort.js",
    f"{_DIST}/ort-wasm-simd-threaded.mjs": "ort-wasm.js",
    f"{_DIST}/ort-wasm-simd-threaded.wasm": "ort-wasm.wasm",
}
_TOKENIZERS_FILES = {
    f"{_DIST}/tokenizers.min.mjs": "tokenizers.js",
    "package/LICENSE": "LICENCE-tokenizers.txt",
}
_LOADED = (
    "runtime/ort-wasm.wasm", f"model/{CLASSIFY}", f"model/{DECODE}", "model/vocab.json",
    f"model/{TOKENIZER}", f"model/{CENTERS}",
)  # fmt: skip


class WebFormat:
    """As `ExportFormat`."""

    def __init__(self) -> None:
        self._graphs = OnnxFormat("int8")

    def require(self) -> None:
        """As `ExportFormat.require`; fetches what browsers compute with."""
        self._graphs.require()
        RUNTIME.fetch()

    def refuse(self, trained: TrainedModel) -> None:
        """As `ExportFormat.refuse`; fetches what browsers read texts with."""
        self._graphs.refuse(trained)
        if trained.vocabulary.tokenizer is not None:
            TOKENIZERS.fetch()

    def write(self, trained: TrainedModel, folder: Path, digest: str) -> list[str]:
        """As `ExportFormat.write`.

        Raises:
            UserError: see `write_graphs`.
        """
        shutil.copytree(PAGE, folder, dirs_exist_ok=True)
        runtime, model = folder / "runtime", folder / "model"
        runtime.mkdir()
        shutil.move(folder / "LICENCE-onnxruntime.txt", runtime)  # the package itself has none
        RUNTIME.copy({member: runtime / name for member, name in _RUNTIME_FILES.items()})
        model.mkdir()
        names = self._graphs.write(trained, model, digest)
        (model / SETTINGS).unlink()  # it names files of this machine, and a page is seen by others
        if trained.vocabulary.tokenizer is None:
            (model / TOKENIZER).unlink(missing_ok=True)  # for transformers
        else:
            TOKENIZERS.copy({member: runtime / name for member, name in _TOKENIZERS_FILES.items()})
        (model / CODEBOOK).unlink(missing_ok=True)
        codebook = whole_codebook(trained)
        if codebook is not None:
            (model / CENTERS).write_bytes(centers_of(codebook))
        sizes = {name: (folder / name).stat().st_size for name in _LOADED
                 if (folder / name).exists()}  # fmt: skip
        if trained.vocabulary.tokenizer is not None:
            sizes["runtime/tokenizers.js"] = (runtime / "tokenizers.js").stat().st_size
        facts = {
            **page_facts(trained, count_parameters(trained.model)),
            **_shape_of(trained),
            "files": sizes,
        }
        write_json(model / "page.json", facts, most_levels=1)
        return [f"model/{name}" for name in names]

    def readers(self, trained: TrainedModel, folder: Path) -> tuple[dict[str, Reader], str]:
        """As `ExportFormat.readers`: the graphs, by ONNX Runtime outside of a browser."""
        readers, read_by = self._graphs.readers(trained, folder / "model")
        return readers, f"{read_by}, not in a browser"

    def readme(
        self,
        trained: TrainedModel,
        folder: Path,
        labels: TokenLabelDataset | None,
        report: dict[str, Any],
    ) -> str:
        """As `ExportFormat.readme`."""
        return web_readme(trained, whole_codebook(trained) is not None, VERSION)


def _shape_of(trained: TrainedModel) -> dict[str, int]:
    """What the page needs to run decode.onnx."""
    config = trained.model.config
    return {
        "layers": 0 if trained.is_classifier else config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "head_size": config.hidden_size // config.num_attention_heads,
    }
