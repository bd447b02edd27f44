"""Any words on the command line, and any arguments from Python, are answered or refused."""

import contextlib
import dataclasses
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_settings import plain_settings
from trained_models import BEST_MODEL, body_of

from inference import (
    classify,
    classify_file,
    evaluate_file,
    generate,
    load_trained_model,
    main,
    next_tokens,
)
from smallgpt.console import printable_lines
from smallgpt.errors import SettingsError, UserError
from smallgpt.model.build import build_model
from smallgpt.model.folder import save_model_folder
from smallgpt.options.inference import InferenceSettings
from smallgpt.tokens.vocabulary import Vocabulary

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--mode", "evaluate"], "--test_data"),
        (["--mode", "classify"], "--prompt"),
        (["--mode", "generate", "--test_data", "x"], "does not go with"),
        (["--image", "x.png"], "--mode generate"),
        (["--mode", "sing"], "not one of"),
        (["--top_p", "1.5"], "out of range"),
        (["--temperature", "0"], r"out of range \(above 0\); --greedy always takes the likeliest"),
        (["--mode", "generate", "--label", "1", "--greedy"], "drop one"),
        (["--mode", "generate", "--greedy", "--num_return_sequences", "3"], "the same row"),
        (["--mode", "generate", "--greedy", "--temperature", "2"], "does not sample"),
        (["--mode", "generate", "--image", "x.txt"], "must end in .png"),
        (["--overwrite"], "--overwrite needs --test_data, --images or --image"),
    ],
)
def test_contradicting_flags_are_refused(flags, words):
    with pytest.raises(SettingsError, match=words):
        main(flags)


def test_missing_model_is_told_with_the_remedy(tmp_path):
    with pytest.raises(UserError, match=r"train_gpt\.py"):
        main(["--model_path", str(tmp_path / "nothing")])


def test_run_folder_instead_of_its_model_is_told(bars):
    with pytest.raises(UserError, match=r"this is a run; name its model: .*best_model"):
        main(["--model_path", str(bars / "run")])


