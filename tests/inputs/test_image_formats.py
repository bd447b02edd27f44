"""Image formats: what is read from IDX, .npz and folders, and how mistakes are told."""

import gzip
import io
import zipfile

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from prepared_files import idx

from smallgpt.errors import UserError
from smallgpt.inputs import idx_images, npz_images, picture_folder
from smallgpt.inputs.image_formats import read_images
from smallgpt.tokens.labels import LabelNames

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 3, 4), dtype=np.uint8)
LABELS = np.array([7, 0, 3, 3, 9], np.uint8)


def write(path, content: bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def picture(mode="RGB", color="red", size=(4, 4), kind="PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, color).save(buffer, kind)
    return buffer.getvalue()


def mistake(*arguments, **options) -> str:
    with pytest.raises(UserError) as info:
        read_images(*arguments, **options)
    text = str(info.value)
    assert 1 <= len(text.splitlines()) <= 5
    return text


# ------------------------------------------------------------------------------- IDX


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gz"])
def test_idx_gives_pixels_and_labels(tmp_path, pack):
    images = write(tmp_path / "images", pack(idx(IMAGES)))
    labels = write(tmp_path / "labels", pack(idx(LABELS)))
    read = read_images(images, labels)
    assert np.array_equal(read.images_NxHxWxC, IMAGES[..., None])
    assert read.labels == ["7", "0", "3", "3", "9"]
    assert read_images(images).labels is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not an IDX file"),
        (b"\0\0", "not an IDX file"),
        (b"\x89PNG\r\n\x1a\n", "not an IDX file"),
        (b"\0\0\x0d\x03" + bytes(12), "type 0x0d"),
        (b"\0\0\x08\x03\0\0", "header is cut off"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "at most 2 GiB"),
        (idx(IMAGES)[:-1], "holds only 59"),
        (idx(IMAGES) + b"x", "holds more"),
        (idx(IMAGES[:0]), "no images"),
        (idx(LABELS), "found labels"),
        (idx(np.zeros((2, 3))), "found 2 dimensions"),
        (idx(np.zeros((1, 2, 2, 2))), "C = 1"),
        (gzip.compress(idx(IMAGES), mtime=0)[:-10], "damaged gzip"),
        (gzip.compress(idx(IMAGES), mtime=0)[:20] + b"\0" * 40, "damaged gzip"),
        (b"\x1f\x8b", "damaged gzip"),
    ],
)
def test_damaged_idx_is_told_with_its_name(tmp_path, content, words):
    path = write(tmp_path / "images", content)
    text = mistake(path)
    assert words in text
    assert str(path) in text


def test_gzip_that_unpacks_beyond_its_header_is_not_unpacked(tmp_path, monkeypatch):
    bomb = gzip.compress(idx(IMAGES) + bytes(50_000_000))
    path = write(tmp_path / "images.gz", bomb)
    monkeypatch.setattr(idx_images, "_CHUNK", 1000)
    taken = []
    plain_read = gzip.GzipFile.read
    monkeypatch.setattr(
        gzip.GzipFile, "read", lambda self, n=-1: taken.append(n) or plain_read(self, n)
    )
    assert "holds more" in mistake(path)
    assert sum(taken) < 200


def test_labels_of_another_count_name_both_files(tmp_path):
    images = write(tmp_path / "images", idx(IMAGES))
    labels = write(tmp_path / "labels", idx(LABELS[:4]))
    text = mistake(images, labels)
    assert str(images) in text
    assert f"{labels} has 4 labels for 5 images" in text
    assert "expected labels" in mistake(images, images)
    assert "no such file" in mistake(images, tmp_path / "nothing")


