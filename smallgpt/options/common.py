"""Values that the options of several commands share."""

from __future__ import annotations

DEVICES = ("auto", "cpu", "cuda", "cuda:N", "mps")  # N is a number
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
LARGEST_SEED = 2**32 - 1  # scikit-learn takes no larger one
FP16_NEEDS_GPU = "precision fp16 needs a GPU: use bf16 or fp32 on the CPU"
