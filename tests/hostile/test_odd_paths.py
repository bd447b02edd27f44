"""Paths to anything but a plain file, and files above their limit, are refused."""

import os
import tracemalloc
from functools import partial
from pathlib import Path

import pytest
from hostile.models import READERS as MODEL_READERS
from hostile.options import VOCABULARY

from smallgpt.engines.trained import load_trained_model
from smallgpt.errors import UserError
from smallgpt.files.reading import open_input, read_bytes
from smallgpt.inputs.image_formats import read_images
from smallgpt.options.reader import load_settings
from smallgpt.options.training import TrainSettings
from smallgpt.rows.reading import read_dataset
from smallgpt.tokens.codebook import Codebook
from smallgpt.tokens.vocabulary import Vocabulary

MODEL_READER = next(reader for reader in MODEL_READERS if reader.name == "model: config.json")


def odd_paths(folder: Path) -> list[Path]:
    """Paths that exist but are no plain files."""
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    (folder / "dangling").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")
    return [
        *(folder / name for name in ("pipe", "folder", "dangling", "loop", "x" * 300)),
        Path("/dev/zero"),
        folder / "pipe" / "below",
    ]


def test_only_plain_files_are_opened(tmp_path):
    for path in odd_paths(tmp_path):
        with pytest.raises(UserError) as caught, open_input(path):
            pass
        assert str(path) in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_link_to_a_plain_file_is_followed(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_bytes(tmp_path / "link", 7) == b"content"


def test_file_larger_than_the_limit_is_refused_with_the_limit(tmp_path):
    (tmp_path / "file").write_bytes(bytes(2049))
    with pytest.raises(UserError, match="file: larger than 2 KiB"):
        read_bytes(tmp_path / "file", 2048)
    assert len(read_bytes(tmp_path / "file", 2049)) == 2049


def test_a_small_file_takes_little_memory_whatever_the_limit(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    tracemalloc.start()
    try:
        assert read_bytes(tmp_path / "file", 2**32) == b"content"
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_a_file_that_does_not_tell_its_size_is_read_whole():
    assert os.path.getsize("/proc/self/status") == 0
    assert read_bytes("/proc/self/status", 2**20).count(b"\n") > 10
    with pytest.raises(UserError, match="larger than 9 bytes"):
        read_bytes("/proc/self/status", 9)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_that_may_not_be_read_is_told(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "file").chmod(0)
    with pytest.raises(UserError, match="file: Permission denied"):
        read_bytes(tmp_path / "file", 10)


def test_failing_disk_is_told_with_the_file():
    with pytest.raises(UserError, match=r"/proc/self/mem: Input/output error"):
        read_bytes("/proc/self/mem", 10)


READINGS = {
    "rows": lambda path: read_dataset(path, VOCABULARY, max_length=8),
    "vocabulary": Vocabulary.load,
    "settings": partial(load_settings, TrainSettings),
    "images": lambda path: read_images(path) and pytest.fail("read"),
    "codebook": Codebook.load,
}


@pytest.mark.parametrize("reading", READINGS)
def test_no_reader_hangs_at_what_is_no_plain_file(reading, tmp_path):
    for path in odd_paths(tmp_path):
        with pytest.raises(UserError) as caught:
            READINGS[reading](path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "vocab.json", "settings.yaml"]
)
@pytest.mark.parametrize("kind", ["pipe", "folder", "dangling", "loop"])
def test_model_folder_with_something_else_for_a_file_is_refused(name, kind, tmp_path):
    MODEL_READER.prepare(tmp_path)
    (tmp_path / "config.json").write_bytes(MODEL_READER.sound())
    (tmp_path / "odd").mkdir()
    odd_paths(tmp_path / "odd")
    (tmp_path / name).unlink()
    (tmp_path / "odd" / kind).rename(tmp_path / name)
    with pytest.raises(UserError, match=name):
        load_trained_model(tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "folder", "dangling", "loop"])
def test_picture_that_is_no_plain_file_is_named(kind, tmp_path):
    (tmp_path / "odd").mkdir()
    odd_paths(tmp_path / "odd")
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "odd" / kind).rename(tmp_path / "images" / "a" / "1.png")
    with pytest.raises(UserError) as caught:
        read_images(tmp_path / "images")
    assert str(tmp_path / "images") in str(caught.value)