@example(content=b"PK")
@example(content=b"\x1f\x8b")
@given(
    content=st.one_of(
        st.binary(max_size=60),
        st.binary(max_size=40).map(lambda tail: b"\0\0\x08\x03" + tail),
        st.binary(max_size=40).map(lambda tail: gzip.compress(b"\0\0\x08\x03" + tail)),
        st.binary(max_size=40).map(lambda tail: b"\x1f\x8b\x08" + tail),
        st.tuples(st.integers(0, 75), st.integers(0, 255)).map(
            lambda change: (
                idx(IMAGES)[: change[0]] + bytes([change[1]]) + idx(IMAGES)[change[0] + 1 :]
            )
        ),
    )
)
def test_any_bytes_are_read_or_refused_in_words(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(content)
    try:
        images = read_images(path).images_NxHxWxC
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert images.ndim == 4


# ------------------------------------------------------------------------------- .npz


@pytest.mark.parametrize(
    ("images", "dtype"),
    [
        (IMAGES, np.uint8),
        (IMAGES.astype(np.int64), np.uint8),
        (IMAGES > 99, np.uint8),
        (IMAGES / 255, np.float32),
        (IMAGES.astype(np.int16) * 100, np.float32),
        (np.stack([IMAGES] * 3, axis=-1), np.uint8),
    ],
)
def test_npz_keeps_the_values(tmp_path, images, dtype):
    path = tmp_path / "images.npz"
    np.savez(path, images=images, labels=LABELS.reshape(5, 1))
    read = read_images(path)
    assert read.images_NxHxWxC.dtype == dtype
    expected = images.reshape(5, 3, 4, -1)
    assert np.allclose(read.images_NxHxWxC, expected, rtol=1e-6)
    assert read.labels == ["7", "0", "3", "3", "9"]


def test_npz_labels_may_be_text_and_keep_their_spaces(tmp_path):
    path = tmp_path / "images.npz"
    np.savez(path, images=IMAGES[:2], labels=["big cat", "dog"])
    read = read_images(path)
    assert read.labels == ["big cat", "dog"]


def test_labels_of_training_and_test_images_are_told_apart(tmp_path):
    paths = [tmp_path / name for name in ("train.npz", "test.npz")]
    for path, label in zip(paths, ("big cat", "big_cat"), strict=True):
        np.savez(path, images=IMAGES[:2], labels=["dog", label])
    names = LabelNames()
    read_images(paths[0], names=names)
    words = f"{paths[1]}: label 2: .*'big_cat' would become one with 'big cat' of {paths[0]}: label"
    with pytest.raises(UserError, match=words):
        read_images(paths[1], names=names)


def test_more_classes_than_a_vocabulary_has_room_for_are_told(tmp_path):
    path = tmp_path / "images.npz"
    count = 10_001
    np.savez(path, images=np.zeros((count, 1, 1), np.uint8), labels=np.arange(count))
    assert "'10000' is label number 10,001" in mistake(path)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x_train": IMAGES}, "'x_train'"),
        ({"images": IMAGES[0]}, "shape (3, 4)"),
        ({"images": np.stack([IMAGES] * 4, axis=-1)}, "C = 1"),
        ({"images": IMAGES.astype(complex)}, "complex128"),
        ({"images": IMAGES[:0]}, "no images"),
        ({"images": IMAGES + np.nan}, "finite"),
        ({"images": IMAGES * 1e30}, "finite"),
        ({"images": IMAGES, "labels": LABELS / 2}, "one whole number or text"),
        ({"images": IMAGES, "labels": LABELS[:3]}, "3 labels for 5 images"),
        ({"images": IMAGES[:2], "labels": ["a b", "a_b"]}, "'a_b'"),
        (
            {"images": IMAGES[:2], "labels": ["", "a"]},
            "must be a whole number or a text, got ''",
        ),
        ({"images": IMAGES[:2], "labels": np.array(["a", None], object)}, "not a readable .npz"),
    ],
)
def test_unusable_npz_is_told(tmp_path, arrays, words):
    path = tmp_path / "images.npz"
    np.savez(path, **arrays)
    text = mistake(path)
    assert words in text
    assert str(path) in text


def test_damaged_npz_is_told(tmp_path):
    path = tmp_path / "images.npz"
    np.savez_compressed(path, images=IMAGES)
    whole = path.read_bytes()
    for content in (whole[:-30], whole[:100], whole[:60] + b"\xff" * 20 + whole[80:], b"PK"):
        path.write_bytes(content)
        assert f"{path}: not a readable .npz" in mistake(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", b"\x80\x04nonsense")
    assert f"{path}: " in mistake(path)


def test_npz_larger_than_the_bound_is_not_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "images.npz"
    np.savez_compressed(path, images=np.zeros((100, 100, 100), np.uint8))
    monkeypatch.setattr(npz_images, "MOST_IMAGE_BYTES", 999_999)
    assert "bytes unpacked" in mistake(path)


# ------------------------------------------------------------------------------- folders


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "b" / "2.png", picture("L", 30))
    write(tmp_path / "b" / "1.jpg", picture("L", 20, kind="JPEG"))
    write(tmp_path / "a" / "0.png", picture("L", 10))
    return tmp_path


def test_folder_gives_pictures_by_class_and_name(folder):
    read = read_images(folder)
    assert read.files == ["a/0.png", "b/1.jpg", "b/2.png"]
    assert read.labels == ["a", "b", "b"]
    assert read.images_NxHxWxC.shape == (3, 4, 4, 1)
    assert read.images_NxHxWxC[:, 0, 0, 0].tolist() == [10, 20, 30]
    assert read.notes == []


