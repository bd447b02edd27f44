"""vocab.json and the tokenizers made of it."""

import difflib
import json
import random

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallgpt.errors import UserError
from smallgpt.tokens.text_tokenizer import MOST_TOKENS
from smallgpt.tokens.vocabulary import Vocabulary

SPECIAL = ["<PAD>", "<UNK>", "<IMG>", "</IMG>", "<CLS>", "<EOS>"]


@pytest.fixture
def write_vocab(tmp_path):
    def write(content) -> str:
        path = tmp_path / "vocab.json"
        content = content if isinstance(content, (bytes, str)) else json.dumps(content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


# ---- layout --------------------------------------------------------------------------


def test_reference_vocabulary_has_its_516_entries_in_order():
    vocabulary = Vocabulary.for_images(500, map(str, range(10)))
    assert len(vocabulary) == 516
    assert vocabulary.tokens[:6] == SPECIAL
    assert (vocabulary.tokens[6], vocabulary.tokens[505]) == ("<Z_000>", "<Z_499>")
    assert vocabulary.tokens[506:] == [f"<CLS_{digit}>" for digit in range(10)]
    assert vocabulary.labels == list("0123456789")
    assert vocabulary.label_ids == list(range(506, 516))
    assert (vocabulary.pad_id, vocabulary.unk_id, vocabulary.img_id) == (0, 1, 2)
    assert (vocabulary.cls_id, vocabulary.eos_id) == (4, 5)
    assert vocabulary.encode("<IMG> <Z_190> </IMG> <CLS> <CLS_7>") == [2, 196, 3, 4, 513]


def test_code_numbers_are_as_wide_as_the_largest_needs():
    assert "<Z_00000>" in Vocabulary.for_images(10_001, []).ids
    assert Vocabulary.for_images(1, []).tokens[6] == "<Z_000>"


def test_labels_follow_their_ids_wherever_they_stand():
    vocabulary = Vocabulary(["<CLS_b>", "x", "<PAD>", "<CLS_a b>".replace(" ", "_"), "<CLS_>"])
    assert vocabulary.labels == ["b", "a_b"]
    assert vocabulary.label_ids == [0, 3]
    assert vocabulary.class_of_id == {0: 0, 3: 1}
    assert vocabulary.pad_id == 2
    assert vocabulary.cls_id is vocabulary.eos_id is vocabulary.unk_id is vocabulary.img_id is None


@pytest.mark.parametrize(
    "tokens",
    [
        ["<PAD>", "A", "A"],
        ["<PAD>", ""],
        ["<PAD>", "A B"],
        ["<PAD>", "A\n"],
        ["<PAD>", "\x0b"],
        ["<PAD>", "\ud800"],
        ["A", "B"],
        [],
    ],
)
def test_impossible_tokens_are_refused(tokens):
    with pytest.raises(ValueError):
        Vocabulary(tokens)


# ---- encoding ------------------------------------------------------------------------


def test_encode_splits_at_ascii_whitespace_only():
    vocabulary = Vocabulary(["<PAD>", "A", "B", "全\u3000角", "a\xa0b"])
    assert vocabulary.encode(" A\tB\nA\r\n全\u3000角\x0bB\x0ca\xa0b ") == [1, 2, 1, 3, 2, 4]
    assert vocabulary.encode(" \t\n") == []


def test_encode_names_every_unknown_token():
    with pytest.raises(KeyError) as caught:
        Vocabulary(["<PAD>", "A"]).encode("A x A 猫")
    assert caught.value.args[0] == ["x", "猫"]


@given(st.lists(st.integers(0, 12)))
def test_decode_is_the_inverse_of_encode(vocabulary, ids):
    assert vocabulary.encode(vocabulary.decode(ids)) == ids


# ---- vocab.json ----------------------------------------------------------------------


def test_written_vocabulary_reads_back_equal(write_vocab):
    vocabulary = Vocabulary([*SPECIAL, "猫", '"', "\\", "e\u0301", "\u3000", "<CLS_犬>"])
    loaded = Vocabulary.load(write_vocab(vocabulary.to_json()))
    assert loaded == vocabulary
    assert loaded.fingerprint() == vocabulary.fingerprint()


def test_order_of_the_entries_in_the_file_does_not_matter(write_vocab):
    assert Vocabulary.load(write_vocab({"B": 2, "<PAD>": 0, "A": 1})).tokens == ["<PAD>", "A", "B"]


def test_vocabulary_with_a_byte_order_mark_is_read(write_vocab):
    assert len(Vocabulary.load(write_vocab(b'\xef\xbb\xbf{"<PAD>": 0}\r\n'))) == 1


def long_tokens(count: int, letters: int) -> list[str]:
    return ["<PAD>", *(f"{number:0{letters}}" for number in range(1, count))]


def test_a_vocabulary_of_many_letters_that_can_be_written_can_be_read(write_vocab):
    vocabulary = Vocabulary(long_tokens(17_000, 1000))  # larger than 16 MiB
    assert Vocabulary.load(write_vocab(vocabulary.to_json())) == vocabulary


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        (["a"] * (MOST_TOKENS + 1), "1,000,001 tokens, at most 1,000,000"),
        (long_tokens(600, 1000), r"a vocab\.json of 60.,... bytes, at most 512 KiB"),
        # Escapes make six bytes of one.
        (["<PAD>", *("\x01" * 600 + str(n) for n in range(200))], "bytes, at most 512 KiB"),
    ],
    ids=["tokens", "letters", "escapes"],
)
def test_a_vocabulary_too_large_to_be_read_again_is_refused_when_it_is_made(
    tokens, reason, monkeypatch
):
    monkeypatch.setattr("smallgpt.tokens.vocabulary.MOST_BYTES", 2**19)
    monkeypatch.setattr("smallgpt.tokens.vocabulary._MANY_LETTERS", 2**15)
    with pytest.raises(ValueError, match=reason):
        Vocabulary(tokens)


