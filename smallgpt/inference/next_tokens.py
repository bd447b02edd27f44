"""The likeliest next tokens of rows."""

from __future__ import annotations

from typing import Any, overload

import numpy as np

from smallgpt.console import progress_bar
from smallgpt.engines.engine import log_softmax
from smallgpt.engines.trained import TrainedModel
from smallgpt.errors import UserError
from smallgpt.inference.prompts import check_arguments, not_finite, refuse_labels_only, token_text
from smallgpt.inference.python_rows import python_rows, rows_to_continue

NEXT_TOKENS_SHOWN = 5

NextTokens = list[tuple[str, float]]


@overload
def next_tokens(
    trained: TrainedModel,
    rows: str,
    count: int = NEXT_TOKENS_SHOWN,
    *,
    batch_size: int = 64,
    unknown_token: str | None = None,
) -> NextTokens: ...
@overload
def next_tokens(
    trained: TrainedModel,
    rows: Any,
    count: int = NEXT_TOKENS_SHOWN,
    *,
    batch_size: int = 64,
    unknown_token: str | None = None,
) -> NextTokens | list[NextTokens]: ...
def next_tokens(
    trained: TrainedModel,
    rows: Any,
    count: int = NEXT_TOKENS_SHOWN,
    *,
    batch_size: int = 64,
    unknown_token: str | None = None,
) -> NextTokens | list[NextTokens]:
    """The likeliest next tokens of each row and their probabilities, descending.

    `rows`: one row or many, see `python_rows`; many give a list in their order. `unknown_token`
    "unk" reads unknown tokens as <UNK>, "error" refuses them; None: as in training.

    Raises:
        SettingsError: a value that the command line would refuse.
        UserError: no rows, a row that breaks the format or is longer than the trained length, a
            count below 1, or a model that only names labels.
    """
    if count < 1:
        raise UserError(f"count: {count} is out of range (1 or above)")
    check_arguments("interactive", batch_size=batch_size)
    refuse_labels_only(trained)
    given = python_rows(trained, rows)
    prompts = rows_to_continue(trained, given, unknown_token)
    for index, ids in enumerate(prompts):
        with given.row(index):
            if len(ids) > trained.max_length:
                raise UserError(
                    f"the prompt has {len(ids)} tokens, {trained.length_limit}: shorten it"
                )
    engine = trained.engines.for_row()
    if len(prompts) > 1:
        engine = trained.engines.for_rows(sum(map(len, prompts)))
    found: list[NextTokens] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    with progress_bar("next tokens", len(order), "row") as bar:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            ids_M = np.concatenate([np.array(prompts[index]) for index in batch])
            lengths_B = np.array([len(prompts[index]) for index in batch])
            logits_BxV = engine.next_logits(ids_M, lengths_B)
            if not np.isfinite(logits_BxV).all():
                raise not_finite(trained)
            probabilities_BxV = np.exp(log_softmax(logits_BxV))
            for index, probabilities_V in zip(batch, probabilities_BxV, strict=True):
                likeliest = np.argsort(-probabilities_V, kind="stable")[:count].tolist()
                tokens = [token_text(trained, token) for token in likeliest]
                found[index] = list(zip(tokens, probabilities_V[likeliest].tolist(), strict=True))
            bar.update(len(batch))
    return given.answer(found)
