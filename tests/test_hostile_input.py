"""Files that nobody should trust: each reader reads them or refuses them in words.

tests/hostile_files.py makes the files; tests/fuzz.py tries more of them.
"""

import json
import os
import struct
import subprocess
import sys
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hostile_files import READERS, SMALL, VOCABULARY, Reader, hostile_content
from hypothesis import Phase, given, note, settings
from hypothesis import strategies as st

from smallgpt.errors import SettingsError, UserError
from smallgpt.files.reading import MOST_JSON_LEVELS, open_input, parse_json, read_bytes, shown
from smallgpt.model.build import build_model
from smallgpt.model.folder import load_trained_model, save_model_folder
from smallgpt.options.reader import load_settings
from smallgpt.options.training import TrainSettings
from smallgpt.preparation.image_files import read_images
from smallgpt.rows.lines import MOST_LINE_BYTES
from smallgpt.rows.reading import read_dataset
from smallgpt.tokens.codebook import Codebook
from smallgpt.tokens.vocabulary import Vocabulary

ROOT = Path(__file__).parent.parent
MODEL_READER = next(reader for reader in READERS if reader.name == "model: config.json")


# ------------------------------------------------------------------------------- any damage


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_sound_file_is_read(reader: Reader, tmp_path):
    reader.prepare(tmp_path)
    assert reader.try_content(tmp_path, reader.sound())


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


# ------------------------------------------------------------------------------- no plain file


def odd_paths(folder: Path) -> list[Path]:
    """Things that are no plain file but have a name."""
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


# ------------------------------------------------------------------------------- JSON, messages


def test_json_is_read_to_the_named_depth_and_no_deeper():
    deep = "[" * MOST_JSON_LEVELS + "]" * MOST_JSON_LEVELS
    assert parse_json(deep) == json.loads(deep)
    for text in (f"[{deep}]", '{"a":' * 65 + "1" + "}" * 65, "[" * 10**6):
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_json(text)
    # Many brackets are not deep.
    assert len(parse_json("[" + "[]," * 1000 + '"[[["]')) == 1001


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_value_in_a_message_is_one_short_printable_line(value):
    for text in (shown(value), shown(json.dumps(value) * 100), shown(10**5000)):
        assert len(text) <= 800 and text.isprintable()


def test_line_longer_than_the_limit_is_a_bad_row_and_the_next_is_read(tmp_path):
    path = tmp_path / "rows.jsonl"
    row = b'{"tokens": "<IMG> <Z_001>", "x": "%s"}\n'
    spaces = MOST_LINE_BYTES - len(row % b"")
    for longer in (0, 1, 3 * MOST_LINE_BYTES):
        path.write_bytes(row % (b" " * (spaces + longer)) + row % b"next")
        rows = read_dataset(path, VOCABULARY, max_length=8, on_bad_row="keep")
        assert rows.lines_N.tolist() == ([1, 2] if not longer else [2])
        assert [bad.line for bad in rows.bad_rows] == ([1] if longer else [])
        assert all("longer than 16 MiB" in bad.reason for bad in rows.bad_rows)


def test_of_endless_bad_rows_only_the_told_ones_are_kept(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"1\n" * 5000)
    with pytest.raises(UserError) as caught:
        read_dataset(path, VOCABULARY, max_length=8)
    told = str(caught.value).splitlines()
    assert len(told) == 22 and told[20] == "... and 4,980 more bad rows"
    monkeypatch.setattr("smallgpt.rows.reading.MOST_BAD_ROWS", 1000)
    with pytest.raises(UserError, match=r"rows\.jsonl:1001: .*\n.*more than 1,000 bad rows"):
        read_dataset(path, VOCABULARY, max_length=8, on_bad_row="keep")


# ------------------------------------------------------------------------------- settings


