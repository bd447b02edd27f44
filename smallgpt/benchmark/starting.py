"""Start-up time of the commands."""

from __future__ import annotations

import time
from statistics import median

from smallgpt.benchmark.bench import Bench, Measure, run_python
from smallgpt.benchmark.comparison import Comparison, Entry, Findings
from smallgpt.benchmark.targets import COMMANDS
from smallgpt.engines.engines import can_make_graphs
from smallgpt.engines.runtimes import is_installed

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


def measure_starting(bench: Bench, findings: Findings) -> None:
    """Seconds from a cold start to the help text, and to the first answer."""
    folder, device = str(bench.saved_model().folder.resolve()), bench.device.type

    def seconds(*arguments: str) -> Measure:
        def measure() -> float:
            began = time.perf_counter()
            run_python(*arguments)
            return time.perf_counter() - began

        return measure

    def compare(title: str, contenders: dict[str, Measure], race: bool) -> list[Entry]:
        entries = bench.take_turns(title.lower(), contenders, rounds=bench.sizes.starts)
        findings.add(Comparison(title, "s", list(entries.values()), race))
        return list(entries.values())

    helps = {f"{name} --help": seconds(name, "--help") for name in COMMANDS}
    for entry in compare("Start to the help text", helps, race=False):
        findings.reach(entry.name, entry.median)
    answer = ("--model_path", folder, "--device", device, "--prompt", "<IMG> <Z_001>")
    starts = {
        "inference.py --prompt": seconds("inference.py", *answer, "--engine", "torch"),
        "bare process": seconds("-c", BARE_PROGRAM, folder, device),
    }
    by_graph = device == "cpu" and can_make_graphs() and is_installed("onnx")
    if by_graph:  # the first round makes the graphs
        starts["inference.py --prompt, onnx"] = seconds("inference.py", *answer, "--engine", "onnx")
    prompt, bare, *others = compare("Start to the answer of a prompt", starts, race=True)
    for entry in others:
        findings.reach(entry.name, entry.median)
    findings.reach(
        "inference.py --prompt, time of a bare process", median(prompt.values) / median(bare.values)
    )
