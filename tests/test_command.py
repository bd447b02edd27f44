"""How a command leaves: its exit code and what it says of an error."""

import os
import signal
from pathlib import Path

import pytest
from command_program import run, start


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("return None", 0, ""),
        ("return 0", 0, ""),
        ("return 130", 130, ""),
        ("raise UserError('rows.jsonl:3: no label')", 1, "error: rows.jsonl:3: no label\n"),
        ("raise UserError('one\\ntwo')", 1, "error: one\nerror: two\n"),
        ("raise SettingsError(['--a: x', '--b: y'])", 2, "error: --a: x\nerror: --b: y\n"),
        ("raise KeyboardInterrupt", 130, "error: stopped by Ctrl-C\n"),
        ("open('/absent/file')", 1, "error: /absent/file: No such file or directory\n"),
        ("open('/')", 1, "error: /: Is a directory\n"),
        (
            "raise OSError(errno.ENOSPC, 'No space left on device')",
            1,
            "error: no space left on the disk: free some and run again\n",
        ),
        (
            "raise OSError(errno.ENOSPC, 'No space left on device', 'outputs/x')",
            1,
            "error: no space left on the disk of outputs/x: free some and run again\n",
        ),
    ],
)
def test_exit_code_and_message(body, code, message):
    assert run(body) == (code, "", message)


@pytest.mark.parametrize(
    "body",
    [
        "raise MemoryError",
        "raise RuntimeError('CUDA out of memory. Tried to allocate 20.00 MiB')",
        "raise RuntimeError('[enforce fail] DefaultCPUAllocator: can\\'t allocate memory')",
        "class OutOfMemoryError(RuntimeError): pass\nraise OutOfMemoryError('no')",
    ],
)
def test_out_of_memory_names_the_options_that_help(body):
    code, _, err = run(body)
    assert code == 1
    assert err.startswith("error: out of memory")
    assert "--batch_size" in err
    assert "--grad_accumulation_steps" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("body", ["raise RuntimeError('shape mismatch')", "raise KeyError('x')"])
def test_bug_of_ours_keeps_its_traceback(body):
    code, _, err = run(body)
    assert code == 1
    assert "Traceback" in err


def test_main_gets_the_words_after_the_program_name():
    assert run("print(argv)", "--a", "b c")[1] == "['--a', 'b c']\n"


def test_real_ctrl_c_leaves_with_130_and_no_traceback():
    process = start("print('ready', flush=True)\ntime.sleep(60)")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "error: stopped by Ctrl-C\n")


@pytest.mark.parametrize(
    "body",
    ["print('little')", "for _ in range(100_000):\n    print('much')", "print(1, flush=True)"],
)
def test_reader_that_has_left_is_no_error(body):
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        code, _, err = run(body, stdout=write_end)
    finally:
        os.close(write_end)
    assert (code, err) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_result_that_did_not_fit_on_the_disk_is_a_failure():
    with open("/dev/full", "w") as full:
        code, _, err = run("print('the result')", stdout=full)
    told = "error: no space left on the disk of standard output: free some and run again\n"
    assert (code, err) == (1, told)
    for body in ("print('much' * 100_000)", "print('--help'), sys.exit(0)"):
        with open("/dev/full", "w") as full:
            assert run(body, stdout=full) == (1, None, told)
