"""One shard of a large file: its share of the rows, evaluated or classified as in the whole file.

    done = compute_shard(trained, source, settings)         # settings.shard is "2/8"
    done.path                                               # outputs/evaluation_test/shard_2_of_8

An engine may compute a row to other last bits in another batch. So a shard takes whole batches, the
very ones in which the whole file would be computed. To know them it reads the lengths of all rows,
and then, once more, its own rows alone.
"""

from __future__ import annotations

import heapq
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from smallgpt.console import printable_lines
from smallgpt.distribution import VERSION
from smallgpt.engines.engine import Engine
from smallgpt.engines.engines import TORCH
from smallgpt.engines.runtimes import RUNTIMES
from smallgpt.engines.trained import TrainedModel
from smallgpt.errors import UserError
from smallgpt.evaluation.answers import is_instruction, most_new_tokens
from smallgpt.evaluation.parts import holding_part
from smallgpt.evaluation.pictures import Mistakes
from smallgpt.evaluation.predictions import predictions_of
from smallgpt.evaluation.scoring import classify_rows, scoring_batches
from smallgpt.evaluation.text_bits import is_text
from smallgpt.files.reading import open_input
from smallgpt.inference.classify import check_abstention, refuse_without_labels
from smallgpt.inference.evaluate import WholeFile, evaluate_rows
from smallgpt.inference.files import GivenRows, RowSource, has_unk, read_for, refuse_unusable
from smallgpt.inference.results import RowsDigest, folder_for, made_from_of
from smallgpt.inputs.tables import Table
from smallgpt.model.processor import processor_name
from smallgpt.model.threads import cpu_threads
from smallgpt.options.inference import InferenceSettings, Shard
from smallgpt.options.option import as_flags
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.read_counts import ReadCounts
from smallgpt.rows.reading import dataset_from_records
from smallgpt.tokens.codebook import Codebook

# Not in the command that makes another part: which one it is, and where.
_OF_ONE_PART = ("shard", "output_dir", "overwrite")


class ShardDone(NamedTuple):
    """A shard that was computed and written."""

    path: Path
    rows: int  # its own
    all_rows: int


def compute_shard(
    trained: TrainedModel, source: RowSource, settings: InferenceSettings
) -> ShardDone:
    """Compute the rows of one shard, and write them as a part (`evaluation/parts.py`).

    Raises:
        UserError: as the evaluation of the whole file; the file changed while it was read; or as
            `holding_part`.
    """
    assert settings.shard is not None and settings.test_data is not None
    data, mode = settings.test_data, settings.resolved_mode()
    if mode == "classify":
        refuse_without_labels(trained)
    check_abstention(trained, settings.abstain_below)
    codebook = None
    if mode == "evaluate" and trained.codebook is not None:
        codebook = Codebook.load(trained.codebook)  # a damaged one is told before all the work
    trained.engines.may_measure = False
    engine = trained.engines.for_rows(0)
    before = _identity_of(data)
    plan = _plan(trained, source, settings, engine.by_head)
    if mode == "classify" and plan.usable_rows == 1:
        engine = trained.engines.for_row()  # as `classify_dataset`
    of_mode = {"max_new_tokens": settings.max_new_tokens} if mode == "evaluate" else {}
    made_from = made_from_of(
        trained, source.name, plan.digest, mode, settings.abstain_below, **of_mode
    )
    belongs = _belongs(made_from, engine, settings.batch_size)
    folder = folder_for(trained, source.name, mode, settings.output_dir)
    shard = Shard.parse(settings.shard)
    with holding_part(folder, shard, belongs, data, settings.overwrite) as place:
        dataset = _read_lines(trained, source, mode == "classify", plan)
        is_same = np.array_equal(dataset.lengths_N, plan.lengths_N)
        if before != _identity_of(data) or not is_same:
            raise UserError(f"{data} changed while it was read: make all parts again")
        head: dict[str, Any] = {
            "belongs": belongs,
            "made_from": made_from,
            "computed_on": _computed_on(engine),
            "command": as_flags(settings, _OF_ONE_PART),
            "form": _form_of(source),
            "label_names": trained.label_names,
            "temperature": trained.temperature,
            "validation": trained.validation,
            "unk_helps": has_unk(trained),
        }
        arrays: dict[str, np.ndarray] = {}
        if mode == "evaluate":
            given = GivenRows(dataset, source.name)
            evaluated = evaluate_rows(trained, given, settings.batch_size, plan.file)
            predictions, arrays = evaluated.predictions, evaluated.scored.arrays()
            head |= {"about": evaluated.about, "learned_rows": evaluated.learned_rows}
            if codebook is not None:
                mistakes = vars(Mistakes.of(predictions, evaluated.dataset, codebook))
                head["mistakes"] = {k: v for k, v in mistakes.items() if k != "images"}
                if mistakes["images"]:
                    arrays["mistakes"] = np.stack(mistakes["images"])
        else:
            for line in plan.counts.lines(trained.learned_unknown):
                print(printable_lines(f"{source.name}: {line}"), file=sys.stderr)
            size, temperature = settings.batch_size, trained.temperature
            probs = classify_rows(engine, dataset, batch_size=size, temperature=temperature)
            predictions = predictions_of(dataset, probs, temperature)
        head["rows"] = len(predictions)
        place.write(head, arrays, predictions, _cells_of(source, plan.lines))
    return ShardDone(place.path, len(predictions), plan.all_rows)


# ------------------------------------------------------------------------------- the rows


