"""Embeddings of a pretrained model, carried over to another vocabulary by the names of tokens.

Never by id: ids differ between two vocabularies that share every token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from smallgpt.console import command_hint
from smallgpt.files.hub import folder_of
from smallgpt.model.config_json import quiet
from smallgpt.tokens.text_tokenizer import SEP, TextTokenizer, load_pretrained_tokenizer
from smallgpt.tokens.vocabulary import EOS, PAD, UNK, Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Embeddings of new tokens are the mean of all plus noise of this share of their standard deviation:
# equal ones would stay equal where the head is tied.
_NOISE = 0.1
_FEW_KNOWN = 0.5  # a smaller share means another tokenizer
_NAMES_SHOWN = 5


# ------------------------------------------------------------------------------- the tokens


def tokens_of(name: str) -> tuple[list[str], dict[str, int | None]]:
    """The tokens of a checkpoint in the order of their ids, and its ids for our special tokens.

    Raises:
        UserError: its tokenizer cannot be loaded.
    """
    folder = folder_of(name, "model")
    if (folder / "settings.yaml").is_file() and (folder / "vocab.json").is_file():
        return Vocabulary.load(folder / "vocab.json").tokens, {}
    tokens = TextTokenizer.pretrained(name, ()).tokens
    with quiet():
        found = load_pretrained_tokenizer(name)
    # BERT's tokenizers end a text with [SEP].
    end = found.eos_token_id if found.eos_token_id is not None else found.sep_token_id
    parting = found.sep_token_id
    return tokens, {EOS: end, UNK: found.unk_token_id, PAD: found.pad_token_id, SEP: parting}


@torch.no_grad()
def carry_over(
    model: PreTrainedModel,
    tokens: Sequence[str],
    roles: Mapping[str, int | None],
    vocabulary: Vocabulary,
    seed: int,
    name: str,
    say: Callable[[str], None],
) -> list[int]:
    """Give a model the tokens of `vocabulary`; tokens that it knew keep their embeddings.

    Its embedding, head and the head's bias change; tied ones stay tied. Returns the ids of
    `vocabulary` that the checkpoint does not have by name.

    Args:
        tokens: the token of each id of the checkpoint.
        roles: its ids for <EOS>, <UNK>, <PAD> and <SEP>, the initial values of ours where it has
            none of that name.
        seed: of the noise in the embeddings of new tokens.
        name: of the checkpoint, for messages.
    """
    input_map, head = _token_maps(model)
    rows = len(input_map.weight)
    tokens = tokens[:rows]  # a tokenizer may have more tokens than its model was trained on
    old_ids = {token: index for index, token in enumerate(tokens)}
    source_V = [old_ids.get(token, -1) for token in vocabulary.tokens]
    new_ids = [index for index, source in enumerate(source_V) if source < 0]
    likened = []
    for index in new_ids:
        token = vocabulary.tokens[index]
        role = roles.get(token)
        if role is not None and role < len(tokens):
            source_V[index] = role
            likened.append(f"{token} starts as {tokens[role]}")
    fresh = [vocabulary.tokens[index] for index in new_ids if source_V[index] < 0]

    generator = torch.Generator().manual_seed(seed)
    wanted = torch.tensor(source_V)
    old = [input_map.weight.clone()]
    # A classifier has no head of tokens.
    tied = head is None or head.weight is input_map.weight
    bias = getattr(head, "bias", None)
    if not tied:
        old.append(head.weight.clone())
    if bias is not None:
        old.append(bias[:, None].clone())
    made = []
    for old_VxE in old:
        new_VxE = old_VxE[wanted.clamp(min=0)]
        noise_VxE = (
            torch.randn(new_VxE.shape, generator=generator) * old_VxE.std(0, correction=0) * _NOISE
        )
        fresh_V = wanted < 0
        new_VxE[fresh_V] = (old_VxE.mean(0) + noise_VxE)[fresh_V]
        made.append(new_VxE)
    with quiet():
        model.resize_token_embeddings(len(vocabulary), mean_resizing=False)
    input_map, head = _token_maps(model)
    input_map.weight.copy_(made.pop(0))
    if not tied:
        head.weight.copy_(made.pop(0))
    if bias is not None:
        head.bias.copy_(made.pop(0)[:, 0])

    known = len(vocabulary) - len(new_ids)
    parts = [
        f"tokens: {known:,} of {len(vocabulary):,} carried over by name from {name}",
        *likened,
        f"{len(fresh):,} new" + (f" ({_some(fresh)})" if fresh else ""),
        f"{len(tokens) - known:,} of the checkpoint's dropped",
    ]
    say("; ".join(parts))
    if known < _FEW_KNOWN * len(vocabulary):
        say(
            f"warning: most tokens are unknown to {name}: its tokenizer is another one, and what "
            f"it learned of its tokens is lost; prepare the data with its own: "
            + command_hint("prepare_data.py", "text", "--tokenizer", name)
        )
    return new_ids


def _token_maps(model: PreTrainedModel) -> tuple[Any, Any]:
    """The embedding of tokens and their head, None of a classifier.

    Each architecture has its own classes for them; all have `weight`.
    """
    return model.get_input_embeddings(), model.get_output_embeddings()


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    return shown + (", ..." if len(names) > _NAMES_SHOWN else "")
