"""Files as an enemy would write them, and every reader of the toolkit that may meet them.

`READERS` names each reader with a sound file of its kind; `hostile_content` damages such a file or
makes one up. test_hostile_input.py tries a few hundred of them in the suite, fuzz.py as many as fit
into the time that a person gives it.
"""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from smallgpt.errors import UserError
from smallgpt.files.writing import json_line
from smallgpt.options.config_file import to_yaml
from smallgpt.options.preparation import InstructionsSettings, TextSettings, TokensSettings
from smallgpt.options.reader import read_settings
from smallgpt.options.training import TrainSettings
from smallgpt.preparation.image_files import read_images
from smallgpt.rows import reading as reading_module
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.groups import VARIANT
from smallgpt.rows.reading import read_dataset
from smallgpt.tokens.codebook import Codebook
from smallgpt.tokens.text_tokenizer import TextTokenizer
from smallgpt.tokens.vocabulary import Vocabulary

WORDS = ["<IMG>", *[f"<Z_{code:03d}>" for code in range(6)], "</IMG>", "<CLS>", "<CLS_0>", "<EOS>"]
VOCABULARY = Vocabulary.for_images(6, ["0", "1"])
SMALL = TrainSettings(n_layer=2, n_head=2, n_embd=8, n_positions=16, max_length=16)
VALIDATION = {
    "rows": 30,
    "perplexity": 3.5,
    "baselines": {"majority_class_accuracy": 0.5, "bigram_perplexity": 4.0},
    "accuracy": 0.75,
    "accuracy_interval": [0.5, 0.9],
    "chance_accuracy": 0.5,
    "above_chance": True,
    "not_above_chance": [],
    "too_few_rows": [],
    "calibration": {"temperature": 1.5, "rows": 30, "raw_ece": 0.1, "ece": 0.05},
}


@dataclass(frozen=True)
class Reader:
    """One reader of files.

    Attributes:
        name: for people.
        file: where the hostile file goes, below a folder that is the reader's own.
        sound: content that reads well; what is damaged.
        read: reads the folder, and uses what it read as a command would.
        wrap: makes the file of the (damaged) content: compresses it, corrects a length.
        beside: sound files that go with it, by name.
        words: texts that mean something in this format.
        slow: too slow for many tries in the suite.
        names_file: whether every refusal names the folder; contradictions of settings do not.
    """

    name: str
    file: str
    sound: Callable[[], bytes]
    read: Callable[[Path], Any]
    wrap: Callable[[bytes], bytes] = bytes
    beside: Callable[[], dict[str, bytes]] = dict
    words: tuple[str, ...] = ()
    slow: bool = False
    names_file: bool = True

    def prepare(self, folder: Path) -> None:
        """Write the sound files that go with the hostile one."""
        for name, content in self.beside().items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        (folder / self.file).parent.mkdir(parents=True, exist_ok=True)

    def try_content(self, folder: Path, content: bytes) -> bool:
        """Read the hostile file in a folder made by `prepare`.

        Returns:
            whether it was read; False where it was refused as it should be.

        Raises:
            AssertionError: it was refused in a way that helps nobody.
            Exception: whatever else the reader raises, which it must not.
        """
        (folder / self.file).write_bytes(self.wrap(content))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of numpy about values that then are refused
                self.read(folder)
        except UserError as error:
            lines = str(error).splitlines()
            assert 1 <= len(lines) <= 25, f"{len(lines)} lines: {lines[:3]}"
            assert max(map(len, lines)) < 700, f"a line of {max(map(len, lines))} letters"
            assert not self.names_file or str(folder) in str(error), f"no file named: {error}"
            return False
        return True


# ------------------------------------------------------------------------------- damage

