"""What a row can begin with, and how much fits after a prompt."""

from __future__ import annotations

from typing import NamedTuple

from smallgpt.engines.trained import TrainedModel
from smallgpt.errors import UserError
from smallgpt.inference.well_formed import WellFormed
from smallgpt.rows.label_tail import TAIL_LENGTH

PRETRAINED_NEW_TOKENS = 256  # of a pretrained model as it is, where no number is given


def first_tokens(trained: TrainedModel) -> list[tuple[int, float]]:
    """The tokens that training rows began with and how often each, the most frequent first.

    Raises:
        UserError: the model folder does not tell, or the model answers instructions.
    """
    known = trained.vocabulary.ids
    counts = {} if trained.is_instructed else trained.first_tokens
    found = [(known[token], float(count)) for token, count in counts.items() if token in known]
    if not found:
        special = {*trained.vocabulary.special_ids, *trained.vocabulary.label_ids}
        names = (name for name, index in known.items() if index not in special)
        of_text = trained.vocabulary.tokenizer is not None
        example = "" if of_text else f", for example --prompt {next(names, '...')}"
        raise UserError(f"give the first tokens of a row with --prompt{example}")
    return found


class Room(NamedTuple):
    """What fits after a prompt."""

    longest: int  # tokens of the row, before the tail of a label that is given
    most: int  # tokens to sample
    note: str  # for the user, "" mostly


def room_after(
    trained: TrainedModel,
    ids: list[int],
    plan: WellFormed,
    label_given: bool,
    max_new_tokens: int | None,
) -> Room:
    """How much can follow a prompt.

    Raises:
        UserError: nothing, or a prompt that no row begins with.
    """
    # With a label its tail stands at the end of the row.
    tail = f", {TAIL_LENGTH} of them for the label" if label_given else ""
    room = trained.max_length - len(ids) - (TAIL_LENGTH if label_given else 0)
    if room < 1:
        raise UserError(
            f"the prompt has {len(ids)} tokens and {trained.length_limit}{tail}: nothing can "
            f"follow; shorten it"
        )
    plan.check(ids)
    rules, note = plan.rules, plan.note
    fits = (rules.max_length if rules else trained.max_length) - len(ids)
    room = min(room, fits)
    if max_new_tokens is not None and max_new_tokens > room:
        cut = (
            f"max_new_tokens cut from {max_new_tokens} to {room}: {trained.length_limit} "
            f"tokens{tail}"
        )
        note = f"{note}; {cut}" if note else cut
        max_new_tokens = room
    if trained.is_pretrained and max_new_tokens is None and room > PRETRAINED_NEW_TOKENS:
        # Its positions may be more than anyone waits for.
        max_new_tokens = PRETRAINED_NEW_TOKENS
        note = f"at most {max_new_tokens} new tokens: --max_new_tokens gives another number"
    if rules is not None and rules.of_images and label_given and (max_new_tokens or room) < room:
        raise UserError(
            f"max_new_tokens {max_new_tokens}: the image takes {room} more before its label"
        )
    # max_new_tokens cuts; without it a row must end within the room. With a label one more token
    # may be sampled: the one that ends the row is dropped again.
    return Room(len(ids) + room, max_new_tokens or min(room + 1, fits), note)
