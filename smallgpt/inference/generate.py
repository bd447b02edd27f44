"""Generation: continue prompts to whole rows, on request to rows of one label.

rows = generate(trained, "<IMG>", count=9, temperature=0.8, label="7").sequences
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from smallgpt.console import progress_bar
from smallgpt.decoding.generate import generate_tokens
from smallgpt.decoding.sampling import Sampling
from smallgpt.engines.trained import TrainedModel
from smallgpt.errors import UserError
from smallgpt.inference.for_label import class_of, learned_label_first, sample_for_label
from smallgpt.inference.prompts import check_arguments, refuse_labels_only
from smallgpt.inference.python_rows import PythonRows, python_rows, rows_to_continue, upper_parts
from smallgpt.inference.room import first_tokens, room_after
from smallgpt.inference.well_formed import any_token, well_formed


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
    rows: Any = None,
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
    unknown_token: str | None = None,
    keep: float | None = None,
) -> Generated | list[Generated]:
    """Continue one row or many to whole rows; greedy, temperature, top_k and top_p: see `Sampling`.

    A row ends as those of training did: an image has all its codes and its label tail, other
    rows their label tail, where the training rows had labels; <PAD> and <UNK> never come. A text
    ends at <EOS>.

    Args:
        rows: what comes first, one row or many, see `python_rows`; many give a list in their
            order. None = <IMG> for a model of images, else a first token drawn as the training
            rows began.
        count: rows generated from each.
        max_new_tokens: cuts a row wherever it stands; None = up to the trained length,
            256 of a model of Hugging Face.
        seed: of many rows the i-th, from 0, is continued as it is alone with seed + i.
        label: rows of this label, with their label tail. Where the model was trained with
            label_first_share they are generated from the label, else from the prompt alone; those
            that the model itself reads as another label are left out and others generated.
        free: no rules for rows of tokens: any token but <PAD> may come next.
        batch_size: sequences sampled at once.
        unknown_token: "unk" reads unknown tokens as <UNK>, "error" refuses them; None: as in
            training.
        keep: of pictures, the share that stays, from the top; the model makes the rest.

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
        keep=keep,
        images="pictures" if keep is not None else None,  # what keep goes with
    )
    refuse_labels_only(trained)
    vocabulary = trained.vocabulary
    first: list[tuple[int, float]] = []
    if rows is not None:
        given = upper_parts(trained, python_rows(trained, rows), keep)
        prompts = rows_to_continue(trained, given, unknown_token)
    elif keep is not None:
        raise UserError("keep is the share of a picture that stays: give the picture as rows")
    elif vocabulary.img_id is not None:
        prompts = [[vocabulary.img_id]]
        given = PythonRows([{"input_ids": prompts[0]}], True)
    else:
        first = first_tokens(trained)
        prompts = [[first[0][0]]]  # the most frequent, for the checks and with `greedy`
        given = PythonRows([{"input_ids": prompts[0]}], True)
    plan = any_token() if free else well_formed(trained, label is not None)
    rooms = []
    for index, ids in enumerate(prompts):
        with given.row(index):
            if label is not None:
                wanted = class_of(trained, label, ids)
            rooms.append(room_after(trained, ids, plan, label is not None, max_new_tokens))
    stops, forbidden = set(vocabulary.stop_ids), set(vocabulary.never_ids)
    lead = []
    if label is not None:
        # The rest of the row would be the model's own label; it is computed separately.
        stops |= {vocabulary.cls_id} if vocabulary.cls_id is not None else set()
        forbidden |= vocabulary.label_id_set
        if learned_label_first(trained):
            lead = [vocabulary.label_ids[wanted]]
    sampling = Sampling(greedy, temperature, top_k, top_p)
    sequences = len(prompts) * count
    decoder = trained.engines.decoder(
        min(sequences, batch_size), sequences * max(room.most for room in rooms)
    )
    generators = [torch.Generator().manual_seed(seed + index) for index in range(len(prompts))]

    def sample(
        which: list[int], on_progress: Callable[[int], object] | None = None
    ) -> list[list[int]]:
        """Rows that begin with some prompts, each repeated; they have the same room."""
        starts = [prompts[index] for index in which]
        if first and not greedy:
            ids, weights = zip(*first, strict=True)
            drawn = torch.multinomial(
                torch.tensor(weights), len(which), replacement=True, generator=generators[0]
            )
            starts = [[ids[place]] for place in drawn.tolist()]
        try:
            new = generate_tokens(
                decoder,
                starts,
                max_new_tokens=rooms[which[0]].most,
                stop_ids=stops,
                sampling=sampling,
                generator=[generators[index] for index in which],
                forbidden_ids=forbidden,
                rules=plan.rules,
                lead=lead,
                batch_size=batch_size,
                on_progress=on_progress,
            )
        except ValueError as error:  # what this call asks for fits: it is the model
            raise UserError(f"{trained.name}: {error}: damaged weights?") from None
        if trained.is_instructed:
            return new
        return [start + tokens for start, tokens in zip(starts, new, strict=True)]

    def samples_of(index: int) -> Callable[[int], list[list[int]]]:
        return lambda how_many: sample([index] * how_many)

    made: list[Generated] = []
    if label is None:
        # Rows with the same room together, so that what is made of one does not depend on others.
        together: dict[int, list[int]] = {}
        for index, room in enumerate(rooms):
            together.setdefault(room.most, []).extend([index] * count)
        of_row: list[list[list[int]]] = [[] for _ in prompts]
        with progress_bar("generating", len(prompts) * count, "row") as bar:
            for which in together.values():
                for index, ids in zip(which, sample(which, bar.update), strict=True):
                    of_row[index].append(ids)
        made = [Generated(each, count, room.note) for each, room in zip(of_row, rooms, strict=True)]
    else:
        for index, room in enumerate(rooms):
            with given.row(index):
                found = sample_for_label(
                    trained,
                    samples_of(index),
                    wanted,
                    room.longest,
                    count,
                    batch_size,
                )
            note = "; ".join(filter(None, [room.note, found.note]))
            made.append(Generated(found.rows, found.tried, note))
    return given.answer(made)
