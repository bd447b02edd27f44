"""Blocks of the documents that show output: which are renewed, and what of them stays."""

import pytest
from renew_docs import OutputBlock, output_blocks, renewed


def renew(shown: str, printed: str | dict[str, str], mark: str | None = "output: it") -> str:
    block = OutputBlock(mark, shown, 0, len(shown))
    return renewed(
        block, lambda world, command: printed if isinstance(printed, str) else printed[command]
    )


def test_a_block_is_found_with_its_mark_and_without_a_language():
    text = "<!-- output: ls -->\n```\na\n```\n\n```bash\nls\n```\n\n```\n$ ls\na\n```\n"
    first, second = output_blocks(text)
    assert (first.mark, first.content) == ("output: ls", "a\n")
    assert (second.mark, second.content) == (None, "$ ls\na\n")
    assert text[second.start : second.end] == second.content


@pytest.mark.parametrize(
    ("mark", "content", "marked"),
    [
        (None, "a\n", False),
        (None, "$ ls\na\n", True),
        ("output: ls", "a\n", True),
        ("output in log", "a\n", False),
        ("output in log", "$ ls\na\n", True),
        ("output in log: ls", "a\n", True),
        ("not renewed: by hand", "a\n", True),
        ("not renewed", "$ ls\na\n", False),
    ],
)
def test_a_block_says_how_it_is_renewed_or_why_it_is_not(mark, content, marked):
    assert OutputBlock(mark, content, 0, 0).is_marked == marked


def test_each_command_of_a_block_is_followed_by_what_it_prints():
    shown = "$ ls \\\n    -l\nold\n$ cat x\nold\nlonger\n"
    printed = {"ls \\\n    -l": "new\n", "cat x": "1\n2\n\n"}
    assert renew(shown, printed, None) == "$ ls \\\n    -l\nnew\n$ cat x\n1\n2\n"


def test_a_command_of_the_mark_is_run_in_place_of_the_one_that_is_shown():
    shown, printed = "$ ls \\\n    -l\nold\n", {"tail log": "1\n"}
    assert renew(shown, printed, "output: tail log") == "$ ls \\\n    -l\n1\n"


def test_a_block_that_is_not_renewed_stays():
    assert renew("old\n", "new\n", "not renewed: by hand") == "old\n"


@pytest.mark.parametrize(
    ("shown", "told"),
    [
        ("rows: 3\nb: 1\n...\n", "rows: 4\nnew\nb: 2\n...\n"),
        ("rows: 3\nlong\n...\n", "rows: 4\nnew\nb: 2\nlong\n...\n"),
        ("...\nc: 3\nend\n", "...\nc: 4\nend\n"),
        ("rows: 3\n...\nc: 3\n   ...\n", "rows: 4\n...\nc: 4\n   ...\n"),
    ],
)
def test_lines_that_a_block_leaves_out_stay_left_out(shown, told):
    assert renew(shown, "rows: 4\nnew\nb: 2\nlong\nc: 4\nend\n") == told


def test_as_many_lines_stay_where_they_are_all_alike():
    shown = "row 1 1\nrow 5 5\n...\n3 rows\n"
    assert renew(shown, "row 5 4\nrow 2 3\nrow 6 6\n4 rows\n") == (
        "row 5 4\nrow 2 3\n...\n4 rows\n"
    )


def test_a_line_that_is_cut_stays_cut():
    assert renew("abc def  ...\n", "abc xyz uvw\nab\n") == "abc xyz  ...\nab\n"


def test_what_depends_on_the_machine_stays_as_it_was_shown():
    shown = "loss 2.5   9.1 s  *\nloss 2.4  2 min 05 s\ndone in 2 min 05 s\ndevice: cpu\n"
    printed = "loss 2.5    14 s  *\nloss 2.3       31 s\ndone in 31 s\ndevice: cuda\n"
    assert renew(shown, printed) == shown.replace("2.4", "2.3")
