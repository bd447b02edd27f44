"""Charts: names of the user's in fonts that may lack their letters."""

import os
import subprocess
import sys

from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

# As where a user installs a font after the first picture: matplotlib knows its fonts already.
PROGRAM = """
import shutil, sys
from smallgpt.charts import drawable
shutil.copy(*sys.argv[1:])
print(ascii([drawable("好 \U00013000"), drawable("\U00013001 \x1b")]))
"""


def make_font(path, letters):
    """A font of the name that a Chinese one has, with empty letters."""
    font = FontBuilder(1000)
    font.setupGlyphOrder([".notdef", *(f"u{ord(letter):x}" for letter in letters)])
    font.setupCharacterMap({ord(letter): f"u{ord(letter):x}" for letter in letters})
    names = font.font.getGlyphOrder()
    font.setupGlyf({name: TTGlyphPen(None).glyph() for name in names})
    font.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    font.setupHorizontalHeader()
    font.setupNameTable({"familyName": "Noto Sans SC", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(path)


def test_letters_of_a_new_font_are_drawn_and_those_of_no_font_written_out(tmp_path):
    make_font(tmp_path / "new.ttf", "好")
    (tmp_path / "fonts").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "new.ttf", tmp_path / "fonts"],
        env={**os.environ, "XDG_DATA_HOME": str(tmp_path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == ascii(["好 \\U00013000", "\\U00013001 \\x1b"])
    assert done.stderr.count("fonts-noto-cjk") == 1
