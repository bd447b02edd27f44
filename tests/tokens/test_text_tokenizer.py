"""Text to ids and back: characters, byte pairs, pretrained tokenizers, the files they lie in."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from smallgpt.errors import UserError
from smallgpt.rows.reading import read_dataset
from smallgpt.tokens.text_tokenizer import (
    TOKENIZER,
    WHITESPACE_MARKS,
    TextTokenizer,
    pair_text,
    shown_bytes,
)
from smallgpt.tokens.vocabulary import Vocabulary

SPECIAL = ("<PAD>", "<UNK>", "<CLS>", "<EOS>")
LETTERS = "abc XYZ\n\t\r\v\f你好世界,。é🙂\u0301#<>_1"
MARKS = "".join(WHITESPACE_MARKS.values())
TEXTS = [
    "the cat sat on the mat, the cat sat on the hat\n" * 20,
    "房间很好、服务也很好。房间很好、位置也好。" * 20,
]
CHARACTERS = TextTokenizer.learn_characters([LETTERS], SPECIAL).with_special(["<CLS_good>"])
BYTE_PAIRS = TextTokenizer.learn_bpe(TEXTS, SPECIAL, 400).with_special(["<CLS_good>"])
LEARNED = {"characters": CHARACTERS, "byte pairs": BYTE_PAIRS}


def unicode_text(**options):
    return st.text(st.characters(exclude_categories=["Cs"], **options))


@pytest.fixture(params=LEARNED)
def learned(request) -> TextTokenizer:
    return LEARNED[request.param]


# ---- learned here --------------------------------------------------------------------


@given(st.text(LETTERS))
def test_text_of_known_characters_comes_back_from_their_ids(text):
    ids = CHARACTERS.encode(text)
    assert len(ids) == len(text)
    assert CHARACTERS.decode(ids) == text


@given(unicode_text(exclude_characters=MARKS))
def test_every_character_has_one_id_and_unknown_ones_that_of_unk(text):
    ids = CHARACTERS.encode(text)
    assert [index == 1 for index in ids] == [letter not in LETTERS for letter in text]
    assert CHARACTERS.count_unknown(ids) == sum(letter not in LETTERS for letter in text)
    assert CHARACTERS.decode(ids) == "".join(letter for letter in text if letter in LETTERS)


@given(unicode_text())
def test_any_text_comes_back_from_its_byte_pairs(text):
    ids = BYTE_PAIRS.encode(text)
    assert BYTE_PAIRS.decode(ids) == text
    assert BYTE_PAIRS.count_unknown(ids) == 0


@pytest.mark.parametrize(("mark", "space"), [(m, s) for s, m in WHITESPACE_MARKS.items()])
def test_a_picture_of_whitespace_reads_as_whitespace(mark, space):
    assert CHARACTERS.encode(f"a{mark}b") == CHARACTERS.encode(f"a{space}b")


@pytest.mark.parametrize("text", ["<PAD>", "a<EOS>", "<CLS> <CLS_good> <EOS>", "<UNK>"])
def test_special_tokens_within_a_text_are_letters(learned, text):
    ids = learned.encode(text)
    special = {learned.tokens.index(token) for token in [*SPECIAL, "<CLS_good>"]} - {1}
    assert special.isdisjoint(ids)
    if learned is BYTE_PAIRS:
        assert learned.decode(ids) == text


def test_special_tokens_have_the_first_ids_and_are_left_out_of_a_text(learned):
    assert learned.tokens[:4] == list(SPECIAL)
    ids = learned.encode("abc")
    assert learned.decode([2, *ids, 3, 0, 0]) == "abc"


def test_the_most_frequent_characters_stay_in_a_small_vocabulary():
    learned = TextTokenizer.learn_characters(["aaaabbbbccd"], SPECIAL, size=6)
    assert learned.tokens == [*SPECIAL, "a", "b"]


def test_byte_pairs_merge_what_is_frequent_in_any_script():
    assert len(TextTokenizer.learn_bpe(TEXTS, SPECIAL, 280).tokens) == 280
    assert len(BYTE_PAIRS.encode(" the cat")) == 2
    assert len(BYTE_PAIRS.encode("房间很好")) <= 2


def test_learning_again_gives_the_same_tokenizer():
    again = TextTokenizer.learn_bpe(TEXTS, SPECIAL, 400).with_special(["<CLS_good>"])
    assert again.to_json() == BYTE_PAIRS.to_json()
    letters = "".join(reversed(LETTERS))
    again = TextTokenizer.learn_characters([letters], SPECIAL).with_special(["<CLS_good>"])
    assert again.fingerprint() == CHARACTERS.fingerprint()


def test_tokens_have_no_whitespace_in_them(learned):
    assert Vocabulary(learned.tokens, learned).tokens == learned.tokens


@pytest.mark.parametrize("text", ["\ud83d", "a\udc80b"])
def test_half_a_surrogate_pair_is_no_text(learned, text):
    with pytest.raises(ValueError, match="surrogate"):
        learned.encode(text)


# ---- files ---------------------------------------------------------------------------


def test_a_tokenizer_comes_back_from_its_file(learned, tmp_path):
    path = tmp_path / TOKENIZER
    path.write_text(learned.to_json(), encoding="utf-8")
    again = TextTokenizer.load(path)
    assert again.tokens == learned.tokens
    assert again.fingerprint() == learned.fingerprint()
    assert again.encode("the <EOS> 你好") == learned.encode("the <EOS> 你好")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"model": 3}', b"[1]"])
def test_a_damaged_file_is_told_in_one_line(tmp_path, content):
    path = tmp_path / TOKENIZER
    path.write_bytes(content)
    told = r"not (a tokenizer \(.*\)|UTF-8 text \(byte 1\))$"
    with pytest.raises(UserError, match=told) as caught:
        TextTokenizer.load(path)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_of_other_tokens_than_the_vocabulary_is_refused(learned, tmp_path):
    (tmp_path / TOKENIZER).write_text(learned.to_json(), encoding="utf-8")
    (tmp_path / "vocab.json").write_text(json.dumps({"<PAD>": 0, "a": 1}))
    with pytest.raises(UserError, match="different vocabularies"):
        Vocabulary.load(tmp_path / "vocab.json")


@pytest.mark.parametrize(
    "text", ["the cat sat\n", "你好 世界", "<EOS> and <PAD>", "  two  spaces", ""]
)
def test_autotokenizer_reads_a_model_folder_with_the_same_ids(learned, tmp_path, text):
    before = learned.fingerprint()
    Vocabulary(learned.tokens, learned).save_tokenizer(tmp_path)
    found = AutoTokenizer.from_pretrained(tmp_path)
    assert found(text)["input_ids"] == learned.encode(text)
    assert len(found) == len(learned.tokens)
    assert (found.pad_token_id, found.unk_token_id, found.eos_token_id) == (0, 1, 3)
    assert Vocabulary.load(tmp_path / "vocab.json").tokenizer.encode(text) == learned.encode(text)
    assert learned.fingerprint() == before


@pytest.mark.parametrize("text", ["the cat", "你 好\t"])
def test_autotokenizer_decodes_what_it_encoded(learned, tmp_path, text):
    Vocabulary(learned.tokens, learned).save_tokenizer(tmp_path)
    found = AutoTokenizer.from_pretrained(tmp_path)
    known = "".join(letter for letter in text if learned is BYTE_PAIRS or letter in LETTERS)
    assert found.decode(learned.encode(text), skip_special_tokens=True) == known


def test_tokenizer_of_token_rows_is_not_one_of_text(vocabulary, tmp_path):
    vocabulary.save_tokenizer(tmp_path)
    assert Vocabulary.load(tmp_path / "vocab.json").tokenizer is None
    with pytest.raises(UserError, match="rows are tokens, not text"):
        TextTokenizer.pretrained(str(tmp_path), SPECIAL)


# ---- pretrained ----------------------------------------------------------------------


@pytest.fixture
def bert_folder(tmp_path):
    """A WordPiece tokenizer as Chinese BERT has it: vocab.txt, and lower case."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "你", "好", "he", "##llo", "a", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return tmp_path


