"""Our own config.json, read without importing transformers: only keys that shape a model.

Keys that could load code are ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smallgpt.errors import UserError
from smallgpt.files.reading import parse_json, read_text, shown
from smallgpt.options.training import MOST_LAYERS, MOST_POSITIONS, MOST_WIDTH

ID2LABEL = "id2label"
# config.activation_function -> torch's `approximate`. transformers computes gelu_new in several
# operations, torch in one.
GELU_FORMULA = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
# 10,000 labels of 1,000 letters each, twice, a letter in up to six bytes.
MOST_CONFIG_BYTES = 2**27
_MOST_CONFIG_VALUES = 100_000  # each of up to 10,000 labels twice
# Keys that shape a GPT-2, with the range of their values; all others in config.json are ignored.
_CONFIG_KEYS: dict[str, tuple[type, float, float]] = {
    "vocab_size": (int, 1, 2**31),
    "n_positions": (int, 1, MOST_POSITIONS),
    "n_embd": (int, 1, MOST_WIDTH),
    "n_layer": (int, 1, MOST_LAYERS),
    "n_head": (int, 1, MOST_WIDTH),
    "n_inner": (int, 1, 2**31),
    "activation_function": (str, 0, 0),
    "resid_pdrop": (float, 0, 1),
    "embd_pdrop": (float, 0, 1),
    "attn_pdrop": (float, 0, 1),
    "layer_norm_epsilon": (float, 0, 1),
    "initializer_range": (float, 0, 1e6),
    "scale_attn_weights": (bool, 0, 0),
    "scale_attn_by_inverse_layer_idx": (bool, 0, 0),
    "reorder_and_upcast_attn": (bool, 0, 0),
    "bos_token_id": (int, 0, 2**31),
    "eos_token_id": (int, 0, 2**31),
    "pad_token_id": (int, 0, 2**31),
}
_TOKEN_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")
_MAY_BE_NONE = ("n_inner", *_TOKEN_KEYS)
_KIND_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def read_own_config(path: Path) -> dict[str, Any]:
    """The part of a config.json that shapes a GPT-2, and its labels; of other architectures all.

    transformers would follow some other keys (`attn_implementation` can name code to download);
    for other architectures `config_of` leaves them out.

    Raises:
        UserError: not JSON, no configuration, or in a GPT-2's a value of a wrong type or range.
    """
    try:
        values = parse_json(read_text(path, MOST_CONFIG_BYTES), _MOST_CONFIG_VALUES)
    except ValueError as error:
        raise UserError(f"{path}: not a GPT-2 configuration ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: not a GPT-2 configuration")
    if values.get("model_type", "gpt2") != "gpt2":
        return values
    taken: dict[str, Any] = {"model_type": "gpt2", ID2LABEL: values.get(ID2LABEL)}
    for name, (kind, low, high) in _CONFIG_KEYS.items():
        if name not in values:
            continue
        value = values[name]
        if value is None and name in _MAY_BE_NONE:
            taken[name] = None
            continue
        if kind is float:
            right = is_number(value, low, high)
        elif kind is int:
            right = type(value) is int and low <= value <= high
        else:
            right = type(value) is kind
        if not right:
            bounds = f" from {low:,} to {high:,}" if kind in (int, float) else ""
            raise UserError(
                f"{path}: not a GPT-2 configuration ({name} is {shown(value)}, expected "
                f"{_KIND_WORDS[kind]}{bounds})"
            )
        taken[name] = value
    for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"):
        if name not in taken:
            raise UserError(f"{path}: not a GPT-2 configuration ({name} is missing)")
    for name in _TOKEN_KEYS:
        index = taken.setdefault(name, None)
        if index is not None and index >= taken["vocab_size"]:
            raise UserError(
                f"{path}: not a GPT-2 configuration ({name} is {index}, the vocabulary has "
                f"{taken['vocab_size']} tokens)"
            )
    return taken


def is_number(value: Any, low: float, high: float) -> bool:
    return type(value) in (int, float) and low <= value <= high


def is_plain_gpt2(values: dict[str, Any]) -> bool:
    """Whether the values of a config.json are of a GPT-2 as training from scratch makes it."""
    return (
        values.get("model_type", "gpt2") == "gpt2"
        and values.get("activation_function", "gelu_new") in GELU_FORMULA
        and not values.get("scale_attn_by_inverse_layer_idx")
    )
