"""The plan of a run as text: its updates, and where they were planned anew.

A plan is a list of [step, total]: after `step` updates the run was planned to have `total`. The
first one is made at step 0; others follow with --max_minutes.
"""

from __future__ import annotations


def read_plan(text: str) -> list[list[int]]:
    """The plans in a text such as `1200` or `1200 1100@300`, the second made after 300 updates.

    Raises:
        ValueError: it is no such text.
    """
    plan = []
    for number, word in enumerate(text.split()):
        total, at, made = word.partition("@")
        if bool(at) != bool(number):
            raise ValueError
        plan.append([int(made) if at else 0, int(total)])
    if not plan or not is_plan(plan) or plan[0][1] < 1:
        raise ValueError
    return plan


def plan_text(plan: list[list[int]]) -> str:
    """The text of plans that `read_plan` reads."""
    return " ".join(f"{total}@{made}" if made else f"{total}" for made, total in plan)


def is_plan(value: object) -> bool:
    """Whether it is a list of [step, total], empty or the first of them made at step 0."""
    if not isinstance(value, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(type(n) is int for n in pair)
        for pair in value
    ):
        return False
    made = [step for step, _ in value]
    return made == sorted(set(made)) and made[:1] in ([], [0]) and all(s <= t for s, t in value)
