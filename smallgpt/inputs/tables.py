"""Tables of text, CSV and TSV: their delimiter, quotes and columns are found, rows keep their line.

table = Table.of("new.csv", content, ["text", "label"])
table.delimiter, table.names                  # ";", ["id", "text", "label"]
for line, cells, problem in table.rows(): ...
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from smallgpt.console import plural
from smallgpt.errors import UserError
from smallgpt.files.reading import shown
from smallgpt.inputs.encoding import decoded, has_mark

DELIMITERS = ",;\t|"
_SAMPLE = 2**16  # letters by which the delimiter is found
# A field between tabs with its end, of a table whose writer puts quotes around some fields.
_TAB_FIELD = re.compile(r'("(?:[^"]|"")*"|[^"\t\r\n]*)(\t|\r\n|\r|\n|\Z)')


class MissingColumnError(UserError):
    """A table lacks a column that is to be read."""


@dataclass(frozen=True)
class Table:
    """A table in memory.

    Attributes:
        source: names it in messages.
        delimiter: what stands between its columns, one of DELIMITERS.
        quoted: whether fields may stand in quotes; else quotes are text.
        headings: the cells of the first line as they are written; [] where columns are counted.
        names: a distinct name of each column: its heading without whitespace around it, `column 3`
            for one without a heading; `1`, `2`, ... where columns are counted.
        marked: whether it began with a byte order mark.
        line_end: "\\n" or "\\r\\n".
    """

    source: str
    text: str
    delimiter: str
    quoted: bool
    headings: list[str]
    names: list[str]
    marked: bool
    line_end: str

    @classmethod
    def of(cls, source: str, content: bytes, columns: Sequence[str], remedy: str = "") -> Table:
        """Find the form of a table, in which `columns` are to be read.

        If all of these are numbers, columns are counted from 1 and the first line is a row.
        `remedy` is what the message says of a column that is not there.

        Raises:
            UserError: not UTF-8, no line at all, a column that is not there, or two of one name.
        """
        text = decoded(content, source)
        counted = bool(columns) and all(column.isdecimal() for column in columns)
        tabs = Path(source).suffix.lower() == ".tsv"
        delimiter = _find_delimiter(text, columns, counted, "\t" if tabs else ",")
        quoted = delimiter != "\t" or _quotes_enclose_fields(text)
        line, headings = next(_records(source, text, delimiter, quoted), (1, []))
        if not headings:
            raise UserError(f"{source}: an empty table")
        if counted:
            names, headings = _numbers(headings), []
        else:
            names = _distinct(f"{source}:{line}", headings)
        check_columns(source, columns, names, counted, remedy)
        first_line = text[: text.find("\n") + 1]
        line_end = "\r\n" if first_line.endswith("\r\n") else "\n"
        marked = has_mark(content)
        return cls(source, text, delimiter, quoted, headings, names, marked, line_end)

    def rows(self) -> Iterator[tuple[int, list[str], str | None]]:
        """The line where each row begins, a cell for each column, and why it cannot be used.

        Blank lines are skipped. Of a row with more cells than columns those left over stand in the
        reason; in one with fewer the others are empty.

        Raises:
            UserError: a quote that is not closed, or text after one.
        """
        records = _records(self.source, self.text, self.delimiter, self.quoted)
        width = len(self.names)
        if self.headings:
            next(records)
        for line, cells in records:
            problem = None
            if len(cells) != width:
                problem = f"{plural(len(cells), 'column')} where the first line has {width}"
                if len(cells) > width:
                    problem += f"; left over: {', '.join(map(shown, cells[width : width + 5]))}"
                cells = cells[:width] + [""] * (width - len(cells))
            yield line, cells, problem


def check_columns(
    source: str,
    columns: Sequence[str],
    names: Sequence[str],
    counted: bool = True,
    remedy: str = "",
) -> None:
    """Refuse a column that is not among the names, which the `MissingColumnError` lists."""
    missing = [column for column in columns if column not in names]
    if missing:
        there = ", ".join(shown(name)[1:-1] for name in names[:10]) or "none"
        there += f" and {len(names) - 10:,} more" if len(names) > 10 else ""
        if not counted:
            remedy += "; where the first line is no heading, count columns: 1, 2, ..."
        raise MissingColumnError(
            f"{source}: no column {shown(missing[0])}; there is {there}{remedy}"
        )


def _records(
    source: str, text: str, delimiter: str, quoted: bool
) -> Iterator[tuple[int, list[str]]]:
    """The line where each record begins, and its cells; without blank lines."""
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        strict=quoted,
    )
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise UserError(f"{source}:{line}: not valid CSV: {error}") from None
        if cells is None:
            return
        if cells:
            yield line, cells


def _numbers(cells: Sequence[str]) -> list[str]:
    return [str(number) for number in range(1, len(cells) + 1)]


def _distinct(place: str, headings: Sequence[str]) -> list[str]:
    """A name for each heading; two of one name are refused."""
    names = [heading.strip() or f"column {number}" for number, heading in enumerate(headings, 1)]
    for name in names:
        if names.count(name) > 1:
            numbers = [str(number) for number, other in enumerate(names, 1) if other == name]
            raise UserError(
                f"{place}: the heading {shown(name)} stands over the columns "
                f"{' and '.join(numbers)}: rename all but one"
            )
    return names


# ------------------------------------------------------------------------------- finding the form


def _find_delimiter(text: str, columns: Sequence[str], counted: bool, standard: str) -> str:
    """The delimiter by which a table has the columns asked for and rows of one length."""
    if len(text) > _SAMPLE:  # whole lines of it
        text = text[: text.rfind("\n", 0, _SAMPLE) + 1] or text[:_SAMPLE]

    def fit(delimiter: str) -> tuple:
        rows: list[list[str]] = []
        with suppress(UserError):  # a quote that ends after the sample, or is told when it is read
            for _, cells in _records("", text, delimiter, delimiter != "\t"):
                rows.append(cells)
        if not rows:
            return (False,)
        first = rows[0]
        names = _numbers(first) if counted else [cell.strip() for cell in first]
        alike = sum(len(cells) == len(first) for cells in rows) / len(rows)
        return (
            all(column in names for column in columns),
            len(first) > 1,
            alike,
            delimiter == standard,
            len(first),
        )

    return max(DELIMITERS, key=fit)


def _quotes_enclose_fields(text: str) -> bool:
    """Whether quotes in a table of tabs enclose fields, as spreadsheets write them, or are text.

    They enclose where all of them could, and either the whole heading stands in quotes, one is
    doubled in its field, or only so do all rows have the same number of columns.
    """
    if '"' not in text:
        return False
    end, doubled, width = 0, False, 0
    headings: list[str] = []
    widths: set[int] = set()
    while end < len(text):
        match = _TAB_FIELD.match(text, end)
        if match is None:
            return False
        field, end = match[1], match.end()
        doubled |= '""' in field[1:-1] and not set("\t\r\n") & set(field)
        if not widths:
            headings.append(field)
        width += 1
        if match[2] != "\t":
            if width > 1 or field:  # no blank line
                widths.add(width)
            width = 0
    if doubled or all(field.startswith('"') for field in headings):
        return True
    plain_widths = {line.count("\t") + 1 for line in text.splitlines() if line}
    return len(widths) == 1 and len(plain_widths) > 1