def test_a_file_of_more_entries_than_a_vocabulary_may_have_is_refused(write_vocab):
    with pytest.raises(UserError, match="more than 1,000,001 values"):
        Vocabulary.load(write_vocab('{"<PAD>": [' + "0," * 1_000_001 + "0]}"))


@pytest.mark.long
def test_a_vocabulary_of_350_000_tokens_is_saved_loaded_and_known_to_transformers(tmp_path):
    vocabulary = Vocabulary(
        [*SPECIAL, *(f"event_number_{n}_of_a_long_log" for n in range(350_000))]
    )
    vocabulary.save_tokenizer(tmp_path)
    assert Vocabulary.load(tmp_path / "vocab.json") == vocabulary
    words = " ".join(vocabulary.tokens[::1000])
    for tokenizer in load_tokenizers(tmp_path):
        assert len(tokenizer) == len(vocabulary)
        assert tokenizer(words)["input_ids"] == vocabulary.encode(words)


def test_fingerprint_tells_vocabularies_apart():
    tokens = ["<PAD>", "A", "B"]
    others = [["<PAD>", "B", "A"], ["<PAD>", "A", "b"], ["<PAD>", "A", "B", "C"]]
    prints = {Vocabulary(other).fingerprint() for other in [tokens, *others]}
    assert len(prints) == 4
    assert Vocabulary(list(tokens)).fingerprint() in prints


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "not a valid vocabulary"),
        ('{"<PAD>": 0', "not a valid vocabulary"),
        (b'{"<PAD>": 0, "\xff": 1}', "not UTF-8 text"),
        ("[" * 100_000, "not a valid vocabulary"),
        ('{"<PAD>": 0, "A": 1' + "0" * 5000 + "}", "not a valid vocabulary"),
        ('{"<PAD>": 0, "A": 1, "A": 2}', "'A' stands twice"),
        ([], "expected one JSON object"),
        (["<PAD>", "A"], "expected one JSON object"),
        ({}, "expected one JSON object"),
        ("null", "expected one JSON object"),
        ({"model": {"vocab": {"<PAD>": 0}}}, "the id of 'model'"),
        ({"<PAD>": "0"}, "not a whole number"),
        ({"<PAD>": 0.0}, "not a whole number"),
        ({"<PAD>": False}, "not a whole number"),
        ({"<PAD>": None}, "not a whole number"),
        ('{"<PAD>": NaN}', "NaN is not JSON"),
        ({"<PAD>": 0, "A": 2}, "id 1 is missing"),
        ({"<PAD>": 1, "A": 2}, "id 0 is missing"),
        ({"<PAD>": 0, "A": 0}, "each once"),
        ({"<PAD>": -1, "A": 0}, "ids must be 0..1"),
        ({"<PAD>": 0, "A B": 1}, "'A B' is empty or has whitespace"),
        ({"<PAD>": 0, "": 1}, "'' is empty or has whitespace"),
        ('{"<PAD>": 0, "\\ud800": 1}', "not valid Unicode"),
        ({"<pad>": 0}, "<PAD> is missing"),
    ],
    ids=range(24),
)
def test_malformed_vocabulary_is_told_with_its_file(content, reason, write_vocab):
    path = write_vocab(content)
    with pytest.raises(UserError) as caught:
        Vocabulary.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert reason in str(caught.value)


