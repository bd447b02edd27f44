"""Rows name the codebook of their codes: those of another one are refused, unnamed ones told."""

import numpy as np
import pytest
from plain_settings import plain_settings
from small_rows import read

from smallgpt.errors import UserError
from smallgpt.options.training import TrainSettings
from smallgpt.rows import cache
from smallgpt.rows.codebook_of_rows import CODES_OF, KnownCodebook
from smallgpt.tokens.codebook import Codebook
from smallgpt.tokens.vocabulary import Vocabulary
from smallgpt.training.data import read_data

OWN, OTHER = (
    Codebook(np.array(values, np.float32)[:, None], 1, 1, 2, 1, 0.0, 9.0, 9.0)
    for values in ([0, 3, 9], [0, 4, 9])
)
VOCABULARY = Vocabulary.for_images(3, ["0", "1"])


def row(number: int, codebook: Codebook | None = OWN) -> dict:
    tokens = f"<IMG> <Z_{number // 3 % 3:03}> <Z_{number % 3:03}> </IMG>"
    meta = {"index": number} | ({} if codebook is None else {CODES_OF: codebook.digest})
    return {"tokens": tokens, "label": number % 2, "meta": meta}


def told(rows) -> list[str]:
    return [line for line in rows.counts.lines() if "codebook" in line]


@pytest.fixture
def own(tmp_path):
    OWN.save(tmp_path / "codebook.npz")
    return KnownCodebook.at(tmp_path / "codebook.npz")


@pytest.mark.parametrize("on_bad_row", ["error", "skip", "keep"])
def test_a_row_of_another_codebook_refuses_the_file(write_rows, own, on_bad_row):
    path = write_rows(row(0), row(1), row(2, OTHER), row(3, OTHER))
    with pytest.raises(UserError) as info:
        read(path, VOCABULARY, codebook=own, on_bad_row=on_bad_row)
    first, remedy = str(info.value).splitlines()
    assert first.startswith(f"{path}:3: ")
    assert OTHER.digest in first and f"{own.path} is {OWN.digest}" in first
    assert f"--codebook {own.path}" in remedy


def test_a_digest_that_is_no_text_is_another(write_rows, own):
    rows = [{**row(0), "meta": {CODES_OF: [1, 2]}}, {**row(0), "meta": {CODES_OF: "x" * 9999}}]
    for each in rows:
        with pytest.raises(UserError, match="a row of codebook") as info:
            read(write_rows(each), VOCABULARY, codebook=own)
        assert len(str(info.value)) < 600


def test_rows_without_a_digest_are_taken_and_counted(write_rows, own):
    rows = [row(0), row(1, None), {"tokens": "<Z_000> <Z_001>", "meta": "mine"}]
    assert told(read(write_rows(*rows), VOCABULARY, codebook=own))[0].startswith(
        "2 rows without `meta.codebook_digest`"
    )
    assert told(read(write_rows(*rows), VOCABULARY)) == []  # rows of no codebook known
    assert told(read(write_rows(row(0), row(1)), VOCABULARY, codebook=own)) == []


def test_the_cache_knows_the_codebook(write_rows, own, tmp_path, monkeypatch):
    monkeypatch.setattr("smallgpt.rows.reading.SMALLEST_FILE", 1)
    path = write_rows(row(0), row(1, None))
    for _ in range(2):  # read, then from the cache
        assert len(told(read(path, VOCABULARY, codebook=own))) == 1
    assert (tmp_path / cache.FOLDER).exists()
    OTHER.save(tmp_path / "codebook.npz")
    with pytest.raises(UserError, match=f"{path}:1: a row of codebook {OWN.digest}"):
        read(path, VOCABULARY, codebook=KnownCodebook.at(tmp_path / "codebook.npz"))


# ------------------------------------------------------------------------------- training


def settings_of(folder, data, **values) -> TrainSettings:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(VOCABULARY.to_json())
    return plain_settings(data_path=str(data), vocab_path=str(folder / "vocab.json"), **values)


def test_training_refuses_validation_rows_of_another_codebook(write_rows, own, tmp_path):
    train = write_rows(*map(row, range(9)), name="train.jsonl")
    val = write_rows(row(1, OTHER), name="val.jsonl")
    settings = settings_of(tmp_path, train, val_data_path=str(val))
    with pytest.raises(UserError, match=f"{val}:1: a row of codebook {OTHER.digest}"):
        read_data(settings, print)


def test_training_refuses_to_start_from_a_model_of_another_codebook(write_rows, own, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    OTHER.save(model / "codebook.npz")
    train = write_rows(*map(row, range(9)))
    settings = settings_of(tmp_path, train, init_from=str(model))
    with pytest.raises(UserError) as info:
        read_data(settings, print)
    first, remedy = str(info.value).splitlines()
    for words in (own.path, OWN.digest, str(model / "codebook.npz"), OTHER.digest):
        assert words in first
    assert remedy.endswith(f"--codebook {model}`")
    # Without a codebook beside the rows it is the rows that tell.
    apart = settings_of(tmp_path / "apart", train, init_from=str(model))
    with pytest.raises(UserError, match=f"{train}:1: a row of codebook {OWN.digest}"):
        read_data(apart, print)
    OWN.save(model / "codebook.npz")
    assert len(read_data(settings, print)[0]) > 0