NUMBERS = (
    "0", "-1", "1", "2", "3.5", "true", "null", '""', "NaN", "-Infinity", "1e999", "1e308",
    str(2**31), str(2**63), str(-(2**63)), "9" * 30, "9" * 5000, "[]", "{}", '"x"', "0x7f",
    "1e-320",
)  # fmt: skip
BYTES = (
    b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"\r\n", b"\r", b"\n", b"\x85",
    b"\xe2\x80\xa8", b'"', b"{", b"[" * 80, b"[" * 3000, b"]", b"}", b":", b",", b"\\ud800",
    b"\\u0000",
    b"&a ", b"*a", b"!!python/name:os.system ", b"<<: ", b"? ", b"- " * 50, b"\xf0\x9f\x98\x80",
)  # fmt: skip


def hostile_content(reader: Reader, random: Random) -> bytes:
    """A damaged copy of the reader's sound content, or something made up."""
    kind = random.randrange(10)
    if kind == 0:
        return made_up(reader, random)
    content = reader.sound()
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        content = random.choice(DAMAGES)(content, random, reader)
    return content


def made_up(reader: Reader, random: Random) -> bytes:
    """Random JSON that uses the format's words, or random bytes."""
    if random.randrange(4) == 0:
        return bytes(random.randrange(256) for _ in range(random.randrange(40)))
    lines = [json.dumps(_value(reader, random, 3)) for _ in range(random.choice((1, 1, 3)))]
    return "\n".join(lines).encode()


def _value(reader: Reader, random: Random, depth: int) -> Any:
    kind = random.randrange(9 if depth else 6)
    words = reader.words or ("a",)
    if kind == 0:
        return random.choice((None, True, False, 0, 1, -1, 2.5, 2**31, 2**70, 10**30, 1e308))
    if kind == 1:
        return random.randrange(12)
    if kind in (2, 3):
        return random.choice(words)
    if kind == 4:
        return " ".join(random.choice(words) for _ in range(random.randrange(8)))
    if kind == 5:
        return random.choice(("", " ", "\0", "\ud800", "x" * 2000, "猫", "$\\frac$", "-", "a\nb"))
    if kind == 6:
        return [_value(reader, random, depth - 1) for _ in range(random.randrange(5))]
    return {
        random.choice(words): _value(reader, random, depth - 1) for _ in range(random.randrange(6))
    }


def _span(content: bytes, random: Random) -> tuple[int, int]:
    start = random.randrange(len(content) + 1)
    return start, min(len(content), start + random.choice((1, 1, 2, 4, 8, 30, 200)))


def _flip(content: bytes, random: Random, _: Reader) -> bytes:
    if not content:
        return b"\1"
    place = random.randrange(len(content))
    flipped = content[place] ^ (1 << random.randrange(8))
    return content[:place] + bytes([flipped]) + content[place + 1 :]


def _cut(content: bytes, random: Random, _: Reader) -> bytes:
    return content[: random.randrange(len(content) + 1)]


def _delete(content: bytes, random: Random, _: Reader) -> bytes:
    start, end = _span(content, random)
    return content[:start] + content[end:]


def _repeat(content: bytes, random: Random, _: Reader) -> bytes:
    start, end = _span(content, random)
    return content[:end] + content[start:end] * random.choice((1, 2, 20)) + content[end:]


def _move(content: bytes, random: Random, _: Reader) -> bytes:
    start, end = _span(content, random)
    place = random.randrange(len(content) + 1)
    return content[:place] + content[start:end] + content[place:]


def _insert(content: bytes, random: Random, reader: Reader) -> bytes:
    start, end = _span(content, random)
    word = (
        random.choice(reader.words).encode() if reader.words and random.randrange(3) == 0 else None
    )
    end = random.choice((start, end))
    return content[:start] + (word or random.choice(BYTES)) + content[end:]


def _overwrite(content: bytes, random: Random, _: Reader) -> bytes:
    start, _ = _span(content, random)
    number = random.choice((0, 1, 255, 2**16, 2**31, 2**32 - 1))
    packed = struct.pack(random.choice("<>") + "I", number)
    return content[:start] + packed + content[start + 4 :]