def byte_level_folder(folder):
    """A byte-level tokenizer as GPT-2 has it: one special token, at the end."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: index for index, letter in enumerate(letters)} | {"he": 256, "hel": 257}
    backend.model = models.BPE(vocab=vocab, merges=[("h", "e"), ("he", "l")])
    backend.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
    backend.save(str(folder / TOKENIZER))
    return folder


def test_byte_level_tokenizer_keeps_its_ids_and_gets_ours_at_the_end(tmp_path):
    folder = byte_level_folder(tmp_path)
    plain = Tokenizer.from_file(str(folder / TOKENIZER))
    found = TextTokenizer.pretrained(str(folder), [*SPECIAL, "<CLS_good>"])
    assert found.tokens[258:] == ["<|endoftext|>", *SPECIAL, "<CLS_good>"]
    for text in ("hello help 你好\n", "", " x"):
        assert found.encode(text) == plain.encode(text).ids
        assert found.decode(found.encode(text)) == text
    assert 258 not in found.encode("a <|endoftext|> b")
    assert Vocabulary(found.tokens, found).first_ids == set()


def test_bert_tokenizer_puts_its_marks_around_a_text(bert_folder):
    found = TextTokenizer.pretrained(str(bert_folder), SPECIAL)
    theirs = AutoTokenizer.from_pretrained(bert_folder)
    for text in ("Hello 你好 a.", "", "nothing known"):
        assert found.encode(text) == theirs(text)["input_ids"]
        assert (
            found.encode(text, marked=False) == theirs(text, add_special_tokens=False)["input_ids"]
        )
    assert found.tokens[11:] == list(SPECIAL)
    assert Vocabulary(found.tokens, found).first_ids == {2}
    assert found.decode(found.encode("Hello 你好 a")) == "hello 你好 a"
    assert found.count_unknown(found.encode("Hello zebra 你")) == 1


def test_bert_folder_with_a_tokenizer_json_reads_the_same(bert_folder):
    before = TextTokenizer.pretrained(str(bert_folder), SPECIAL)
    AutoTokenizer.from_pretrained(bert_folder).save_pretrained(bert_folder)
    assert (bert_folder / TOKENIZER).exists()
    after = TextTokenizer.pretrained(str(bert_folder), SPECIAL)
    assert after.tokens == before.tokens
    assert after.encode("Hello 你好 [MASK] a.") == before.encode("Hello 你好 [MASK] a.")


@pytest.mark.parametrize(
    ("template", "first"),
    [("<s> $A", {"<s>"}), ("$A </s>", set()), ("<s> $A </s>", {"<s>"}), ("$A", set())],
)
def test_first_ids_are_what_stands_before_a_text_not_after_it(template, first):
    backend = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2, "?": 3}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    ids = [("<s>", 0), ("</s>", 1)]
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    found = TextTokenizer(backend)
    assert {found.tokens[index] for index in found.first_ids} == first


def test_ids_that_a_tokenizer_leaves_out_have_names_of_their_own():
    vocab = {"a": 0, "<unused_5>": 1, "b": 4, "<unused_2>": 7, " ": 8, "␠": 9}
    found = TextTokenizer(Tokenizer(models.WordLevel(vocab, unk_token="a")))
    assert len(found.tokens) == len(set(found.tokens)) == 10
    assert [found.tokens[index] for index in (0, 1, 4, 8)] == ["a", "<unused_5>", "b", "␠"]
    found = found.with_special(SPECIAL)
    assert Vocabulary(found.tokens, found).pad_id == found.backend.token_to_id("<PAD>")


def test_an_id_beyond_any_vocabulary_is_refused():
    backend = Tokenizer(models.WordLevel({"a": 0, "b": 4_000_000_000}, unk_token="a"))
    with pytest.raises(UserError, match="no vocabulary is so large"):
        TextTokenizer(backend)


def words_tokenizer(**parts) -> str:
    """A tokenizer.json that knows three words."""
    backend = Tokenizer(models.WordLevel({"<PAD>": 0, "a": 1, "x": 2}, unk_token="<PAD>"))
    return json.dumps(json.loads(backend.to_str()) | parts)


def split_at(pattern: str) -> dict:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def test_text_that_a_pattern_never_ends_at_is_a_bad_row_of_its_line(tmp_path):
    path = tmp_path / TOKENIZER
    path.write_text(words_tokenizer(pre_tokenizer=split_at("(x+x+)+y")))
    found = TextTokenizer.load(path).with_special(SPECIAL)
    assert found.encode("a") == [1]
    with pytest.raises(ValueError, match=r"the tokenizer fails at this text: .*retry-limit"):
        found.encode("x" * 40)
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{"text": "%s"}\n' % ("x" * 40))
    with pytest.raises(UserError, match=r"rows\.jsonl:2: the tokenizer fails at this text"):
        read_dataset(tmp_path / "rows.jsonl", Vocabulary(found.tokens, found), max_length=8)


TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    ],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [999], "tokens": ["<s>"]}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"pre_tokenizer": split_at("(")}, "not a tokenizer"),
        ({"post_processor": TEMPLATE}, "ids around a text that it does not have"),
        ({"model": {"type": "WordLevel", "vocab": {"b": 0}, "unk_token": "?"}}, "fails at this"),
        ({"normalizer": [{}] * 101}, "not a tokenizer of texts"),
        ({"normalizer": [0] * 1001}, "not a tokenizer of texts"),
    ],
    ids=["pattern", "template", "unknown", "objects", "values"],
)
def test_tokenizer_that_cannot_work_is_refused_in_one_line(parts, reason, tmp_path, monkeypatch):
    monkeypatch.setattr("smallgpt.tokens.text_tokenizer._MOST_OBJECTS", 100)
    monkeypatch.setattr("smallgpt.tokens.text_tokenizer._MOST_VALUES", 1000)
    path = tmp_path / TOKENIZER
    path.write_text(words_tokenizer(**parts))
    with pytest.raises(UserError, match=reason) as caught:
        TextTokenizer.load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_tokenizer_nested_too_deeply_is_refused(tmp_path):
    (tmp_path / TOKENIZER).write_text('{"normalizer":' + "[" * 90_000)
    with pytest.raises(UserError, match="not a tokenizer"):
        TextTokenizer.load(tmp_path / TOKENIZER)


@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
@pytest.mark.parametrize("known", [True, False], ids=["known class", "own class"])
def test_code_of_a_tokenizer_is_never_run_and_never_asked_for(file, known, tmp_path, monkeypatch):
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / "tok.py").write_text(
        f"import os; os.mkdir({str(tmp_path / 'ran')!r})\nclass Tok: pass\nclass C: pass\n"
    )
    auto_map = {"AutoTokenizer": ["tok.Tok", None], "AutoConfig": "tok.C"}
    values = {"auto_map": auto_map, "model_type": "gpt2" if known else "my_own"}
    if file == "tokenizer_config.json":
        values["tokenizer_class"] = "GPT2Tokenizer" if known else "Tok"
    (folder / file).write_text(json.dumps(values))
    (folder / "vocab.json").write_text('{"a": 0, "<|endoftext|>": 1}')
    (folder / "merges.txt").write_text("#version: 0.2\n")
    asked = io.StringIO("y\n" * 9)
    monkeypatch.setattr("sys.stdin", asked)
    try:
        TextTokenizer.pretrained(str(folder), SPECIAL)
    except UserError as error:
        assert "\n" not in str(error) and str(folder) in str(error)
    assert asked.tell() == 0 and not (tmp_path / "ran").exists()


def test_a_folder_without_a_tokenizer_is_told_in_one_line(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"not read")
    with pytest.raises(UserError, match="no tokenizer in this folder") as caught:
        TextTokenizer.pretrained(str(tmp_path), SPECIAL)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["bert", "byte level"])
def test_autotokenizer_reads_a_model_of_a_pretrained_tokenizer_with_the_same_ids(
    kind, bert_folder, tmp_path_factory
):
    made = tmp_path_factory.mktemp("made")
    folder = bert_folder if kind == "bert" else byte_level_folder(made)
    found = TextTokenizer.pretrained(str(folder), [*SPECIAL, "<CLS_good>"])
    saved = tmp_path_factory.mktemp("saved")
    Vocabulary(found.tokens, found).save_tokenizer(saved)
    theirs = AutoTokenizer.from_pretrained(saved)
    for text in ("Hello 你好 a. help", "<EOS> [SEP] <|endoftext|>", ""):
        assert theirs(text)["input_ids"] == found.encode(text)
        # And the folder is a tokenizer for the next texts.
        again = TextTokenizer.pretrained(str(saved), [*SPECIAL, "<CLS_good>"])
        assert again.tokens == found.tokens
        assert again.encode(text) == found.encode(text)


# ---- pairs of texts ------------------------------------------------------------------


@pytest.mark.parametrize("name", LEARNED)
def test_a_pair_reads_as_both_texts_with_the_separator_between(name, tmp_path):
    copy = TextTokenizer(Tokenizer.from_str(LEARNED[name].backend.to_str()))
    tokenizer = copy.with_separator().with_special(["<CLS_same>"])
    first, second = "你好 cat", "the mat <EOS>"
    separator = tokenizer.tokens.index("<SEP>")
    ids = [*tokenizer.encode(first), separator, *tokenizer.encode(second)]
    for written in (f" {first}\n", first), (f"\t{second} ", second):
        assert pair_text(written[0], "b").strip() == pair_text(written[1], "b")
    for pair in (pair_text(first, second), f"{first}<SEP>{second}", f"{first} \n<SEP>  {second}"):
        assert tokenizer.encode(pair) == ids
    assert "<SEP>" in tokenizer.decode(ids)  # unlike special tokens, it is part of what was written
    vocabulary = Vocabulary(tokenizer.tokens, tokenizer)
    assert vocabulary.separator_id == separator and separator in vocabulary.special_ids
    vocabulary.save_tokenizer(tmp_path)
    assert Vocabulary.load(tmp_path / "vocab.json").separator_id == separator
    assert AutoTokenizer.from_pretrained(tmp_path)(pair_text(first, second)).input_ids == ids


def test_without_pairs_a_separator_is_five_letters(learned):
    assert Vocabulary(learned.tokens, learned).separator_id is None
    assert len(learned.encode("<SEP>")) > 1


def test_bert_marks_stand_around_a_pair(bert_folder):
    tokenizer = TextTokenizer.pretrained(str(bert_folder), SPECIAL).with_separator()
    tokens = [tokenizer.tokens[index] for index in tokenizer.encode("好 <SEP> 好")]
    assert (tokens[0], tokens[2], tokens[4:]) == ("[CLS]", "<SEP>", ["[SEP]"])


def test_a_special_separator_that_no_text_can_hold_is_refused():
    tokenizer = TextTokenizer.learn_characters(["a"], [*SPECIAL, "<SEP>"])
    with pytest.raises(UserError, match="has a special token <SEP>, which no text can hold"):
        tokenizer.with_separator()


def test_half_of_a_letter_is_shown_byte_by_byte():
    letters = bytes_to_unicode()
    token = "".join(letters[byte] for byte in range(256))
    assert shown_bytes(token) == "".join(f"<0x{byte:02X}>" for byte in range(256))
    assert shown_bytes(letters[0x20] + letters[0xF0]) == "<0x20><0xF0>"
    # Not written in bytes.
    assert [shown_bytes(token) for token in ("abc", "<0xF0>", "好")] == ["abc", "<0xF0>", "好"]
