"""Damaged files are read or refused with a clear error; ../fuzz.py tries more of them."""

import time

import pytest
from hostile.damage import hostile_content
from hostile.reader import Reader
from hostile.readers import READERS
from hypothesis import Phase, given, note, settings
from hypothesis import strategies as st


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_sound_file_is_read(reader: Reader, tmp_path):
    reader.prepare(tmp_path)
    assert reader.try_content(tmp_path, reader.sound())


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_sound_file_does_not_hang_on_the_hour(reader: Reader, monkeypatch):
    # hypothesis wants the same damage from the same random numbers.
    content = reader.sound()
    later = time.time() + 100_000
    monkeypatch.setattr(time, "time", lambda: later)
    assert reader.sound() == content


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.long)])
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_damaged_file_is_read_or_refused_in_words(reader: Reader, tmp_path_factory, times):
    folder = tmp_path_factory.mktemp("hostile")
    reader.prepare(folder)

    # No shrinking: it takes minutes for such inputs, and the failing one is printed whole.
    @settings(max_examples=times * (4 if reader.slow else 40), phases=[Phase.generate])
    @given(st.randoms(use_true_random=False))
    def check(random):
        content = hostile_content(reader, random)
        note(repr(content))
        reader.try_content(folder, content)

    check()
