"""Device, precision and states of the random generators."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from smallgpt.errors import UserError
from smallgpt.model.processor import bf16_feature

# Silences transformers' advice; the toolkit prints its own warnings.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


def choose_device(name: str) -> torch.device:
    """The device of an option `auto|cpu|cuda|cuda:N|mps`; GPU N becomes torch's current one.

    Raises:
        UserError: no such device here.
    """
    check_device(name)
    if name == "auto":
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    kind, _, number = name.partition(":")
    if number:
        torch.cuda.set_device(int(number))
        return torch.device(kind, int(number))
    return torch.device(name)


def check_device(name: str) -> None:
    """Raise UserError if there is no such device here; `name` as in `choose_device`."""
    kind, _, number = name.partition(":")
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if (kind == "cuda" and not cuda) or (kind == "mps" and not mps):
        raise UserError(f"--device {name}: no such device here; use --device cpu")
    if number:
        count = torch.cuda.device_count()
        if not number.isdecimal() or int(number) >= count:
            raise UserError(f"--device {name}: the GPUs here are cuda:0 to cuda:{count - 1}")


def random_states(device: torch.device) -> dict[str, torch.Tensor]:
    """States of the random generators that a run on `device` draws from, by device type."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_random_states(states: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Restore `random_states`; the state of a device of another type is left out."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    elif device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"])


@dataclass(frozen=True)
class Precision:
    """Data type of the matrix products: fp32, bf16 or fp16; weights stay in fp32."""

    name: str
    reason: str  # why it was chosen, shown to the user

    @property
    def dtype(self) -> torch.dtype:
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.name]

    def autocast(self, device: torch.device) -> AbstractContextManager:
        """The context in which to run the model."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(device.type, dtype=self.dtype)


def choose_precision(name: str, device: torch.device) -> Precision:
    """The precision of an option `auto|fp32|bf16|fp16` on a device.

    Raises:
        UserError: the device cannot compute in it.
    """
    if name == "fp16" and device.type == "cpu":
        raise UserError("--precision fp16 needs a GPU; use bf16 or fp32 on the CPU")
    if name != "auto":
        return Precision(name, "as asked for")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision("bf16", "this GPU computes in bf16")
        return Precision("fp32", "this GPU does not compute in bf16")
    if device.type == "cpu":
        feature = bf16_feature()
        if feature:
            return Precision("bf16", f"this CPU computes in bf16 ({feature})")
        return Precision("fp32", "this CPU does not compute in bf16 (no AVX512-BF16, no AMX)")
    return Precision("fp32", f"bf16 is not used on {device.type}")
