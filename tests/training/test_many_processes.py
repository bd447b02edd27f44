"""Several processes through faults, on one machine and on two, for minutes.

    python -m pytest -m long tests/training/test_many_processes.py
    KILLS=50 python -m pytest -m long -s tests/training/test_many_processes.py -k killed

Two machines are two network namespaces, which root may make on Linux.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from parallel_runs import Group, figures, in_other_folder, ragged_settings, train, wait_for_step
from training_runs import ROOT, command, same_weights

from smallgpt.training.checkpoint import find_checkpoint

pytestmark = pytest.mark.long
KILLS = int(os.environ.get("KILLS", "3"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Settings of a run in one process that is at its end."""
    settings = ragged_settings(tmp_path_factory.mktemp("alone"))
    train(settings)
    return settings


def best(settings):
    return Path(settings.output_dir) / "best_model"


def check_near(one, other, bound=2e-5):
    losses = figures(one, "loss"), figures(other, "loss")
    assert len(losses[0]) == len(losses[1]) > 40
    assert abs(losses[0] - losses[1]).max() < bound


def children_of(process):
    """The process numbers of its children."""
    path = Path(f"/proc/{process}/task/{process}/children")
    return [int(number) for number in path.read_text().split()]


def check_gone(processes):
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{process}").exists() for process in processes):
        assert time.monotonic() < deadline, "a process goes on"
        time.sleep(0.1)


# ------------------------------------------------------------------------------- one machine


def test_one_process_of_torchrun_is_the_run_without_to_the_bit(alone, tmp_path):
    settings = in_other_folder(alone, tmp_path, dropout=0.2, optimizer="muon")
    train(settings)
    other = replace(settings, output_dir=str(tmp_path / "torchrun"))
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=1"]
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}
    subprocess.run([*words, *command(other)[1:]], cwd=ROOT, env=environment, check=True)
    assert same_weights(best(settings), best(other))


