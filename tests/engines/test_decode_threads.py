"""Decoding with one thread or all: the faster one is taken, and answers are the same."""

import pytest
import torch

from inference import load_trained_model
from smallgpt.engines import decode_threads
from smallgpt.engines.decode_threads import ThreadChoice


class Clocked:
    """A decoder that takes as long for a step as the clock of the test says."""

    device = torch.device("cpu")

    def __init__(self, threads, clock):
        self.threads, self.clock = threads, clock

    def prefill(self, ids_BxT, lengths_B, capacity):
        self.rows = len(ids_BxT)

    def step(self, ids_B):
        self.clock.now += self.clock.seconds[self.threads, self.rows]


class Clock:
    now = 0.0

    def __init__(self, seconds):
        self.seconds = seconds


def test_the_faster_number_of_threads_is_taken_for_each_number_of_rows(monkeypatch):
    clock = Clock({(1, 1): 1.0, (4, 1): 5.0, (1, 16): 3.0, (4, 16): 2.0})
    monkeypatch.setattr(decode_threads.time, "perf_counter", lambda: clock.now)
    choice = ThreadChoice(4, lambda threads: Clocked(threads, clock))
    assert [choice.decoder(rows).threads for rows in (1, 16, 64, 1)] == [1, 4, 4, 1]
    spent = clock.now
    choice.decoder(1), choice.decoder(200)
    assert clock.now == spent  # measured once


def test_with_a_single_core_nothing_is_measured():
    made = []
    assert ThreadChoice(1, lambda threads: made.append(threads)).decoder(1) is None
    assert made == [1]


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_a_step_is_the_same_with_any_number_of_threads(engine, model_of, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        engines = load_trained_model(model_of("bars"), "cpu", "fp32", engine=engine).engines
        engines.decoder(1, 1)
        choice = engines.for_row()._decoders
        logits = []
        for threads in (1, 2):
            decoder = choice._decoder_with(threads)
            decoder.prefill(torch.tensor([[2, 3]]), torch.tensor([2]), 4)
            logits.append(decoder.step(torch.tensor([7])))
            assert torch.get_num_threads() == 2
        assert torch.equal(*logits)
    finally:
        torch.set_num_threads(before)