def test_other_files_are_left_out_and_counted(folder):
    write(folder / "a" / ".hidden.png", b"")
    write(folder / "a" / "notes.txt", b"")
    write(folder / "a" / "deeper" / "1.png", picture())
    write(folder / "README.md", b"")
    write(folder / ".git" / "1.png", b"")
    (folder / "empty").mkdir()
    read = read_images(folder)
    assert read.files == ["a/0.png", "b/1.jpg", "b/2.png"]
    (note,) = read.notes
    for words in (
        "2 files beside the class folders",
        "1 hidden file",
        "1 file of another kind",
        "1 deeper folder",
        "1 class folder without pictures",
    ):
        assert words in note


def test_whitespace_in_a_class_name_becomes_an_underscore_and_is_told(folder):
    (folder / "a").rename(folder / "big cat")
    names = LabelNames()
    read = read_images(folder, names=names)
    assert sorted(set(read.labels)) == ["b", "big cat"]
    assert f"'big cat' of {folder / 'big cat'} is '<CLS_big_cat>'" in names.notes()[0]
    write(folder / "big_cat" / "1.png", picture())
    text = mistake(folder)
    for name in ("big cat", "big_cat"):
        assert f"{name!r}" in text
        assert str(folder / name) in text


def test_a_class_name_of_control_characters_is_told_in_one_line(folder):
    (folder / "a").rename(folder / "a\x1b[31m\nb")
    names = LabelNames()
    read_images(folder, names=names)
    (note,) = names.notes()
    assert f"of {folder}/a\\x1b[31m\\nb is '<CLS_a\\x1b[31m_b>'" in note
    assert note.isprintable()


def test_one_coloured_pixel_makes_all_pictures_rgb(folder):
    write(folder / "a" / "grey_but_rgb.png", picture("RGB", (9, 9, 9)))
    assert read_images(folder).images_NxHxWxC.shape[3] == 1
    colored = Image.new("RGB", (4, 4), (9, 9, 9))
    colored.putpixel((3, 3), (9, 9, 10))
    colored.save(folder / "a" / "coloured.png")
    assert read_images(folder).images_NxHxWxC.shape[3] == 3
    assert read_images(folder, color="grey").images_NxHxWxC.shape[3] == 1


@pytest.mark.parametrize(
    ("mode", "color"), [("RGBA", (255, 0, 0, 0)), ("LA", (0, 0)), ("RGBA", (255, 255, 255, 128))]
)
def test_transparent_parts_are_white(tmp_path, mode, color):
    write(tmp_path / "a" / "1.png", picture(mode, color))
    assert (read_images(tmp_path).images_NxHxWxC == 255).all()


def test_sixteen_bit_grey_is_scaled(tmp_path):
    (tmp_path / "a").mkdir()
    pixels = np.array([[0, 256 * 100], [256 * 200, 65_535]], np.uint16)
    Image.fromarray(pixels).save(tmp_path / "a" / "1.png")
    assert read_images(tmp_path).images_NxHxWxC[0, ..., 0].tolist() == [[0, 100], [200, 255]]


def test_a_rotated_photo_is_read_upright(tmp_path):
    (tmp_path / "a").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (8, 4)).save(tmp_path / "a" / "1.jpg", exif=exif)
    assert read_images(tmp_path).images_NxHxWxC.shape == (1, 8, 4, 1)


def test_different_sizes_name_two_files_and_the_remedy(folder):
    write(folder / "b" / "3.png", picture("L", 1, size=(5, 4)))
    text = mistake(folder)
    assert "a/0.png is 4x4" in text
    assert "b/3.png is 5x4" in text
    assert "--image_size" in text
    read = read_images(folder, image_size=6)
    assert read.images_NxHxWxC.shape == (4, 6, 6, 1)
    line = "4 pictures resized to 6x6 (the first: 0.png, 4x4), 1 of them stretched to this shape"
    assert read.notes[0] == line


def test_unreadable_pictures_are_named(folder):
    for number in range(5):
        write(folder / "b" / f"bad{number}.png", picture()[: 20 + number])
    write(folder / "a" / "text.jpg", b"no picture")
    text = mistake(folder)
    assert "a/text.jpg: not a picture" in text
    assert "3 more pictures" in text


def test_a_picture_cut_off_in_its_pixels_is_named(folder):
    noise = np.random.default_rng(0).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "b" / "3.bmp")
    content = (folder / "b" / "3.bmp").read_bytes()
    write(folder / "b" / "3.bmp", content[:-20])
    assert "b/3.bmp" in mistake(folder)