def _number(content: bytes, random: Random, _: Reader) -> bytes:
    """Another value where a number, a text or a word of JSON or YAML stands."""
    found = [*re.finditer(rb'-?\d[\d.e+-]*|"(?:[^"\\]|\\.)*"|true|false|null|gelu', content)]
    if not found:
        return content
    match = found[random.randrange(len(found))]
    return content[: match.start()] + random.choice(NUMBERS).encode() + content[match.end() :]


DAMAGES = (_flip, _cut, _delete, _repeat, _move, _insert, _overwrite, _number, _number, _number)


# ------------------------------------------------------------------------------- rows


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
            rows.classification_prompt(index)


def _evaluate_rows(folder: Path) -> None:
    """What `inference.py --test_data` and `--mode classify` do, pictures aside."""
    from smallgpt.evaluation.predictions import leave_out_failures, predictions_of
    from smallgpt.evaluation.scoring import score_rows
    from smallgpt.inference.classify import classify_dataset

    trained = _trained()
    for for_label in (True, False):
        rows = read_dataset(trained, folder / "rows.jsonl", for_label)
        scores = None
        if for_label:
            shares = classify_dataset(trained, rows, 8)
        elif len(rows):
            scores = score_rows(trained.model, rows, trained.precision, batch_size=8)
            rows, scores = leave_out_failures(rows, scores)
            scores.figures(rows)
            shares = scores.label_probs
        else:
            continue
        for answer in predictions_of(rows, shares, 1.5, scores):
            json_line(answer).encode()


