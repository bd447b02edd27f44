"""Readers of files of rows, and of their cache."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from hostile.models import trained_model
from hostile.options import VOCABULARY, WORDS
from hostile.reader import Reader
from plain_settings import plain_settings

from smallgpt.checks.report import report_data
from smallgpt.checks.report_words import describe_baselines, describe_report
from smallgpt.errors import UserError
from smallgpt.evaluation.predictions import leave_out_failures, predictions_of
from smallgpt.evaluation.scoring import score_rows
from smallgpt.files.writing import json_line
from smallgpt.inference.classify import classify_dataset
from smallgpt.inference.files import read_rows
from smallgpt.options.preparation import TokensSettings
from smallgpt.preparation.report import report_lines
from smallgpt.preparation.token_rows import prepare_tokens
from smallgpt.rows import cache as cache_module
from smallgpt.rows import reading as reading_module
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.groups import VARIANT
from smallgpt.rows.reading import read_dataset
from smallgpt.training.data import read_data


def _rows() -> bytes:
    bodies = ("<Z_000> <Z_001>", "<Z_002> <Z_003> <Z_003>", "<Z_004>", "<Z_005> <Z_000>")
    lines = []
    for number, body in enumerate(bodies * 2):
        tokens = f"<IMG> {body} </IMG> <CLS> <CLS_{number % 2}> <EOS>"
        row = {"tokens": tokens, "label": number % 2, "meta": {"source": number % 4, VARIANT: 0}}
        lines.append(json.dumps(row))
    lines.append('{"input_ids": [2, 6, 7, 3]}')
    lines.append('{"tokens": ["<IMG>", "<Z_001>"], "label": "1", "mine": [1.5, null, {"a": "b"}]}')
    return "\n".join(lines).encode() + b"\n"


ROW_WORDS = (*WORDS, "tokens", "input_ids", "label", "meta", "source", "variant", VARIANT, "x")


def _read_rows(folder: Path) -> None:
    for on_bad_row in ("keep", "skip"):
        rows = read_dataset(
            folder / "rows.jsonl",
            VOCABULARY,
            max_length=8,
            on_bad_row=on_bad_row,
            unknown_token="unk",
            group_by="meta.source",
        )
        for index in range(len(rows)):
            rows.body(index)


def _evaluate_rows(folder: Path) -> None:
    """As `inference.py --test_data` and `--mode classify`, without pictures."""
    trained = trained_model()
    for for_label in (True, False):
        rows = read_rows(trained, folder / "rows.jsonl", for_label).dataset
        scores = None
        if for_label:
            shares = classify_dataset(trained, rows, 8)
        elif len(rows):
            scores = score_rows(trained.engines.torch, rows, batch_size=8)
            rows, scores = leave_out_failures(rows, scores)
            scores.figures(rows)
            shares = scores.label_probs
        else:
            continue
        for answer in predictions_of(rows, shares, 1.5, scores):
            json_line(answer).encode()


def _report_rows(folder: Path) -> None:
    """As `train_gpt.py --check_data`, without pictures."""
    (folder / "vocab.json").write_text(VOCABULARY.to_json())
    settings = plain_settings(
        data_path=str(folder / "rows.jsonl"), vocab_path=str(folder / "vocab.json")
    )
    try:
        rows, held_out = read_data(settings, str, keep_bad_rows=True)
    except UserError as error:
        if "cannot be split" not in str(error):  # said of the rows, not of the file
            raise
        return
    report = report_data(rows, held_out, settings, None)
    json.dumps(report, allow_nan=False)
    describe_report(report).encode(errors="backslashreplace")
    describe_baselines(report)


def _prepare_rows(folder: Path) -> None:
    """As `prepare_data.py tokens`."""
    settings = TokensSettings(
        input=(str(folder / "rows.jsonl"),),
        output_dir=str(folder / "out"),
        on_bad_row="skip",
        overwrite=True,  # of a try before
    )
    try:
        report_lines(prepare_tokens(settings), 1.0)
    except UserError as error:
        if "rows are left" not in str(error):
            raise


def _read_forged_cache(folder: Path) -> None:
    """Read a cache entry with arbitrary content and the right digest."""
    rows = folder / "rows.jsonl"
    entry = folder / cache_module.FOLDER / "rows.jsonl.rows.safetensors"
    forged = entry.read_bytes()
    sound, own = (
        json.loads(cache_module.head_of(entry)[0]["__metadata__"]["entry"])
        for entry in (_sound_cache_entry(), _cache_entry(rows))
    )
    forged = forged.replace(sound["key"].encode(), own["key"].encode())
    place = forged.find(sound["digest"].encode())
    if place >= 0:
        digest = cache_module.digest_of(forged, place).encode()
        forged = forged[:place] + digest + forged[place + len(digest) :]
    entry.write_bytes(forged)
    found = _read_with_cache(rows)
    assert len(found) >= 1
    for index in range(len(found)):
        found.body(index)
    found.gather(np.arange(len(found)))
    found.group_values()


def _read_with_cache(rows: Path) -> TokenLabelDataset:
    before, reading_module.SMALLEST_FILE = reading_module.SMALLEST_FILE, 0
    try:
        return read_dataset(rows, VOCABULARY, max_length=8, group_by="meta.source")
    finally:
        reading_module.SMALLEST_FILE = before


_entries: dict[Path, bytes] = {}


def _cache_entry(rows: Path) -> bytes:
    """The cache entry that reading `rows` writes."""
    if rows not in _entries:
        entry = rows.parent / cache_module.FOLDER / "rows.jsonl.rows.safetensors"
        entry.unlink(missing_ok=True)
        _read_with_cache(rows)
        _entries[rows] = entry.read_bytes()
    return _entries[rows]


@cache
def _sound_cache_entry() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        rows.write_bytes(_rows())
        return _cache_entry(rows)


READERS = (
    Reader("rows", "rows.jsonl", _rows, _read_rows, words=ROW_WORDS),
    Reader("rows evaluated", "rows.jsonl", _rows, _evaluate_rows, words=ROW_WORDS),
    Reader("rows reported", "rows.jsonl", _rows, _report_rows, words=ROW_WORDS, slow=True),
    Reader("rows prepared", "rows.jsonl", _rows, _prepare_rows, words=ROW_WORDS, slow=True),
    Reader(
        "forged cache of rows",
        ".cache/rows.jsonl.rows.safetensors",
        _sound_cache_entry,
        _read_forged_cache,
        beside=lambda: {"rows.jsonl": _rows()},
        words=("facts", "arrays", "tokens", "U16", "F64", "data_offsets"),
    ),
)
