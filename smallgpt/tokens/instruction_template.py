"""The prompt template of instructions, the same in training and inference.

    instruction_prompt("Translate into French.", "Good morning.")

The template of Stanford Alpaca (Taori et al., 2023) without its preamble, which a small model
would read again in every row and learn nothing from.
"""

from __future__ import annotations


def instruction_prompt(instruction: str, given: str = "") -> str:
    """The prompt of an instruction; `given` is its input, which may be empty."""
    parts = [f"### Instruction:\n{instruction.strip()}\n\n"]
    if given.strip():
        parts.append(f"### Input:\n{given.strip()}\n\n")
    return "".join([*parts, "### Response:\n"])
