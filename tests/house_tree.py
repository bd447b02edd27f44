"""The tree of docs/architecture.md: every room and file with the first sentence of its docstring.

python tests/house_tree.py             # prints it
python tests/house_tree.py --write     # puts it into the page
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "architecture.md"
_MARK = "<!-- output: python tests/house_tree.py -->\n```\n"


def first_sentence(path: Path) -> str:
    """The first paragraph of a module's docstring, in one line."""
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return " ".join(docstring.split("\n\n")[0].split())


def house_tree(rooms: list[str]) -> str:
    """The tree, a line a file.

    Args:
        rooms: names of rooms and of files beside them, in the order of the import rule.
    """
    lines = []
    for room in rooms:
        place = ROOT / "smallgpt" / room
        if place.is_dir():
            lines.append(f"{room + '/':27}{first_sentence(place / '__init__.py')}")
            for path in sorted(place.glob("*.py")):
                if path.stem != "__init__":
                    lines.append(f"  {path.name:25}{first_sentence(path)}")
        else:
            lines.append(f"{room + '.py':27}{first_sentence(place.with_suffix('.py'))}")
    return "\n".join(lines)


def with_tree(page: str, tree: str) -> str:
    """The text of the page with this tree in place of the one it has."""
    before, _, rest = page.partition(_MARK)
    _, fence, after = rest.partition("\n```\n")
    return before + _MARK + tree + fence + after


if __name__ == "__main__":
    from test_architecture import HOUSE

    tree = house_tree([room for rooms in HOUSE for room in rooms])
    if "--write" in sys.argv:
        PAGE.write_text(with_tree(PAGE.read_text("utf-8"), tree), "utf-8")
    else:
        print(tree)
