"""Options and limits that several commands share."""

from __future__ import annotations

from smallgpt.options.option import Option

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
FP16_NEEDS_GPU = "precision fp16 needs a GPU: use bf16 or fp32 on the CPU"
LARGEST_SEED = 2**32 - 1  # scikit-learn takes no larger one
LEAST_LENGTH = 8  # of the longest row: below it there is no room for a body and its label
DEVICE = Option(
    "auto",
    "auto = an NVIDIA GPU, else Apple's, else the CPU.",
    choices=("auto", "cpu", "cuda", "cuda:N", "mps"),  # N is a number
)
ON_BAD_ROW = Option(
    "error",
    "A row that breaks the format: stop and list the first 20, or skip and count.",
    choices=("error", "skip"),
)
