"""What the CPU is, known without importing torch."""

from __future__ import annotations

import platform
from pathlib import Path


def bf16_feature() -> str | None:
    """The instruction set in which this CPU multiplies bf16 numbers, None without one.

    From the system's own list: torch also says yes where it emulates bf16, slower than fp32.
    """
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return None
    for flag, feature in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512-BF16")):
        if flag in flags:
            return feature
    return None


def processor_name() -> str:
    """The name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
