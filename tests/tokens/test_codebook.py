"""image_tokens: the codebook, coding, decoding, and rows of tokens that a model wrote."""

import zipfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from smallgpt.errors import UserError
from smallgpt.tokens import codebook as image_tokens
from smallgpt.tokens import k_means
from smallgpt.tokens.codebook import Codebook
from smallgpt.tokens.familiarity import Familiarity
from smallgpt.tokens.vocabulary import Vocabulary

DIGITS = load_digits().images.astype(np.uint8)[:600, :, :, None]


def fit(images, patch_size=2, size=50, seed=0, max_images=10_000):
    return Codebook.fit(images, patch_size, size, seed, max_images)


@pytest.fixture(scope="module")
def codebook():
    return fit(DIGITS)


def patches_by_hand(image_HxWxC, size):
    """Patches of an image whose sides the patch divides, cut in plain loops."""
    height, width, _ = image_HxWxC.shape
    return np.array(
        [
            image_HxWxC[y : y + size, x : x + size].ravel()
            for y in range(0, height, size)
            for x in range(0, width, size)
        ],
        dtype=np.float64,
    )


# ------------------------------------------------------------------------------- coding


def test_encode_finds_the_nearest_patch_as_brute_force_does(codebook):
    codes_NxP = codebook.encode(DIGITS[:40])
    for image, codes in zip(DIGITS, codes_NxP, strict=False):
        patches = patches_by_hand(image, 2)
        distances = ((patches[:, None] - codebook.centers_KxD.astype(float)) ** 2).sum(axis=2)
        assert np.array_equal(codes, distances.argmin(axis=1))


def test_encode_does_not_depend_on_the_company_of_an_image(codebook, monkeypatch):
    together = codebook.encode(DIGITS)
    monkeypatch.setattr(k_means, "_CHUNK_VALUES", 64)
    monkeypatch.setattr(image_tokens, "_CHUNK_DISTANCES", 150)
    assert np.array_equal(codebook.encode(DIGITS[:50]), together[:50])


def test_decode_puts_each_patch_in_its_place():
    image = np.arange(24, dtype=np.uint8).reshape(1, 4, 6, 1)
    codebook = fit(image, patch_size=2, size=6)
    codes = codebook.encode(image)
    assert codes.tolist() == [[0, 1, 2, 3, 4, 5]]  # row by row, which is also dark to bright
    assert np.array_equal(codebook.decode(codes), image)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("patch_size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_few_distinct_patches_lose_nothing(patch_size, channels, dtype):
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (4, 5, 7, channels)).astype(dtype)
    codebook = fit(images, patch_size, size=500)
    codes_NxP = codebook.encode(images)
    assert codes_NxP.shape == (4, codebook.patches_per_image)
    assert np.array_equal(codebook.decode(codes_NxP), images)
    assert codebook.error(images, codes_NxP) == 0


def test_grey_levels_missing_among_the_sampled_images_are_kept():
    images = np.zeros((300, 2, 2, 1), np.uint8)
    images[17, 0, 0] = 200
    codebook = fit(images, patch_size=1, size=10, max_images=5)
    assert codebook.centers_KxD.ravel().tolist() == [0, 200]


def test_images_of_one_value_have_one_code():
    codebook = fit(np.zeros((3, 4, 4, 1), np.uint8))
    assert len(codebook) == 1
    assert codebook.low < codebook.high


def test_images_of_another_shape_are_refused(codebook):
    with pytest.raises(ValueError, match="shape"):
        codebook.encode(DIGITS[:, :4])


# ------------------------------------------------------------------------------- fitting


def test_codes_run_from_dark_to_bright(codebook):
    brightness = codebook.centers_KxD.mean(axis=1)
    assert (np.diff(brightness) >= 0).all()
    assert codebook.centers_KxD[0].max() < 1  # the blank patch
    assert (codebook.low, codebook.high) == (0, 16)


def test_more_codes_lose_less():
    errors = []
    for size in (5, 50, 200):
        codebook = fit(DIGITS, size=size)
        assert len(codebook) == size
        errors.append(codebook.error(DIGITS, codebook.encode(DIGITS)))
    assert errors[0] > 1.5 * errors[1] > 1.5**2 * errors[2]


def test_k_means_beats_patches_drawn_at_random(codebook):
    patches = np.concatenate([patches_by_hand(image, 2) for image in DIGITS])
    drawn = np.random.default_rng(0).permutation(np.unique(patches, axis=0))[: len(codebook)]
    random = Codebook(drawn.astype(np.float32), 2, 8, 8, 1, 0, 16, 16)
    error, random_error = (c.error(DIGITS, c.encode(DIGITS)) for c in (codebook, random))
    assert error < 0.8 * random_error