def test_decompression_bombs_are_refused(folder, monkeypatch):
    for limit in (10, 15):  # Pillow: an error beyond twice the limit, a warning before it
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit if limit == 15 else 5)
        assert "far too many pixels" in mistake(folder)


def test_more_pixels_than_the_bound_are_refused_before_decoding(folder, monkeypatch):
    monkeypatch.setattr(picture_folder, "MOST_IMAGE_BYTES", 47)
    assert "3 pictures of 4x4 take 48 bytes" in mistake(folder)


def test_folder_without_classes_says_what_was_expected(tmp_path):
    assert "one subfolder per class" in mistake(tmp_path)
    write(tmp_path / "notes.txt", b"")
    assert "one subfolder per class" in mistake(tmp_path)


def test_a_folder_without_classes_gives_pictures_without_labels(tmp_path):
    write(tmp_path / "2.png", picture("L", 20))
    write(tmp_path / "1.png", picture("L", 10))
    write(tmp_path / "notes.txt", b"")
    read = read_images(tmp_path)
    assert (read.labels, read.files) == (None, ["1.png", "2.png"])
    assert read.images_NxHxWxC[:, 0, 0, 0].tolist() == [10, 20]
    assert "left out 1 file of another kind" in read.notes[0]


def test_one_picture_is_read_by_itself(tmp_path):
    read = read_images(write(tmp_path / "1.PNG", picture("L", 10)), image_size=2)
    assert (read.labels, read.files) == (None, ["1.PNG"])
    assert (read.images_NxHxWxC == 10).all() and read.images_NxHxWxC.shape == (1, 2, 2, 1)
    assert "a picture" in mistake(tmp_path / "1.PNG", tmp_path / "labels")


def test_unreadable_pictures_are_kept_where_that_is_asked_for(folder):
    write(folder / "a" / "1.png", b"no picture")
    noise = np.random.default_rng(0).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "b" / "0.bmp")  # its header is whole
    write(folder / "b" / "0.bmp", (folder / "b" / "0.bmp").read_bytes()[:-20])
    read = read_images(folder, keep_unreadable=True, color="grey")
    assert read.files == ["a/0.png", "b/1.jpg", "b/2.png"]
    assert read.images_NxHxWxC[:, 0, 0, 0].tolist() == [10, 20, 30]
    assert read.labels == ["a", "b", "b"]
    kept = {place: (each.file, each.label) for place, each in read.unreadable.items()}
    assert kept == {1: ("a/1.png", "a"), 2: ("b/0.bmp", "b")}
    assert "not a picture" in read.unreadable[1].reason
    for name in read.files:
        write(folder / name, b"")
    text = mistake(folder, keep_unreadable=True)
    assert "not one of 5 pictures can be read" in text


def test_pictures_that_are_recoloured_are_told(folder):
    write(folder / "b" / "3.png", picture("RGB", (9, 9, 10)))
    assert read_images(folder, color="grey").notes == ["1 coloured picture read as grey"]
    assert read_images(folder, color="rgb").notes == ["3 grey pictures read as rgb"]


def test_files_are_recoloured_and_told_as_pictures_are(tmp_path):
    path, grey = tmp_path / "images.npz", np.full((4, 3, 3, 3), 9, np.uint8)
    np.savez(path, images=grey)
    assert read_images(path, color="grey").notes == []
    assert read_images(path).images_NxHxWxC.shape[3] == 3
    grey[1, 2, 2] = (255, 0, 0)
    np.savez(path, images=grey)
    read = read_images(path, color="grey")
    assert read.notes == ["1 coloured image read as grey"]
    assert read.images_NxHxWxC[1, 2, 2] == 76 and read.images_NxHxWxC[0, 2, 2] == 9
    write(tmp_path / "idx", idx(IMAGES))
    read = read_images(tmp_path / "idx", color="rgb")
    assert read.notes == [f"{len(IMAGES)} grey images read as rgb"]
    assert (read.images_NxHxWxC == IMAGES[..., None]).all()


def test_options_that_do_not_fit_the_source_are_usage_errors(folder):
    path = write(folder / "images", idx(IMAGES))
    np.savez(folder / "images.npz", images=IMAGES)
    assert "--image_size" in mistake(path, image_size=8)
    assert "subfolders name the classes" in mistake(folder, path)
    assert "own labels" in mistake(folder / "images.npz", path)
    assert "no such file" in mistake(folder / "nowhere")
