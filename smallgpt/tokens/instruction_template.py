"""Instructions and their answers: the one template that training and inference share.

    instruction_prompt("Translate into French.", "Good morning.")

The form of Stanford Alpaca (Taori et al., 2023) without its preamble, which a small model would
read again in every row and learn nothing from.
"""

from __future__ import annotations


def instruction_prompt(instruction: str, given: str = "") -> str:
    """What the model reads before it answers.

    Args:
        instruction: what is to be done.
        given: what it is to be done with; may be empty.
    """
    parts = [f"### Instruction:\n{instruction.strip()}\n\n"]
    if given.strip():
        parts.append(f"### Input:\n{given.strip()}\n\n")
    return "".join([*parts, "### Response:\n"])
