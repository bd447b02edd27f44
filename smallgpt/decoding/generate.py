"""Generates rows with a key/value cache: greedy, temperature, top-k, top-p.

    decoder = make_decoder(model, dtype=torch.bfloat16)    # once; that of a GPT-2 packs its weights
    new_tokens = generate_tokens(
        decoder,
        prompts=[[2, 17, 40], [2, 9]],
        max_new_tokens=100,
        stop_ids=[vocabulary.eos_id],
        sampling=Sampling(temperature=0.8, top_k=50),
        generator=torch.Generator().manual_seed(0),
        forbidden_ids=[vocabulary.pad_id],
        rules=token_rules(vocabulary, max_length, End.LABEL),
    )

The computation is that of transformers' `GPT2LMHeadModel` (models/gpt2/modeling_gpt2.py); models of
other architectures decode through transformers itself. Sizes in names: as in `decoder`; N prompts,
M new tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor
from transformers import GPT2LMHeadModel, PreTrainedModel

from smallgpt.decoding.decoder import Decoder
from smallgpt.decoding.growing_rows import close_gaps
from smallgpt.decoding.plain_decoder import PlainDecoder
from smallgpt.decoding.row_rules import RowRules
from smallgpt.decoding.sampling import Sampling, choose_tokens
from smallgpt.decoding.token_decoder import TokenDecoder

# Steps between checks for finished rows: each check makes the host wait for a GPU.
_STEPS_PER_LOOK = {"cpu": 1, "cuda": 16}


def make_decoder(model: PreTrainedModel, dtype: torch.dtype) -> TokenDecoder:
    """The fast decoder for a GPT-2, the plain one for other models."""
    config = model.config
    if isinstance(model, GPT2LMHeadModel) and not (
        config.scale_attn_by_inverse_layer_idx or config.add_cross_attention
    ):
        return Decoder(model, dtype)
    return PlainDecoder(model, dtype)


@torch.inference_mode()
def generate_tokens(
    decoder: TokenDecoder,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int | Sequence[int],
    stop_ids: Collection[int],
    sampling: Sampling,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    forbidden_ids: Collection[int] = (),
    rules: RowRules | None = None,
    lead: Sequence[int] = (),
    batch_size: int = 64,
    on_progress: Callable[[int], object] | None = None,
) -> list[list[int]]:
    """Continue each prompt until a stop token or `max_new_tokens`.

    Returns the new tokens of each prompt, in the order of `prompts`, a stop token included.

    Each prompt has its own random numbers, drawn before the first step. So the seed of `generator`
    fixes the result; `batch_size` and other rows that end early do not change it, but for
    rounding: sums over another batch may differ in the last bit, more visibly in bf16.

    Args:
        prompts: token ids, at least one each, of any lengths; those of similar length are decoded
            together. A prompt and its new tokens may take n_positions together. (The last new
            token is never read, so one more would fit; the rule is kept simple.)
        max_new_tokens: of every prompt, or for each its own.
        generator: one for all prompts; or for each prompt its own, prompts that are given the
            same one drawing from it in turn.
        forbidden_ids: ids that are never generated.
        rules: which tokens may come next; their rows hold a prompt and its new tokens.
        lead: ids that the model reads before each prompt, no part of a row.
        on_progress: called with the number of prompts finished since the last call.

    Raises:
        ValueError: an empty prompt or one that is too long, every token forbidden, or logits
            that are not finite (damaged weights, or fp16 overflow).
    """
    if isinstance(max_new_tokens, int):
        max_new_tokens = [max_new_tokens] * len(prompts)
    if min(max_new_tokens, default=1) < 1 or batch_size < 1:
        raise ValueError("max_new_tokens and batch_size must be 1 or above")
    for index, (prompt, most) in enumerate(zip(prompts, max_new_tokens, strict=True)):
        if not prompt:
            raise ValueError(f"prompt {index} is empty: it needs one token at least")
        if len(lead) + len(prompt) + most > decoder.n_positions:
            raise ValueError(
                f"prompt {index} has {len(prompt)} tokens; with {most} new ones it does "
                f"not fit the model's {decoder.n_positions} positions"
            )
        if rules is not None and len(prompt) + most > rules.max_length:
            raise ValueError(
                f"prompt {index} has {len(prompt)} tokens; with {most} new ones it is "
                f"longer than a row of {rules.max_length}"
            )
    forbidden = torch.tensor(sorted(set(forbidden_ids)), dtype=torch.long, device=decoder.device)
    if len(forbidden) >= decoder.vocab_size:
        raise ValueError("all tokens are forbidden")
    if rules is not None:
        rules = rules.on(decoder.device)
    stops = frozenset(stop_ids)
    steps_per_look = _STEPS_PER_LOOK.get(decoder.device.type, 16)
    generators = generator if isinstance(generator, Sequence) else [generator] * len(prompts)
    uniform_NxM = torch.empty(len(prompts), max(max_new_tokens, default=0))
    for uniform_M, each in zip(uniform_NxM, generators, strict=True):
        device = None if each is None else each.device
        uniform_M.copy_(torch.rand(len(uniform_M), generator=each, device=device))
    uniform_NxM = uniform_NxM.to(decoder.device)
    new_tokens: list[list[int]] = [[] for _ in prompts]
    # Longest first, so that too little memory shows at once.
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    for start in range(0, len(prompts), batch_size):
        live = order[start : start + batch_size]
        read = [torch.tensor([*lead, *prompts[index]]) for index in live]
        lengths_B = torch.tensor([len(ids) for ids in read])
        ids_BxT = torch.nn.utils.rnn.pad_sequence(read, batch_first=True)
        ends = {max_new_tokens[index] for index in live}
        capacity = ids_BxT.shape[1] + max(ends)
        logits_BxV = decoder.prefill(ids_BxT, lengths_B, capacity)
        finite = logits_BxV.isfinite().all()
        uniform_BxM = uniform_NxM[live]
        state = None
        if rules is not None:
            state = rules.start([prompts[index] for index in live])
        unseen: list[Tensor] = []
        for m in range(max(ends)):
            logits_BxV.index_fill_(1, forbidden, -torch.inf)
            if rules is not None and state is not None:
                logits_BxV = rules.mask(logits_BxV, state)
            ids_B = choose_tokens(logits_BxV, sampling, uniform_BxM[:, m])
            if rules is not None and state is not None:
                state = rules.after(state, ids_B)
            unseen.append(ids_B)
            # A row that has all its tokens may have no position left: it leaves at once.
            if m + 1 in ends or len(unseen) == steps_per_look:
                if not finite:
                    raise ValueError(
                        f"the model's logits are not finite (decoding in {decoder.dtype})"
                    )
                survivors = []
                for row, tokens in enumerate(torch.stack(unseen, dim=1).tolist()):
                    kept = _up_to_stop(tokens, stops)
                    new_tokens[live[row]] += kept
                    if kept[-1] not in stops and m + 1 < max_new_tokens[live[row]]:
                        survivors.append(row)
                unseen = []
                finished = len(live) - len(survivors)
                if finished and on_progress:
                    on_progress(finished)
                if not survivors:
                    break
                if finished:
                    rows = close_gaps(survivors)
                    decoder.keep(rows)
                    live = [live[row] for row in rows]
                    ends = {max_new_tokens[index] for index in live}
                    ids_B, uniform_BxM = ids_B[rows], uniform_BxM[rows]
                    state = None if state is None else state.of(rows)
            logits_BxV = decoder.step(ids_B)
            finite &= logits_BxV.isfinite().all()
    return new_tokens


def _up_to_stop(tokens: list[int], stops: Collection[int]) -> list[int]:
    for index, token in enumerate(tokens):
        if token in stops:
            return tokens[: index + 1]
    return tokens
