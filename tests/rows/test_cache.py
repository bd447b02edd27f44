"""Rows kept beside their file: the same as read anew, or not used."""

import errno
import fcntl
import json
import os
import pickle
import subprocess
import sys
import tempfile
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from smallgpt.errors import UserError
from smallgpt.rows import reading
from smallgpt.rows import row as row_module
from smallgpt.rows.cache import FOLDER, RowCache, new_digest, program
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.groups import VARIANT
from smallgpt.rows.reading import read_dataset
from smallgpt.tokens.text_tokenizer import TextTokenizer
from smallgpt.tokens.vocabulary import Vocabulary

ROOT = Path(__file__).parents[2]
ROWS = [
    {"tokens": "A B C", "label": 1, "meta": {"source": "a", VARIANT: 0}},
    {"tokens": "A B D <CLS> <CLS> <EOS>", "label": "cat", "meta": {"source": "a", VARIANT: 1}},
    {"tokens": "A x", "meta": {"source": "b"}},
    {"tokens": "A B C D A B C D A B C D <PAD>"},
]


@pytest.fixture(autouse=True, scope="module")
def every_file_is_large_enough():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "SMALLEST_FILE", 0)
        yield


def read(path, vocabulary, **options):
    how = {"max_length": 8, "unknown_token": "unk", "group_by": "meta.source", **options}
    return read_dataset(path, vocabulary, **how)


