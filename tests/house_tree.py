"""The tree of docs/architecture.md: every room and file with the first sentence of its docstring.

python tests/house_tree.py     # prints it, to be put into the page
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent


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


if __name__ == "__main__":
    from test_architecture import HOUSE

    print(house_tree([room for rooms in HOUSE for room in rooms]))