def test_wrong_model_path_waits_for_no_library(tmp_path):
    program = (
        "import runpy, sys\n"
        f"sys.argv = ['inference.py', '--model_path', {str(tmp_path / 'absent')!r}]\n"
        "try:\n"
        "    runpy.run_path('inference.py', run_name='__main__')\n"
        "except SystemExit as leaving:\n"
        "    print(leaving.code, {'torch', 'numpy', 'transformers'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == "1 set()\n" and "absent: no model there" in done.stderr


def test_foreign_vocabulary_is_refused(bars, tmp_path):
    other = tmp_path / "vocab.json"
    other.write_text('{"<PAD>": 0, "a": 1}')
    with pytest.raises(UserError, match="not the vocabulary"):
        load_trained_model(bars / BEST_MODEL, vocab_path=other)
    load_trained_model(bars / BEST_MODEL, vocab_path=bars / "vocab.json")


FLAGS = [f"--{field.name}" for field in dataclasses.fields(InferenceSettings)]


FLAGS = [flag for flag in FLAGS if flag not in ("--model_path", "--device", "--precision")]


VALUES = st.sampled_from(
    ["", "0", "1", "-1", "2", "nan", "1e-40", "1e30", "none", "true", "<IMG>", "<IMG> <Z_000>",
     "<CLS>", "<CLS_1>", "<CLS> <CLS> <EOS>", "<PAD>", "\ud800", "\0", "x.png", ".", "rows.jsonl",
     "classify", "generate", "evaluate", "interactive", "99999999999999999999"]
) | st.text(max_size=5)  # fmt: skip


@given(
    words=st.lists(st.tuples(st.sampled_from(FLAGS), VALUES), max_size=4, unique_by=lambda w: w[0]),
    typed=st.lists(VALUES.map(lambda text: text.encode(errors="surrogatepass")) | st.binary()),
)
@settings(max_examples=40)
def test_any_words_are_answered_or_refused_in_words(bars, tmp_path_factory, words, typed):
    folder = tmp_path_factory.mktemp("words")
    before = os.getcwd()
    (folder / "rows.jsonl").write_text('{"tokens": "<IMG> <Z_000>"}\n{"tokens": 3}\n')
    argv = ["--model_path", str(bars / BEST_MODEL), "--device", "cpu", "--precision", "fp32"]
    argv += [f"{flag}={value}" for flag, value in words]
    stdin = io.TextIOWrapper(io.BytesIO(b"\n".join(typed)))
    try:
        os.chdir(folder)
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
            patch.setattr(sys, "stdin", stdin)
            assert main(argv) == 0
    except UserError as error:
        assert str(error)
    except SystemExit as left:  # --help
        assert left.code in (0, 2)
    finally:
        os.chdir(before)


# ---- what a terminal would obey -------------------------------------------------------


@pytest.fixture(scope="module")
def odd_model(tmp_path_factory):
    """A model of random weights whose tokens and labels hold what a terminal would obey."""
    folder = tmp_path_factory.mktemp("odd")
    tokens = ["<PAD>", "<UNK>", "<CLS>", "<EOS>", "\x1b[31mA", "\u202eB", "好"]
    vocabulary = Vocabulary([*tokens, "<CLS_\x1b[2J>", "<CLS_好评>"])
    settings = plain_settings(n_layer=1, n_head=2, n_embd=16, n_positions=16, max_length=16)
    model = build_model(settings, vocabulary)
    save_model_folder(model, folder / "model", vocabulary, settings, None)
    return folder / "model"


@pytest.mark.parametrize(
    "flags",
    [
        ["--prompt", "好"],
        ["--mode", "generate", "--prompt", "\x1b[31mA", "--num_return_sequences", "20"],
        ["--mode", "classify", "--prompt", "好"],
        ["--mode", "classify", "--test_data", "rows.jsonl"],
        ["--test_data", "rows.jsonl"],
    ],
)
def test_what_a_terminal_would_obey_is_never_printed(odd_model, flags, capsys, monkeypatch):
    monkeypatch.chdir(odd_model.parent)
    rows = [{"tokens": "好 \u202eB", "label": "\x1b[2J"}, {"tokens": "好", "label": "\x1b[9m"}] * 3
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = ["--model_path", str(odd_model), "--device", "cpu", "--seed", "1", *flags]
    main(argv)
    told = "".join(capsys.readouterr())
    assert told == printable_lines(told) and r"\x1b" in told
    main([*argv, "--json"])
    told = capsys.readouterr().out
    assert told == printable_lines(told)
    values = [json.loads(line) for line in told.splitlines()]
    assert "\x1b" in json.dumps(values, ensure_ascii=False).replace(r"\u001b", "\x1b")


# ---- from Python ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {"temperature": 0},
        {"temperature": float("nan")},
        {"max_new_tokens": 0},
        {"batch_size": 0},
        {"top_k": -1},
        {"top_p": 0},
        {"num_return_sequences": 0},
        {"seed": -1},
        {"label": 1},
    ],
    ids=str,
)
def test_python_refuses_what_the_command_line_refuses_and_names_it(untrained, tmp_path, arguments):
    (name,) = arguments
    given = {"count" if name == "num_return_sequences" else name: arguments[name]}
    (shown,) = given
    with pytest.raises(SettingsError, match=f"^{shown}: "):
        generate(untrained["tokens"], "A", **given)
    if name in ("batch_size", "max_new_tokens"):
        with pytest.raises(SettingsError, match=name):
            evaluate_file(untrained["tokens"], "rows.jsonl", tmp_path, **given)
    if name == "batch_size":
        with pytest.raises(SettingsError, match=name):
            classify_file(untrained["tokens"], "rows.jsonl", tmp_path, **given)


def state_of_the_process() -> list:
    return [
        torch.get_rng_state().tolist(),
        repr(np.random.get_state()),
        random.getstate(),
        [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        threading.active_count(),
        dict(os.environ),
        len(os.listdir("/proc/self/fd")),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        os.getcwd(),
    ]


def test_a_call_leaves_nothing_behind(trained, bars, tmp_path):
    test_file = bars / "test.jsonl"

    def use():
        generate(trained, count=2)
        generate(trained, count=1, label="1")
        next_tokens(trained, "<IMG>")
        classify(trained, body_of(0))
        classify_file(trained, test_file, tmp_path / "told")
        evaluate_file(trained, test_file, tmp_path / "scored")
        load_trained_model(trained.folder, "cpu", "fp32")

    use()  # what is imported or drawn for the first time may stay
    before = state_of_the_process()
    use()
    for was, is_now in zip(before, state_of_the_process(), strict=True):
        assert was == is_now
    assert not trained.model.training
