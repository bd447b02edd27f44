"""Questions that a label answers: the shares of the options that a question offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smallgpt.console import plural
from smallgpt.serving.errors import ApiError
from smallgpt.serving.service import Service

_MOST_NAMED = 10


@dataclass(frozen=True)
class Choice:
    """An option with its share among those that were offered.

    Attributes:
        confidence: 0 where it is a guess, 1 where it is certain: (N p - 1) / (N - 1).
        shares: of all options, in the order of the question.
    """

    option: str
    confidence: float
    shares: dict[str, float]


def check_question(service: Service, kind: Any, options: Sequence[str], where: str) -> None:
    """Refuse a question that the labels of the model do not answer.

    Raises:
        ApiError
    """
    if kind != "choice":
        text = f"{where}: this model answers questions of the type choice only, by its labels"
        raise ApiError(422, text, where)
    labels = service.served.trained.label_names
    known = set(labels)
    unknown = [option for option in options if option not in known]
    if unknown:
        told = ", ".join(labels[:_MOST_NAMED])
        more = f" and {len(labels) - _MOST_NAMED} more" if len(labels) > _MOST_NAMED else ""
        named = ", ".join(map(repr, unknown[:_MOST_NAMED]))
        text = f"{where}: {named}: not among the labels of this model, which are {told}{more}"
        raise ApiError(422, text, where)
    if len(set(options)) < len(options) or not options:
        raise ApiError(422, f"{where}: give one option or more, each once", where)


def choose(told: Mapping[str, Any], options: Sequence[str], where: str) -> Choice:
    """The likeliest option by what was said of a row.

    Raises:
        ApiError: the share of an option is not known.
    """
    shares: Mapping[str, float] = told["probabilities"]
    missing = [option for option in options if option not in shares]
    if missing:
        text = (
            f"{where}: of many labels only the {plural(len(shares), 'likeliest label')} of a row "
            f"have shares, and {missing[0]!r} is not among them"
        )
        raise ApiError(422, text, where)
    total = sum(shares[option] for option in options)
    count = len(options)
    among = {option: shares[option] / total if total else 1 / count for option in options}
    best = max(among, key=lambda option: among[option])
    confidence = 1.0 if count == 1 else max(0.0, (count * among[best] - 1) / (count - 1))
    return Choice(best, confidence, among)
