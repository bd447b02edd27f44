"""Setting up a run: device, model, optimizers and gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from smallgpt.console import plural
from smallgpt.errors import UserError
from smallgpt.files.hub import folder_of
from smallgpt.model.build import count_parameters, starting_model
from smallgpt.model.hardware import choose_device, choose_precision
from smallgpt.model.lora import require_peft
from smallgpt.model.pretrained import with_pretrained_shape
from smallgpt.model.weights_file import SETTINGS
from smallgpt.options.common import LEAST_LENGTH
from smallgpt.options.plan import read_plan
from smallgpt.options.reader import load_settings
from smallgpt.options.training import TrainSettings
from smallgpt.processes import ALONE, Processes
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.tokens.codebook import Codebook
from smallgpt.tokens.vocabulary import Vocabulary
from smallgpt.training.best_model import choose_metric
from smallgpt.training.checkpoint import TRAINED_LENGTH, Checkpoint, sha256_of
from smallgpt.training.cross_fitting import CrossFit
from smallgpt.training.data import codebook_beside
from smallgpt.training.gradients import make_step
from smallgpt.training.loop_state import LoopState
from smallgpt.training.optimizers import make_optimizers
from smallgpt.training.recipe import choose_recipe
from smallgpt.training.run import Run
from smallgpt.training.run_folder import RunFolder
from smallgpt.training.run_log import RunLog

_DIGITS = 16  # of a digest that a person compares


@contextmanager
def torch_state_restored() -> Iterator[None]:
    """Restore torch's random generators, which a run seeds, and its current GPU at the end."""
    in_use = torch.cuda.is_initialized()
    current = torch.cuda.current_device() if in_use else 0
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if in_use else []):
        try:
            yield
        finally:
            if torch.cuda.is_initialized():
                torch.cuda.set_device(current)


def with_shape_of_start(settings: TrainSettings) -> TrainSettings:
    """The settings with the shape of the checkpoint that --init_from names.

    Raises:
        UserError: the checkpoint is visibly unusable, or peft is missing.
    """
    if settings.lora_rank:
        require_peft()
    return with_pretrained_shape(settings)


def build_run(
    settings: TrainSettings,
    folder: RunFolder,
    log: RunLog,
    rows: TokenLabelDataset,
    validation_rows: TokenLabelDataset,
    baselines: Mapping[str, float] | None = None,
    resumed: Checkpoint | None = None,
    command: str | None = None,
    processes: Processes = ALONE,
) -> Run:
    """All parts of a run, ready for its first update; its settings leave nothing to choose.

    `baselines`: of the data report. `command`: the command line, if any. Weights of a `resumed`
    checkpoint are not restored here, but by `resume.go_on`.

    Raises:
        UserError: the device, the model or the rows do not fit the settings.
    """
    stored_config, stored_length = None, None
    if resumed:
        stored_config = dict(resumed.config)
        stored_length = stored_config.pop(TRAINED_LENGTH, None)
    length = trained_length(settings, rows, validation_rows, stored=stored_length)
    names_labels = settings.classifier == "head"
    if names_labels:
        if not validation_rows.has_labels:
            raise UserError("--classifier head needs labelled validation rows")
        rows, validation_rows = rows.without_tails(), validation_rows.without_tails()
    vocabulary, codebook = rows.vocabulary, codebook_beside(settings.vocabulary_file)
    settings, reasons = choose_recipe(settings, rows)
    if reasons:
        log.say(f"recipe: {reasons}")
    rows = replace(rows, labelled_visits=settings.labelled_visits)

    device = choose_device(processes.device(settings.device))
    precision = choose_precision(settings.precision, device)

    def code_embeddings() -> dict[str, np.ndarray]:
        return _code_embeddings(codebook, settings, vocabulary, log) if codebook else {}

    start = starting_model(settings, vocabulary, code_embeddings, stored_config, log.say)
    # The types of transformers take the first argument of `to` for the model.
    model = start.model.to(device).train()  # type: ignore[arg-type]
    optimizers = make_optimizers(model, settings, device, precision)
    scaler = torch.amp.GradScaler(device.type, enabled=precision.name == "fp16")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    log.say(
        f"model: {settings.n_layer} layers, {settings.n_head} heads, {settings.n_embd} wide, "
        f"{settings.n_positions} positions, {count_parameters(model):,} parameters"
        + (f", {trained:,} of them trained" if settings.freeze_backbone else "")
        + (
            f"; its head names {plural(len(vocabulary.labels), 'label')} and it predicts no tokens"
            if names_labels
            else ""
        )
    )
    log.say(
        f"device: {device} ({plural(torch.get_num_threads(), 'thread')}); "
        f"precision: {precision.name}: {precision.reason}"
    )
    if processes.are_many:
        machines = processes.of_all(processes.local_rank).count(0)
        log.say(
            f"processes: {processes.count} on {plural(machines, 'machine')}, "
            f"{plural(torch.get_num_threads(), 'thread')} each"
        )
    if rows.has_unknown and settings.unknown_token == "error" and vocabulary.tokenizer is None:
        log.say(
            "some training rows have <UNK>: the model will read tokens that it does not know as "
            "<UNK> (inference.py --unknown_token error refuses them)"
        )
    metric = choose_metric(settings, validation_rows)
    rows_an_update = settings.batch_size * settings.grad_accumulation_steps
    steps_per_epoch = math.ceil(rows.visited_rows / rows_an_update)
    return Run(
        settings=settings,
        folder=folder,
        log=log,
        rows=rows,
        validation_rows=validation_rows,
        loss_terms_N=np.ones(len(rows), int) if names_labels else rows.scored_counts,
        tokens_N=rows.lengths_N - (0 if names_labels else 1),
        codebook=codebook,
        device=device,
        precision=precision,
        model=model,
        adapter=start.adapter,
        optimizers=optimizers,
        scaler=scaler,
        gradients=make_step(model, rows, settings, precision, scaler, log.say, processes),
        steps_per_epoch=steps_per_epoch,
        trained_length=length,
        best_metric=metric,
        belongs_to={
            "the training data": rows.described_fingerprint(),
            "the validation data": validation_rows.described_fingerprint(),
            "the vocabulary": (
                f"{len(vocabulary):,} tokens ({vocabulary.fingerprint()[:_DIGITS]})"
            ),
            "the codebook": sha256_of(codebook)[:_DIGITS] if codebook else "none",
            **start.belongs_to,
        },
        baselines=dict(baselines or {}),
        cross_fit=CrossFit(validation_rows, metric),
        command=command,
        processes=processes,
        state=_state(settings, resumed, steps_per_epoch),
    )


