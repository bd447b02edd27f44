"""What a person at the terminal sees; real processes where the stream itself counts."""

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from command_program import ROOT, run, start
from hypothesis import given
from hypothesis import strategies as st

from smallgpt.console import (
    can_show_blocks,
    command_hint,
    format_duration,
    format_table,
    json_text,
    plural,
    print_error,
    printable,
    printable_lines,
    progress_bar,
    say,
    share_bar,
    shorten,
    text_width,
)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_nothing_that_is_told_ends_the_work():
    body = (
        "for number in range(3):\n    say(f'line {number}')\n"
        "with progress_bar('rows', 1, 'row') as bar:\n    bar.update()\n"
        "print('a note', file=sys.stderr)\nreturn 7"
    )
    told = (
        "warning: standard output: No space left on device; the work goes on, and says no more "
        "there"
    )
    with open("/dev/full", "w") as full:
        assert run(body, stdout=full) == (7, None, f"{told}\na note\n")
        assert run(body, stderr=full) == (7, "line 0\nline 1\nline 2\n", None)
        assert run(body, stdout=full, stderr=full) == (7, None, None)
        assert run("raise UserError('x')", stdout=full, stderr=full) == (1, None, None)


def test_terminal_that_goes_away_ends_no_work(tmp_path):
    body = (
        "with progress_bar('rows', 3, 'row') as bar:\n"
        "    for number in range(3):\n"
        "        bar.update()\n        bar.refresh()\n        say('line')\n"
        "        sys.stdin.readline()\n"
        "print_error('gone')\nopen(argv[0], 'w').write('done')"
    )
    ours, theirs = pty.openpty()
    process = start(body, str(tmp_path / "result"), stdin=subprocess.PIPE, stdout=theirs,
                    stderr=theirs)  # fmt: skip
    os.close(theirs)
    shown = b""
    while b"line" not in shown:
        shown += os.read(ours, 4096)
    os.close(ours)
    process.communicate("\n\n\n", timeout=60)
    assert process.returncode == 0
    assert (tmp_path / "result").read_text() == "done"


@pytest.mark.parametrize("how", ["full", "closed", "left"])
def test_failing_output_is_told_once_and_left_alone(how, monkeypatch, capsys):
    read_end, write_end = os.pipe()
    os.close(read_end)
    if how == "left":
        stream = open(write_end, "w")  # noqa: SIM115
    else:
        os.close(write_end)
        stream = open("/dev/full", "w")  # noqa: SIM115
        if how == "closed":
            stream.close()
    monkeypatch.setattr(sys, "stdout", stream)
    lines = [*say("one"), *say("two")]
    assert sys.stdout is stream  # it is the caller's
    assert len(lines) == (0 if how == "left" else 1)
    assert capsys.readouterr().err.splitlines() == lines
    with contextlib.suppress(OSError):
        stream.close()