def read_without_parsing(path, vocabulary, **options):
    """Read while parsing a row is an error: what comes is from the cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "parse_row", None)
        return read(path, vocabulary, **options)


def read_without_cache(path, vocabulary, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "SMALLEST_FILE", sys.maxsize)
        return read(path, vocabulary, **options)


def is_cached(path, vocabulary, **options):
    try:
        read_without_parsing(path, vocabulary, **options)
    except TypeError:
        return False
    return True


def assert_same(one: TokenLabelDataset, other: TokenLabelDataset):
    for field in fields(TokenLabelDataset):
        ours, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(ours, np.ndarray):
            assert (field.name, ours.dtype, ours.shape) == (field.name, theirs.dtype, theirs.shape)
            assert ours.tobytes() == theirs.tobytes()
            assert ours.flags.writeable == theirs.flags.writeable
        else:
            assert ours == theirs
    assert one.counts.lines() == other.counts.lines()
    assert one.fingerprint() == other.fingerprint()


def entry_of(path: Path) -> Path:
    return path.parent / FOLDER / f"{path.name}.rows.safetensors"


@pytest.fixture
def rows(write_rows):
    return write_rows(*ROWS)


# ---- the same as read anew -----------------------------------------------------------

WORDS = st.sampled_from(["<PAD>", "<IMG>", "<CLS>", "<EOS>", "A", "B", "C", "<CLS_1>", "x", "猫"])
SOURCES = st.none() | st.integers(0, 3) | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
RECORDS = st.fixed_dictionaries(
    {"tokens": st.lists(WORDS, max_size=12).map(" ".join)},
    optional={
        "label": st.sampled_from([0, 1, "cat", "dog", True, "\ud800"]),
        "meta": st.fixed_dictionaries(
            {}, optional={"source": SOURCES, VARIANT: st.integers(-1, 2)}
        ),
    },
)
LINES = st.lists(RECORDS.map(json.dumps).map(str.encode) | st.binary(max_size=9), max_size=12)


@given(
    LINES,
    st.integers(8, 16),
    st.sampled_from(["error", "skip", "skip"]),
    st.sampled_from(["error", "unk"]),
    st.sampled_from([None, "meta.source", "label"]),
)
def test_rows_from_the_cache_are_those_of_the_file(
    vocabulary, lines, max_length, on_bad_row, unknown_token, group_by
):
    options = {
        "max_length": max_length,
        "on_bad_row": on_bad_row,
        "unknown_token": unknown_token,
        "group_by": group_by,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.jsonl")
        path.write_bytes(b"\n".join([*lines, b'{"tokens": "A B"}']))
        try:
            anew = read_without_cache(path, vocabulary, **options)
        except UserError as error:
            for _ in range(2):
                with pytest.raises(UserError) as caught:
                    read(path, vocabulary, **options)
                assert str(caught.value) == str(error)
            return
        assert not entry_of(path).exists()
        assert_same(read(path, vocabulary, **options), anew)
        assert_same(read_without_parsing(path, vocabulary, **options), anew)


@given(
    st.dictionaries(
        st.text(max_size=3),
        st.sampled_from("HIiqb?").flatmap(
            lambda kind: arrays_of.arrays(np.dtype(kind), st.integers(0, 9))
        ),
    ),
    st.dictionaries(st.text(max_size=3), st.lists(st.text(max_size=3) | st.integers())),
)
def test_arrays_and_facts_come_back_as_they_were(arrays, facts):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.jsonl")
        path.write_bytes(b"content")
        cache = RowCache(path, {})
        content = new_digest()
        content.update(b"content")
        cache.store(content.hexdigest(), arrays, facts)
        kept, kept_facts = cache.load()
        assert kept_facts == facts
        assert list(kept) == list(arrays)
        for name, values in arrays.items():
            assert kept[name].dtype == values.dtype
            assert kept[name].tobytes() == values.tobytes()


# ---- stale ---------------------------------------------------------------------------


def test_changed_file_is_read_anew_whatever_its_size_and_time(rows, vocabulary):
    read(rows, vocabulary)
    before = rows.stat()
    rows.write_bytes(rows.read_bytes().replace(b"A B C", b"A A C", 1))
    os.utime(rows, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert rows.stat().st_size == before.st_size
    changed = read(rows, vocabulary)
    assert vocabulary.decode(changed.row(0)).startswith("A A C")
    assert_same(read_without_parsing(rows, vocabulary), changed)


@pytest.mark.parametrize(
    "options",
    [
        {"max_length": 9},
        {"on_bad_row": "skip"},
        {"unknown_token": "error", "on_bad_row": "skip"},
        {"group_by": None},
        {"for_label": True},
    ],
)
def test_other_settings_read_anew(rows, vocabulary, options):
    read(rows, vocabulary)
    assert is_cached(rows, vocabulary)
    assert not is_cached(rows, vocabulary, **options)
    assert_same(read(rows, vocabulary, **options), read_without_cache(rows, vocabulary, **options))
    assert is_cached(rows, vocabulary, **options)


def test_other_vocabulary_reads_anew(rows, vocabulary):
    read(rows, vocabulary)
    turned = Vocabulary([*vocabulary.tokens[:6], "B", "A", *vocabulary.tokens[8:]])
    assert vocabulary.decode(read(rows, turned).row(0)).startswith("B A C")
    assert not is_cached(rows, vocabulary)


@pytest.mark.parametrize("name", program())
def test_other_source_code_reads_anew(tmp_path, write_rows, monkeypatch, name):
    """A change of the program may be a change of what it reads."""
    for source in program():
        copy = tmp_path / source
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes((ROOT / "smallgpt" / source).read_bytes())
    path = write_rows(*ROWS)
    monkeypatch.setattr("smallgpt.rows.cache.PACKAGE", tmp_path)
    before = RowCache(path, {}).key
    assert RowCache(path, {}).key == before
    with open(tmp_path / name, "a") as handle:
        handle.write("# changed\n")
    assert RowCache(path, {}).key != before


def test_file_of_the_same_name_elsewhere_is_told_with_its_own_path(write_rows, vocabulary):
    path = write_rows({"tokens": "A B"}, b"oops")
    read(path, vocabulary, on_bad_row="skip")
    moved = path.parent / "moved"
    moved.mkdir()
    os.rename(path, moved / path.name)
    os.rename(path.parent / FOLDER, moved / FOLDER)
    told = read(moved / path.name, vocabulary, on_bad_row="skip").counts.lines()
    assert told[1].startswith(f"  {moved / path.name}:2: ")


def test_file_replaced_while_it_is_read_is_never_taken_for_the_old_one(
    rows, vocabulary, monkeypatch
):
    new = rows.with_name("new.jsonl")
    new.write_bytes(rows.read_bytes().replace(b"A B C", b"A A C", 1))
    parse_row = row_module.parse_row

    def replace_and_parse(*arguments):
        if new.exists():
            os.replace(new, rows)
        return parse_row(*arguments)

    monkeypatch.setattr(reading, "parse_row", replace_and_parse)
    assert vocabulary.decode(read(rows, vocabulary).row(0)).startswith("A B C")
    assert vocabulary.decode(read(rows, vocabulary).row(0)).startswith("A A C")


# ---- damaged -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory, vocabulary):
    """A file of rows, its rows, and its entry's bytes."""
    path = tmp_path_factory.mktemp("kept") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path, read(path, vocabulary), entry_of(path).read_bytes()


