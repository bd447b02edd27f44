"""One row of tokens: read from its file, checked, its label tail completed, cut to length.

    for line, record, problem in read_json_lines(Path("data/digits/train.jsonl")):
        row = parse_row(record, vocabulary)

A row is `{"tokens": "<IMG> <Z_190> ... </IMG> <CLS> <CLS_7> <EOS>", "label": 7}`; the rules of
its label tail stand at `parse_row`. Where a tokenizer of text lies beside the vocabulary a row may
be `{"text": "...", "label": "good"}` or `{"instruction": "...", "input": "...", "output": "..."}`:
they become ids here, and everything after is shared.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from console import progress_bar
from input_files import open_input, parse_json, shown, size_text
from instructions import instruction_prompt
from vocabulary import Vocabulary, is_label_token, label_text, label_token

ROW_KEYS = ("tokens", "input_ids", "label")  # all other keys of a row are the user's own
# Parsing takes up to thirty times the size, of a line of nothing but {"":0},{"":0},... This many
# bytes hold some million tokens, more than a row of any model here.
MOST_LINE_BYTES = 2**24
IDS_OF = "vocabulary_digest"  # in `meta` of a row of ids: which vocabulary they belong to
# In `meta` beside `source`: the number of a variant, 0 for the row that the others were made of. A
# key that nobody has by accident, since of the rows that carry it an epoch visits one a source.
VARIANT = "prepare_data_variant"
TAIL_LENGTH = 3  # <CLS> <CLS_k> <EOS>
LABEL_BEFORE_TAIL = "a label token stands before the label tail: it gives the label away"


class RowError(Exception):
    """A row that breaks the format; the text is the reason."""


# ------------------------------------------------------------------------------- one row


@dataclass(frozen=True, slots=True)
class Row:
    """A checked row, not yet cut.

    Attributes:
        ids: token ids, the label tail complete where there is a label.
        label_class: index into `vocabulary.labels`, -1 without a label.
        body_length: tokens before the tail.
        change: "", "completed" or "repaired".
        unknown_tokens: tokens read as <UNK>.
        padding_dropped: whether <PAD> was dropped at the end.
        prompt_length: tokens at the start that are neither learned nor scored.
    """

    ids: list[int]
    label_class: int
    body_length: int
    change: str = ""
    unknown_tokens: int = 0
    padding_dropped: bool = False
    prompt_length: int = 0


def parse_row(
    record: Any, vocabulary: Vocabulary, unknown_token: str = "error", for_label: bool = False
) -> Row:
    """Check one record and put its label tail in order.

    A labelled row ends `<CLS> <CLS_k> <EOS>`. With a `label`, a missing tail is completed and
    the broken tails `<CLS> <CLS> <EOS>` and `<CLS> <EOS>` are repaired; without one, the tail
    is the label. A row with neither is unlabelled and taken as it is; where it is text or an
    instruction with its answer, <EOS> ends it. A <CLS> elsewhere is a token like any other.

    Args:
        record: a parsed JSON value.
        vocabulary: token -> id.
        unknown_token: "error" or "unk".
        for_label: the row is only to be classified: one token is enough, and a broken tail
            without `label` is read as the question `<CLS>`.

    Raises:
        RowError: the record breaks the format.
    """
    if not isinstance(record, dict):
        raise RowError(f"expected an object with `tokens`, got {shown(record)}")
    ids, unknown, prompt_length = _ids_of(record, vocabulary, unknown_token)
    of_text = record.get("tokens") is None and record.get("input_ids") is None
    length = len(ids)
    while ids and ids[-1] == vocabulary.pad_id:
        ids.pop()
    padding_dropped = len(ids) < length
    if not ids:
        raise RowError("the row has no tokens")
    if vocabulary.pad_id in ids:
        raise RowError("<PAD> stands inside the row; it may only fill up its end")

    given = _label_class(record.get("label"), vocabulary, for_label)
    cls_id, eos_id = vocabulary.cls_id, vocabulary.eos_id
    in_tail, body_length, broken = _read_tail(ids, vocabulary)
    if in_tail >= 0 and given >= 0 and in_tail != given:
        raise RowError(
            f"the tail says {vocabulary.tokens[vocabulary.label_ids[in_tail]]} but label is "
            f"{shown(record['label'])}"
        )
    label_class = given if given >= 0 else in_tail
    change = ""
    if label_class >= 0:
        if cls_id is None or eos_id is None:
            raise RowError("a labelled row needs <CLS> and <EOS> in the vocabulary")
        tail = [cls_id, vocabulary.label_ids[label_class], eos_id]
        if ids[body_length:] != tail:
            change = "repaired" if broken else "completed"
            ids[body_length:] = tail
    elif broken:
        if not for_label:
            tail = " ".join(vocabulary.tokens[index] for index in ids[body_length:])
            raise RowError(f"the tail {tail} names no label and the row has no `label`")
        ids[body_length:] = [cls_id]
    if not body_length and (label_class >= 0 or for_label):
        raise RowError("the row has nothing before its label tail")
    # Without any <CLS> nothing asks for a label, so nothing can be given away.
    if (cls_id in ids or for_label) and not vocabulary.label_id_set.isdisjoint(ids[:body_length]):
        raise RowError(LABEL_BEFORE_TAIL)
    if of_text and label_class < 0 and not for_label and eos_id is not None:
        ids.append(eos_id)
    if 0 < prompt_length == len(ids):
        raise RowError("`output` has no tokens")
    if len(ids) < 2 and not for_label:
        raise RowError("the row has one token: there is nothing to predict")
    if prompt_length and label_class >= 0:
        raise RowError("an instruction has its answer in `output` and takes no `label`")
    return Row(ids, label_class, body_length, change, unknown, padding_dropped, prompt_length)


def _read_tail(ids: list[int], vocabulary: Vocabulary) -> tuple[int, int, bool]:
    """The tail of a row: (class named in it or -1, length of the body, whether it is broken)."""
    cls_id, eos_id, n = vocabulary.cls_id, vocabulary.eos_id, len(ids)
    if cls_id is None:
        return -1, n - (ids[-1] == eos_id), False
    end = n - 1 if ids[-1] == eos_id else n  # the closing <EOS> may be missing
    if end >= 2 and ids[end - 2] == cls_id and ids[end - 1] in vocabulary.class_of_id:
        return vocabulary.class_of_id[ids[end - 1]], end - 2, False
    if end >= 1 and ids[end - 1] == cls_id:
        doubled = end >= 2 and ids[end - 2] == cls_id
        return -1, end - 1 - doubled, doubled or end < n
    return -1, end, False


def _ids_of(
    record: dict[str, Any], vocabulary: Vocabulary, unknown_token: str
) -> tuple[list[int], int, int]:
    """Ids of a record, how many of its tokens were unknown, and how many are its prompt."""
    tokens, given_ids = record.get("tokens"), record.get("input_ids")
    if tokens is not None and given_ids is not None:
        raise RowError("both `tokens` and `input_ids`: give one of them")
    if tokens is None and given_ids is None:
        return _ids_of_text(record, vocabulary)
    if given_ids is not None:
        if not isinstance(given_ids, list):
            raise RowError(f"`input_ids` must be a list of ids, got {shown(given_ids)}")
        meta = record.get("meta")
        if isinstance(meta, dict) and meta.get(IDS_OF, vocabulary.digest) != vocabulary.digest:
            raise RowError(
                f"its ids are those of another vocabulary (meta.{IDS_OF}): use the vocab.json "
                f"beside the rows, or prepare them with the model's tokenizer"
            )
        for index in given_ids:
            if type(index) is not int or not 0 <= index < len(vocabulary):
                raise RowError(
                    f"input id {shown(index)} is not a whole number from 0 to {len(vocabulary) - 1}"
                )
        return list(given_ids), 0, 0
    words = split_words(tokens)
    ids_by_bytes = vocabulary.ids_by_bytes
    try:
        return [ids_by_bytes[word] for word in words], 0, 0
    except KeyError as error:
        if unknown_token == "error":
            word = error.args[0].decode()
            raise RowError(f"token {shown(word)} is not in the vocabulary") from None
    for word in words:
        # A label read as <UNK> would make a labelled row an unlabelled one, unnoticed.
        if word not in ids_by_bytes and is_label_token(word.decode()):
            raise RowError(f"label token {shown(word.decode())} is not in the vocabulary")
    ids = [ids_by_bytes.get(word, vocabulary.unk_id) for word in words]
    return ids, sum(word not in ids_by_bytes for word in words), 0


def _ids_of_text(record: dict[str, Any], vocabulary: Vocabulary) -> tuple[list[int], int, int]:
    """`_ids_of` for a record of text, or of an instruction and its answer."""
    name = "text" if "instruction" not in record else "output"
    if vocabulary.tokenizer is None:
        remedy = ""
        if record.get(name) is not None:
            remedy = "; rows of text need the tokenizer.json of `prepare_data.py text`"
        raise RowError(f"no `tokens` and no `input_ids`{remedy}")
    if record.get(name) is None:
        raise RowError(
            "an instruction without its answer `output`"
            if name == "output"
            else "no `text`, no `instruction`, no `tokens` and no `input_ids`"
        )
    for key in ("text", "instruction", "input", "output"):
        if not isinstance(record.get(key, ""), str):
            raise RowError(f"`{key}` must be a text, got {shown(record[key])}")
    prompt = ""
    if name == "output":
        if not record["instruction"].strip():
            raise RowError("`instruction` is empty")
        prompt = instruction_prompt(record["instruction"], record.get("input", ""))
    if not record[name].strip():
        raise RowError(f"`{name}` is empty")
    try:
        prompt_ids = vocabulary.tokenizer.encode(prompt) if prompt else []
        ids = vocabulary.tokenizer.encode(record[name], marked=not prompt)
    except ValueError as error:
        raise RowError(str(error)) from None
    ids = prompt_ids + ids
    return ids, vocabulary.tokenizer.count_unknown(ids), len(prompt_ids)


def split_words(tokens: Any) -> list[bytes]:
    """`tokens` as a list of UTF-8 byte strings, split at ASCII whitespace where it is text."""
    try:
        if isinstance(tokens, str):
            return tokens.encode().split()
        if isinstance(tokens, list) and all(isinstance(token, str) for token in tokens):
            return [token.encode() for token in tokens]
    except UnicodeEncodeError:
        raise RowError("`tokens` has a lone surrogate: not valid Unicode") from None
    raise RowError(f"`tokens` must be a string or a list of strings, got {shown(tokens)}")


def _label_class(label: Any, vocabulary: Vocabulary, may_be_unknown: bool) -> int:
    """Index of a record's label, -1 where it has none (absent or null), or one unknown here."""
    if label is None:
        return -1
    try:
        token = label_token(label_text(label))
    except ValueError as error:
        raise RowError(str(error)) from None
    index = vocabulary.class_of_id.get(vocabulary.ids.get(token, -1))
    if index is None and may_be_unknown:
        return -1
    if index is None:
        raise RowError(f"label {shown(label)}: the vocabulary has no token {shown(token)}")
    return index