@dataclass(frozen=True)
class _Plan:
    """Which rows a shard computes, and what it needs to know of all the others.

    Attributes:
        lines: of its rows, bad ones included.
        lengths_N: of those that can be used.
        all_rows, usable_rows: how many the file has.
        digest: that of all rows, as in made_from.json.
        counts: what reading counted in all of the file.
    """

    lines: set[int]
    lengths_N: np.ndarray
    all_rows: int
    usable_rows: int
    digest: str
    counts: ReadCounts
    file: WholeFile


def _plan(
    trained: TrainedModel, source: RowSource, settings: InferenceSettings, by_head: bool
) -> _Plan:
    """Read all rows of a file, keep their lengths alone, and choose those of a shard.

    Raises:
        UserError: the file cannot be read, or not one of its rows can be used.
    """
    assert settings.shard is not None
    shard, for_label = Shard.parse(settings.shard), settings.resolved_mode() == "classify"
    digest, are_texts, has_instructions = RowsDigest(), True, False

    def visit(line: int, record: dict[str, Any]) -> None:
        nonlocal are_texts, has_instructions
        digest.add(line, record)
        are_texts = are_texts and is_text(record)
        has_instructions = has_instructions or is_instruction(record)

    rows = read_for(trained, source.found(None), source.name, for_label, visit=visit)
    if not len(rows):
        verb = "classified" if for_label else "scored"
        refuse_unusable(trained, GivenRows(rows, source.name), verb)
    most = settings.max_new_tokens
    if most is None:
        most = most_new_tokens(rows)
    work_N = rows.lengths_N.astype(np.int64)
    if most is not None:
        answers_N = np.minimum(most, trained.max_length - rows.prompt_lengths_N)
        work_N += np.where(rows.prompt_lengths_N > 0, answers_N, 0)
    of_tokens = not for_label and not by_head
    own = own_rows(rows, work_N, settings.batch_size, of_tokens, shard)
    bad_lines = [bad.line for bad in rows.bad_rows]
    return _Plan(
        {*rows.lines_N[own].tolist(), *bad_lines[shard.number - 1 :: shard.parts]},
        rows.lengths_N[own],
        len(rows) + len(bad_lines),
        len(rows),
        digest.finish(rows.bad_rows),
        rows.counts,
        WholeFile(are_texts, has_instructions, most),
    )


def own_rows(
    rows: TokenLabelDataset, work_N: np.ndarray, batch_size: int, of_tokens: bool, shard: Shard
) -> np.ndarray:
    """The rows of a shard, ascending: whole batches of those in which all rows are computed.

    Each batch, that with the most work first, goes to the shard that has the least to do by then,
    so that all have about equal work. `of_tokens`: as for `scoring_batches`.
    """
    batches = list(scoring_batches(rows, batch_size, of_tokens))
    work = [int(work_N[indices_B].sum()) for indices_B in batches]
    loads = [(0, number) for number in range(1, shard.parts + 1)]  # a heap
    own = [np.arange(0)]
    for place in sorted(range(len(batches)), key=lambda place: -work[place]):
        load, number = loads[0]
        heapq.heapreplace(loads, (load + work[place], number))
        if number == shard.number:
            own.append(batches[place])
    return np.sort(np.concatenate(own))


def _read_lines(
    trained: TrainedModel, source: RowSource, for_label: bool, plan: _Plan
) -> TokenLabelDataset:
    """The rows of a plan, with what was counted in all of the file."""
    if plan.lines:
        found = source.found(plan.lines)
        dataset = read_for(trained, found, source.name, for_label, again=True)
    else:  # more shards than batches
        empty = dataset_from_records([], trained.vocabulary, max_length=trained.max_length)
        dataset = replace(empty, records=[])
    return replace(dataset, counts=plan.counts)


def _identity_of(path: str) -> tuple[int, ...]:
    """What changes when somebody writes to a file or replaces it."""
    with open_input(path) as handle:  # which says what is wrong with a file that is none
        found = os.fstat(handle.fileno())
    return found.st_ino, found.st_size, found.st_mtime_ns


# ------------------------------------------------------------------------------- the part


def _belongs(made_from: Mapping[str, Any], engine: Engine, batch_size: int) -> dict[str, Any]:
    """What tells parts of one evaluation from those of another: all that numbers depend on."""
    computed = {"device": engine.device, "precision": engine.precision, "engine": engine.name}
    libraries = {TORCH: ["torch", "transformers"]}.get(engine.name) or [RUNTIMES[engine.name]]
    versions = {name: version(name) for name in ("numpy", "tokenizers", *libraries)}
    return {
        **{name: made_from[name] for name in ("mode", "rows", "weights")},
        "settings": {**made_from["settings"], **computed, "batch_size": batch_size},
        "versions": {"smallgpt": VERSION, **versions},
    }


def _computed_on(engine: Engine) -> str:
    """The processor that computes: another one may round otherwise."""
    if engine.device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    return f"{processor_name()}, threads: {cpu_threads()}"


def _form_of(source: RowSource) -> dict[str, Any]:
    """The form of the rows, as JSON; without the text of a table."""

    def without_text(table: Table | None) -> dict[str, Any] | None:
        return None if table is None else vars(replace(table, text=""))

    form = source.form
    return {"name": form.name, "table": without_text(form.table), "log": without_text(form.log)}


def _cells_of(source: RowSource, lines: set[int]) -> Iterator[tuple[int, list[str]]] | None:
    """The cells of the rows of some lines of a table; None of anything else."""
    table = source.form.table
    if table is None:
        return None
    return ((line, cells) for line, cells, _ in table.rows() if line in lines)
