"""Texts from plain text, JSONL, JSON, CSV, TSV and the `datasets` library; mistakes in them."""

import csv
import json
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallgpt.errors import UserError
from smallgpt.preparation.examples import Instruction, Text, source_names
from smallgpt.preparation.text_files import read_instructions, read_texts
from smallgpt.rows.bad_rows import BadRows

RECORDS = [
    {"text": "good room", "label": "good"},
    {"text": "很差、不会再来", "label": "bad"},
    {"text": 'a "quoted" word, and\na second line', "label": "good"},
]


def write(path: Path, records: list[dict]) -> Path:
    """Records in the form that the name of the file asks for."""
    kind = path.suffix
    if kind == ".csv":
        with open(path, "w", encoding="utf-8", newline="") as handle:
            writer = csv.DictWriter(handle, list(records[0]))
            writer.writeheader()
            writer.writerows(records)
    elif kind == ".jsonl":
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
        path.write_text("".join(lines), encoding="utf-8")
    elif kind == ".json":
        path.write_text(json.dumps(records, ensure_ascii=False, indent=1), encoding="utf-8")
    return path


def texts_of(path: Path, text: str = "text", label: str | None = "label") -> list[Text]:
    bad = BadRows("record")
    found = list(
        read_texts(path, path.name, bad, text_column=text, label_column=label, left_out=set())
    )
    assert not bad.count
    return found


def problems_of(path: Path, text: str = "text", label: str | None = "label") -> list[str]:
    bad = BadRows("record")
    list(read_texts(path, path.name, bad, text_column=text, label_column=label, left_out=set()))
    return bad.first


def instructions_of(path: Path) -> tuple[list[Instruction], list[str]]:
    """The records of a file that can be used, and what is wrong with the others."""
    bad = BadRows("record")
    return list(read_instructions(path, path.name, bad)), bad.first


# ---- forms ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.JSONL"])
def test_records_are_the_same_in_every_form(tmp_path, name):
    path = write(tmp_path / name.lower(), RECORDS).rename(tmp_path / name)
    found = texts_of(path)
    assert [{"text": item.text, "label": item.label} for item in found] == RECORDS
    assert found[0].source.startswith(f"{name}:")
    assert str(path) in found[0].place


