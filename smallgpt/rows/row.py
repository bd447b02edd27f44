"""One row of tokens: parsed, checked, its label tail completed, cut to length.

A row is `{"tokens": "<IMG> <Z_190> ... </IMG> <CLS> <CLS_7> <EOS>", "label": 7}`; the rules of
its label tail are in `rows/label_tail.py`. Where a text tokenizer lies beside the vocabulary a
row may be `{"text": "...", "label": "good"}` or `{"instruction": "...", "input": "...", "output":
"..."}`: they become ids here, and everything after is shared. A pair of texts is one text with
`<SEP>` between the two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from smallgpt.files.reading import shown
from smallgpt.rows.bad_rows import RowError
from smallgpt.rows.label_tail import settle_tail
from smallgpt.tokens.instruction_template import instruction_prompt
from smallgpt.tokens.labels import label_of_token
from smallgpt.tokens.vocabulary import Vocabulary

ROW_KEYS = ("tokens", "input_ids", "label")  # all other keys of a row are the user's own
IDS_OF = "vocabulary_digest"  # in `meta` of a row of ids: which vocabulary they belong to


@dataclass(frozen=True, slots=True)
class Row:
    """A checked row, not yet cut."""

    ids: list[int]  # with the whole label tail where there is a label
    label_class: int  # index into `vocabulary.labels`, -1 without a label
    body_length: int  # tokens before the tail
    change: str = ""  # of the tail: "", "completed" or "repaired"
    unknown: tuple[str, ...] = ()  # tokens read as <UNK>, of a text letters
    padding_dropped: bool = False  # <PAD> at the end
    prompt_length: int = 0  # tokens at the start that are neither learned nor scored


def parse_row(
    record: Any,
    vocabulary: Vocabulary,
    unknown_token: str = "error",
    for_label: bool = False,
    open_text: bool = False,
) -> Row:
    """Check one record, a parsed JSON value, and complete its label tail.

    Training, evaluation, classification and `prepare_data.py tokens` all parse rows here. A
    labelled row ends with `<CLS> <CLS_k> <EOS>`, see `label_tail.settle_tail`. A row with neither
    label nor tail is unlabelled and left as it is, but that <EOS> is appended to a text and to an
    instruction with its answer. A <CLS> elsewhere is a token like any other. With `for_label`, for
    rows that are only to be classified, one token is enough. `open_text`: nothing is appended to a
    text, for a model of labelled texts, which has learned that <CLS> follows and not <EOS>.

    Raises:
        RowError: the record breaks the format.
    """
    if not isinstance(record, dict):
        raise RowError(f"expected an object with `tokens`, got {shown(record)}")
    ids, prompt_length, unknown = ids_of(record, vocabulary, unknown_token)
    of_text = record.get("tokens") is None and record.get("input_ids") is None
    length = len(ids)
    while ids and ids[-1] == vocabulary.pad_id:
        ids.pop()
    padding_dropped = len(ids) < length
    if not ids:
        raise RowError("the row has no tokens")
    if vocabulary.pad_id in ids:
        raise RowError("<PAD> stands inside the row; it may only fill up its end")

    label_class, body_length, change = settle_tail(ids, record.get("label"), vocabulary, for_label)
    eos_id = vocabulary.eos_id
    ends = prompt_length > 0 or not open_text
    if of_text and ends and label_class < 0 and not for_label and eos_id is not None:
        ids.append(eos_id)
    if 0 < prompt_length == len(ids):
        raise RowError("`output` has no tokens")
    if len(ids) < 2 and not for_label:
        raise RowError("the row has one token: there is nothing to predict")
    if prompt_length and label_class >= 0:
        raise RowError("an instruction has its answer in `output` and takes no `label`")
    return Row(ids, label_class, body_length, change, unknown, padding_dropped, prompt_length)


def ids_of(
    record: dict[str, Any], vocabulary: Vocabulary, unknown_token: str
) -> tuple[list[int], int, tuple[str, ...]]:
    """Ids of a record, the length of its prompt, and its tokens that were read as <UNK>.

    Raises:
        RowError: the record has none, or not as it should.
    """
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
            if type(index) is not int or not 0 <= index < vocabulary.read:
                raise RowError(
                    f"input id {shown(index)} is not a whole number from 0 to {vocabulary.read - 1}"
                )
        return list(given_ids), 0, ()
    words = split_words(tokens)
    ids_by_bytes = vocabulary.ids_by_bytes
    try:
        return [ids_by_bytes[word] for word in words], 0, ()
    except KeyError as error:
        if unknown_token == "error" or vocabulary.unk_id is None:
            word = error.args[0].decode()
            kind = "token" if label_of_token(word) is None else "label token"
            raise RowError(f"{kind} {shown(word)} is not in the vocabulary") from None
    unknown = tuple(word.decode() for word in words if word not in ids_by_bytes)
    for name in unknown:
        # A label read as <UNK> would silently make the row unlabelled.
        if label_of_token(name) is not None:
            raise RowError(f"label token {shown(name)} is not in the vocabulary")
    ids = [ids_by_bytes.get(word, vocabulary.unk_id) for word in words]
    return ids, 0, unknown


def unknown_names(record: dict[str, Any], vocabulary: Vocabulary) -> list[str]:
    """The tokens of a valid record that are read as <UNK>, in their order; of a text letters."""
    return list(ids_of(record, vocabulary, "unk")[2])


def _ids_of_text(
    record: dict[str, Any], vocabulary: Vocabulary
) -> tuple[list[int], int, tuple[str, ...]]:
    """`ids_of` for a record of text, or of an instruction and its answer."""
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
    unknown = vocabulary.tokenizer.unknown_letters(prompt, prompt_ids)
    unknown += vocabulary.tokenizer.unknown_letters(record[name], ids)
    return prompt_ids + ids, len(prompt_ids), tuple(unknown)


def split_words(tokens: Any) -> list[bytes]:
    """`tokens` as a list of UTF-8 byte strings; a string is split at ASCII whitespace."""
    try:
        if isinstance(tokens, str):
            return tokens.encode().split()
        if isinstance(tokens, list) and all(isinstance(token, str) for token in tokens):
            return [token.encode() for token in tokens]
    except UnicodeEncodeError:
        raise RowError("`tokens` has a lone surrogate: not valid Unicode") from None
    raise RowError(f"`tokens` must be a string or a list of strings, got {shown(tokens)}")


def cut_row(row: Row, max_length: int, vocabulary: Vocabulary) -> Row:
    """A row cut to `max_length` by removing tokens from the left of its body.

    A first token of `first_ids` stays (<IMG>, or a tokenizer's start of text), and so does the
    label tail. Of a pair of texts the longer one loses tokens until both are of one length, then
    both do, so that neither disappears. Where the vocabulary keeps the start of texts, tokens are
    removed from the right instead, before what its tokenizer puts behind them.
    """
    removed = len(row.ids) - max_length
    if removed <= 0:
        return row
    if vocabulary.keeps_start and vocabulary.tokenizer is not None:
        end = row.body_length - vocabulary.tokenizer.count_after
        rest = row.ids[: end - removed] + row.ids[end:]
        return replace(row, ids=rest, body_length=row.body_length - removed)
    ids, place, of_first = row.ids, len(row.ids), removed
    kept = 1 if ids[0] in vocabulary.first_ids else 0
    if not row.prompt_length and vocabulary.separator_id in ids[kept : row.body_length]:
        place = ids.index(vocabulary.separator_id)
        of_first = _removed_from_first(place - kept, row.body_length - place - 1, removed)
    second = place + 1
    return replace(
        row,
        ids=ids[:kept] + ids[kept + of_first : second] + ids[second + removed - of_first :],
        body_length=row.body_length - removed,
        prompt_length=max(0, row.prompt_length - removed),
    )


def _removed_from_first(first: int, second: int, removed: int) -> int:
    """How many of `removed` tokens leave the first of two texts, the longer one before both."""
    stay = first + second - removed
    return first - min(first, max(stay - second, (stay + 1) // 2))
