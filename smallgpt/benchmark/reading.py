"""Reading speed of a file of rows, and the memory that reading takes."""

from __future__ import annotations

import json
import time

from smallgpt.benchmark.bench import Bench, run_python
from smallgpt.benchmark.comparison import Comparison, Entry, Findings
from smallgpt.benchmark.workloads import vocabulary_of, write_rows
from smallgpt.console import progress_bar
from smallgpt.files.writing import write_text
from smallgpt.rows.reading import read_dataset

# Peak memory of a process of its own: VmHWM counts from its start, ru_maxrss of a child also what
# its parent held.
READ_PROGRAM = r"""
import json, re, sys, time
from pathlib import Path
from smallgpt.rows.reading import read_dataset
from smallgpt.tokens.vocabulary import Vocabulary
path, vocabulary = sys.argv[1], Vocabulary.load(sys.argv[2])
began = time.perf_counter()
rows = read_dataset(path, vocabulary, max_length=1024)
seconds = time.perf_counter() - began
peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
print(json.dumps({"rows": len(rows), "seconds": seconds, "bytes": 1024 * int(peak[1])}))
"""


def measure_reading(bench: Bench, findings: Findings) -> None:
    """Seconds to read a JSONL file the first time and again; with --full a large one too."""
    sizes, folder = bench.sizes, bench.folder / "reading"
    vocabulary = vocabulary_of(sizes.shape)
    times: dict[str, list[float]] = {"first": [], "again": []}
    with progress_bar("reading", bench.rounds, "round") as bar:
        for number in range(bench.rounds):
            path = folder / f"rows_{number}.jsonl"  # a new file: nothing of it is cached
            write_rows(path, vocabulary, [sizes.row_length] * sizes.rows_read, seed=number)
            for seconds in times.values():
                began = time.perf_counter()
                read_dataset(path, vocabulary, max_length=1024)
                seconds.append(time.perf_counter() - began)
            bar.update()
    entries = [Entry(name, seconds) for name, seconds in times.items()]
    title = f"Reading {sizes.rows_read:,} rows of {sizes.row_length} tokens"
    findings.add(Comparison(title, "s", entries, race=False))
    for entry in entries:
        findings.reach(f"{sizes.rows_read:,} rows, {entry.name}", entry.median)
    if not bench.settings.full:
        return
    rows = sizes.rows_read_full
    path, vocabulary_path = folder / "many.jsonl", folder / "vocab.json"
    write_text(vocabulary_path, vocabulary.to_json())
    write_rows(path, vocabulary, [sizes.row_length] * rows, seed=0)
    results = []
    with progress_bar(f"reading {rows:,} rows", 2, "time") as bar:
        for _ in range(2):
            output = run_python("-c", READ_PROGRAM, str(path), str(vocabulary_path))
            results.append(json.loads(output))
            bar.update()
    title = f"Reading {rows:,} rows of {sizes.row_length} tokens in a process of its own"
    entries = [
        Entry(name, [result["seconds"]], f"peak memory {result['bytes'] / 1e6:,.0f} MB")
        for name, result in zip(times, results, strict=True)
    ]
    findings.add(Comparison(title, "s", entries, race=False))
    findings.reach(f"{rows:,} rows, first", results[0]["seconds"])
    findings.reach(f"{rows:,} rows, peak memory", results[0]["bytes"] / 1e6)