def cut_row(ids: list[int], max_length: int, first_ids: Collection[int]) -> list[int]:
    """Cut a row to `max_length`: tokens leave from the left of the body.

    A leading token of `first_ids` stays (<IMG>, or a tokenizer's own mark for the start of a
    text), and so does all that stands at the end, the label tail above all.
    """
    if len(ids) <= max_length:
        return ids
    kept = 1 if ids[0] in first_ids else 0
    return ids[:kept] + ids[len(ids) - max_length + kept :]


# ------------------------------------------------------------------------------- files


def read_json_lines(path: Path, content: Any = None) -> Iterator[tuple[int, Any, str | None]]:
    """Each line of a JSONL file as (line number, value, problem); blank lines are passed over.

    The value is None where there is a problem: not UTF-8, not JSON, NaN, a key given twice.
    `content`, where given, is a hashlib digest that takes in the bytes read.

    Raises:
        UserError: no such file, or not a plain file that can be read.
    """
    with (
        open_input(path) as handle,
        progress_bar(f"reading {path.name}", os.fstat(handle.fileno()).st_size, "B") as bar,
    ):
        waiting = 0
        for line, (raw, length) in enumerate(_bounded_lines(handle, content), 1):
            waiting += length
            if waiting > 1_000_000:
                bar.update(waiting)
                waiting = 0
            if line == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            if length > MOST_LINE_BYTES:
                yield line, None, f"longer than {size_text(MOST_LINE_BYTES)}, the most for a line"
                continue
            if raw.isspace() or not raw:
                continue
            try:
                yield line, parse_json(raw.decode()), None
            except UnicodeDecodeError as error:
                yield line, None, f"not UTF-8 text (byte {error.start + 1} of the line)"
            except ValueError as error:
                yield line, None, str(error)


