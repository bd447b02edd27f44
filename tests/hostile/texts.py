"""Readers of texts, tables, instructions and tokenizers."""

from __future__ import annotations

import importlib.util
import io
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

from hostile.reader import Reader

from smallgpt.errors import UserError
from smallgpt.files.writing import json_line
from smallgpt.options.preparation import InstructionsSettings, TextSettings
from smallgpt.preparation.instructions import prepare_instructions
from smallgpt.preparation.report import report_lines
from smallgpt.preparation.texts import prepare_text
from smallgpt.rows.reading import read_dataset
from smallgpt.tokens.text_tokenizer import TextTokenizer
from smallgpt.tokens.vocabulary import Vocabulary

TEXTS = [
    {
        "text": f"Room {n}, bed {n}. {'Good' if n % 2 else '差，'} all.",
        "label": "a b" if n % 2 else 1,
    }
    for n in range(30)
]
ORDERS = [
    {"instruction": f"Count to {n}.", "input": " 1" * (n % 2), "output": f"{n}"} for n in range(30)
]
TEXT_WORDS = ("text", "label", "instruction", "input", "output", "a b", "a_b", "\t", ",,")
CLAUSES = ("the cat sat", "on the mat", "a dog ran, far", "房间很好。", "No 12!", "to the house")
TEXT_SPECIAL = ("<PAD>", "<UNK>", "<CLS>", "<EOS>", "<CLS_1>", "<CLS_a_b>")


def _json_lines(records: list[dict]) -> bytes:
    return "".join(map(json_line, records)).encode()


def _plain_text() -> bytes:
    return "\n<|endoftext|>\n".join(CLAUSES * 3).encode()


def _comma_separated() -> bytes:
    lines = [f'"{row["text"]}",{row["label"]},{n}' for n, row in enumerate(TEXTS)]
    return "\r\n".join(["text,label,", *lines]).encode()


def _tab_separated() -> bytes:
    lines = [f"{row['text']}\t{row['label']}" for row in TEXTS]
    return "\n".join(["text\tlabel", *lines]).encode()


def _parquet() -> bytes:
    from pyarrow import Table, parquet

    stream = io.BytesIO()
    records = [{**record, "label": str(record["label"])} for record in TEXTS]
    parquet.write_table(Table.from_pylist(records), stream)
    return stream.getvalue()


def _prepare_texts(folder: Path, name: str) -> None:
    """As `prepare_data.py text` or `instructions`; reads what it wrote."""
    prepare, settings = prepare_text, TextSettings(label_column="label", augment=2)
    if name == "orders.json":
        prepare, settings = prepare_instructions, InstructionsSettings()
    out = folder / "out"
    settings = replace(
        settings,
        input=(str(folder / name),),
        output_dir=str(out),
        on_bad_row="skip",
        tokenizer="chars",
        validation_fraction=0.0,
        overwrite=True,  # of a try before
    )
    try:
        summary = prepare(settings)
    except UserError as error:
        if "nothing is left for" in str(error) or "different labels" in str(error):
            return
        raise
    report_lines(summary, 1.0)
    vocabulary = Vocabulary.load(out / "vocab.json")
    for side in ("train", "test"):
        rows = read_dataset(out / f"{side}.jsonl", vocabulary, max_length=2**20)
        assert len(rows) == summary[side]["rows"] + summary[side].get("variants", 0)


@cache
def text_vocabulary() -> Vocabulary:
    learned = TextTokenizer.learn_bpe(CLAUSES * 4, TEXT_SPECIAL, 280)
    return Vocabulary(learned.tokens, learned)


def _read_text_rows(folder: Path) -> None:
    rows = read_dataset(folder / "rows.jsonl", text_vocabulary(), max_length=24, on_bad_row="skip")
    for index in range(len(rows)):
        rows.body(index)


def _prepare_documents(folder: Path) -> None:
    """As `prepare_data.py text` with plain text."""
    prepare_text(
        TextSettings(
            input=(str(folder / "texts.txt"),), output_dir=str(folder / "out"), max_length=16,
            tokenizer="chars", overwrite=True,
        )
    )  # fmt: skip


def _read_tokenizer(folder: Path) -> None:
    """Load a tokenizer, and use it as readers of texts and prompts do."""
    path = folder / "tokenizer.json"
    found = TextTokenizer.load(path).with_special(TEXT_SPECIAL)
    found.to_json()
    found.fingerprint()
    for text in (*CLAUSES, "", "x" * 40, " \n\0\U0010ffff", "<EOS> a <CLS_good>"):
        try:
            ids = found.encode(text)
        except ValueError as error:
            assert len(str(error)) < 700
            continue
        assert all(0 <= index < len(found.tokens) for index in ids)
        found.count_unknown(ids)
        found.decode(ids)


PREPARED = {
    "texts.jsonl": lambda: _json_lines(TEXTS),
    "texts.csv": _comma_separated,
    "texts.tsv": _tab_separated,
    "orders.json": lambda: json.dumps(ORDERS).encode(),
}
if importlib.util.find_spec("datasets"):
    PREPARED["texts.parquet"] = _parquet

READERS = (
    *(
        Reader(
            f"texts prepared: {file}",
            file,
            sound,
            lambda folder, file=file: _prepare_texts(folder, file),
            words=TEXT_WORDS,
            slow=True,
        )
        for file, sound in PREPARED.items()
    ),
    Reader(
        "plain text prepared",
        "texts.txt",
        _plain_text,
        _prepare_documents,
        words=("<|endoftext|>",),
        slow=True,
        names_file=False,
    ),
    Reader(
        "rows of texts", "rows.jsonl", lambda: _json_lines(TEXTS), _read_text_rows, words=TEXT_WORDS
    ),
    Reader(
        "tokenizer.json",
        "tokenizer.json",
        lambda: text_vocabulary().tokenizer.to_json().encode(),
        _read_tokenizer,
        words=(
            "ByteLevel", "Split", "Regex", "(x+x+)+y", "Replace", "WordLevel", "merges",
            "added_tokens", "special", "TemplateProcessing", "BPE", "Unigram", "Sequence",
        ),
        slow=True,
    ),
)  # fmt: skip