def test_mini_batches_come_close_to_full_k_means(codebook, monkeypatch):
    monkeypatch.setattr(k_means, "_MOST_FULL_WORK", 0)
    other = fit(DIGITS)
    errors = [c.error(DIGITS, c.encode(DIGITS)) for c in (codebook, other)]
    assert len(other) == len(codebook)
    assert errors[1] < 1.1 * errors[0]


@pytest.mark.parametrize("full_work", [0, k_means._MOST_FULL_WORK])
def test_seed_decides_the_codebook(full_work, monkeypatch):
    monkeypatch.setattr(k_means, "_MOST_FULL_WORK", full_work)
    first, again, other = (fit(DIGITS[:200], seed=seed).centers_KxD for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_at_most_max_images_are_looked_at():
    images = np.concatenate([DIGITS[:50], np.full((1, 8, 8, 1), 16, np.uint8)])
    codebooks = [fit(images, max_images=20, seed=seed).centers_KxD for seed in range(3)]
    assert len({codebook.tobytes() for codebook in codebooks}) == 3


# ------------------------------------------------------------------------------- tokens


def test_rows_use_the_vocabulary_s_names(codebook):
    codes = codebook.encode(DIGITS[:1])[0]
    text = codebook.row_text(codes)
    vocabulary = Vocabulary.for_images(len(codebook), ["0"])
    assert vocabulary.encode(text) == [2, *(codes + 6).tolist(), 3]
    assert codebook.codes_from_tokens(text.split()) == codes.tolist()
    image, count = codebook.image_from_tokens([*text.split(), "<CLS>", "<CLS_0>", "<EOS>"])
    assert count == 16
    assert np.array_equal(image, codebook.decode(codes[None])[0])


@pytest.mark.parametrize(
    ("tokens", "codes"),
    [
        ("", []),
        ("<IMG> </IMG>", []),
        ("<Z_003>", [3]),
        ("<IMG> <Z_003> <UNK> <Z_049> <CLS_7> <Z_050> <Z_3> word", [3, 49]),
        ("<IMG> <Z_001> </IMG> <Z_002>", [1]),
        ("<IMG> " + "<Z_004> " * 20, [4] * 20),
    ],
)
def test_rows_that_a_model_wrote_are_drawn_as_far_as_they_go(codebook, tokens, codes):
    assert codebook.codes_from_tokens(tokens.split()) == codes
    image, count = codebook.image_from_tokens(tokens.split())
    assert count == len(codes)
    expected = np.array([(codes + [0] * 16)[:16]])
    assert np.array_equal(image, codebook.decode(expected)[0])


# ------------------------------------------------------------------------------- files


def test_a_saved_codebook_comes_back(codebook, tmp_path):
    codebook.save(tmp_path / "codebook.npz")
    loaded = Codebook.load(tmp_path / "codebook.npz")
    assert np.array_equal(loaded.encode(DIGITS), codebook.encode(DIGITS))
    assert vars(loaded).keys() >= {"height", "width", "channels", "low", "high"}
    assert (loaded.height, loaded.width, loaded.channels) == (8, 8, 1)
    assert (loaded.low, loaded.high) == (codebook.low, codebook.high)


def test_the_file_tells_what_white_was_and_how_much_was_lost(codebook, tmp_path):
    path = tmp_path / "codebook.npz"
    familiarity = Familiarity.measured(0.25, codebook.encode(DIGITS), len(codebook))
    replace(codebook, white=20.0, familiarity=familiarity).save(path)
    loaded = Codebook.load(path)
    assert loaded.white == 20
    for name, value in vars(familiarity).items():
        assert np.array_equal(getattr(loaded.familiarity, name), value)
    codebook.save(path)
    assert Codebook.load(path).familiarity is None


def test_a_file_of_an_earlier_version_has_the_usual_white(codebook, tmp_path):
    path = tmp_path / "codebook.npz"
    for high, white in ((16.0, 16), (200.0, 255), (255.0, 255), (0.98, 1), (100.0, 100)):
        np.savez(path, **{**arrays_of(codebook), "high": high})
        loaded = Codebook.load(path)
        assert (loaded.high, loaded.white, loaded.familiarity) == (high, white, None)
        assert loaded.digest == codebook.digest


def test_the_digest_follows_what_decides_the_codes(codebook):
    other_patches = codebook.centers_KxD.copy()
    other_patches[7, 2] += 1
    assert replace(codebook, high=17.0, white=255.0).digest == codebook.digest
    others = (
        replace(codebook, centers_KxD=other_patches),
        replace(codebook, height=7),
        replace(codebook, width=7),
    )
    assert len({codebook.digest, *(other.digest for other in others)}) == 4


def arrays_of(codebook) -> dict:
    return {
        "centers": codebook.centers_KxD,
        "patch_size": 2,
        "height": 8,
        "width": 8,
        "channels": 1,
        "low": 0.0,
        "high": 16.0,
    }


@pytest.mark.parametrize(
    "change",
    [
        {"height": None},
        {"centers": None},
        {"centers": np.zeros((50, 5), np.float32)},
        {"centers": np.zeros((50, 4))},
        {"centers": np.zeros((0, 4), np.float32)},
        {"centers": np.full((50, 4), np.nan, np.float32)},
        {"centers": np.array([[None] * 4], object)},
        {"patch_size": 0},
        {"patch_size": 2.0},
        {"patch_size": [2, 2]},
        {"height": 10**9},
        {"channels": 2},
        {"low": 16.0},
        {"high": np.inf},
        {"high": "bright"},
        {"white": 0.0},
        {"white": [16.0, 16.0]},
        {"rmse": 0.1, "surprise_K": np.ones(50), "least": 0.0, "most": np.nan},
        {"rmse": 0.1, "surprise_K": np.ones(49), "least": 0.0, "most": 9.0},
        {"rmse": 0.1, "surprise_K": np.ones(50), "least": "low", "most": 9.0},
    ],
)
def test_what_is_no_codebook_is_told_with_its_name(codebook, tmp_path, change):
    path = tmp_path / "codebook.npz"
    arrays = {k: v for k, v in {**arrays_of(codebook), **change}.items() if v is not None}
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=r"codebook\.npz: not a"):
        Codebook.load(path)


