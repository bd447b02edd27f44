"""The benchmark on sizes that take no time, and a small model of its shape."""

from dataclasses import replace

import torch
from plain_settings import plain_settings

from smallgpt.benchmark.workloads import CPU_SIZES, Shape, Sizes, vocabulary_of
from smallgpt.model.build import build_model

SHAPE = Shape(n_layer=1, n_head=2, n_embd=16, n_positions=64, codes=120)
# The names stay, and with them the keys of the targets.
TOY = Sizes(
    jobs=tuple(replace(job, lengths=(9,) * 4, batch_size=2, shape=SHAPE) for job in CPU_SIZES.jobs),
    ragged=replace(CPU_SIZES.ragged, lengths=(8, 20, 32, 12), batch_size=2, shape=SHAPE),
    shape=SHAPE,
    batches=(1, 64),
    batches_full=(1, 16, 64),
    prompt=3,
    new_tokens=2,
    row_length=9,
    rows_classified=20,
    rows_read=20,
    rows_read_full=30,
    rounds=1,
    rounds_full=1,
    starts=1,
    squares=(8, 16),
    copied=1 << 12,
)


def small_model(**changes) -> torch.nn.Module:
    settings = plain_settings(n_layer=2, n_head=2, n_embd=16, n_positions=32, max_length=32)
    return build_model(replace(settings, **changes), vocabulary_of(SHAPE)).eval()
