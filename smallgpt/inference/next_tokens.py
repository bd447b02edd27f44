"""The likeliest next tokens of a prompt."""

from __future__ import annotations

import torch

from smallgpt.errors import UserError
from smallgpt.inference.prompts import not_finite, prompt_ids, refuse_labels_only, token_text
from smallgpt.model.folder import TrainedModel
from smallgpt.model.forward import Forward, TokenHead

NEXT_TOKENS_SHOWN = 5


def next_tokens(
    trained: TrainedModel, prompt: str, count: int = NEXT_TOKENS_SHOWN
) -> list[tuple[str, float]]:
    """The likeliest next tokens of a prompt and their probabilities, descending.

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
    forward = Forward(trained.model, trained.precision)
    with torch.inference_mode():
        # Not the model's own forward pass, which computes the logits of every place.
        last_1xE = forward(torch.tensor(ids, device=trained.device), [len(ids)], "last")
        (logits_V,) = TokenHead.of(trained.model)(last_1xE)
    if not logits_V.isfinite().all():
        raise not_finite(trained)
    top = logits_V.softmax(-1).topk(min(count, len(logits_V)))
    return [
        (token_text(trained, index), probability)
        for probability, index in zip(top.values.tolist(), top.indices.tolist(), strict=True)
    ]