def test_lines_of_a_tsv_are_counted_and_quotes_are_text(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('一个 "好" 房间\t1\n\n"x\t0\n', encoding="utf-8")
    found = texts_of(path, "1", "2")
    assert [(t.text, t.label) for t in found] == [('一个 "好" 房间', "1"), ('"x', "0")]
    assert [t.source for t in found] == ["a.tsv:1", "a.tsv:3"]


def test_a_heading_is_found_by_name_only(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("label,text\nx,one\n")
    assert [(t.text, t.label) for t in texts_of(path)] == [("one", "x")]
    assert [(t.text, t.label) for t in texts_of(path, "2", "1")] == [
        ("text", "label"),
        ("one", "x"),
    ]


def test_a_byte_order_mark_and_windows_lines_are_no_text(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbftext,label\r\none,x\r\n")
    assert [(t.text, t.label) for t in texts_of(path)] == [("one", "x")]
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert texts_of(path, label=None)[0].text == "one\ntwo\n"


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"))))
def test_plain_text_is_cut_at_borders_and_loses_nothing_else(parts):
    parts = [part for part in parts if "<|endoftext|>" not in part]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.txt"
        content = "\n<|endoftext|>\n".join(parts)
        path.write_bytes(content.encode())
        found = [item.text for item in texts_of(path, label=None)]
    # The line break before a border belongs to the document.
    expected = [part + "\n" for part in parts[:-1]] + parts[-1:]
    # A byte order mark at the start of the file is none of its text.
    expected[:1] = [part.removeprefix("\ufeff") for part in expected[:1]]
    assert found == [part for part in expected if part.strip()]


# ---- names of several files ----------------------------------------------------------


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/one.csv", "a/two.csv"], ["one.csv", "two.csv"]),
        (["fa/data.csv", "fb/data.csv", "fb/more.csv"], ["fa/data.csv", "fb/data.csv", "more.csv"]),
        (["data.csv", "fa/data.csv"], ["data.csv", "fa/data.csv"]),
        (["/data.csv", "data.csv", "x/data.csv"], ["/data.csv", "data.csv", "x/data.csv"]),
        (["1/a/x", "2/a/x", "1/b/x"], ["1/a/x", "2/a/x", "b/x"]),
        (["hub:a/b/train", "hub:c/b/train"], ["hub:a/b/train", "hub:c/b/train"]),
        (["a.csv", "a.csv", "."], ["a.csv", "a.csv", "."]),
    ],
)
def test_files_of_one_name_are_told_apart_by_as_few_folders_as_it_takes(paths, names):
    found = source_names([Path(path) for path in paths])
    assert [found[Path(path)] for path in paths] == names


@given(st.lists(st.lists(st.sampled_from(["a", "b", "..", "/"]), min_size=1, max_size=4)))
def test_no_two_files_share_a_source_name(parts):
    paths = {Path(*each) for each in parts}
    assert len(set(source_names([*paths]).values())) == len(paths)


# ---- the library `datasets` ----------------------------------------------------------


@pytest.fixture
def library():
    return pytest.importorskip("datasets", reason="datasets is not installed")


@pytest.fixture
def reviews(library):
    """Records with class labels, which are stored as numbers, and a column that cannot be read."""
    features = library.Features(
        {
            "text": library.Value("string"),
            "label": library.ClassLabel(names=["bad", "very good"]),
            "picture": library.Image(),
        }
    )
    rows = {
        "text": [record["text"] for record in RECORDS],
        "label": [1, 0, 1],
        "picture": [{"bytes": b"no picture", "path": None}] * 3,
    }
    return library.Dataset.from_dict(rows, features=features)


def test_saved_folder_and_parquet_read_alike_and_labels_have_their_names(reviews, tmp_path):
    reviews.save_to_disk(tmp_path / "saved")
    reviews.to_parquet(tmp_path / "a.parquet")
    for name in ("saved", "a.parquet"):
        found = texts_of(tmp_path / name)
        assert [item.text for item in found] == [record["text"] for record in RECORDS]
        assert [item.label for item in found] == ["very good", "bad", "very good"]
        assert found[2].source == f"{name}:3"
        assert found[2].place == f"{tmp_path / name}: record 3"


def test_a_secret_label_is_none(library, tmp_path):
    features = library.Features(
        {"text": library.Value("string"), "label": library.ClassLabel(names=["a"])}
    )
    rows = library.Dataset.from_dict({"text": ["x", "y"], "label": [-1, None]}, features=features)
    rows.to_parquet(tmp_path / "a.parquet")
    assert len(problems_of(tmp_path / "a.parquet")) == 2
    assert "no label in `label`" in problems_of(tmp_path / "a.parquet")[0]


def test_one_of_several_splits_must_be_named(library, reviews, tmp_path):
    library.DatasetDict({"train": reviews, "test": reviews}).save_to_disk(tmp_path / "both")
    library.DatasetDict({"train": reviews}).save_to_disk(tmp_path / "one")
    with pytest.raises(UserError, match=r"has the splits train, test: name one, .*both/train$"):
        texts_of(tmp_path / "both")
    assert texts_of(tmp_path / "both" / "test") != []
    assert [item.text for item in texts_of(tmp_path / "one")] == [r["text"] for r in RECORDS]


def test_instructions_come_from_the_library_too(library, tmp_path):
    rows = {"instruction": ["Add."], "input": [None], "output": ["3"], "more": [1]}
    library.Dataset.from_dict(rows).to_parquet(tmp_path / "a.parquet")
    (found,), _ = instructions_of(tmp_path / "a.parquet")
    assert (found.instruction, found.input, found.output) == ("Add.", "", "3")


def test_data_that_the_library_cannot_read_are_told_in_one_line(library, reviews, tmp_path):
    reviews.save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / "state.json").write_text("{}")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but no more")
    for name in ("saved", "a.parquet"):
        with pytest.raises(UserError, match="the datasets library cannot read it") as caught:
            texts_of(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_text_of_the_library_that_is_not_utf8_is_told_in_one_line(library, tmp_path):
    import pyarrow
    from pyarrow import parquet

    texts = pyarrow.array([b"a", b"\xff"]).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet")
    with pytest.raises(
        UserError, match=r"a\.parquet: the datasets library cannot read it \('utf-8'"
    ):
        texts_of(tmp_path / "a.parquet", label=None)


@pytest.mark.parametrize("name", ["hub:x", "hub:a/b/c/d", "hub:"])
def test_a_hub_name_of_another_form_is_refused(library, name):
    with pytest.raises(UserError, match="hub:OWNER/NAME"):
        texts_of(Path(name))


def test_a_hub_name_without_a_network_is_told_in_one_line(library, monkeypatch):
    import huggingface_hub.constants

    # The library has noted at its import whether it is offline.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(library.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"nobody/nothing.*no network") as caught:
        texts_of(Path("hub:nobody/nothing/train"))
    assert "\n" not in str(caught.value)


def test_a_folder_of_the_same_name_is_not_read_for_the_hub(library, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a/b").mkdir(parents=True)
    with pytest.raises(UserError, match="a/b lies here as well"):
        texts_of(Path("hub:a/b"))


@pytest.mark.parametrize("name", ["a.parquet", "hub:a/b", "saved"])
def test_without_the_library_its_requirements_are_named(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.chdir(tmp_path)
    Path("a.parquet").write_bytes(b"")
    Path("saved").mkdir()
    (Path("saved") / "state.json").write_text("{}")
    with pytest.raises(UserError, match=r"pip install -e '\.\[datasets\]' -c constraints.txt$"):
        texts_of(Path(name))


# ---- mistakes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "a.csv",
            "txt,label\na,b\n",
            "no column 'text'; there is txt, label; where the first line",
        ),
        ("a.jsonl", '{"txt": "a", "label": "b"}\n', "no column 'text'; there is txt, label$"),
        ("a.json", '[{"text": "a"}]', "no column 'label'; there is text$"),
        ("a.json", '{"text": "a"}\n{"text": "b"}\n', "rename it to .jsonl$"),
        ("a.json", '{"text": "a", "label": "b"}', "one JSON array of records"),
        ("a.json", "[1, 2", "not valid JSON"),
        ("a.jsonl", '[{"text": "a", "label": "b"}]\n', "one JSON array.*rename it to .json$"),
        ("a.jsonl", '[\n {"text": "a",\n "label": "b"}\n]\n', "rename it to .json$"),
        ("a.csv", 'text,label\n"a,b\n', "not valid CSV"),
        ("a.txt", "text", "plain text has no --label_column"),
        ("a", "text", "plain text has no --label_column"),
    ],
)
def test_a_file_of_the_wrong_form_is_told_in_one_line(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UserError, match=words) as caught:
        texts_of(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("text,label, text\na,b,c\n", "'text' stands over the columns 1 and 3: rename all but one"),
        ("label,label,text,label\na,b,c,d\n", "'label' stands over the columns 1 and 2 and 4"),
    ],
)
def test_a_heading_that_stands_twice_is_refused(tmp_path, content, words):
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=words) as caught:
        texts_of(path)
    assert str(caught.value).startswith(f"{path}:1: ")
    path.write_text("instruction,output,input,input\na,b,c,d\n")
    with pytest.raises(UserError, match="'input' stands over the columns 3 and 4"):
        instructions_of(path)