@given(st.data())
def test_entry_with_any_changed_byte_is_not_trusted_and_made_again(kept, vocabulary, data):
    path, rows, whole = kept
    place = data.draw(st.integers(0, len(whole) - 1))
    damaged = bytearray(whole)
    damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    entry_of(path).write_bytes(damaged)
    assert not is_cached(path, vocabulary)
    assert_same(read(path, vocabulary), rows)
    assert entry_of(path).read_bytes() == whole


@given(st.data())
def test_entry_cut_off_or_too_long_is_not_trusted(kept, vocabulary, data):
    path, rows, whole = kept
    length = data.draw(st.integers(0, len(whole) - 1))
    for damaged in (whole[:length], whole + bytes(length + 1)):
        entry_of(path).write_bytes(damaged)
        assert not is_cached(path, vocabulary)
    assert_same(read(path, vocabulary), rows)


def test_entry_without_tokens_is_not_trusted_though_its_digest_is_right(
    rows, vocabulary, monkeypatch
):
    store = RowCache.store

    def store_without_tokens(cache, content, arrays, facts):
        store(cache, content, arrays | {"tokens": arrays["tokens"][:0]}, facts)

    with monkeypatch.context() as patch:
        patch.setattr(RowCache, "store", store_without_tokens)
        read(rows, vocabulary)
    assert entry_of(rows).exists()
    assert_same(read(rows, vocabulary), read_without_cache(rows, vocabulary))


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_is_unpickled(rows, vocabulary, tmp_path):
    read(rows, vocabulary)
    entry_of(rows).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    assert not is_cached(rows, vocabulary)
    assert not (tmp_path / "sprung").exists()


def test_folder_in_the_place_of_an_entry_is_survived(rows, vocabulary, capsys):
    entry_of(rows).mkdir(parents=True)
    assert len(read(rows, vocabulary)) == len(ROWS)
    assert "will be read anew next time" in capsys.readouterr().out


# ---- writing -------------------------------------------------------------------------


def test_one_entry_a_file_however_often_it_is_read(rows, write_rows, vocabulary):
    other = write_rows(*ROWS, name="other.jsonl")
    for max_length in (8, 9, 10):
        read(rows, vocabulary, max_length=max_length)
        read(other, vocabulary, max_length=max_length)
    names = {path.name for path in (rows.parent / FOLDER).iterdir()}
    assert names == {".lock", "rows.jsonl.rows.safetensors", "other.jsonl.rows.safetensors"}


@pytest.mark.parametrize(
    "name",
    [".rows.jsonl.rows.safetensors.123.tmp", ".rows.jsonl.rows.123.tmp", "rows.jsonl.rows"],
    ids=["half", "half of an earlier version", "entry of an earlier version"],
)
def test_what_a_killed_process_or_an_earlier_version_left_is_removed(rows, vocabulary, name):
    (rows.parent / FOLDER).mkdir()
    left = rows.parent / FOLDER / name
    left.write_bytes(b"left")
    assert not is_cached(rows, vocabulary)
    read(rows, vocabulary)
    assert not left.exists()
    assert is_cached(rows, vocabulary)


def test_entry_is_a_file_of_safetensors(rows, vocabulary):
    kept = read(rows, vocabulary)
    arrays = load_file(entry_of(rows))
    assert arrays["tokens"].tolist() == kept.tokens.tolist()
    assert arrays["lengths_N"].tolist() == kept.lengths_N.tolist()


def test_folder_that_cannot_be_written_is_told_in_one_line(rows, vocabulary, capsys):
    (rows.parent / FOLDER).write_text("a file of that name")
    assert_same(read(rows, vocabulary), read_without_cache(rows, vocabulary))
    told = capsys.readouterr().out.splitlines()
    folder = rows.parent / FOLDER
    assert told == [f"{rows}: will be read anew next time: {folder}: File exists"]


