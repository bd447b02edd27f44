"""Files that would take much memory: refused by a process that may take 1 GiB more.

cd tests && PYTHONPATH=.. python -m hostile.bombs FOLDER        # prints what it refused
"""

import gzip
import json
import os
import resource
import struct
import sys
import zipfile
import zlib
from functools import partial
from pathlib import Path

from hostile.models import READERS
from hostile.options import VOCABULARY

from smallgpt.engines.trained import load_trained_model
from smallgpt.errors import UserError
from smallgpt.inputs.image_formats import read_images
from smallgpt.options.reader import load_settings
from smallgpt.options.training import TrainSettings
from smallgpt.rows.reading import read_dataset
from smallgpt.tokens.codebook import Codebook
from smallgpt.tokens.vocabulary import Vocabulary

MOST_MEMORY = 2**30


def sparse(path, size, head=b""):
    with open(path, "wb") as handle:
        handle.write(head)
        handle.truncate(size)
    return path


def lines(path, part, times, end=b""):
    with open(path, "wb") as handle:
        for _ in range(times):
            handle.write(part * 1000)
        handle.write(end)
    return path


def npy(kind, shape, content=b""):
    head = repr(dict(descr=kind, fortran_order=False, shape=shape)).encode()
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(head)) + head + content


def npz(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for member, content in members.items():
            archive.writestr(member + ".npy", content)
    return path


def gzip_bomb(path, head):
    with gzip.open(path, "wb", compresslevel=1) as handle:
        handle.write(head)
        for _ in range(200):
            handle.write(bytes(2**20))
    return path


def png(path, width, height):
    def chunk(kind, data):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    path.parent.mkdir(parents=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )
    return path.parents[1]


def ppms(folder, width, height, count):
    (folder / "a").mkdir(parents=True)
    for number in range(count):
        head = b"P6 %d %d 255\n" % (width, height)
        sparse(folder / f"a/{number}.ppm", len(head) + width * height * 3, head)
    return folder


def model(folder, file, content=None, size=None):
    reader = next(reader for reader in READERS if reader.name == "model: config.json")
    folder.mkdir()
    reader.prepare(folder)
    (folder / "config.json").write_bytes(reader.sound())
    if size:
        os.truncate(folder / file, size)
    else:
        config = json.loads((folder / file).read_bytes())
        (folder / file).write_text(json.dumps(dict(config, **content)))
    return folder


def rows(path):
    read_dataset(path, VOCABULARY, max_length=8)


def bombs(folder):
    """Pairs of a reader and what it must refuse."""
    idx = b"\0\0\x08\x03"
    return [
        (rows, lines(folder / "words.jsonl", b"<Z_001> ", 12_500)),
        (rows, lines(folder / "lists.jsonl", b"[],", 33_000)),
        (rows, lines(folder / "deep.jsonl", b"[", 100_000)),
        (rows, sparse(folder / "nul.jsonl", 10**8)),
        (rows, lines(folder / "dicts.jsonl", b'{"":0},', 2_300, b"0]\n")),
        (Vocabulary.load, sparse(folder / "vocab.json", 10**11, b"{")),
        (partial(load_settings, TrainSettings), sparse(folder / "settings.yaml", 10**11)),
        (read_images, gzip_bomb(folder / "a.gz", idx + struct.pack(">3I", 10**6, 10, 10))),
        (read_images, sparse(folder / "b.idx", 10**10, idx + struct.pack(">3I", 2**31, 2, 2))),
        (read_images, sparse(folder / "c.idx", 2**31 + 16, idx + struct.pack(">3I", 2**31, 1, 1))),
        (read_images, npz(folder / "a.npz", images=npy("<f8", (10**9, 9, 1)))),
        (
            read_images,
            npz(
                folder / "b.npz",
                images=npy("|u1", (20, 1, 1), bytes(20)),
                labels=npy("<U0", (10**12,)),
            ),
        ),
        (read_images, npz(folder / "c.npz", images=npy("|V0", (10**15, 9, 1)))),
        (read_images, sparse(folder / "d.npz", 10**11, b"PK\3\4")),
        (read_images, png(folder / "pictures/a/1.png", 60_000, 60_000)),
        (read_images, ppms(folder / "large", 9_000, 9_000, 6)),
        (Codebook.load, npz(folder / "codebook.npz", centers=npy("<f4", (1,), bytes(300 * 2**20)))),
        (load_trained_model, model(folder / "m1", "config.json", dict(n_layer=10**9))),
        (load_trained_model, model(folder / "m2", "config.json", dict(n_embd=65536, n_head=1))),
        (load_trained_model, model(folder / "m3", "config.json", size=10**11)),
        (load_trained_model, model(folder / "m4", "model.safetensors", size=10**12)),
        (load_trained_model, model(folder / "m5", "vocab.json", size=10**11)),
        (load_trained_model, model(folder / "m6", "settings.yaml", size=10**11)),
    ]


def comes_of_memory_error(error):
    # Without a check of sizes a library asks for the memory in vain, and a broad `except` makes
    # its MemoryError a refusal like any other; one of several errors leaves its name in the text.
    if MemoryError.__name__ in str(error):
        return True
    while error is not None and not isinstance(error, MemoryError):
        error = error.__cause__ or error.__context__
    return error is not None


def main(folder: Path) -> None:
    found = bombs(folder)
    # What the libraries take does not count.
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MOST_MEMORY, in_use + MOST_MEMORY))
    for read, path in found:
        try:
            read(path)
        except UserError as error:
            assert str(path) in str(error) and len(str(error)) < 1000, (path, error)
            assert not comes_of_memory_error(error), f"{path}: memory ran out"
        else:
            raise AssertionError(f"{path} was read")
        print(path.name)
    print("all of them")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
