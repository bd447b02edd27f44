"""Files that would take much memory are refused before they do."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_bombs_are_refused_within_bounded_memory(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "hostile.bombs", tmp_path],
        cwd=ROOT / "tests", env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"after {done.stdout.split()}: {done.stderr[-2000:]}"
    assert done.stdout.endswith("all of them\n")