def test_what_the_encoding_lacks_is_told_in_escapes(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert say("训练 █") == []
    assert stream.buffer.getvalue() == b"\\u8bad\\u7ec3 \\u2588\n"


def test_telling_works_without_any_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert say("one") == []
    print_error("two")
    with progress_bar("rows", 1, "row") as bar:
        bar.update()


def test_progress_bar_is_silent_where_standard_error_is_no_terminal():
    body = "with progress_bar('rows', 10, 'row') as bar:\n    time.sleep(0.6)\n    bar.update(10)"
    assert run(body) == (0, "", "")


@pytest.mark.parametrize("columns", [0, 100])
def test_progress_bar_shows_rate_and_time_left_on_a_terminal_of_any_width(columns):
    body = (
        "with progress_bar('rows', 10, 'row') as bar:\n"
        "    for _ in range(10):\n        time.sleep(0.12)\n        bar.update()"
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    with start(body, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # its end, on Linux
            while part := os.read(ours, 4096):
                shown += part
    os.close(ours)
    assert process.returncode == 0
    lines = [line for line in shown.decode().split("\r") if "rows" in line]
    assert lines and all(len(line) <= (columns or 80) for line in lines)
    assert any("row/s" in line and "<00:0" in line for line in lines)


def test_each_line_of_a_mistake_is_marked(capsys):
    print_error("first\nsecond")
    print_error("")
    assert capsys.readouterr().err == "error: first\nerror: second\nerror: \n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.44, "0.4 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (42, "42 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (60, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.6, "1 h 00 min"),
        (7620, "2 h 07 min"),
        (360_000, "100 h 00 min"),
    ],
)
def test_durations_as_a_person_says_them(seconds, text):
    assert format_duration(seconds) == text


def test_plural():
    assert [plural(1, "row"), plural(0, "row"), plural(1437, "row")] == [
        "1 row",
        "0 rows",
        "1,437 rows",
    ]
    assert plural(2, "body", "bodies") == "2 bodies"


def test_a_command_to_type_survives_the_shell():
    folder = Path("my run's $HOME")
    hint = command_hint("train_gpt.py", "--resume", "--output_dir", folder)
    assert hint.startswith("python train_gpt.py --resume --output_dir ")
    typed = subprocess.run(
        ["sh", "-c", hint.replace("python train_gpt.py", "printf '%s\\n'")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert typed.stdout.splitlines() == ["--resume", "--output_dir", str(folder)]


def test_no_module_builds_a_command_to_type_by_itself():
    command = re.compile(r"python [a-z_]+\.py[^`\n]*\{")
    found = [path.name for path in ROOT.glob("*.py") if command.search(path.read_text())]
    assert found == []


def test_table_aligns_its_columns():
    table = format_table(["label", "rows"], [["7", "1,000"], ["cat", "9"]])
    assert table == "label   rows\n7      1,000\ncat        9"
    assert format_table(["a", "b"], []) == "a  b"


def test_share_bar_fills_by_its_share():
    assert share_bar(0.5, 4, blocks=True) == "██░░"
    assert [share_bar(share, 3, blocks=False) for share in (0, 0.3, 1)] == ["...", "#..", "###"]


def test_blocks_are_shown_where_the_encoding_has_them():
    assert can_show_blocks(io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    assert not can_show_blocks(io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert not can_show_blocks(io.StringIO())


def test_table_aligns_the_columns_named():
    assert format_table(["a", "b"], [["1", "22"], ["333", "4"]], left=(1,)) == (
        "  a  b\n  1  22\n333  4"
    )


RED, OVERRIDE = "\x1b[31m", "\u202e"


ODD = "\u200b\u200d\u0301\u2028\u202a\u202e\u2066\u2069\u3000\ufeff\ud800\udfff\ue000好ｶ😀"


ODD_TEXTS = st.text(st.sampled_from([*map(chr, range(0x180)), *ODD]))


@given(ODD_TEXTS)
def test_printable_is_one_line_without_anything_unseen(text):
    assert printable(text).isprintable()
    if text.isprintable():
        assert printable(text) == text


@given(ODD_TEXTS)
def test_nothing_that_a_terminal_obeys_is_left_in_text_of_many_lines(text):
    shown = printable_lines(text)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)
    shown.encode()
    harmless = "".join(letter for letter in text if letter == printable_lines(letter))
    assert printable_lines(harmless) == harmless


def test_text_of_many_lines_keeps_its_lines_tabs_and_spaces():
    text = "Zwei\tSpalten\n\n房间\u3000很好\xa0!\n"
    assert printable_lines(text) == text
    assert printable_lines(f"{RED}red\r{OVERRIDE}") == r"\x1b[31mred\r\u202e"


@given(ODD_TEXTS)
def test_json_for_a_terminal_stands_for_the_same_value(text):
    shown = json_text({"text": text})
    assert json.loads(shown) == {"text": text}
    assert printable_lines(shown) == shown and "\n" not in shown


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_json_whatever_standard_output_can_show(encoding, monkeypatch):
    value, written = {"text": "\xe9 \u597d \U0001f600"}, io.BytesIO()
    stream = io.TextIOWrapper(written, encoding, errors="backslashreplace")
    monkeypatch.setattr(sys, "stdout", stream)
    print(json_text(value), flush=True)
    assert json.loads(written.getvalue()) == value


def test_columns_of_wide_and_of_unseen_characters_align():
    assert [text_width(text) for text in ("abc", "好房间", "e\u0301", "ｶ")] == [3, 6, 1, 1]
    table = format_table(["label", "rows"], [["好房间", "1"], [f"{RED}x", "22"], ["e\u0301", "3"]])
    assert table.splitlines() == [
        "label      rows",
        "好房间        1",
        r"\x1b[31mx    22",
        "e\u0301             3",
    ]


def test_long_name_keeps_both_ends_whatever_its_letters():
    assert shorten("a" * 44, 44) == "a" * 44
    assert shorten("ab" * 30, 10) == "ababa...babab"
    assert shorten("好房" * 30, 10, "…") == "好房…好房"


def test_mistake_and_log_never_reach_the_terminal_raw(capsys):
    print_error(f"{RED}: no such file\nand{OVERRIDE}")
    say(f"kept:\n{RED}")
    told = capsys.readouterr()
    assert told.err == "error: \\x1b[31m: no such file\nerror: and\\u202e\n"
    assert told.out == "kept:\n\\x1b[31m\n"