def _report_rows(folder: Path) -> None:
    """What `train_gpt.py --check_data` does, pictures aside."""
    from smallgpt.checks.report import report_data
    from smallgpt.checks.report_words import describe_baselines, describe_report
    from smallgpt.training.data import read_data

    (folder / "vocab.json").write_text(VOCABULARY.to_json())
    settings = TrainSettings(
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
    """`prepare_data.py tokens`."""
    from prepare_data import _report_lines
    from smallgpt.preparation.token_rows import prepare_tokens

    settings = TokensSettings(
        input=(str(folder / "rows.jsonl"),), output_dir=str(folder / "out"), on_bad_row="skip"
    )
    try:
        _report_lines(prepare_tokens(settings), 1.0)
    except UserError as error:
        if "rows are left" not in str(error):
            raise


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


def _json_lines(records: list[dict]) -> bytes:
    return "".join(map(json_line, records)).encode()


def _table() -> bytes:
    lines = [f'"{row["text"]}",{row["label"]},{n}' for n, row in enumerate(TEXTS)]
    return "\r\n".join(["text,label,", *lines]).encode()


def _prepare_texts(folder: Path, name: str, of_orders: bool = False) -> None:
    """`prepare_data.py text` or `instructions`, and reading what it wrote."""
    from prepare_data import _report_lines
    from smallgpt.preparation.instructions import prepare_instructions
    from smallgpt.preparation.texts import prepare_text

    prepare, settings = prepare_text, TextSettings(label_column="label", augment=2)
    if of_orders:
        prepare, settings = prepare_instructions, InstructionsSettings()
    out = folder / "out"
    settings = replace(
        settings,
        input=(str(folder / name),),
        output_dir=str(out),
        on_bad_row="skip",
        tokenizer="chars",
        validation_fraction=0.0,
    )
    try:
        summary = prepare(settings)
    except UserError as error:
        if "nothing is left for" in str(error) or "different labels" in str(error):
            return
        raise
    _report_lines(summary, 1.0)
    vocabulary = Vocabulary.load(out / "vocab.json")
    for side in ("train", "test"):
        rows = read_dataset(out / f"{side}.jsonl", vocabulary, max_length=2**20)
        assert len(rows) == summary[side]["rows"] + summary[side].get("variants", 0)


TEXT_WORDS = ("text", "label", "instruction", "input", "output", "a b", "a_b", "\t", ",,")


def _read_forged_cache(folder: Path) -> None:
    """An entry whose digest is right, whatever stands in it."""
    from smallgpt.rows import cache as row_cache

    rows = folder / "rows.jsonl"
    entry = folder / row_cache.FOLDER / "rows.jsonl.rows"
    head = _cache_entry(rows)[:64]
    body = entry.read_bytes()
    digest = row_cache._digest_of(head[:32], head[32:], [body])
    entry.write_bytes(head + digest + body)
    found = _read_with_cache(rows)
    assert len(found) >= 1
    for index in range(len(found)):
        found.classification_prompt(index)
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
    """The entry that reading `rows` leaves."""
    from smallgpt.rows.cache import FOLDER

    if rows not in _entries:
        entry = rows.parent / FOLDER / "rows.jsonl.rows"
        entry.unlink(missing_ok=True)
        _read_with_cache(rows)
        _entries[rows] = entry.read_bytes()
    return _entries[rows]


@cache
def _sound_cache_body() -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        rows.write_bytes(_rows())
        return _cache_entry(rows)[96:]


# ------------------------------------------------------------------------------- texts

CLAUSES = ("the cat sat", "on the mat", "a dog ran, far", "房间很好。", "No 12!", "to the house")
TEXT_SPECIAL = ("<PAD>", "<UNK>", "<CLS>", "<EOS>", "<CLS_1>", "<CLS_a_b>")


@cache
def _text_vocabulary() -> Vocabulary:
    learned = TextTokenizer.learn_bpe(CLAUSES * 4, TEXT_SPECIAL, 280)
    return Vocabulary(learned.tokens, learned)


def _plain_text() -> bytes:
    return "\n<|endoftext|>\n".join(CLAUSES * 3).encode()


def _tabbed() -> bytes:
    lines = [f"{record['text']}\t{record['label']}" for record in TEXTS]
    return "\n".join(["text\tlabel", *lines]).encode()


def _parquet() -> bytes:
    from pyarrow import Table, parquet

    stream = io.BytesIO()
    records = [{**record, "label": str(record["label"])} for record in TEXTS]
    parquet.write_table(Table.from_pylist(records), stream)
    return stream.getvalue()


def _read_text_rows(folder: Path) -> None:
    rows = read_dataset(folder / "rows.jsonl", _text_vocabulary(), max_length=24, on_bad_row="skip")
    for index in range(len(rows)):
        rows.classification_prompt(index)


def _prepare_documents(folder: Path) -> None:
    """`prepare_data.py text` of plain text."""
    from smallgpt.preparation.texts import prepare_text

    prepare_text(
        TextSettings(
            input=(str(folder / "texts.txt"),), output_dir=str(folder / "out"), max_length=16,
            tokenizer="chars",
        )
    )  # fmt: skip


def _read_tokenizer(folder: Path) -> None:
    """Load a tokenizer, and use it as the readers of texts and the prompts do."""
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


# ------------------------------------------------------------------------------- pretrained


@cache
def _pretrained_files() -> dict[str, bytes]:
    """The files of a tiny Llama as transformers writes it."""
    import tempfile

    from pretrained_models import save_byte_level

    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent)
        save_byte_level(folder, "llama")
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def _start_from(folder: Path) -> None:
    """What `train_gpt.py --init_from` does before its first step."""
    from smallgpt.model.pretrained import load_pretrained, with_pretrained_shape

    settings = TrainSettings(init_from=str(folder), max_length=16)
    settings = with_pretrained_shape(settings)
    load_pretrained(settings, _text_vocabulary(), str)


def _prepare_with_tokenizer_of(folder: Path) -> None:
    """What `prepare_data.py text --tokenizer` does with a folder."""
    found = TextTokenizer.pretrained(str(folder), TEXT_SPECIAL)
    for text in CLAUSES:
        found.decode(found.encode(text))


def _pretrained_reader(
    name: str, file: str, read: Callable[[Path], Any] = _start_from, **more: Any
) -> Reader:
    def others() -> dict[str, bytes]:
        return {n: c for n, c in _pretrained_files().items() if n != file}

    return Reader(
        name, file, lambda: _pretrained_files()[file], read, beside=others, slow=True, **more
    )