def test_processes_killed_at_any_moment_lose_nothing(alone, tmp_path):
    """Everything that a resumed run could get wrong is on; every step is saved."""
    dice = random.Random(os.environ.get("SEED", "1"))
    values = {"dropout": 0.2, "optimizer": "muon", "ema_decay": 0.9, "checkpoint_steps": 1}
    whole = in_other_folder(alone, tmp_path / "whole", processes=2, **values)
    train(whole)
    broken = in_other_folder(alone, tmp_path / "broken", processes=2, **values)
    for kill in range(KILLS):
        run = subprocess.Popen(
            command(broken, *["--resume"] * (kill > 0)), cwd=ROOT, stdout=subprocess.DEVNULL
        )
        # Also while it loads, and before the processes have met.
        wait_for_step(broken, dice.randrange(1, 50) * kill // KILLS)
        time.sleep(dice.choice([0.3, 3, 6, 8]) * dice.random())
        children = children_of(run.pid)
        began = time.monotonic()
        if children:
            os.kill(dice.choice(children), signal.SIGKILL)
        code = run.wait(timeout=60)
        print(f"kill {kill + 1}: {code}, all gone after {time.monotonic() - began:.1f} s")
        check_gone(children)
    train(broken, "--resume")
    assert same_weights(best(whole), best(broken))
    for name in ("loss", "grad_norm"):
        assert (figures(whole, name) == figures(broken, name)).all()


def test_any_number_of_processes_goes_on(alone, tmp_path):
    settings, said = in_other_folder(alone, tmp_path), []
    for number, count in enumerate((2, 1, 4, 3)):
        words = command(settings, *["--resume"] * (number > 0))
        group = Group(*[words] * count) if count > 1 else None
        run = group.processes[-1] if group else subprocess.Popen(
            words, cwd=ROOT, stdout=subprocess.PIPE, text=True
        )  # fmt: skip
        if count != 3:
            wait_for_step(settings, 10 * (number + 1))
            run.send_signal(signal.SIGTERM)
        said.append(group.wait()[0][1] if group else run.communicate(timeout=120)[0])
    changes = [f"processes was {one}, is {other}" for one, other in ((2, 1), (1, 4), (4, 3))]
    assert all(change in text for change, text in zip(changes, said[1:], strict=True))
    check_near(alone, settings)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signal_to_the_launcher_ends_all_and_saves(alone, tmp_path, number):
    settings = in_other_folder(alone, tmp_path, processes=2, num_epochs=400)
    run = subprocess.Popen(command(settings), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    wait_for_step(settings, 5)
    children = children_of(run.pid)
    run.send_signal(number)
    # Their output ends when all of them are gone, also where the launcher was killed.
    said, _ = run.communicate(timeout=30)
    assert "stopped at step" in said and len(children) == 2
    check_gone(children)
    assert run.returncode == {2: 130, 15: 143, 9: -9}[number]
    step = find_checkpoint(Path(settings.output_dir) / "checkpoints").loop.step
    assert step == len(figures(settings, "loss"))


def test_second_run_in_the_folder_is_refused_by_all(alone, tmp_path):
    settings = in_other_folder(alone, tmp_path, num_epochs=400)
    group = Group(command(settings), command(settings))
    wait_for_step(settings, 1)
    second = Group(command(settings), command(settings)).wait()
    assert [code for code, *_ in second] == [1, 1]
    assert "another training run" in second[0][2] and second[1][2] == ""
    for process in group.processes:
        process.kill()
    group.wait()
    logs = [path for path in Path(settings.output_dir).rglob("*.log*")]
    assert [path.name for path in logs] == ["train.log"]


def test_machines_without_a_common_disk(alone, tmp_path):
    """The second machine has its own copy of the rows, and never the run."""
    other = tmp_path / "elsewhere"
    other.mkdir()
    for name in ("rows.jsonl", "vocab.json"):
        shutil.copy(Path(alone.data_path).with_name(name), other)
    first = in_other_folder(alone, tmp_path)
    second = replace(
        first,
        data_path=str(other / "rows.jsonl"),
        vocab_path=str(other / "vocab.json"),
        output_dir=str(other / "run"),
    )
    group = Group(command(first), command(second))
    wait_for_step(first, 12)
    group.processes[0].send_signal(signal.SIGTERM)
    assert [code for code, *_ in group.wait()] == [143, 143]
    ended = Group(command(first, "--resume"), command(second, "--resume")).wait()
    assert [code for code, *_ in ended] == [0, 0], ended
    check_near(alone, first)
    assert not (other / "run").exists()


def test_machine_with_other_rows_or_none_is_named(alone, tmp_path):
    settings, path = in_other_folder(alone, tmp_path), tmp_path / "rows.jsonl"
    other = command(replace(settings, data_path=str(path)))
    missing = Group(command(settings), other).wait()
    assert [code for code, *_ in missing] == [1, 1]
    assert "lost contact with another process" in missing[0][2]
    (line,) = missing[1][2].splitlines()
    assert line.startswith("error: process 1 (") and f"{path}: no such file" in line

    lines = Path(settings.data_path).read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    changed = Group(command(settings), other).wait()
    assert [code for code, *_ in changed] == [1, 1]
    assert "process 1 (" in changed[0][2] and "another the training data" in changed[0][2]
    assert changed[1][2] == ""
    assert not (Path(settings.output_dir) / "metrics.jsonl").exists()


def test_minutes_are_planned_by_the_first_and_repeat(alone, tmp_path):
    timed = in_other_folder(alone, tmp_path, num_epochs="auto", max_minutes=0.1)
    words = [word for word in command(timed) if not word.startswith(("--num_epochs", "--steps"))]
    first = Group(words, words).wait()
    assert [code for code, *_ in first] == [0, 0], first
    again = replace(timed, output_dir=str(tmp_path / "again"))
    words = [sys.executable, "train_gpt.py", "--config", f"{timed.output_dir}/settings.yaml"]
    words += ["--output_dir", again.output_dir]
    assert [code for code, *_ in Group(words, words).wait()] == [0, 0]
    assert same_weights(best(timed), best(again))
    assert (figures(timed, "learning_rate") == figures(again, "learning_rate")).all()


def test_machines_that_round_otherwise_keep_one_model(alone, tmp_path):
    settings = in_other_folder(alone, tmp_path)
    slow = ["env", "ATEN_CPU_CAPABILITY=default", "ONEDNN_MAX_CPU_ISA=SSE41", *command(settings)]
    ended = Group(command(settings), slow).wait()
    assert [code for code, *_ in ended] == [0, 0], ended
    assert "process 1 computes in other last bits than the first one" in ended[0][1]
    check_near(alone, settings)


# ------------------------------------------------------------------------------- two machines


class TwoMachines:
    """Two network namespaces, `one` and `two`, with a cable between them."""

    def __init__(self):
        self.names = [f"smallgpt_{name}_{os.getpid()}" for name in ("one", "two")]
        self.addresses = ["10.77.0.1", "10.77.0.2"]

    def ip(self, *words):
        subprocess.run(["ip", *words], check=True, capture_output=True)

    def __enter__(self):
        self.ip("link", "add", "cable0", "type", "veth", "peer", "name", "cable1")
        for number, (name, address) in enumerate(zip(self.names, self.addresses, strict=True)):
            self.ip("netns", "add", name)
            self.ip("link", "set", f"cable{number}", "netns", name)
            for words in (
                ("addr", "add", f"{address}/24", "dev", f"cable{number}"),
                ("link", "set", f"cable{number}", "up"),
                ("link", "set", "lo", "up"),
            ):
                self.ip("-n", name, *words)
        return self

    def __exit__(self, *_):
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)

    def start(self, *commands):
        """torchrun on both, as docs/scaling.md has it, of a process each."""
        return [
            subprocess.Popen(
                [
                    *("ip", "netns", "exec", self.names[number]),
                    *(sys.executable, "-m", "torch.distributed.run"),
                    *("--nnodes=2", f"--node_rank={number}", "--nproc_per_node=1"),
                    *(f"--master_addr={self.addresses[0]}", "--master_port=29500"),
                    *words[1:],
                ],
                cwd=ROOT,
                env=os.environ | {"GLOO_SOCKET_IFNAME": f"cable{number}"},
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            for number, words in enumerate(commands)
        ]


@pytest.fixture(scope="module")
def machines():
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and the command `ip` (iproute2)")
    two = TwoMachines()
    try:
        two.__enter__()
    except subprocess.CalledProcessError as error:
        two.__exit__()
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
    yield two
    two.__exit__()


def test_two_machines_train_the_model_of_one_process(alone, tmp_path, machines):
    settings = in_other_folder(alone, tmp_path)
    runs = machines.start(command(settings), command(settings))
    said = [run.communicate(timeout=120)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    check_near(alone, settings, 2e-6)


@pytest.mark.parametrize("fault", ["killed", "stopped", "cable"])
def test_fault_on_the_other_machine_ends_the_run_saved(alone, tmp_path, machines, fault):
    settings = in_other_folder(alone, tmp_path, num_epochs=400, exchange_timeout=5.0)
    runs = machines.start(command(settings), command(settings))
    wait_for_step(settings, 5)
    (worker,) = children_of(runs[1].pid)  # `ip` becomes torchrun
    began = time.monotonic()
    if fault == "cable":
        machines.ip("-n", machines.names[1], "link", "set", "cable1", "down")
    else:
        os.kill(worker, signal.SIGKILL if fault == "killed" else signal.SIGSTOP)
    try:
        said, _ = runs[0].communicate(timeout=60)
        print(f"{fault}: the first machine has ended after {time.monotonic() - began:.1f} s")
        assert runs[0].returncode == 1
        assert "all updates before are saved, go on with:" in said
        step = find_checkpoint(Path(settings.output_dir) / "checkpoints").loop.step
        assert step >= len(figures(settings, "loss")) >= 5
    finally:
        if fault == "cable":
            machines.ip("-n", machines.names[1], "link", "set", "cable1", "up")
        for process in (worker, runs[1].pid):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        runs[1].communicate(timeout=60)
    train(replace(settings, num_epochs=1 + step // 5), "--resume")
    assert np.isfinite(figures(settings, "loss")).all()
