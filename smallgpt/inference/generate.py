"""Generation: continue a prompt to whole rows, on request to rows of one label.

rows = generate(trained, "<IMG>", count=9, temperature=0.8, label="7").sequences
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from smallgpt.decoding.generate import generate_tokens, make_decoder
from smallgpt.decoding.sampling import Sampling
from smallgpt.errors import UserError
from smallgpt.inference.for_label import class_of, learned_label_first, sample_for_label
from smallgpt.inference.prompts import check_arguments, prompt_ids, refuse_labels_only
from smallgpt.inference.well_formed import rules_of
from smallgpt.model.folder import TrainedModel
from smallgpt.rows.label_tail import TAIL_LENGTH


@dataclass(frozen=True)
class Generated:
    """Token ids of rows (with the prompt unless it was an instruction), how many were sampled.

    `note` tells the user of a request that was cut, or of the yield of a label; else "".
    """

    sequences: list[list[int]]
    tried: int
    note: str = ""


def generate(
    trained: TrainedModel,
    prompt: str | None = None,
    *,
    count: int = 1,
    max_new_tokens: int | None = None,
    greedy: bool = False,
    temperature: float = 1.0,
    top_k: int = 50,
    top_p: float = 1.0,
    seed: int = 0,
    label: str | None = None,
    free: bool = False,
    batch_size: int = 64,
) -> Generated:
    """Continue a prompt to a whole row; greedy, temperature, top_k and top_p: see `Sampling`.

    A row ends as those of training did: an image has all its codes and its label tail, other
    rows their label tail, where the training rows had labels; <PAD> and <UNK> never come. A text
    ends at <EOS>.

    Args:
        prompt: tokens, a text or an instruction, as the model was trained; None = <IMG> for a
            model of images.
        max_new_tokens: cuts a row wherever it stands; None = up to the trained length.
        label: rows of this label, with their label tail. Where the model was trained with
            label_first_share they are generated from the label, else from the prompt alone; those
            that the model itself reads as another label are left out and others generated.
        free: no rules for rows of tokens: any token but <PAD> may come next.
        batch_size: sequences sampled at once.

    Raises:
        SettingsError: a value that the command line would refuse, such as temperature 0.
        UserError: unknown tokens or label, a prompt that no row begins with, no room after it,
            too few samples that the model reads as `label`, or a model that only names labels.
    """
    check_arguments(
        "generate",
        num_return_sequences=count,
        max_new_tokens=max_new_tokens,
        greedy=greedy,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        label=label,
        free=free,
        batch_size=batch_size,
    )
    refuse_labels_only(trained)
    vocabulary = trained.vocabulary
    if prompt is not None:
        ids = prompt_ids(trained, prompt)
    elif vocabulary.img_id is not None:
        ids = [vocabulary.img_id]
    else:
        raise UserError("--mode generate needs --prompt: the first tokens of a row")
    if label is not None:
        wanted = class_of(trained, label, ids)
    # With a label its tail stands at the end of the row.
    tail = f", {TAIL_LENGTH} of them for the label" if label is not None else ""
    room = trained.max_length - len(ids) - (TAIL_LENGTH if tail else 0)
    if room < 1:
        raise UserError(
            f"the prompt has {len(ids)} tokens and the model was trained on rows of at most "
            f"{trained.max_length}{tail}: nothing can follow; shorten it"
        )
    rules, note = (None, "") if free else rules_of(trained, ids, label is not None)
    fits = (rules.max_length if rules else trained.max_length) - len(ids)
    room = min(room, fits)
    if max_new_tokens is not None and max_new_tokens > room:
        cut = (
            f"max_new_tokens cut from {max_new_tokens} to {room}: the model was trained on rows "
            f"of at most {trained.max_length} tokens{tail}"
        )
        note = f"{note}; {cut}" if note else cut
        max_new_tokens = room
    if (
        rules is not None
        and rules.of_images
        and label is not None
        and (max_new_tokens or room) < room
    ):
        raise UserError(
            f"--max_new_tokens {max_new_tokens}: the image takes {room} more before its label"
        )
    # max_new_tokens cuts; without it a row must end within the room. With a label one more token
    # may be sampled: the one that ends the row is dropped again.
    most = max_new_tokens or min(room + 1, fits)
    stops = {vocabulary.eos_id} - {None}
    forbidden = {vocabulary.pad_id}
    if vocabulary.tokenizer is not None:
        # A label tail is not text, and an unknown character is none.
        stops |= {vocabulary.cls_id} - {None}
        forbidden |= {vocabulary.unk_id} - {None}
    if label is not None:
        # The rest of the row would be the model's own label; it is computed separately.
        stops.add(vocabulary.cls_id)
        forbidden |= vocabulary.label_id_set
    lead = []
    if label is not None and learned_label_first(trained):
        lead = [vocabulary.label_ids[wanted]]
    sampling = Sampling(greedy, temperature, top_k, top_p)
    decoder = make_decoder(trained.model, trained.precision.dtype)
    generator = torch.Generator().manual_seed(seed)

    def sample(how_many: int) -> list[list[int]]:
        try:
            new = generate_tokens(
                decoder,
                [ids] * how_many,
                max_new_tokens=most,
                stop_ids=stops,
                sampling=sampling,
                generator=generator,
                forbidden_ids=forbidden,
                rules=rules,
                lead=lead,
                batch_size=batch_size,
            )
        except ValueError as error:  # what this call asks for fits: it is the model
            raise UserError(f"{trained.folder}: {error}: damaged weights?") from None
        return [tokens if trained.is_instructed else ids + tokens for tokens in new]

    if label is None:
        return Generated(sample(count), count, note)
    made = sample_for_label(trained, sample, wanted, len(ids) + room, count, batch_size)
    return Generated(made.rows, made.tried, "; ".join(filter(None, [note, made.note])))
