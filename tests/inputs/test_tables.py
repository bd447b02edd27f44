"""Tables: delimiter and quotes found, columns by name or number, lines in messages."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallgpt.errors import UserError
from smallgpt.inputs.tables import Table

CELL = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def written(rows: list[list[str]], delimiter: str, quoting: int = csv.QUOTE_MINIMAL) -> bytes:
    """A table as Python's csv writes it."""
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, quoting=quoting).writerows(rows)
    return text.getvalue().encode()


def read(content: bytes, *columns: str, source: str = "a.csv") -> list[list[str]]:
    rows = [(cells, problem) for _, cells, problem in Table.of(source, content, columns).rows()]
    assert [problem for _, problem in rows if problem] == []
    return [cells for cells, _ in rows]


@given(
    rows=st.integers(1, 4).flatmap(
        lambda width: st.lists(st.lists(CELL, min_size=width, max_size=width), max_size=5)
    ),
    delimiter=st.sampled_from(",;\t|"),
    source=st.sampled_from(["a.csv", "a.tsv", "standard input"]),
)
def test_any_cells_in_any_delimiter_come_back(rows, delimiter, source):
    headings = ["text", "id", "my label", 'the "4th"'][: len(rows[0]) if rows else 2]
    # Between tabs quotes may be text; a heading in quotes says that they are not.
    tabs = delimiter == "\t" or source == "a.tsv"
    quoting = csv.QUOTE_ALL if tabs else csv.QUOTE_MINIMAL
    content = written([headings, *rows], delimiter, quoting)
    assert read(content, "text", source=source) == rows
    if len(headings) > 1:
        assert Table.of(source, content, ["text"]).delimiter == delimiter


@pytest.mark.parametrize(
    ("content", "columns", "delimiter"),
    [
        ("id;text;label\n1;gut, sehr gut;pos\n2;schlecht, teuer;neg\n", ["text"], ";"),
        ("id;Preis, netto\n1;1,5\n2;2,5\n", ["id"], ";"),  # rows have as many commas
        ("id,text\n1,a;b\n2,c;d\n", ["text"], ","),
        ("text,label\nfine; cheap; near,pos\n", ["text", "label"], ","),
        ('"id;x","text"\n"1;2","a"\n', ["text"], ","),
        ("a|b\n1|x,y\n", ["b"], "|"),
        ("gut, sehr gut;1\nschlecht;0\n", ["1", "2"], ";"),
        ("text\nalone, with a comma\nwithout\n", ["text"], ";"),
    ],
)
def test_the_delimiter_is_that_of_the_columns_asked_for(content, columns, delimiter):
    table = Table.of("a.csv", content.encode(), columns)
    assert table.delimiter == delimiter
    assert all(problem is None for _, _, problem in table.rows())


@pytest.mark.parametrize(
    ("content", "cells"),
    [
        ('text\tn\n"so" they said\t1\n', ['"so" they said', "1"]),
        ('text\tn\n"so they said"\t1\n', ['"so they said"', "1"]),
        ('text\tn\n"so ""they"" said"\t1\n', ['so "they" said', "1"]),
        ('"text"\t"n"\n"so they said"\t"1"\n', ["so they said", "1"]),
        ('text\tn\n"so\nthey\tsaid"\t1\n', ["so\nthey\tsaid", "1"]),
        ('text\tn\n"so\t1\nthey"\t2\n', ['"so', "1"]),  # two rows of two columns, read as before
    ],
)
def test_quotes_between_tabs_are_text_unless_the_whole_table_shows_that_they_enclose(
    content, cells
):
    assert read(content.encode(), "text", source="a.tsv")[0] == cells


def test_rows_are_told_by_the_line_where_they_begin_and_lose_no_cell():
    content = 'id;text\n1;"two\nlines"\n\n2;x;more;"and; more"\n3\n'
    assert [*Table.of("a.csv", content.encode(), ["text"]).rows()] == [
        (2, ["1", "two\nlines"], None),
        (
            5,
            ["2", "x"],
            "4 columns where the first line has 2; left over: 'more', 'and; more'",
        ),
        (6, ["3", ""], "1 column where the first line has 2"),
    ]


def test_columns_are_found_with_whitespace_around_and_line_breaks_within_their_names():
    table = Table.of("a.csv", b'id, text ,"my\nlabel",\n1,a,b,c\n', ["text", "my\nlabel"])
    assert table.names == ["id", "text", "my\nlabel", "column 4"]
    assert table.headings == ["id", " text ", "my\nlabel", ""]
    assert [*table.rows()] == [(3, ["1", "a", "b", "c"], None)]


@pytest.mark.parametrize(
    ("encoding", "marked"), [("utf-8", False), ("utf-8-sig", True), ("utf-16", True)]
)
def test_marks_of_encodings_are_no_text(encoding, marked):
    text = "text;l\r\nschön;ä\r\n"
    table = Table.of("a.csv", text.encode(encoding), ["text"])
    assert (table.names, table.marked, table.line_end) == (["text", "l"], marked, "\r\n")
    assert [*table.rows()] == [(2, ["schön", "ä"], None)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("id;text\n1;schön, groß\n".encode("cp1252"), r"a\.csv:2: not UTF-8 text \(byte 6 of the "
         r"line\); as WINDOWS-1252 it reads '1;schön, groß': convert it, for example: iconv -f W"),
        ("id;text\n1;你好世界\n".encode("gbk"), "as GB18030 it reads '1;你好世界'"),
        (b"\xff\xfea", r"a\.csv: not UTF-16 text"),
        (b"", "an empty table"),
        (b"\n\n", "an empty table"),
        (b"id;txt\n1;a\n", "no column 'text'; there is id, txt; where the first line"),
        (b"text;id;id\na;1;2\n", "a.csv:1: the heading 'id' stands over the columns 2 and 3"),
        (b'text;id\na;1\nb;"2\n', "a.csv:3: not valid CSV"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_read_is_told_in_one_line(content, words):
    with pytest.raises(UserError, match=words) as caught:
        read(content, "text")
    assert "\n" not in str(caught.value)
