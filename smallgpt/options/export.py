"""Options of export_model.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from smallgpt.options.option import option

EXPORT_FORMATS = ("onnx", "onnx-int8")


@dataclass(frozen=True)
class ExportSettings:
    """Settings of `export_model.py`."""

    format: str = option(
        "onnx",
        "onnx: ONNX files in fp32, which answer as the model does. onnx-int8: a quarter of the "
        "size and mostly faster; answers differ a little, and the report tells how much.",
        group="Export",
        choices=EXPORT_FORMATS,
    )
    model_path: str = option("outputs/best_model", "Model folder that training wrote.")
    output_dir: str | None = option(
        None, "Folder of the export. Default: outputs/export/FORMAT, such as outputs/export/onnx."
    )
    overwrite: bool = option(False, "Replace the export of another model in that folder.")
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
