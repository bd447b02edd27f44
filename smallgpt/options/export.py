"""Options of export_model.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from smallgpt.options.option import option

HUB_FORMAT = "hub"
EXPORT_FORMATS = ("onnx", "onnx-int8", "gguf", "web", HUB_FORMAT)


@dataclass(frozen=True)
class ExportSettings:
    """Settings of `export_model.py`."""

    format: str = option(
        "onnx",
        "onnx: ONNX files in fp32, which answer as the model does. onnx-int8: a quarter of the "
        "size and mostly faster; answers differ a little, and the report tells how much. gguf: "
        "files for llama.cpp, in f32 and in 8 bits. web: a page that runs the int8 model in the "
        "browser, for any file server. hub: a folder for the Hugging Face hub, with a model card, "
        "and its upload.",
        group="Export",
        choices=EXPORT_FORMATS,
    )
    model_path: str = option("outputs/best_model", "Model folder that training wrote.")
    output_dir: str | None = option(
        None, "Folder of the export. Default: outputs/export/FORMAT, such as outputs/export/onnx."
    )
    overwrite: bool = option(
        False, "Replace the export of another model in that folder, and on the hub."
    )
    test_data: str | None = option(
        None,
        "Rows on which the export is checked against its model: JSONL, or a table (CSV, TSV). "
        "Default: the validation rows of training.",
        group="Check",
    )
    text_column: str | None = option(
        None, "Column of the texts of --test_data, or their key in JSONL. Default: text."
    )
    pair_column: str | None = option(
        None, "Column of the second text of pairs, the same way. Default: the text holds both."
    )
    tokens_column: str | None = option(
        None, "Column of rows of tokens, parted by spaces, the same way. Default: tokens."
    )
    label_column: str | None = option(
        None, "Column of the labels, the same way. Default: label, where there is one."
    )
    least_agreement: float = option(
        0.99,
        "Nothing is written, and the exit code is 1, where the export agrees with its model on "
        "less than this share: of the rows, by their label; of a model without labels, of the "
        "probability of the next token.",
        minimum=0,
        maximum=1,
    )

    repo_id: str | None = option(
        None,
        "Name of the model on the hub, such as OWNER/NAME; the format hub needs it. HF_TOKEN or a "
        "stored login (`hf auth login`) opens the hub.",
        group="Hub",
    )
    public: bool = option(False, "Anyone may read it there. Without this it is private.")
    dry_run: bool = option(False, "Write the folder, and upload nothing.")

    def resolved_output_dir(self) -> str:
        """The folder of the export."""
        return self.output_dir or f"outputs/export/{self.format}"

    def contradictions(self) -> Iterator[str]:
        columns = ("text_column", "pair_column", "tokens_column", "label_column")
        named = [name for name in columns if getattr(self, name) is not None]
        if named and self.test_data is None:
            yield f"--{named[0]} needs --test_data"
        if self.text_column is not None and self.tokens_column is not None:
            yield "--text_column and --tokens_column name different rows: give one of them"
        if self.pair_column is not None and self.tokens_column is not None:
            yield "--pair_column is a second text and --tokens_column has no first: drop one"
        yield from self._contradictions_of_the_hub()

    def _contradictions_of_the_hub(self) -> Iterator[str]:
        if self.format != HUB_FORMAT:
            for name in ("repo_id", "public", "dry_run"):
                if getattr(self, name):
                    yield f"--{name} needs --format {HUB_FORMAT}"
            return
        if self.repo_id is None and not self.dry_run:
            yield "--format hub needs --repo_id OWNER/NAME, or --dry_run to write the folder only"
        if self.public and self.dry_run:
            yield "--public has no effect with --dry_run"
        if self.repo_id is not None and (problem := _problem_of_name(self.repo_id)):
            yield f"--repo_id {problem}"


def _problem_of_name(repo_id: str) -> str | None:
    """What is wrong with a name on the hub, None for a good one."""
    if repo_id.count("/") != 1:
        return f"is OWNER/NAME, got {repo_id!r}"
    # Slow, and rarely needed. (The documented place; its types lack the name.)
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        HFValidationError,
        validate_repo_id,
    )

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        return f"is no name that the hub takes: {str(error).splitlines()[0]}"
    return None
