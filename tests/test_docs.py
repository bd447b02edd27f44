"""Documents name only what is there: files, headings, sections of the README."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
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


def test_sections_of_the_readme_that_other_files_name_are_there():
    named = {
        (path.name, section)
        for pattern in ("*.txt", "*.py", "*.yaml", "*.sh")
        for path in ROOT.glob(pattern)
        for section in re.findall(r'README\.md \("([^"]+)"\)', path.read_text(encoding="utf-8"))
    }
    assert named
    assert not {pair for pair in named if pair[1] not in headings(ROOT / "README.md")}
