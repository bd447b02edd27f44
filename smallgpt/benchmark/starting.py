"""How soon a command answers."""

from __future__ import annotations

import time
from collections.abc import Callable

from smallgpt.benchmark.bench import COMMANDS, Bench, Measure, saved_model
from smallgpt.benchmark.reading import child
from smallgpt.benchmark.report import Comparison, Entry, Findings

# ------------------------------------------------------------------------------- starting

# What no command can do without: torch, transformers' GPT-2, the weights, one forward pass.
BARE_PROGRAM = """
import sys
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel
with torch.device("meta"):
    model = GPT2LMHeadModel(GPT2Config.from_json_file(sys.argv[1] + "/config.json"))
weights = load_file(sys.argv[1] + "/model.safetensors")
weights["lm_head.weight"] = weights["transformer.wte.weight"]
model.load_state_dict(weights, assign=True)
model.to(sys.argv[2]).eval()
with torch.inference_mode():
    print(model(torch.tensor([[2, 7]], device=sys.argv[2])).logits[0, -1].argmax().item())
"""


def measure_starting(bench: Bench) -> Findings:
    """Seconds from a cold start: to the help text, and to the first answer."""
    findings, folder = Findings(), saved_model(bench).folder.resolve()

    def seconds(*arguments: str) -> Callable[[], float]:
        def measure() -> float:
            began = time.perf_counter()
            child(list(arguments))
            return time.perf_counter() - began

        return measure

    def compare(title: str, contenders: dict[str, Measure], race: bool) -> list[Entry]:
        entries = bench.take_turns(title.lower(), contenders, rounds=bench.sizes.starts)
        findings.add(Comparison(title, "s", list(entries.values()), race))
        return list(entries.values())

    helps = {f"{name} --help": seconds(name, "--help") for name in COMMANDS}
    for entry in compare("Start to the help text", helps, race=False):
        findings.reach(entry.name, entry.median)
    device = bench.device.type
    answer = ["--model_path", str(folder), "--device", device, "--prompt", "<IMG> <Z_001>"]
    starts = {
        "inference.py --prompt": seconds("inference.py", *answer),
        "bare process": seconds("-c", BARE_PROGRAM, str(folder), device),
    }
    prompt, bare = compare("Start to the answer of a prompt", starts, race=True)
    findings.reach("inference.py --prompt, time of a bare process", prompt.median / bare.median)
    return findings