def _state(settings: TrainSettings, resumed: Checkpoint | None, steps_per_epoch: int) -> LoopState:
    """Where the loop stands, with its plan; that of --max_minutes a new run has yet to make."""
    state = replace(resumed.loop, finished="") if resumed else LoopState()
    if resumed and resumed.settings.get("max_minutes") != settings.max_minutes:
        state.plan = []
    if settings.steps is not None:
        state.plan = read_plan(settings.steps)
    elif settings.max_minutes is None:
        state.plan = [[0, steps_per_epoch * settings.num_epochs]]
    return state


def _code_embeddings(
    path: Path, settings: TrainSettings, vocabulary: Vocabulary, log: RunLog
) -> dict[str, np.ndarray]:
    """Initial embeddings of image codes: similar patches start with similar vectors."""
    codebook = Codebook.load(path)
    vectors = codebook.embeddings(settings.n_embd, settings.seed)
    pairs = zip(codebook.code_tokens, vectors, strict=True)
    known = {token: vector for token, vector in pairs if token in vocabulary.ids}
    if known:
        log.say(f"{len(known)} code embeddings start from the patches of {path}")
    return known


def trained_length(
    settings: TrainSettings,
    *parts: TokenLabelDataset,
    stored: int | None = None,
) -> int:
    """The longest row that a model is good for, in tokens: later positions it has never seen.

    It becomes the `max_length` in the settings.yaml of the run's models. A pretrained model knows
    more positions than the rows of `parts` show; one made by this toolkit has stored how many.
    `stored` comes from the run's checkpoint, since the initial model may be gone.
    """
    if type(stored) is int and 0 < stored <= settings.max_length:
        return stored
    started = length_of_start(settings)
    longest = max(int(rows.lengths_N.max()) for rows in parts if len(rows))
    return min(settings.max_length, max(longest, started, LEAST_LENGTH))


def length_of_start(settings: TrainSettings) -> int:
    """The trained length of the initial model by its settings.yaml; of a foreign one max_length.

    0 for a run from scratch.
    """
    if settings.init_from is None:
        return 0
    try:
        stored = folder_of(settings.init_from, "model") / SETTINGS
        start = load_settings(TrainSettings, stored) if stored.is_file() else settings
        return start.max_length
    except UserError:
        return settings.max_length