def test_full_disk_is_told_in_one_line_and_leaves_nothing(rows, vocabulary, capsys, monkeypatch):
    def no_space(_handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    assert_same(read(rows, vocabulary), read_without_cache(rows, vocabulary))
    assert capsys.readouterr().out.endswith(f"{FOLDER}: No space left on device\n")
    assert [path.name for path in (rows.parent / FOLDER).iterdir()] == [".lock"]


def test_entry_that_another_process_is_writing_is_left_to_it(rows, vocabulary, capsys):
    (rows.parent / FOLDER).mkdir()
    with open(rows.parent / FOLDER / ".lock", "a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert len(read(rows, vocabulary)) == len(ROWS)
    assert not entry_of(rows).exists()
    assert capsys.readouterr().out == ""
    read(rows, vocabulary)
    assert is_cached(rows, vocabulary)


def test_processes_that_read_at_once_all_get_the_rows(write_rows, vocabulary):
    path = write_rows(*ROWS * 500)
    path.with_name("vocab.json").write_text(vocabulary.to_json())
    program = (
        "import sys\nfrom smallgpt.rows import reading\n"
        "from smallgpt.tokens.vocabulary import Vocabulary\n"
        "reading.SMALLEST_FILE = 0\n"
        "how = dict(max_length=8, unknown_token='unk', group_by='meta.source')\n"
        "for _ in range(20):\n"
        "    vocabulary = Vocabulary.load(sys.argv[2])\n"
        "    how['max_length'] = 17 - how['max_length']\n"
        "    rows = reading.read_dataset(sys.argv[1], vocabulary, **how)\n"
        "    print(rows.fingerprint())\n"
    )
    command = [sys.executable, "-c", program, str(path), str(path.with_name("vocab.json"))]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    told = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    expected = [
        read_without_cache(path, vocabulary, max_length=length).fingerprint() for length in (9, 8)
    ]
    assert told == {"\n".join(expected * 10) + "\n"}
    names = {entry.name for entry in (path.parent / FOLDER).iterdir()}
    assert names == {".lock", "rows.jsonl.rows.safetensors"}


# ---- not kept ------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"keep_records": True}, {"on_bad_row": "keep"}])
def test_whole_objects_are_not_kept(rows, vocabulary, options):
    read(rows, vocabulary, **options)
    read(rows, vocabulary, **options)
    assert not (rows.parent / FOLDER).exists()


def test_file_with_bad_rows_that_stop_the_reading_is_not_kept(rows, vocabulary):
    with pytest.raises(UserError, match="not in the vocabulary"):
        read(rows, vocabulary, unknown_token="error")
    assert not (rows.parent / FOLDER).exists()


def test_small_file_is_not_kept_and_a_large_one_is(write_rows, vocabulary, monkeypatch):
    from smallgpt.rows.cache import SMALLEST_FILE

    monkeypatch.setattr(reading, "SMALLEST_FILE", SMALLEST_FILE)
    small = write_rows(*ROWS, name="small.jsonl")
    read(small, vocabulary)
    assert not (small.parent / FOLDER).exists()
    line = json.dumps(ROWS[0]).encode()
    large = write_rows(*[line] * (SMALLEST_FILE // len(line) + 1), name="large.jsonl")
    read(large, vocabulary)
    assert is_cached(large, vocabulary)


def test_rows_of_text_and_their_prompts_are_kept(write_rows, text_vocabulary):
    rows = write_rows(
        {"instruction": "Say fox.", "output": "fox"},
        {"text": "the dog", "label": "good"},
        {"instruction": "Say a word that is long.", "input": "fox", "output": "the fox"},
    )
    first = read(rows, text_vocabulary, max_length=60)
    again = read_without_parsing(rows, text_vocabulary, max_length=60)
    assert again.prompt_lengths_N.tolist() == first.prompt_lengths_N.tolist()
    assert first.prompt_lengths_N[0] > 0 == first.prompt_lengths_N[1]
    assert again.fingerprint() == first.fingerprint()
    assert again.has_prompts


def test_another_tokenizer_of_the_same_tokens_reads_anew(write_rows, text_vocabulary):
    from tokenizers.normalizers import Lowercase, Sequence

    rows = write_rows({"text": "The fox"})
    before = read(rows, text_vocabulary)
    other = TextTokenizer(Tokenizer.from_str(text_vocabulary.tokenizer.backend.to_str()))
    other.backend.normalizer = Sequence([Lowercase(), other.backend.normalizer])
    lower = Vocabulary(other.tokens, other)
    assert lower == text_vocabulary
    after = read(rows, lower)
    assert after.row(0).tolist() != before.row(0).tolist()
    assert after.row(0).tolist() == [*other.encode("the fox"), lower.eos_id]