@cache
def _adapter_files() -> dict[str, bytes]:
    """The files of an adapter, and of its base in a folder within."""
    import contextlib
    import tempfile

    from smallgpt.model.folder import save_model_folder
    from smallgpt.model.lora import add_adapter
    from smallgpt.model.pretrained import load_pretrained

    settings = TrainSettings(
        init_from="base", max_length=16, n_positions=48, n_layer=2, n_head=4, n_embd=32, lora_rank=2
    )
    vocabulary = _text_vocabulary()
    with tempfile.TemporaryDirectory() as parent, contextlib.chdir(parent):
        base = Path("base")
        base.mkdir()
        for name, content in _pretrained_files().items():
            (base / name).write_bytes(content)
        start = load_pretrained(settings, vocabulary, str)
        adapter = add_adapter(start, settings, str)
        save_model_folder(start.model, Path("adapter"), vocabulary, settings, None, None, adapter)
        files = {f"base/{path.name}": path.read_bytes() for path in base.iterdir()}
        return files | {path.name: path.read_bytes() for path in Path("adapter").iterdir()}


def _read_adapter(folder: Path) -> None:
    """What inference.py does with the folder of an adapter."""
    import contextlib

    from smallgpt.inference.next_tokens import next_tokens
    from smallgpt.model.folder import load_trained_model

    with contextlib.chdir(folder):
        next_tokens(load_trained_model(folder, "cpu", "fp32"), "the cat")


def _adapter_reader(name: str, file: str, **more: Any) -> Reader:
    def others() -> dict[str, bytes]:
        return {n: c for n, c in _adapter_files().items() if n != file}

    return Reader(
        name, file, lambda: _adapter_files()[file], _read_adapter, beside=others, slow=True, **more
    )


# ------------------------------------------------------------------------------- commands

COMMAND_WORDS = (
    "train_gpt.py", "--data_path", "--n_layer", "--resume", "--config", "--seed=", "--help", "--",
    "-", "--init_from", "none", "5e-5", "--no", "text", "digits",
)  # fmt: skip


def _run_command_line(folder: Path) -> None:
    """A whole command, its words one a line; where it is right it ends for want of data."""
    import contextlib

    import inference
    import prepare_data
    import train_gpt

    words = (folder / "words").read_bytes().decode(errors="surrogateescape").split("\n")
    words = [word.replace("HERE", str(folder)) for word in words]
    for main in (train_gpt.main, inference.main, prepare_data.main):
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.chdir(folder),
            contextlib.suppress(UserError, SystemExit),
        ):
            main([*words, "--output_dir", str(folder / "out")])


# ------------------------------------------------------------------------------- settings


def _read_config(folder: Path) -> None:
    read_settings(
        TrainSettings,
        ["--config", str(folder / "config.yaml")],
        prog="train_gpt.py",
        description="",
        default_config=folder / "absent.yaml",
    )


CONFIG_WORDS = (
    "n_layer: ", "seed: ", "data_path: ", "none", "true", ".inf", ".nan", "5e-5", "2001-01-01",
    "1:30", "0b11", "0o17", "~", "|\n  x", "'", "# x",
)  # fmt: skip


# ------------------------------------------------------------------------------- models


@cache
def _model_files() -> dict[str, bytes]:
    """The files of a tiny model folder."""
    import tempfile

    from smallgpt.model.build import build_model
    from smallgpt.model.folder import save_model_folder

    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "model"
        model = build_model(SMALL, VOCABULARY)
        save_model_folder(model, folder, VOCABULARY, SMALL, None, VALIDATION)
        names = ("config.json", "model.safetensors", "settings.yaml", "vocab.json")
        return {name: (folder / name).read_bytes() for name in names}


