"""What several test files share: tiny vocabularies, writers of JSONL and .npz files."""

import asyncio
import ctypes
import fcntl
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

# Once for all modules: a process has one browser.
from web_pages import browser  # noqa: F401  (a fixture)

from smallgpt.tokens.text_tokenizer import TextTokenizer
from smallgpt.tokens.vocabulary import Vocabulary

# Tiny models are faster on one thread, and never wait for a busy core; for subprocesses too.
os.environ["OMP_NUM_THREADS"] = "1"
# A shell starts what stands before `&` with Ctrl-C ignored, `nohup` ignores the end of the
# terminal, and processes of ours inherit both.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Repeatable, and with no limit on the time of an example: machines are busy at times.
hypothesis.settings.register_profile(
    "repeatable", derandomize=True, database=None, deadline=None, max_examples=100
)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def no_event_loop_of_a_browser(request) -> Iterator[None]:
    """Tests without the browser can run an event loop of their own.

    Playwright's lasts as long as the browser, and counts as running all the time.
    """
    running = None if "browser" in request.fixturenames else asyncio._get_running_loop()
    if running is not None:
        asyncio._set_running_loop(None)
    yield
    if running is not None:
        asyncio._set_running_loop(running)


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    """The six special tokens, four of a body, three labels."""
    special = ["<PAD>", "<UNK>", "<IMG>", "</IMG>", "<CLS>", "<EOS>"]
    return Vocabulary([*special, "A", "B", "C", "D", "<CLS_0>", "<CLS_1>", "<CLS_cat>"])


@pytest.fixture
def write_rows(tmp_path):
    """A function that writes objects (or lines as bytes) into a JSONL file."""

    def write(*rows: dict | bytes, name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        path.write_bytes(b"".join(line + b"\n" for line in lines))
        return path

    return write


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """A function: the folder `name` that `make(folder)` fills, once for all processes of a run."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # the folders of the workers lie side by side

    def folder_of(name: str, make: Callable[[Path], None]) -> Path:
        folder = root / name
        with open(root / f"{name}.made", "a") as made:
            fcntl.flock(made, fcntl.LOCK_EX)
            if not os.path.getsize(made.name):
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed to make it
                folder.mkdir()
                make(folder)
                made.write("made\n")
        return folder

    return folder_of


@pytest.fixture(scope="session")
def bars(made_once) -> Path:
    """Rows of small images of two classes, and in `BEST_MODEL` a model that has learned them."""
    from trained_models import train_bars

    return made_once("bars", train_bars)


@pytest.fixture
def unpainted(monkeypatch) -> None:
    """Charts are built and written with nothing painted on them, which takes longer than a run."""
    monkeypatch.setattr("matplotlib.figure.Figure.draw", lambda figure, renderer: None)


@pytest.fixture(scope="session")
def text_vocabulary() -> Vocabulary:
    """Characters of English and Chinese texts, and two labels."""
    texts = [
        "The quick brown fox jumps over the lazy dog. 0123456789",
        "你好 世界,房间很好\n###:IRS",
    ]
    special = ["<PAD>", "<UNK>", "<CLS>", "<EOS>"]
    tokenizer = TextTokenizer.learn_characters(texts, special)
    tokenizer = tokenizer.with_special(["<CLS_bad>", "<CLS_good>"])
    return Vocabulary(tokenizer.tokens, tokenizer)


@pytest.fixture
def npz(tmp_path):
    """A function that writes images, by default 120 of the digits, into an .npz file."""
    import numpy as np
    from prepared_files import SMALL, SMALL_LABELS

    def write(images=SMALL, labels=SMALL_LABELS, name: str = "images.npz") -> Path:
        path = tmp_path / name
        np.savez(path, images=images, **({} if labels is None else {"labels": labels}))
        return path

    return write


@pytest.fixture(scope="session")
def digits_world(tmp_path_factory) -> Path:
    """A folder with prepared digits and a tiny model that knows some of them; to be read only."""
    from digits_world import make_digits_world

    return make_digits_world(tmp_path_factory.mktemp("digits_world"))


@pytest.fixture(autouse=True)
def torch_alone(request, monkeypatch) -> None:
    """Auto is torch, so that no test depends on graphs that another one left beside a model."""
    if "with_graphs" not in request.fixturenames:
        from smallgpt.engines import trained

        monkeypatch.setattr(trained, "_may_use_graphs", lambda folder: False)


class SignalStack(ctypes.Structure):
    """`stack_t` of Linux."""

    _fields_ = (("base", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@pytest.fixture(autouse=True)
def signals_on_the_stack_of_the_program() -> None:
    """Let signals be handled on the usual stack.

    A library that the tests of exports load leaves an alternate stack behind whose memory is gone:
    a test that sends a signal to its own process would end it.
    """
    if sys.platform == "linux":
        disabled = SignalStack(None, 2, 0)  # SS_DISABLE
        ctypes.CDLL(None).sigaltstack(ctypes.byref(disabled), None)