def test_headings_of_columns_that_are_not_read_may_be_empty(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(",text,note,label,\n1,a,x,b,\n")
    assert [(t.text, t.label) for t in texts_of(path)] == [("a", "b")]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"text": "a"}, "no label in `label`"),
        ({"text": "a", "label": " "}, "no label in `label`"),
        ({"text": "a", "label": None}, "no label in `label`"),
        ({"text": "a", "label": True}, "`label`: label must be a whole number or a text, got true"),
        ({"text": "a", "label": 1.5}, "must be a whole number or a text, got 1.5"),
        ({"text": "a", "label": "\ud83d"}, "label '\\ud83d' is not valid Unicode"),
        ({"text": "a", "label": "x" * 2000}, "is longer than 1,000 letters"),
        ({"text": " \n", "label": "b"}, "`text` is empty"),
        ({"text": None, "label": "b"}, "`text` must be a text, got null"),
        ({"txt": "a", "label": "b"}, "no `text`; there is txt, label"),
        ({"text": ["a"], "label": "b"}, "`text` must be a text"),
        ({"text": "\ud83d", "label": "b"}, "half of a surrogate pair"),
        ([1], "expected an object"),
    ],
)
def test_a_record_that_cannot_be_used_is_named_with_its_line(tmp_path, record, words):
    path = tmp_path / "a.jsonl"
    good = {"text": "a", "label": "b"}
    path.write_text("".join(json.dumps(each) + "\n" for each in (good, record, good)))
    (problem,) = problems_of(path)
    assert problem.startswith(f"{path}:2: ")
    assert words in problem