@cache
def _trained() -> Any:
    import tempfile

    from smallgpt.model.folder import load_trained_model

    with tempfile.TemporaryDirectory() as parent:
        for name, content in _model_files().items():
            (Path(parent) / name).write_bytes(content)
        return load_trained_model(parent, "cpu", "fp32")


def _read_model(folder: Path) -> None:
    """Load a model and use it in each of the ways that inference.py does."""
    from smallgpt.evaluation.report import _validation_table, describe_confidence
    from smallgpt.inference.classify import classify
    from smallgpt.inference.generate import generate
    from smallgpt.inference.next_tokens import next_tokens
    from smallgpt.model.folder import load_trained_model

    trained = load_trained_model(folder, "cpu", "fp32")
    token = trained.vocabulary.tokens[-1]
    if trained.validation:
        _validation_table(trained.validation)
    describe_confidence(trained.validation)
    next_tokens(trained, token)
    if trained.max_length > 1:
        generate(trained, token, max_new_tokens=3, batch_size=2)
    if trained.vocabulary.labels and trained.vocabulary.cls_id is not None:
        classify(trained, "<CLS> <CLS> <CLS>")  # a body of one token, whatever the others are


def _split_weights() -> tuple[bytes, bytes]:
    content = _model_files()["model.safetensors"]
    (length,) = struct.unpack("<Q", content[:8])
    return content[8 : 8 + length], content[8 + length :]


