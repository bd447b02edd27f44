"""Rules of well-formed rows: which tokens may come next, as masks of the logits.

    rules = image_rules(vocabulary, code_ids, codes=16, max_length=21, end=End.LABEL)
    state = rules.start([prompt])
    logits_BxV = rules.mask(logits_BxV, state)     # -inf for tokens that may not come next
    state = rules.after(state, ids_B)

The row of an image is `<IMG>`, its codes, `</IMG>` and an end. A row of other tokens is a body of
any length and an end. Rows of texts have no rules here. Arrays are NumPy's, or tensors of rules
that were put on a device (`RowRules.on`).

Sizes in names: B rows, V vocabulary, T tokens of a row so far, P phases, K kinds of tokens, M
masks.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from smallgpt.rows.label_tail import LABEL_BEFORE_TAIL, TAIL_LENGTH
from smallgpt.tokens.vocabulary import END_IMG, Vocabulary

if TYPE_CHECKING:
    import torch

_KINDS = ("never", "body", "code", "img", "end_img", "cls", "label", "eos")
_BODY = frozenset({"body", "code", "img", "end_img"})  # of rows that are no images
_AFTER_CLS, _AFTER_LABEL = 1, 2  # phases of such rows; 0: in the body


class End(Enum):
    """How rows end."""

    LABEL = "with a label tail"
    NO_LABEL = "without a label, with <EOS> where it fits"
    EITHER = "one way or the other"
    LABEL_GIVEN = "with a label tail that is appended to what was generated"


class State(NamedTuple):
    """Where rows stand."""

    length_B: Any  # tokens so far
    phase_B: Any

    def of(self, rows: Sequence[int]) -> State:
        """The state of some of the rows, in their order."""
        return State(self.length_B[rows], self.phase_B[rows])


class RowRules:
    """Which kinds of tokens may come next, by the length of a row and its phase."""

    def __init__(
        self,
        kind_of: Sequence[str],
        allowed: Sequence[Sequence[Collection[str]]],
        phase_after: dict[str, int],
    ):
        """Make the masks.

        Args:
            kind_of: the kind of each token, of `_KINDS`.
            allowed: kinds that may follow on so many tokens, in each phase.
            phase_after: phase after a token of a kind, where it is not 0.
        """
        self.max_length, self.of_images = len(allowed), len(allowed[0]) == 1
        numbers: dict[frozenset[str], int] = {}
        number_TxP = [[numbers.setdefault(frozenset(k), len(numbers)) for k in p] for p in allowed]
        kind_V = np.array([_KINDS.index(kind) for kind in kind_of])
        forbidden_MxK = np.array([[kind not in kinds for kind in _KINDS] for kinds in numbers])
        self._phase_V: Any = np.array([phase_after.get(kind, 0) for kind in _KINDS])[kind_V]
        self._number_TxP: Any = np.array(number_TxP)
        self._forbidden_MxV: Any = forbidden_MxK[:, kind_V]

    def on(self, device: torch.device) -> RowRules:
        """The same rules, of tensors on a device."""
        import torch

        placed = copy.copy(self)
        for name in ("_phase_V", "_number_TxP", "_forbidden_MxV"):
            setattr(placed, name, torch.from_numpy(getattr(self, name)).to(device))
        return placed

    def start(self, prompts: Sequence[Sequence[int]]) -> State:
        """The state of rows that so far are their prompts."""
        return self.state([len(prompt) for prompt in prompts], [prompt[-1] for prompt in prompts])

    def state(self, lengths: Sequence[int], last_ids: Sequence[int]) -> State:
        """The state of rows of so many tokens that end in these."""
        phase_B = self._phase_V[last_ids]
        if isinstance(phase_B, np.ndarray):
            return State(np.array(lengths), phase_B)
        return State(phase_B.new_tensor(lengths), phase_B)

    def mask(self, logits_BxV: Any, state: State) -> Any:
        """Set the logits of tokens that may not come next to -inf, in place."""
        number_B = self._number_TxP[state.length_B, state.phase_B]
        logits_BxV[self._forbidden_MxV[number_B]] = -np.inf
        return logits_BxV

    def after(self, state: State, ids_B: Any) -> State:
        """The state after one more token of each row."""
        return State(state.length_B + 1, self._phase_V[ids_B])


# ------------------------------------------------------------------------------- images


def image_plan(codes: int, max_length: int, end: End) -> list[set[str]]:
    """The kinds of tokens that may stand at each place of an image's row.

    Rows of at most `max_length` tokens that have no label end at `</IMG>` where no <EOS> fits.
    """
    tail = {
        End.LABEL: [{"cls"}, {"label"}, {"eos"}],
        End.NO_LABEL: [{"eos"}],
        End.EITHER: [{"cls", "eos"}, {"label"}, {"eos"}],
        End.LABEL_GIVEN: [],
    }
    plan = [{"img"}, *[{"code"}] * codes, {"end_img"}, *tail[end]]
    return plan[:max_length] if end is End.NO_LABEL else plan


def image_rules(
    vocabulary: Vocabulary, code_ids: Collection[int], plan: list[set[str]]
) -> RowRules:
    """Rules of rows of images; `plan` from `image_plan`."""
    return RowRules(_kinds(vocabulary, code_ids), [[kinds] for kinds in plan], {})


def check_image_prompt(
    prompt: Sequence[int],
    vocabulary: Vocabulary,
    code_ids: Collection[int],
    codes: int,
    plan: list[set[str]],
) -> None:
    """Check that a prompt is the beginning of an image's row.

    Raises:
        ValueError: it is not, or nothing can follow it.
    """
    named = {
        "img": "<IMG>",
        "code": f"one of its {codes} codes",
        "end_img": f"</IMG> after {codes} codes",
        "cls": "<CLS>",
        "label": "a label token",
        "eos": "<EOS>",
    }
    kind_of = _kinds(vocabulary, code_ids)
    for place, (index, kinds) in enumerate(zip(prompt, plan, strict=False), 1):
        if kind_of[index] not in kinds:
            awaited = " or ".join(named[kind] for kind in sorted(kinds))
            raise ValueError(
                f"token {place} of the prompt is {vocabulary.tokens[index]}, where the row of an "
                f"image has {awaited}"
            )
    if len(prompt) >= len(plan):
        raise ValueError("the prompt is a whole image already: nothing can follow")


# ------------------------------------------------------------------------------- rows of tokens


def token_rules(vocabulary: Vocabulary, max_length: int, end: End) -> RowRules:
    """Rules of rows of tokens, of at most `max_length`.

    <PAD> and <UNK> never come; a label comes after <CLS> and is followed by <EOS>. Where all rows
    have labels the tail begins at the latest when there is room for nothing else.
    """
    allowed = [_allowed(max_length - length, end) for length in range(max_length)]
    in_body, after_cls, after_label = allowed[1]
    allowed[1] = (
        in_body,
        after_cls - {"label"},
        after_label,
    )  # a <CLS> that stands first ends no body
    return RowRules(_kinds(vocabulary), allowed, {"cls": _AFTER_CLS, "label": _AFTER_LABEL})


def _allowed(left: int, end: End) -> tuple[frozenset[str] | set[str], ...]:
    """Kinds that may come next in each phase, where `left` more tokens fit."""
    if end is End.LABEL_GIVEN:
        kinds = _BODY | {"cls", "eos"} if left > TAIL_LENGTH else {"cls"}
        return kinds, kinds, set()
    if end is End.NO_LABEL:
        return _BODY | {"cls", "eos"}, _BODY, set()
    if end is End.LABEL:
        if left > TAIL_LENGTH:
            return _BODY | {"cls"}, _BODY | {"cls", "label"}, {"eos"}
        return {"cls"}, {"cls", "label"} if left == TAIL_LENGTH else {"label"}, {"eos"}
    cls = {"cls"} if left >= TAIL_LENGTH else set()
    label = {"label"} if left >= TAIL_LENGTH - 1 else set()
    return _BODY | {"eos"} | cls, _BODY | cls | label, {"eos"}


def check_token_prompt(
    prompt: Sequence[int], vocabulary: Vocabulary, max_length: int, end: End
) -> None:
    """Check that a prompt is the beginning of a row of tokens with room for the rest.

    Raises:
        ValueError: it is not, or nothing can follow it.
    """
    if vocabulary.pad_id in prompt:
        raise ValueError("<PAD> stands inside the row; it may only fill up its end")
    labels = vocabulary.label_id_set if vocabulary.cls_id is not None else ()
    *before, last = prompt
    if len(prompt) > 3 and last == vocabulary.eos_id and prompt[-2] in labels:
        raise ValueError("the prompt is a whole row already: nothing can follow")
    ends_in_label = len(prompt) > 2 and last in labels and prompt[-2] == vocabulary.cls_id
    may_name_label = end in (End.LABEL, End.EITHER)
    if any(index in labels for index in (before if ends_in_label and may_name_label else prompt)):
        raise ValueError(LABEL_BEFORE_TAIL)
    missing = 1
    if end is End.LABEL_GIVEN:
        missing = 1 + TAIL_LENGTH
    elif end is End.LABEL and not ends_in_label:
        missing = TAIL_LENGTH - (last == vocabulary.cls_id and bool(before))
    if len(prompt) + missing > max_length:
        tail = f", {TAIL_LENGTH} of them for the label" if missing > 1 else ""
        raise ValueError(
            f"the prompt has {len(prompt)} tokens and the model was trained on rows of at most "
            f"{max_length}{tail}: nothing can follow; shorten it"
        )


def _kinds(vocabulary: Vocabulary, code_ids: Collection[int] = ()) -> list[str]:
    """The kind of each token of a vocabulary."""
    special: dict[int | None, str] = {  # None: a token that the vocabulary lacks
        vocabulary.pad_id: "never",
        vocabulary.unk_id: "never",
        vocabulary.img_id: "img",
        vocabulary.ids.get(END_IMG): "end_img",
        vocabulary.cls_id: "cls",
        vocabulary.eos_id: "eos",
        **dict.fromkeys(code_ids, "code"),
        # Without <CLS> no row has a label, and such tokens are like all others.
        **dict.fromkeys(vocabulary.label_ids, "label" if vocabulary.cls_id is not None else "body"),
    }
    return [special.get(index, "body") for index in range(len(vocabulary))]