def test_a_text_too_long_for_a_line_of_rows_is_named(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "長" * 3_000_000 + ",b\na,b\n", encoding="utf-8")
    (problem,) = problems_of(path)
    assert problem == f"{path}:2: longer than 8 MiB, the most for a row of text"
    path = write(tmp_path / "a.json", [{"instruction": "a" * 5_000_000, "output": "\0" * 600_000}])
    found, (problem,) = instructions_of(path)
    assert found == []
    assert problem == f"{path}: record 1: longer than 8 MiB, the most for a row of text"


def test_a_line_of_other_columns_is_named(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,b\na,b,c\nd\n")
    found = problems_of(path)
    assert [text.split(": ", 1)[1] for text in found] == [
        "3 columns where the first line has 2; left over: 'c'",
        "1 column where the first line has 2",
    ]


def test_a_label_stays_as_it_is_spelled(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "label": " very  good "}\n{"text": "a", "label": 7}\n')
    assert [item.label for item in texts_of(path)] == [" very  good ", "7"]


@pytest.mark.parametrize("name", ["a.txt", "a.tsv", "a.json"])
def test_a_file_in_another_encoding_names_the_remedy(tmp_path, name):
    path = tmp_path / name
    path.write_bytes("你好世界\t好\n".encode("gbk"))
    columns = ("1", "2") if name == "a.tsv" else ("text", None)
    with pytest.raises(
        UserError, match=r"1: not UTF-8 text \(byte 1 of.*as GB18030.*iconv -f GB18030"
    ):
        texts_of(path, *columns)


def test_lines_in_another_encoding_name_the_remedy_once(tmp_path):
    path = tmp_path / "a.jsonl"
    good = b'{"text": "a", "label": "b"}\n'
    path.write_bytes(good + '{"text": "你好"}\n'.encode("gbk") * 3)
    found = problems_of(path)
    assert len(found) == 3
    assert ["iconv" in text for text in found] == [True, False, False]


def test_no_file_and_a_foreign_folder_are_told(tmp_path):
    for name in ("no.txt", "no.jsonl", "no.csv", "no.parquet"):
        with pytest.raises(UserError, match="no such file"):
            texts_of(tmp_path / name, label=None)
    with pytest.raises(UserError, match="`save_to_disk` did not write"):
        texts_of(tmp_path)


def test_instructions_need_their_three_keys(tmp_path):
    path = tmp_path / "a.jsonl"
    records = [
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        {"instruction": "Add.", "output": ""},
        {"instruction": " ", "output": "3"},
        {"instruction": "Add.", "input": 3, "output": "3"},
        {"instruction": "Say.", "output": "x"},
    ]
    write(path, records)
    found, problems = instructions_of(path)
    assert [each.source for each in found] == ["a.jsonl:1", "a.jsonl:5"]
    assert problems == [
        f"{path}:2: `output` is empty",
        f"{path}:3: `instruction` is empty",
        f"{path}:4: `input` must be a text, got 3",
    ]
    path.write_text('{"question": "a", "output": "b"}\n')
    with pytest.raises(UserError, match="no column 'instruction'; there is question, output"):
        instructions_of(path)
    with pytest.raises(UserError, match="instructions come as JSON"):
        instructions_of(tmp_path / "a.txt")