def test_a_missing_codebook_is_told(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        Codebook.load(tmp_path / "codebook.npz")


@given(place=st.floats(0, 1), byte=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_codebook_is_read_or_refused_in_words(tmp_path_factory, place, byte, cut):
    path = tmp_path_factory.getbasetemp() / "codebook.npz"
    fit(DIGITS[:1], size=100).save(path)
    content = bytearray(path.read_bytes())
    index = int(place * (len(content) - 1))
    content[index] = byte
    path.write_bytes(content[:index] if cut else content)
    try:
        Codebook.load(path)
    except UserError as error:
        assert str(path) in str(error)


def test_codebook_files_hold_no_time(codebook, tmp_path):
    codebook.save(tmp_path / "codebook.npz")
    with zipfile.ZipFile(tmp_path / "codebook.npz") as archive:
        assert {member.date_time[0] for member in archive.infolist()} == {1980}


def test_embeddings_of_like_patches_are_alike():
    codebook = Codebook(np.linspace(0, 1, 64, dtype=np.float32)[:, None], 1, 2, 2, 1, 0.0, 1.0, 1.0)
    vectors = codebook.embeddings(384, seed=0)
    assert vectors.shape == (64, 384) and vectors.dtype == np.float32
    assert vectors.std() == pytest.approx(1, abs=1e-3)
    assert np.abs(vectors.mean(axis=0)).max() < 1e-6
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = unit[0] @ unit.T
    assert similarity[1] > 0.9 > similarity[12] > similarity[40]


def test_embeddings_follow_from_the_seed():
    codebook = Codebook(np.linspace(0, 1, 8, dtype=np.float32)[:, None], 1, 2, 2, 1, 0.0, 1.0, 1.0)
    one, again, other = (codebook.embeddings(16, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one, again) and not np.array_equal(one, other)


def test_codebook_too_large_to_be_read_again_is_refused_before_it_is_made(monkeypatch):
    monkeypatch.setattr("smallgpt.tokens.codebook._MOST_FILE_BYTES", 2**14 + 2**12)
    images = np.zeros((9, 8, 8, 3), np.uint8)  # 144 patches of 48 bytes
    with pytest.raises(UserError, match=r"144 codes of 2 x 2 .*larger than 20 KiB: lower"):
        Codebook.fit(images, patch_size=2, size=500, seed=0, max_images=9)
    assert len(Codebook.fit(images[:2], patch_size=2, size=500, seed=0, max_images=9)) == 1
