"""Signals that stop a run."""

import os
import signal
import threading

import pytest

from smallgpt.exit_codes import EXIT_HUNG_UP, EXIT_INTERRUPTED, EXIT_TERMINATED
from smallgpt.processes import Processes
from smallgpt.training.stopping import StopRequestedError, StopSignal


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, EXIT_INTERRUPTED),
        (signal.SIGTERM, EXIT_TERMINATED),
        (signal.SIGHUP, EXIT_HUNG_UP),
    ],
)
def test_first_signal_is_a_wish_that_can_be_asked_for(number, code):
    with StopSignal() as stop:
        stop.raise_if_requested()
        assert not stop.requested()
        os.kill(os.getpid(), number)
        assert stop.requested()
        assert stop.exit_code == code
        with pytest.raises(StopRequestedError):
            stop.raise_if_requested()


def test_second_ctrl_c_leaves_at_once():
    with pytest.raises(KeyboardInterrupt), StopSignal():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_second_sigterm_waits_for_the_save_that_is_under_way():
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.exit_code == EXIT_TERMINATED


STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in STOPPING]
    with StopSignal():
        assert not any(signal.getsignal(n) == b for n, b in zip(STOPPING, before, strict=True))
    assert [signal.getsignal(number) for number in STOPPING] == before


@pytest.mark.parametrize("number", STOPPING)
def test_signal_that_the_caller_ignores_stays_ignored(number):
    """As under `nohup`, or in the background of a script."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), number)
        assert not stop.requested()
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_outside_the_main_thread_it_leaves_the_signals_alone():
    seen = []

    def work():
        with StopSignal() as stop:
            seen.append((stop.requested(), signal.getsignal(signal.SIGINT)))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


def test_signal_that_comes_while_processes_ask_one_another_is_not_lost():
    class Meanwhile(Processes):
        def highest(self, number):
            if not number:
                signal.raise_signal(signal.SIGTERM)
            return number  # of all, before the signal

    with StopSignal(Meanwhile(0, 2)) as stop:
        assert not stop.requested()  # the others would not stop at this step
        assert stop.requested() and stop.exit_code == 143
