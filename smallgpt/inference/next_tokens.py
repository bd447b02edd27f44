"""The likeliest next tokens of a prompt."""

from __future__ import annotations

import torch
from torch.nn.functional import linear

from smallgpt.errors import UserError
from smallgpt.inference.prompts import not_finite, prompt_ids, refuse_labels_only, token_text
from smallgpt.model.folder import TrainedModel
from smallgpt.model.forward import last_states, linear_head
from smallgpt.model.packed_rows import PackedRows

NEXT_TOKENS_SHOWN = 5


def next_tokens(
    trained: TrainedModel, prompt: str, count: int = NEXT_TOKENS_SHOWN
) -> list[tuple[str, float]]:
    """The likeliest next tokens of a prompt and their probabilities, falling.

    Raises:
        UserError: unknown tokens, a prompt beyond the trained length, a count below 1, or a model
            that only names labels.
    """
    if count < 1:
        raise UserError(f"count: {count} is out of range (1 or above)")
    refuse_labels_only(trained)
    ids = prompt_ids(trained, prompt)
    if len(ids) > trained.max_length:
        raise UserError(
            f"the prompt has {len(ids)} tokens, the model was trained on rows of at most "
            f"{trained.max_length}: shorten it"
        )
    with torch.inference_mode():
        # Not the model's own forward pass, which computes the logits of every place.
        ids_N, rows = torch.tensor(ids, device=trained.device), PackedRows([len(ids)])
        last_1xD = last_states(trained.model, ids_N, rows, trained.precision)
        logits_V = linear(last_1xD.float(), *linear_head(trained.model))[0]
    if not logits_V.isfinite().all():
        raise not_finite(trained)
    top = logits_V.softmax(-1).topk(min(count, len(logits_V)))
    return [
        (token_text(trained, index), probability)
        for probability, index in zip(top.values.tolist(), top.indices.tolist(), strict=True)
    ]