def _bounded_lines(handle: IO[bytes], content: Any) -> Iterator[tuple[bytes, int]]:
    """Each line and its length in bytes; of a line that is too long only the first bytes."""
    while raw := handle.readline(MOST_LINE_BYTES + 1):
        if content is not None:
            content.update(raw)
        length = len(raw)
        if length > MOST_LINE_BYTES:
            part = raw
            while part and not part.endswith(b"\n"):
                part = handle.readline(MOST_LINE_BYTES)
                if content is not None:
                    content.update(part)
                length += len(part)
        yield raw, length


def group_value(record: dict[str, Any], group_by: str | None) -> str | None:
    """The value at a key path as text, None where the record lacks it."""
    if group_by is None:
        return None
    value: Any = record
    for key in group_by.split("."):
        if not isinstance(value, dict) or key not in value:
            return None
        value = value[key]
    return None if value is None else json.dumps(value, sort_keys=True)


def variant_of(record: dict[str, Any]) -> tuple[str | None, int]:
    """A row's source and the number of its variant (0 = the original), from its `meta`.

    `prepare_data.py --augment` writes both; a row without either has no source here.
    """
    meta = record.get("meta")
    if isinstance(meta, dict) and "source" in meta:
        variant = meta.get(VARIANT)
        if type(variant) is int and variant >= 0:
            return json.dumps(meta["source"], sort_keys=True), variant
    return None, 0


def has_plain_variant(record: dict[str, Any]) -> bool:
    """Whether a row's `meta` has a `variant` of the user's own, which says nothing here.

    Earlier versions of `prepare_data.py --augment` marked their variants so.
    """
    meta = record.get("meta")
    return isinstance(meta, dict) and "variant" in meta and "source" in meta and VARIANT not in meta