def _with_length(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + _split_weights()[1]


def _validation_text() -> bytes:
    return json.dumps(VALIDATION).encode()


def _with_validation(text: bytes) -> bytes:
    header = json.loads(_split_weights()[0])
    header["__metadata__"]["validation"] = text.decode(errors="surrogateescape")
    return _with_length(json.dumps(header).encode())


def _model_reader(name: str, file: str, sound: Callable[[], bytes], **more: Any) -> Reader:
    def others() -> dict[str, bytes]:
        return {n: c for n, c in _model_files().items() if n != file}

    return Reader(name, file, sound, _read_model, beside=others, **more)


# ------------------------------------------------------------------------------- images


PIXELS = np.random.default_rng(0).integers(0, 255, (6, 4, 4), dtype=np.uint8)


def _idx(array: np.ndarray) -> bytes:
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def _idx_labels() -> bytes:
    return _idx(np.arange(6, dtype=np.uint8))


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _npz(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return stream.getvalue()


def _images_npz() -> bytes:
    return _npz(images=_npy(PIXELS), labels=_npy(np.array(["a", "b", "c"] * 2)))


def _picture(kind: str, mode: str = "L") -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(PIXELS[0]).resize((9, 7)).convert(mode).save(stream, kind)
    return stream.getvalue()


def _read_pictures(folder: Path) -> None:
    read_images(folder, image_size=8)


def _codebook() -> Codebook:
    return Codebook.fit(PIXELS[..., None], patch_size=2, size=8, seed=0, max_images=6)


@cache
def _codebook_arrays() -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(_codebook_file())) as archive:
        return {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}


@cache
def _codebook_file() -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        _codebook().save(Path(folder) / "codebook.npz")
        return (Path(folder) / "codebook.npz").read_bytes()


def _read_codebook(folder: Path) -> None:
    codebook = Codebook.load(folder / "codebook.npz")
    codebook.image_from_tokens(["<IMG>", "<Z_000>", "<Z_001>"])
    codebook.row_text([0])
    vectors = codebook.embeddings(4, seed=0)
    assert np.isfinite(vectors).all()


READERS = (
    Reader("rows", "rows.jsonl", _rows, _read_rows, words=ROW_WORDS),
    Reader("rows evaluated", "rows.jsonl", _rows, _evaluate_rows, words=ROW_WORDS),
    Reader("rows reported", "rows.jsonl", _rows, _report_rows, words=ROW_WORDS, slow=True),
    Reader("rows prepared", "rows.jsonl", _rows, _prepare_rows, words=ROW_WORDS, slow=True),
    Reader(
        "texts prepared",
        "texts.jsonl",
        lambda: _json_lines(TEXTS),
        lambda folder: _prepare_texts(folder, "texts.jsonl"),
        words=TEXT_WORDS,
        slow=True,
    ),
    Reader(
        "table of texts prepared",
        "texts.csv",
        _table,
        lambda folder: _prepare_texts(folder, "texts.csv"),
        words=TEXT_WORDS,
        slow=True,
    ),
    Reader(
        "instructions prepared",
        "orders.json",
        lambda: json.dumps(ORDERS).encode(),
        lambda folder: _prepare_texts(folder, "orders.json", of_orders=True),
        words=TEXT_WORDS,
        slow=True,
    ),
    Reader(
        "rows of texts",
        "rows.jsonl",
        lambda: _json_lines(TEXTS),
        _read_text_rows,
        words=TEXT_WORDS,
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
    *(
        Reader(
            f"texts prepared: {file}",
            file,
            sound,
            lambda folder, file=file: _prepare_texts(folder, file),
            words=TEXT_WORDS,
            slow=True,
        )
        for file, sound in (("texts.tsv", _tabbed), ("texts.parquet", _parquet))
        if sound is not _parquet or importlib.util.find_spec("datasets")
    ),
    Reader(
        "tokenizer.json",
        "tokenizer.json",
        lambda: _text_vocabulary().tokenizer.to_json().encode(),
        _read_tokenizer,
        words=(
            "ByteLevel",
            "Split",
            "Regex",
            "(x+x+)+y",
            "Replace",
            "WordLevel",
            "merges",
            "added_tokens",
            "special",
            "TemplateProcessing",
            "BPE",
            "Unigram",
            "Sequence",
        ),
        slow=True,
    ),
    _pretrained_reader(
        "pretrained: config.json",
        "config.json",
        words=("attn_implementation", "dtype", "rope_scaling", "auto_map", "model_type", "gpt2"),
    ),
    _pretrained_reader("pretrained: weights", "model.safetensors"),
    _pretrained_reader("pretrained: generation_config.json", "generation_config.json"),
    _pretrained_reader(
        "pretrained: tokenizer_config.json",
        "tokenizer_config.json",
        words=("auto_map", "tokenizer_class", "chat_template", "{{ 1 }}", "eos_token", "sep_token"),
    ),
    _pretrained_reader("pretrained: tokenizer.json", "tokenizer.json", _prepare_with_tokenizer_of),
    *(
        _adapter_reader(f"adapter: {file}", file)
        for file in ("adapter_config.json", "adapter_model.safetensors", "settings.yaml")
        if importlib.util.find_spec("peft")
    ),
    Reader(
        "command line",
        "words",
        lambda: b"--data_path\nHERE/none.jsonl\n--n_layer\n2\n--seed=7",
        _run_command_line,
        words=COMMAND_WORDS,
        slow=True,
        names_file=False,
    ),
    Reader(
        "forged cache of rows",
        ".cache/rows.jsonl.rows",
        _sound_cache_body,
        _read_forged_cache,
        beside=lambda: {"rows.jsonl": _rows()},
        words=("facts", "arrays", "tokens", "<u2", "|O", "<f8"),
    ),
    Reader(
        "vocab.json",
        "vocab.json",
        lambda: VOCABULARY.to_json().encode(),
        lambda folder: Vocabulary.load(folder / "vocab.json"),
        words=tuple(WORDS),
    ),
    Reader(
        "config.yaml",
        "config.yaml",
        lambda: to_yaml(TrainSettings()).encode(),
        _read_config,
        words=CONFIG_WORDS,
        names_file=False,
    ),
    _model_reader(
        "model: config.json",
        "config.json",
        lambda: _model_files()["config.json"],
        words=("attn_implementation", "n_layer", "auto_map", "quantization_config", "n_inner"),
    ),
    _model_reader(
        "model: weights",
        "model.safetensors",
        lambda: b"".join((struct.pack("<Q", len(_split_weights()[0])), *_split_weights())),
    ),
    _model_reader(
        "model: header of the weights",
        "model.safetensors",
        lambda: _split_weights()[0],
        wrap=_with_length,
        words=("F64", "BF16", "I8", "C64", "F8_E4M3", "dtype", "shape", "__metadata__"),
    ),
    _model_reader(
        "model: stored figures",
        "model.safetensors",
        _validation_text,
        wrap=_with_validation,
        words=("rows", "baselines", "calibration", "temperature", "accuracy"),
    ),
    _model_reader(
        "model: settings.yaml",
        "settings.yaml",
        lambda: _model_files()["settings.yaml"],
        words=CONFIG_WORDS,
    ),
    _model_reader(
        "model: vocab.json",
        "vocab.json",
        lambda: _model_files()["vocab.json"],
        words=tuple(WORDS),
    ),
    Reader("codebook.npz", "codebook.npz", _codebook_file, _read_codebook),
    Reader(
        "codebook.npz: centers",
        "codebook.npz",
        lambda: _codebook_arrays()["centers"],
        _read_codebook,
        wrap=lambda content: _npz(**{**_codebook_arrays(), "centers": content}),
        words=("<f4", "|O", "<U9", "True", "(8, 4)", "(8,4,1)"),
    ),
    Reader(
        "codebook.npz: a number",
        "codebook.npz",
        lambda: _codebook_arrays()["height"],
        _read_codebook,
        wrap=lambda content: _npz(**{**_codebook_arrays(), "height": content}),
    ),
    Reader(
        "IDX images",
        "images.idx",
        lambda: _idx(PIXELS),
        lambda folder: read_images(folder / "images.idx", folder / "labels.idx"),
        beside=lambda: {"labels.idx": _idx_labels()},
    ),
    Reader(
        "IDX labels",
        "labels.idx",
        _idx_labels,
        lambda folder: read_images(folder / "images.idx", folder / "labels.idx"),
        beside=lambda: {"images.idx": _idx(PIXELS)},
    ),
    Reader(
        "IDX in damaged gzip",
        "images.idx.gz",
        lambda: gzip.compress(_idx(PIXELS)),
        lambda folder: read_images(folder / "images.idx.gz"),
    ),
    Reader(
        "damaged IDX in gzip",
        "images.idx.gz",
        lambda: _idx(PIXELS),
        lambda folder: read_images(folder / "images.idx.gz"),
        wrap=gzip.compress,
    ),
    Reader("npz", "images.npz", _images_npz, lambda folder: read_images(folder / "images.npz")),
    Reader(
        "npz: images",
        "images.npz",
        lambda: _npy(PIXELS),
        lambda folder: read_images(folder / "images.npz"),
        wrap=lambda content: _npz(images=content),
        words=("<f8", "|O", "<i8", "<f2", "|b1", "<c8", "<M8[s]", "(6, 4, 4)", "(96,)"),
    ),
    Reader(
        "npz: labels",
        "images.npz",
        lambda: _npy(np.array(["a", "b", "c"] * 2)),
        lambda folder: read_images(folder / "images.npz"),
        wrap=lambda content: _npz(images=_npy(PIXELS), labels=content),
        words=("<U1", "<U0", "|S4", "|O", "<i4", "<M8[s]", "(6,)", "(6, 1)"),
    ),
    *(
        Reader(
            f"picture: {kind}",
            f"a/1.{suffix}",
            lambda kind=kind, mode=mode: _picture(kind, mode),
            _read_pictures,
            beside=lambda: {"b/2.png": _picture("PNG")},
        )
        for kind, suffix, mode in (
            ("PNG", "png", "RGBA"),
            ("JPEG", "jpg", "RGB"),
            ("GIF", "gif", "P"),
            ("BMP", "bmp", "RGB"),
            ("TIFF", "tif", "RGB"),
            ("WEBP", "webp", "RGB"),
            ("PPM", "ppm", "RGB"),
            ("TGA", "tga", "RGB"),
        )
    ),
)