def config_mistakes(text: str, tmp_path) -> list[str]:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings(TrainSettings, path)
    assert all(len(line) < 400 for line in caught.value.mistakes)
    return caught.value.mistakes


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("seed: " + "[" * 50_000, "nested too deeply"),
        ("- " * 30_000, "nested too deeply"),
        ("\n".join(" " * depth + "a:" for depth in range(200)), "nested too deeply"),
        ("# x\n" * 50_000, "larger than 64 KiB"),
        ("n_layer: 0x" + "f" * 60_000, "out of range"),
        ("num_epochs: 1" + ":1" * 5_000, "too large a number"),
        ("batch_size: 1" + "0" * 30, "too large a number"),
        ("n_layer: 1000000000", "out of range"),
        ('data_path: "a\\0b"', "without NUL"),
        ('output_dir: "\\ud800"', "settings.yaml"),
        ("".join(f"k{number}: 1\n" for number in range(4000)), "unknown option"),
    ],
    ids=range(11),
)
def test_hostile_settings_are_told_in_few_short_lines(text, reason, tmp_path):
    mistakes = config_mistakes(text, tmp_path)
    assert reason in mistakes[0] and len(mistakes) <= 21


def test_path_that_is_no_unicode_is_refused_before_anything_is_written(tmp_path):
    done = subprocess.run(
        [sys.executable, "prepare_data.py", "digits", "--output_dir",
         os.fsencode(tmp_path) + b"/\xff"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "not valid Unicode" in done.stderr
    assert not list(tmp_path.iterdir())


def test_loop_of_links_as_input_and_output_is_told(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "rows.jsonl").write_text('{"tokens": "a b"}\n' * 9)
    for argv in (
        ["--input", tmp_path / "loop", "--output_dir", tmp_path / "out"],
        ["--input", tmp_path / "rows.jsonl", "--output_dir", tmp_path / "loop"],
    ):
        done = subprocess.run(
            [sys.executable, "prepare_data.py", "tokens", *argv],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr


# ------------------------------------------------------------------------------- models


@pytest.fixture
def model_folder(tmp_path) -> Path:
    folder = tmp_path / "model"
    save_model_folder(build_model(SMALL, VOCABULARY), folder, VOCABULARY, SMALL, None)
    return folder


def change_config(folder: Path, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    "values",
    [
        {"n_layer": 10**9},
        {"n_layer": 1000},
        {"n_embd": 65_536},
        {"n_inner": 10**9},
        {"vocab_size": 2**30},
        {"n_positions": 10**6},
        {"n_head": 0},
        {"n_head": 3},
        {"n_embd": True},
        {"activation_function": "os.system"},
        {"layer_norm_epsilon": "x"},
        {"attn_pdrop": 7},
        {"model_type": "llama"},
        {"eos_token_id": 50256},
    ],
    ids=str,
)
def test_configuration_beyond_reason_is_refused_before_it_is_built(model_folder, values):
    change_config(model_folder, **values)
    with pytest.raises(UserError, match=r"config\.json") as caught:
        load_trained_model(model_folder)
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize(
    "values",
    [
        {"attn_implementation": "someone/kernels"},
        {"_attn_implementation": "someone/kernels"},
        {"auto_map": {"AutoModelForCausalLM": "someone/repo--module.Class"}},
        {"quantization_config": {"quant_method": "bitsandbytes"}},
        {"add_cross_attention": True},
        {"num_labels": 10**12},
        {"forward": "x", "__class__": "x", "to_dict": 1},
    ],
    ids=str,
)
def test_keys_that_name_code_or_other_models_have_no_effect(model_folder, values):
    before = load_trained_model(model_folder, "cpu", "fp32").model.state_dict()
    change_config(model_folder, **values)
    trained = load_trained_model(model_folder, "cpu", "fp32")
    assert trained.model.config._attn_implementation in ("eager", "sdpa")
    assert not any(hasattr(trained.model.config, name) for name in ("auto_map", "forward"))
    for name, tensor in trained.model.state_dict().items():
        assert np.array_equal(tensor.numpy(), before[name].numpy())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(model_folder, value):
    from safetensors.numpy import load_file, save_file

    weights = load_file(model_folder / "model.safetensors")
    weights["transformer.ln_f.bias"][3] = value
    save_file(weights, model_folder / "model.safetensors")
    with pytest.raises(UserError, match=r"ln_f\.bias holds numbers that are not finite"):
        load_trained_model(model_folder)


def test_weights_that_overflow_are_told_by_each_way_to_use_them(model_folder):
    from safetensors.numpy import load_file, save_file

    from smallgpt.inference.classify import classify
    from smallgpt.inference.generate import generate
    from smallgpt.inference.next_tokens import next_tokens

    weights = load_file(model_folder / "model.safetensors")
    save_file({name: np.full_like(values, 3e38) for name, values in weights.items()},
              model_folder / "model.safetensors")  # fmt: skip
    trained = load_trained_model(model_folder, "cpu", "fp32")
    for use in (next_tokens, classify, generate):
        with pytest.raises(UserError, match="finite"):
            use(trained, "<IMG> <Z_001>")


def test_header_that_lies_about_its_length_is_refused(model_folder):
    path = model_folder / "model.safetensors"
    for length in (2**63, 2**40, 2**24, path.stat().st_size + 1):
        path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
        with pytest.raises(UserError, match=r"model\.safetensors: damaged .*its header would have"):
            load_trained_model(model_folder)


def test_model_larger_than_the_machine_is_refused_before_it_is_built():
    huge = TrainSettings(n_layer=1000, n_embd=65_536, n_head=1)
    with pytest.raises(UserError, match="lower --n_layer"):
        build_model(huge, VOCABULARY)


# ------------------------------------------------------------------------------- images


def test_sizes_beside_a_zero_are_refused(tmp_path):
    path = tmp_path / "images.idx"
    path.write_bytes(b"\0\0\x08\x03" + struct.pack(">3I", 0, 2**32 - 1, 2**32 - 1))
    with pytest.raises(UserError, match=r"images\.idx: no images or labels in it"):
        read_images(path)


def test_letters_that_are_no_unicode_are_refused(tmp_path):
    labels = np.array(["a", "b"]).view("<u4").copy()
    labels[1] = 2**31
    np.savez(
        tmp_path / "images.npz", images=np.zeros((2, 4, 4), np.uint8), labels=labels.view("U1")
    )
    with pytest.raises(UserError, match="no Unicode"):
        read_images(tmp_path / "images.npz")


def test_codebook_of_equal_patches_has_finite_embeddings():
    for count in (1, 5):
        codebook = Codebook(np.ones((count, 4), np.float32), 2, 4, 4, 1, 0.0, 1.0)
        assert np.isfinite(codebook.embeddings(6, seed=0)).all()


# ------------------------------------------------------------------------------- bombs

BOMBS = """
import gzip, json, os, resource, struct, sys, zipfile, zlib
from pathlib import Path

sys.path[:0] = [{root!r}, {tests!r}]
import numpy as np
import torch, transformers, PIL.Image
from transformers import GPT2Config, GPT2LMHeadModel
from smallgpt.errors import UserError
from smallgpt.rows.reading import read_dataset
from hostile_files import READERS, VOCABULARY
from smallgpt.preparation.image_files import read_images
from smallgpt.tokens.codebook import Codebook
from smallgpt.model.folder import load_trained_model
from smallgpt.tokens.vocabulary import Vocabulary

folder = Path({folder!r})


def sparse(name, size, head=b""):
    with open(folder / name, "wb") as handle:
        handle.write(head)
        handle.truncate(size)
    return folder / name


def lines(name, part, times, end=b""):
    with open(folder / name, "wb") as handle:
        for _ in range(times):
            handle.write(part * 1000)
        handle.write(end)
    return folder / name


def npy(kind, shape, content=b""):
    head = repr(dict(descr=kind, fortran_order=False, shape=shape)).encode()
    head += b" " * (-(len(head) + 11) % 64) + b"\\n"
    return b"\\x93NUMPY\\x01\\0" + struct.pack("<H", len(head)) + head + content


def npz(name, **members):
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for member, content in members.items():
            archive.writestr(member + ".npy", content)
    return folder / name


def gzip_bomb(name, head):
    with gzip.open(folder / name, "wb", compresslevel=1) as handle:
        handle.write(head)
        for _ in range(200):
            handle.write(bytes(2**20))
    return folder / name


def png(name, width, height):
    def chunk(kind, data):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_bytes(
        b"\\x89PNG\\r\\n\\x1a\\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
    )
    return folder / name.split("/")[0]


def model(name, file, content=None, size=None):
    reader = next(r for r in READERS if r.name == "model: config.json")
    (folder / name).mkdir()
    reader.prepare(folder / name)
    (folder / name / "config.json").write_bytes(reader.sound())
    if size:
        os.truncate(folder / name / file, size)
    else:
        config = json.loads((folder / name / file).read_bytes())
        (folder / name / file).write_text(json.dumps(dict(config, **content)))
    return folder / name


def rows(path):
    read_dataset(path, VOCABULARY, max_length=8)


idx = b"\\0\\0\\x08\\x03"
tries = [
    (rows, lines("words.jsonl", b"<Z_001> ", 12_500)),
    (rows, lines("lists.jsonl", b"[],", 33_000)),
    (rows, lines("deep.jsonl", b"[", 100_000)),
    (rows, sparse("nul.jsonl", 10**8)),
    (rows, lines("dicts.jsonl", b'{{"":0}},', 2_300, b"0]\\n")),
    (Vocabulary.load, sparse("vocab.json", 10**11, b"{{")),
    (partial(load_settings, TrainSettings), sparse("settings.yaml", 10**11)),
    (read_images, gzip_bomb("a.gz", idx + struct.pack(">3I", 10**6, 10, 10))),
    (read_images, sparse("b.idx", 10**10, idx + struct.pack(">3I", 2**31, 2, 2))),
    (read_images, sparse("c.idx", 2**31 + 16, idx + struct.pack(">3I", 2**31, 1, 1))),
    (read_images, npz("a.npz", images=npy("<f8", (10**9, 9, 1)))),
    (read_images, npz("b.npz", images=npy("|u1", (20, 1, 1), bytes(20)),
                      labels=npy("<U0", (10**12,)))),
    (read_images, npz("c.npz", images=npy("|V0", (10**15, 9, 1)))),
    (read_images, sparse("d.npz", 10**11, b"PK\\3\\4")),
    (read_images, png("pictures/a/1.png", 60_000, 60_000)),
    (read_images, png("large/a/1.png", 9_000, 9_000)),
    (Codebook.load, npz("codebook.npz", centers=npy("<f4", (1,), bytes(300 * 2**20)))),
    (load_trained_model, model("m1", "config.json", dict(n_layer=10**9))),
    (load_trained_model, model("m2", "config.json", dict(n_embd=65536, n_head=1))),
    (load_trained_model, model("m3", "config.json", size=10**11)),
    (load_trained_model, model("m4", "model.safetensors", size=10**12)),
    (load_trained_model, model("m5", "vocab.json", size=10**11)),
    (load_trained_model, model("m6", "settings.yaml", size=10**11)),
]
in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + {bound}, in_use + {bound}))
for read, path in tries:
    try:
        read(path)
    except UserError as error:
        assert str(path) in str(error) and len(str(error)) < 1000, (path, error)
    else:
        raise AssertionError(f"{{path}} was read")
    print(path.name)
"""


def test_bombs_are_refused_within_bounded_memory(tmp_path):
    """Small files that would become large, in a process that may take 1 GiB more."""
    program = BOMBS.format(
        root=str(ROOT), tests=str(ROOT / "tests"), folder=str(tmp_path), bound=2**30
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"after {done.stdout.split()}: {done.stderr[-2000:]}"
    assert len(done.stdout.split()) == 23


# ------------------------------------------------------------------------------- commands


def test_prompts_from_a_pipe_may_be_any_bytes(model_folder):
    asked = [b"\xff\xfe", b"\0", b"<IMG>", b"x" * 3_000_000, b"<Z_001> <Z_002>", b"\xed\xa0\x80"]
    done = subprocess.run(
        [sys.executable, "inference.py", "--json", "--model_path", str(model_folder)],
        cwd=ROOT, input=b"\n".join(asked), capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert ["error" in answer for answer in answers] == [True, True, False, True, False, True]
    assert "longer than 1 MiB" in answers[3]["error"]
