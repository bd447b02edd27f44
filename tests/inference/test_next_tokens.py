"""The likeliest next tokens, and the interactive prompt."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from trained_models import BEST_MODEL, body_of

from inference import (
    next_tokens,
)
from smallgpt.errors import UserError

ROOT = Path(__file__).parents[2]


def test_next_tokens_are_those_of_plain_transformers(trained, bars):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    prompt = "<IMG> <Z_003> <Z_003>"
    model = AutoModelForCausalLM.from_pretrained(bars / BEST_MODEL).eval()
    tokenizer = AutoTokenizer.from_pretrained(bars / BEST_MODEL)
    with torch.no_grad():
        logits = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1]
    expected = logits.softmax(-1).topk(5)
    found = next_tokens(trained, prompt)
    assert [token for token, _ in found] == tokenizer.convert_ids_to_tokens(expected.indices)
    assert [share for _, share in found] == pytest.approx(expected.values.tolist(), abs=1e-6)


def test_the_next_token_costs_one_row_of_logits_however_long_the_prompt(trained):
    places = []
    hook = trained.model.lm_head.register_forward_hook(
        lambda module, inputs, output: places.append(inputs[0].shape[1])
    )
    try:
        next_tokens(trained, body_of(0))
    finally:
        hook.remove()
    assert max(places, default=1) == 1


def test_unknown_token_is_named_with_the_nearest(trained):
    with pytest.raises(UserError, match=r"'<Z_03>' \(did you mean <Z_0"):
        next_tokens(trained, "<IMG> <Z_03>")


def test_prompt_beyond_the_trained_length_is_refused(trained):
    with pytest.raises(UserError, match="shorten it"):
        next_tokens(trained, "<Z_000> " * 33)


def test_no_next_tokens_is_no_count(untrained):
    with pytest.raises(UserError, match="count: 0 is out of range"):
        next_tokens(untrained["tokens"], "A", count=0)


def test_interactive_reads_answers_and_leaves_at_quit(run):
    done = run("--json", stdin="<IMG>\nnonsense\n\n<IMG> <Z_003>\nquit\n<IMG>\n")
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [a.get("prompt") for a in answers] == ["<IMG>", None, "<IMG> <Z_003>"]
    assert "nonsense" in answers[1]["error"]
    shares = [entry["probability"] for entry in answers[0]["next_tokens"]]
    assert len(shares) == 5 and shares == sorted(shares, reverse=True)


def test_interactive_leaves_at_the_end_of_input(run):
    assert run().returncode == 0


def test_closed_input_ends_the_interactive_prompt(bars):
    line = f"{sys.executable} inference.py --model_path {bars / BEST_MODEL} <&-"
    assert subprocess.run(["bash", "-c", line], cwd=ROOT, check=False).returncode == 0


def test_prompt_flag_answers_once(run):
    done = run("--prompt", "<IMG>")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 6
