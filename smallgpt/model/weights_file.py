"""model.safetensors: its header, with the validation figures of the weights, and its tensors."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from smallgpt.errors import UserError
from smallgpt.files.reading import open_input, parse_json, read_bytes, shown
from smallgpt.model.own_config import MOST_CONFIG_BYTES, is_number
from smallgpt.model.place import is_adapter_folder
from smallgpt.options.training import MOST_LAYERS
from smallgpt.tokens.labels import MOST_LABELS

if TYPE_CHECKING:
    import torch

WEIGHTS, SETTINGS, CODEBOOK = "model.safetensors", "settings.yaml", "codebook.npz"
MADE_BY = "made_by.json"  # for people: the version, command and data that made a model
# Key in the header of WEIGHTS. transformers ignores it when it loads and drops it when it saves, so
# that figures never stay with weights that have changed.
VALIDATION = "validation"
LABEL_NAMES = "label_names"  # the same for an adapter: its labels as they are spelled
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_TEMPERATURES = (0.01, 1000.0)  # the range of calibration
# The library's own limit. A tensor takes some hundred bytes and nine values; there are 12 a block
# and few more. Figures of labels are one text in it.
_MOST_HEADER_BYTES, _MOST_HEADER_VALUES = 100_000_000, 9 * 20 * MOST_LAYERS
_MOST_FIGURES = 100_000  # values in that text: labels not above chance, labels with few rows


def is_ours(folder: Path) -> bool:
    """Whether training wrote a model folder, even where some of its files are missing by now."""
    # One that only training writes is enough: the folder was not copied whole.
    if is_adapter_folder(folder) or any(
        (folder / n).exists() for n in (SETTINGS, MADE_BY, CODEBOOK)
    ):
        return True
    # transformers has a vocab.json too, of BPE tokenizers, which keep added tokens elsewhere.
    path = folder / "vocab.json"
    return path.is_file() and b'"<PAD>"' in read_bytes(path, MOST_CONFIG_BYTES)


def read_validation(folder: Path) -> dict[str, Any]:
    """The validation figures stored with the weights of a model folder, {} without any.

    Raises:
        UserError: no weights, or the entry is not what `save_model_folder` wrote.
    """
    path = existing(folder / (ADAPTER_WEIGHTS if is_adapter_folder(folder) else WEIGHTS))
    header, _, _ = read_header(path)
    return parse_validation(path, header.get("__metadata__"))


def parse_validation(path: Path, metadata: Any) -> dict[str, Any]:
    text = metadata.get(VALIDATION, "{}") if isinstance(metadata, dict) else "{}"
    try:
        return check_validation(path, parse_json(text, _MOST_FIGURES))
    except (ValueError, TypeError):  # no JSON, or no text
        return check_validation(path, None)


def check_validation(path: Path, validation: Any) -> dict[str, Any]:
    """Validation figures, once they are what `save_model_folder` wrote.

    Raises:
        UserError: they are not.
    """
    try:
        if validation == {} or _is_validation(validation):
            found: dict[str, Any] = validation
            return found
    except (ValueError, TypeError, LookupError, AttributeError):  # other things than expected
        pass
    raise UserError(f"{path}: its stored validation figures are damaged; save the model again")


def parse_label_names(path: Path, metadata: dict[str, str]) -> list[Any]:
    """The spellings of labels stored with an adapter; none in one of an older version."""
    try:
        names = parse_json(metadata.get(LABEL_NAMES, "[]"), MOST_LABELS)
    except ValueError:
        names = None
    if not isinstance(names, list):
        raise UserError(f"{path}: its stored names of labels are damaged; save the model again")
    return names


def _is_validation(value: Any) -> bool:
    """Whether a value has what reports and calibration use of validation figures."""

    def all_shares(*values: Any) -> bool:
        return all(is_number(share, 0, 1) for share in values)

    def are_names(names: Any) -> bool:
        return isinstance(names, list) and all(isinstance(name, str) for name in names)

    whole = _is_count(value["rows"])
    if "perplexity" in value or "accuracy" not in value:  # a model may name labels only
        whole &= is_number(value["perplexity"], 0, sys.float_info.max)
    whole &= all(
        len(name) <= 100 and name.isprintable() and is_number(figure, 0, sys.float_info.max)
        for name, figure in value["baselines"].items()
    )
    if "accuracy" in value:
        low, high = value["accuracy_interval"]
        whole &= all_shares(value["accuracy"], low, high, value["chance_accuracy"])
        whole &= value["above_chance"] in (True, False, None)
        whole &= all(
            are_names(value.get(name, [])) for name in ("not_above_chance", "too_few_rows")
        )
    if value.get("perplexity_interval") is not None:
        low, high = value["perplexity_interval"]
        whole &= all(is_number(end, 0, sys.float_info.max) for end in (low, high))
    whole &= all_shares(value.get("chance_lowest_p_value", 1))
    if "names_left_out" in value:
        left_out = value["names_left_out"]
        whole &= _is_count(left_out["not_told"]) and _is_count(left_out["too_few_rows"])
    whole &= all(_is_count(count) and count for count in value.get("first_tokens", {}).values())
    if "labelled_records" in value:
        whole &= _is_count(value["labelled_records"])
    if "chosen_among" in value:
        whole &= _is_count(value["chosen_among"])
    if "calibration" in value:
        found = value["calibration"]
        whole &= is_number(found["temperature"], *_TEMPERATURES) and _is_count(found["rows"])
        whole &= all_shares(found["ece"], found["raw_ece"])
    return whole


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def read_header(path: Path) -> tuple[dict[str, Any], int, int]:
    """The header of a safetensors file, the offset of its end, and the size of the file in bytes.

    Raises:
        UserError: a header that is too long or no JSON object.
    """
    with open_input(path) as handle:
        size = os.fstat(handle.fileno()).st_size
        length = int.from_bytes(handle.read(8), "little")
        problem = ""
        if length > min(_MOST_HEADER_BYTES, size):
            problem = f"its header would have {length:,} bytes"
        text = b"" if problem else handle.read(length)
    try:
        header: Any = parse_json(text.decode(), _MOST_HEADER_VALUES) if not problem else None
    except ValueError as error:
        problem = shown(str(error))
    if not problem and not isinstance(header, dict):
        problem = "its header is no object"
    if problem:
        raise UserError(f"{path}: damaged or not a safetensors file ({problem})")
    return header, 8 + length, size


def read_tensors(
    path: Path, names: Collection[str] | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a safetensors file (those of `names`, or all) and the metadata of its header.

    Both are of one file, even if training replaces it meanwhile.

    Raises:
        UserError: it is damaged, or lacks one of them.
    """
    try:
        with open(path, "rb") as held:
            # The library opens a path once for the header and again for the tensors. This one
            # leads to the same file both times; where there is none, as on Windows, a file that
            # is open cannot be replaced.
            opened = Path(f"/dev/fd/{held.fileno()}")
            with safe_open(opened if opened.exists() else path, framework="pt") as handle:
                state = {name: handle.get_tensor(name) for name in names or handle.keys()}
                return state, handle.metadata() or {}
    except (SafetensorError, ValueError, OSError) as error:
        reason = shown(" ".join(str(error).split()))
        raise UserError(f"{path}: damaged or not a safetensors file ({reason})") from None


def existing(path: Path) -> Path:
    if not os.path.exists(path):
        raise UserError(f"{path}: missing; this is not a model folder that training wrote")
    return path
