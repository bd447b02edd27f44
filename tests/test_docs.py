"""Documents name only what is there: files, headings, sections of the README."""

import importlib
import re
from pathlib import Path

import pytest
from house_tree import PAGE, house_tree, with_tree
from renew_docs import output_blocks
from test_architecture import HOUSE

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
# Others that a user reads, and that name files.
NOTES = sorted(path for kind in ("*.txt", "*.yaml", "*.sh", "*.toml") for path in ROOT.glob(kind))
CHINESE = [ROOT / "README.zh-CN.md", *sorted(ROOT.glob("docs/zh/*.md"))]
_LINK = re.compile(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"")


def headings(page: Path) -> list[str]:
    """The headings of a page, code blocks left out."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return re.findall(r"^#+ +(.+?)\s*$", text, flags=re.M)


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading: lower case, spaces as hyphens, no punctuation."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_are_there(page):
    dead = []
    for match in _LINK.finditer(page.read_text(encoding="utf-8")):
        target = match[1] or match[2]
        if re.match(r"\w+://", target):
            continue
        name, _, fragment = target.partition("#")
        place = (page.parent / name) if name else page
        if not place.exists() or (fragment and fragment not in map(anchor, headings(place))):
            dead.append(target)
    assert not dead


def python_files() -> set[str]:
    """Every Python file of the tree, from its root."""
    found = {path for path in ROOT.glob("*.py")}
    found |= {path for room in ("smallgpt", "tests") for path in ROOT.glob(f"{room}/**/*.py")}
    return {path.relative_to(ROOT).as_posix() for path in found}


@pytest.mark.parametrize("page", PAGES + NOTES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_files_that_a_page_names_are_there(page):
    text, there = page.read_text(encoding="utf-8"), python_files()
    named = set(re.findall(r"(?<![\w./])(?:\.\./)*((?:\w+/)*\w+\.py)\b", text))
    named -= set(re.findall(r"^# (\w+\.py)$", text, flags=re.M))  # a program that the page holds
    absent = {name for name in named if not any(f"/{path}".endswith(f"/{name}") for path in there)}
    assert not absent


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_to_a_python_file_has_its_name(page):
    links = re.findall(r"\[([\w/]+\.py)\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    assert [pair for pair in links if Path(pair[0]).name != Path(pair[1]).name] == []


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_a_readme_is_short_enough_for_a_newcomer(name):
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= 250


def test_sections_of_the_readme_that_other_files_name_are_there():
    named = {
        (path.name, section)
        for pattern in ("*.txt", "*.py", "*.yaml", "*.sh")
        for path in ROOT.glob(pattern)
        for section in re.findall(r'README\.md \("([^"]+)"\)', path.read_text(encoding="utf-8"))
    }
    assert named
    assert not {pair for pair in named if pair[1] not in headings(ROOT / "README.md")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_that_a_page_imports_from_the_scripts_are_there(page):
    imports = re.findall(r"^from (\w+) import (.+)$", page.read_text("utf-8"), flags=re.M)
    ours = {path.stem for path in ROOT.glob("*.py")}
    for module, names in imports:
        if module in ours:
            found = importlib.import_module(module)
            assert [name for name in names.split(", ") if not hasattr(found, name)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_block_of_output_says_how_it_is_renewed(page):
    """See renew_docs.py; other blocks name their language."""
    text = page.read_text(encoding="utf-8")
    assert [block.content for block in output_blocks(text) if not block.is_marked] == []
    opened = re.findall(r"^ *```.*", text, flags=re.M)[::2]
    languages = ("```", "```bash", "```json", "```python", "```yaml")
    assert [fence for fence in opened if fence not in languages] == []
    assert opened.count("```") == len(output_blocks(text))


def test_the_tree_of_the_architecture_page_is_that_of_the_package():
    page = PAGE.read_text(encoding="utf-8")
    is_current = page == with_tree(page, house_tree([room for rooms in HOUSE for room in rooms]))
    assert is_current, "run python tests/house_tree.py --write"


@pytest.mark.parametrize("page", CHINESE, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_chinese_page_names_the_same_flags_as_its_twin(page):
    twin = ROOT / "README.md" if page.parent == ROOT else ROOT / "docs" / page.name
    ours, theirs = (
        set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text.read_text("utf-8"), flags=re.ASCII))
        for text in (page, twin)
    )
    assert ours
    assert sorted(ours ^ theirs) == []
