"""Feed damaged files to every reader for as long as you like; the suite does a little of it.

    python tests/fuzz.py --minutes 60
    python tests/fuzz.py --minutes 5 --seed 7 --reader "model: config.json"
    python tests/fuzz.py --repeat fuzz_failures/rows-1f2e3d4c

Each input must be read, or be refused in words that name the file: no other exception, no hang, no
memory without bound. What fails is kept in --failures; the exit is then 1. The seed is printed, and
the same seed tries the same inputs.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random, SystemRandom

sys.path.insert(0, str(Path(__file__).parent.parent))

from hostile.damage import hostile_content
from hostile.reader import Reader
from hostile.readers import READERS

from smallgpt.console import format_duration, format_table, plural, progress_bar, say

MOST_SECONDS = 60  # for one input of at most some kilobytes
MOST_MEMORY = 4 * 2**30  # on top of what the libraries take


def main() -> int:
    """Fuzz as the flags say; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="how long [default 10]")
    parser.add_argument("--seed", type=int, help="try the inputs of this seed [default: a new one]")
    parser.add_argument("--reader", help="this reader alone [default: all in turn]")
    parser.add_argument("--repeat", type=Path, help="try one kept input again")
    parser.add_argument("--failures", type=Path, default=Path("fuzz_failures"), help="for failures")
    flags = parser.parse_args()
    wanted = flags.reader
    if flags.repeat is not None:
        wanted = flags.repeat.name.rsplit("-", 1)[0]
    chosen = [r for r in READERS if wanted is None or wanted in (r.name, _plain_name(r))]
    if not chosen:
        parser.error(f"no reader {wanted!r}; there is {', '.join(r.name for r in READERS)}")
    limit_memory()
    signal.signal(signal.SIGALRM, _too_slow)
    with tempfile.TemporaryDirectory() as parent:
        if flags.repeat is not None:
            problem = try_once(chosen[0], Path(parent), flags.repeat.read_bytes())[1]
            print(problem or "no failure")
            return bool(problem)
        seed = SystemRandom().randrange(2**32) if flags.seed is None else flags.seed
        print(f"--seed {seed}", flush=True)
        return fuzz(chosen, Path(parent), 60 * flags.minutes, seed, flags.failures)


def fuzz(chosen: list[Reader], parent: Path, seconds: float, seed: int, failures: Path) -> int:
    """Try inputs until the time is over; returns the exit code."""
    for reader in chosen:  # imports and models that are made once count for none of them
        try_once(reader, parent, reader.sound())
    begin, tried, read, failed = time.monotonic(), Counter(), Counter(), Counter()
    spent: Counter[str] = Counter()
    with progress_bar("fuzzing", round(seconds), "s") as bar:
        while (now := time.monotonic() - begin) < seconds:
            bar.update(min(round(now), round(seconds)) - bar.n)
            bar.set_postfix_str(f"{plural(tried.total(), 'input')}, {failed.total()} failed")
            # Each reader gets the same time: the slow ones fewer inputs.
            reader = min(chosen, key=lambda reader: spent[reader.name])
            number = tried[reader.name]
            content = hostile_content(reader, Random(f"{seed} {reader.name} {number}"))
            start = time.monotonic()
            was_read, problem = try_once(reader, parent, content)
            spent[reader.name] += time.monotonic() - start
            tried[reader.name] += 1
            read[reader.name] += was_read
            if problem:
                failed[reader.name] += 1
                path = keep(failures, reader, content)
                say(f"{reader.name}: {problem}\n  again: python tests/fuzz.py --repeat {path}")
    rows = []
    for name in (reader.name for reader in chosen):
        numbers = tried[name], read[name], failed[name], tried[name] / max(spent[name], 1e-9)
        rows.append([name, *(f"{number:,.0f}" for number in numbers)])
    rows.append(["all", f"{tried.total():,}", f"{read.total():,}", f"{failed.total():,}", ""])
    print(format_table(["reader", "tried", "read", "failed", "a second"], rows))
    refused = tried.total() - read.total() - failed.total()
    print(
        f"{plural(tried.total(), 'input')} in {format_duration(time.monotonic() - begin)}: "
        f"{read.total():,} read, {refused:,} refused in words, {failed.total():,} failed; "
        f"--seed {seed}"
    )
    return bool(failed)


def try_once(reader: Reader, parent: Path, content: bytes) -> tuple[bool, str]:
    """Whether an input was read, and what went wrong with it: "" if nothing."""
    folder = parent / _plain_name(reader)
    if not folder.exists():
        folder.mkdir()
        reader.prepare(folder)
    signal.alarm(MOST_SECONDS)
    try:
        return reader.try_content(folder, content), ""
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic of a library in Rust is no Exception
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}:{last.lineno}"
        return False, f"{type(error).__name__} at {place}: {str(error)[:200]}"
    finally:
        signal.alarm(0)
        shutil.rmtree(folder / "out", ignore_errors=True)


def keep(failures: Path, reader: Reader, content: bytes) -> Path:
    """Write a failing input into the folder of failures."""
    failures.mkdir(parents=True, exist_ok=True)
    path = failures / f"{_plain_name(reader)}-{hashlib.sha256(content).hexdigest()[:8]}"
    path.write_bytes(content)
    return path


def limit_memory() -> None:
    """Let allocations beyond the bound fail; they would be failures of a reader."""
    import torch  # noqa: F401  (its libraries take address space)

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = pages * resource.getpagesize() + MOST_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))


def _plain_name(reader: Reader) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in reader.name)


def _too_slow(*_: object) -> None:
    raise TimeoutError(f"no answer within {MOST_SECONDS} s")


if __name__ == "__main__":
    sys.exit(main())