def test_absent_vocabulary_is_told_with_its_flag(tmp_path):
    with pytest.raises(UserError, match=r"absent\.json: no such file .*--vocab_path"):
        Vocabulary.load(tmp_path / "absent.json")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 5) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
NEAR_VOCABULARIES = st.dictionaries(
    st.sampled_from(["<PAD>", "<CLS>", "<CLS_1>", "A", "B C", "", "猫"]), st.integers(-1, 5)
)


@given(JSON_VALUES | NEAR_VOCABULARIES)
def test_any_json_is_a_vocabulary_or_told_with_its_file(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "any_vocab.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    try:
        vocabulary = Vocabulary.load(path)
    except UserError as error:
        assert str(error).startswith(f"{path}: ")
    else:
        assert vocabulary.ids == value
        assert sorted(value.values()) == list(range(len(vocabulary)))


# ---- Hugging Face tokenizers ---------------------------------------------------------

PREFIXES = ["a", "ab", "abc", "b", "bc", "<a", "<a>", "<CL", "CLS>", "##a", "Ġa", "</w>", "a</w>"]
NUMBERS = ["1", "10", "101", "0101", "-3", "3.14", "٣"]
CHINESE = ["猫", "猫咪", "咪", "。", "训练", "e\u0301", "é", "🙂", "A", "É"]


def load_tokenizers(folder):
    from transformers import AutoTokenizer, GPT2Tokenizer, PreTrainedTokenizerFast

    return [
        kind.from_pretrained(folder)
        for kind in (AutoTokenizer, GPT2Tokenizer, PreTrainedTokenizerFast)
    ]


@pytest.mark.parametrize(
    "tokens",
    [
        Vocabulary.for_images(500, map(str, range(10))).tokens,
        [*SPECIAL, *PREFIXES, *NUMBERS, *CHINESE, "<CLS_猫>"],
        [*NUMBERS, "<EOS>", *PREFIXES, "<PAD>", *CHINESE],
        ["a", "<PAD>", "aa"],
    ],
    ids=["reference", "special_first", "shuffled", "pad_only"],
)
def test_all_hugging_face_tokenizers_agree_with_the_vocabulary(tokens, tmp_path):
    vocabulary = Vocabulary(tokens)
    vocabulary.save_tokenizer(tmp_path)
    words = random.Random(0).choices(tokens, k=300) + tokens
    ids = vocabulary.encode(" ".join(words))
    for tokenizer in load_tokenizers(tmp_path):
        name = type(tokenizer).__name__
        assert len(tokenizer) == len(vocabulary), name
        assert tokenizer(" ".join(words))["input_ids"] == ids, name
        assert tokenizer.convert_ids_to_tokens(list(range(len(tokens)))) == tokens, name
        assert tokenizer.pad_token_id == vocabulary.pad_id, name
        assert 0 <= tokenizer.bos_token_id < len(vocabulary), name
        assert 0 <= tokenizer.eos_token_id < len(vocabulary), name


# Marks of JSON, escapes, controls, ends of lines of Unicode, tokens that mean something to others,
# and pairs that are one after normalisation.
ODD = [
    '"', "\\", "\\u0041", '\\"', "{", "}", "\x00", "a\x00b", "\x1c", "\x85", "a\u2028b", "\u2029",
    "\xa0a", "\u200b", "\ufeff", "\U0010ffff", "\ufffd", "[CLS]", "<s>", "</s>", "<|endoftext|>",
    "<unk>", "<mask>", "ĠA", "<CLS_a\u3000b>", "é", "e\u0301", "ﬁ", "fi", "Å", "\u212b", "a" * 1000,
]  # fmt: skip


@hypothesis.settings(max_examples=8)
@given(
    st.lists(
        st.sampled_from(ODD)
        | st.text(st.characters(codec="utf-8"), min_size=1, max_size=5).filter(
            lambda text: text.encode().split() == [text.encode()]
        ),
        unique=True,
        max_size=12,
    ),
    st.randoms(use_true_random=False),
)
def test_tokenizers_agree_for_any_vocabulary(tmp_path_factory, extra, shuffler):
    tokens = [*SPECIAL, *[token for token in extra if token not in SPECIAL]]
    folder = tmp_path_factory.mktemp("tokenizer")
    vocabulary = Vocabulary(tokens)
    vocabulary.save_tokenizer(folder)
    words = shuffler.choices(tokens, k=40)
    for tokenizer in load_tokenizers(folder):
        assert len(tokenizer) == len(vocabulary)
        assert tokenizer(" ".join(words))["input_ids"] == vocabulary.encode(" ".join(words))


def test_unknown_token_becomes_unk_in_auto_tokenizer(vocabulary, tmp_path):
    vocabulary.save_tokenizer(tmp_path)
    auto = load_tokenizers(tmp_path)[0]
    assert auto("A nothing B")["input_ids"] == vocabulary.encode("A <UNK> B")


def test_saved_folder_holds_the_vocabulary_and_no_pickle(vocabulary, tmp_path):
    vocabulary.save_tokenizer(tmp_path)
    assert Vocabulary.load(tmp_path / "vocab.json") == vocabulary
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"vocab.json", "tokenizer.json", "tokenizer_config.json"}


def test_the_nearest_token_is_found_among_many_by_few_comparisons(monkeypatch):
    words = [f"<Z_{number:05d}>" for number in range(100_000)]
    vocabulary = Vocabulary(["<PAD>", "receive", "<CLS>", *words])
    compared = 0

    class Counting(difflib.SequenceMatcher):
        def set_seq1(self, word):
            nonlocal compared
            compared += 1
            super().set_seq1(word)

    monkeypatch.setattr(difflib, "SequenceMatcher", Counting)
    assert vocabulary.nearest("recieve") == "receive"
    assert vocabulary.nearest("<Z_012345>") == "<Z_12345>"
    assert vocabulary.nearest("<Z_9999>") in words
    assert vocabulary.nearest("x" * 10**6) is None
    assert vocabulary.nearest("----") is None
    assert 0 < compared < 5000


def test_the_nearest_of_few_tokens_is_the_nearest_of_all(vocabulary):
    assert vocabulary.nearest("<IMQ>") == "<IMG>"
    assert vocabulary.nearest("zzz") is None
