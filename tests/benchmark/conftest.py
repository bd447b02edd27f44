"""Benches of toy sizes."""

import pytest
import torch
from toy_bench import TOY

from smallgpt.benchmark.bench import Bench
from smallgpt.model.hardware import Precision
from smallgpt.options.benchmark import BenchmarkSettings


@pytest.fixture
def make_bench(tmp_path):
    def make(full: bool = False) -> Bench:
        settings, cpu = BenchmarkSettings(full=full), torch.device("cpu")
        return Bench(settings, TOY, cpu, Precision("bf16", "for its targets"), tmp_path)

    return make


@pytest.fixture
def bench(make_bench):
    return make_bench()
