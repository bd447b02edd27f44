"""Run the same commands in two trees of the toolkit and compare the results bit for bit.

    git worktree add ../before COMMIT
    python tests/compare_trees.py ../before .            # all jobs, a few minutes
    python tests/compare_trees.py ../before . head lora  # some of them

Both trees run on one thread, in folders of their own, on the same data. Compared are tensors
(weights, optimizer states, averages), metrics (loss and gradient norm of every step among them),
predictions, generated tokens, prepared rows and printed text, but not times and speeds. Exit code 1
where anything differs.
"""

from __future__ import annotations

import difflib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

ALL = ("--log_steps", "1", "--seed", "3", "--device", "cpu")
CODES = ("--codebook_size", "500")  # so that trees with other rules prepare the same rows
SMALL = ("--n_layer", "2", "--n_head", "2", "--n_embd", "32", *ALL)
# Keys of times and of what follows from them, such as digests of files with times in them.
TIMES = {"seconds", "tokens_per_second", "window_began", "sha256"}
_TIME = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d|about [\d.]+ (s|min|h)\b( [\d.]+ (s|min))?"
    r"|done in [\d.]+ (s|min|h)( [\d.]+ s)?|\d+:\d\d(:\d\d)?|[\d.]+ (s|ms|min|h)\b"
)


class Tree:
    """A tree of the toolkit and the folder in which its commands run."""

    def __init__(self, root: Path, work: Path):
        self.root, self.work, self.printed = root.resolve(), work, []
        work.mkdir(parents=True)

    def run(self, script: str, *flags: str, code: int = 0) -> str:
        """Run a command and keep what it prints, to be compared."""
        done = subprocess.run(
            [sys.executable, str(self.root / script), *flags], cwd=self.work, text=True,
            env=environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False,
        )  # fmt: skip
        if done.returncode != code:
            raise SystemExit(f"{self.root}: {script} {' '.join(flags)}\n{done.stderr}")
        self.printed.append(f"$ {script} {' '.join(flags)}\n{done.stdout}")
        return done.stdout

    def run_stopped(self, after_rows: int, *flags: str) -> None:
        """Train until metrics.jsonl has `after_rows` rows, then send SIGTERM."""
        rows = self.work / flags[flags.index("--output_dir") + 1] / "metrics.jsonl"
        process = subprocess.Popen(
            [sys.executable, str(self.root / "train_gpt.py"), *flags], cwd=self.work,
            env=environment(), stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        while process.poll() is None:
            if rows.exists() and len(rows.read_bytes().splitlines()) >= after_rows:
                process.send_signal(signal.SIGTERM)
                break
            time.sleep(0.02)
        if process.wait() != 143:
            raise SystemExit(
                f"{self.root}: the run ended with {process.returncode}, not by SIGTERM"
            )


def environment() -> dict[str, str]:
    """One thread and no GPU, so that sums are added in one order."""
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONHASHSEED": "0",
        "COLUMNS": "100",
    }


# ------------------------------------------------------------------------------- the jobs


def digits(tree: Tree) -> None:
    """Images to rows, a run with the default objective, evaluation, classification."""
    tree.run("prepare_data.py", "digits", *CODES, "--augment", "0", "--output_dir", "data")
    train(tree, "run", "--num_epochs", "1", "--batch_size", "64")
    use(tree, "run")


def variants(tree: Tree) -> None:
    """Variants of images, Muon, averaged weights, accumulation, balanced classes."""
    tree.run("prepare_data.py", "digits", *CODES, "--output_dir", "data", "--augment", "3")
    train(
        tree, "run", "--num_epochs", "1", "--optimizer", "muon", "--ema_decay", "0.99",
        "--learning_rate", "2e-3", "--batch_size", "32", "--grad_accumulation_steps", "2",
        "--class_weights", "balanced", "--attention_dropout", "0.1",
    )  # fmt: skip
    use(tree, "run")


def head(tree: Tree) -> None:
    """A head that names labels, then the same with its backbone frozen."""
    tree.run("prepare_data.py", "digits", *CODES, "--augment", "0", "--output_dir", "data")
    flags = ("--num_epochs", "1", "--batch_size", "64", "--classifier", "head")
    train(tree, "run", *flags)
    tree.run("inference.py", "--model_path", "run/best_model", "--test_data", "data/test.jsonl")
    frozen = ("--init_from", "run/best_model", "--freeze_backbone", "true")
    train(tree, "frozen", *flags, *frozen, always=ALL)


def text(tree: Tree) -> None:
    """Running text in windows, gradient checkpointing, a long generation."""
    names = [f"text{number}.txt" for number in range(12)]
    for number, name in enumerate(names):
        (tree.work / name).write_text(made_up_text(400, number))
    tree.run(
        "prepare_data.py", "text", "--input", *names, "--output_dir", "data",
        "--vocab_size", "300", "--max_length", "65",
    )  # fmt: skip
    train(tree, "run", "--num_epochs", "2", "--gradient_checkpointing", "true")
    use(tree, "run", "--prompt", "ka lomin", classify=False)
    # Starting from it.
    train(tree, "next", "--num_epochs", "1", "--init_from", "run/best_model", always=ALL)


def labelled_text(tree: Tree) -> None:
    """A table of texts and labels with variants, and rows of very different lengths."""
    words = random.Random(5)
    rows = [f"{made_up_text(words.randint(1, 60), n)},{'yes' if n % 3 else 'not so'}"
            for n in range(160)]  # fmt: skip
    (tree.work / "table.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    tree.run(
        "prepare_data.py", "text", "--input", "table.csv", "--label_column", "label",
        "--output_dir", "data", "--tokenizer", "chars",
    )  # fmt: skip
    train(tree, "run", "--num_epochs", "2", "--early_stopping_patience", "1")
    use(tree, "run", "--prompt", "ka")


def instructions(tree: Tree) -> None:
    """Instructions: the loss is on the answers alone."""
    records = [
        {
            "instruction": f"say {n % 7} times",
            "input": made_up_text(2, n),
            "output": "ja " * (1 + n % 7),
        }
        for n in range(120)
    ]
    (tree.work / "records.json").write_text(json.dumps(records))
    tree.run(
        "prepare_data.py", "instructions", "--input", "records.json", "--output_dir", "data",
        "--tokenizer", "chars",
    )  # fmt: skip
    train(tree, "run", "--num_epochs", "2")
    use(tree, "run", "--prompt", "say 3 times", classify=False)


def lora(tree: Tree) -> None:
    """LoRA adapters on a model trained before, kept apart and merged."""
    digits(tree)
    flags = ("--num_epochs", "1", "--batch_size", "64", "--init_from", "run/best_model")
    for name, merge in (("adapter", "false"), ("merged", "true")):
        train(tree, name, *flags, "--lora_rank", "4", "--merge_lora", merge, always=ALL)
        test = ("--test_data", "data/test.jsonl", "--output_dir", f"{name}/evaluation")
        tree.run("inference.py", "--model_path", f"{name}/best_model", *test)


def resumed(tree: Tree) -> None:
    """A run that is stopped in the middle of an epoch and goes on."""
    tree.run("prepare_data.py", "digits", *CODES, "--output_dir", "data", "--augment", "2")
    flags = (
        *data_flags(), *SMALL, "--output_dir", "run", "--num_epochs", "2", "--batch_size", "32",
        "--optimizer", "muon", "--ema_decay", "0.9", "--checkpoint_steps", "7",
    )  # fmt: skip
    tree.run_stopped(11, *flags)
    tree.run("train_gpt.py", *flags, "--resume")
    tree.printed.pop()  # how far it had come depends on the machine


def checked(tree: Tree) -> None:
    """A report on bad rows, repaired tails, unknown tokens, cut rows and leaks."""
    chance = random.Random(2)
    rows = []
    for n in range(300):
        label = n % 3
        body = [f"A{chance.randint(0, 9)}" for _ in range(chance.randint(1, 30))] + [f"L{label}"]
        row: dict[str, Any] = {"tokens": " ".join(body), "label": label}
        if n % 5 == 0:
            row["tokens"] += f" <CLS> <CLS_{label}> <EOS>"
        if n % 50 == 7:
            row["tokens"] += " <CLS> <CLS> <EOS>"
        rows.append(row)
    rows += [
        {"tokens": 5},
        {"tokens": "B7 A1", "label": 1},
        {"tokens": "A1 <CLS> <CLS_2>", "label": 1},
    ]
    (tree.work / "data").mkdir()
    with open(tree.work / "data" / "train.jsonl", "w") as handle:
        handle.writelines(json.dumps(row) + "\n" for row in rows)
    names = ["<PAD>", "<UNK>", "<CLS>", "<EOS>", *(f"A{n}" for n in range(10))]
    names += [*(f"L{n}" for n in range(3)), *(f"<CLS_{n}>" for n in range(3))]
    vocabulary = {name: number for number, name in enumerate(names)}
    (tree.work / "data" / "vocab.json").write_text(json.dumps(vocabulary))
    tree.run("train_gpt.py", *data_flags(), "--output_dir", "run", "--check_data", code=1)
    train(tree, "run2", "--num_epochs", "1", "--on_bad_row", "skip", "--max_length", "16")


ALL_JOBS = (digits, variants, head, text, labelled_text, instructions, lora, resumed, checked)
JOBS: dict[str, Callable[[Tree], None]] = {job.__name__: job for job in ALL_JOBS}


def data_flags() -> tuple[str, ...]:
    return ("--data_path", "data/train.jsonl", "--vocab_path", "data/vocab.json")


def train(tree: Tree, run: str, *flags: str, always: tuple[str, ...] = SMALL) -> None:
    """A small training run in the folder `run`."""
    tree.run("train_gpt.py", *data_flags(), *always, "--output_dir", run, *flags)


def use(tree: Tree, run: str, *prompt: str, classify: bool = True) -> None:
    """Evaluate, classify, and generate: sampled with a seed, and greedy."""
    model = ("--model_path", f"{run}/best_model")
    test = ("--test_data", "data/test.jsonl")
    if (tree.work / "data" / "test.jsonl").exists():
        tree.run("inference.py", *model, *test)
    tree.run(
        "inference.py", *model, "--mode", "generate", *prompt, "--seed", "1",
        "--temperature", "0.9", "--top_k", "20", "--num_return_sequences", "6",
        "--max_new_tokens", "40",
    )  # fmt: skip
    tree.run("inference.py", *model, "--mode", "generate", *prompt, "--greedy", "--json")
    if classify:
        tree.run(
            "inference.py", *model, "--mode", "classify", *test,
            "--output_dir", f"{run}/classification",
        )  # fmt: skip


def made_up_text(words: int, seed: int = 1) -> str:
    """Random words, some of them Chinese; the same for the same seed."""
    chance = random.Random(seed)
    stems = ["ka", "lo", "min", "ter", "发", "好", "ros", "ve", "x"]
    return " ".join(
        "".join(chance.choices(stems, k=chance.randint(1, 3))) + "." * (chance.random() < 0.1)
        for _ in range(words)
    )


# ------------------------------------------------------------------------------- comparing


def differences(one: Tree, other: Tree) -> list[str]:
    """What differs between the files and the printed text of two trees."""
    found = []
    names = {path.relative_to(tree.work) for tree in (one, other) for path in files_of(tree)}
    for name in sorted(names):
        paths = one.work / name, other.work / name
        missing = [path for path in paths if not path.exists()]
        if missing:
            found.append(f"{missing[0]} is not there")
            continue
        found += [f"{name}: {line}" for line in unlike(*paths)]
    lines = [neutral("".join(tree.printed), tree).splitlines() for tree in (one, other)]
    found += difflib.unified_diff(*lines, "printed before", "printed now", lineterm="", n=0)
    return found


def files_of(tree: Tree) -> list[Path]:
    # No caches, which belong to the program that wrote them, nor pictures, drawn from figures.
    return [
        path
        for path in tree.work.rglob("*")
        if path.is_file() and path.suffix != ".png" and ".cache" not in path.parts
    ]


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are equal to the bit, numbers that are none included."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.flatten().view(torch.uint8), other.flatten().view(torch.uint8))


def unlike(one: Path, other: Path) -> list[str]:
    """Lines that say what differs between two files."""
    if one.suffix == ".safetensors":
        first, second = load_file(one), load_file(other)
        if first.keys() != second.keys():
            return [f"tensors {sorted(first.keys() ^ second.keys())}"]
        return [f"tensor {name}" for name in first if not same_bits(first[name], second[name])]
    if one.suffix in (".json", ".jsonl"):
        texts = [path.read_text().splitlines() for path in (one, other)]
        if one.suffix == ".json":
            texts = [["".join(lines)] for lines in texts]
        if len(texts[0]) != len(texts[1]):
            return [f"{len(texts[0])} lines, {len(texts[1])} lines"]
        for number, pair in enumerate(zip(*texts, strict=True), 1):
            first, second = (figures_of(json.loads(line)) for line in pair)
            if first != second:
                return [f"line {number}: {where(first, second)}"]
        return []
    if one.suffix == ".log":
        return []  # its lines are those that were printed, and its times
    return [] if one.read_bytes() == other.read_bytes() else ["other bytes"]


def figures_of(value: Any) -> Any:
    """A JSON value without times."""
    if isinstance(value, dict):
        return {key: figures_of(each) for key, each in value.items() if key not in TIMES}
    if isinstance(value, list):
        return [figures_of(each) for each in value]
    return value


def where(one: Any, other: Any) -> str:
    """The first key that differs, and how."""
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return f"keys {sorted(one.keys() ^ other.keys())}"
        for key in one:
            if one[key] != other[key]:
                return f"{key}: {where(one[key], other[key])}"
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            if a != b:
                return f"{number}: {where(a, b)}"
    return f"{str(one)[:200]} is now {str(other)[:200]}"


def neutral(text: str, tree: Tree) -> str:
    """Printed text without times and the column widths that depend on them."""
    text = text.replace(str(tree.root), "TREE")
    return re.sub(r" +", " ", _TIME.sub("TIME", text))


def main() -> int:
    if len(sys.argv) < 3:
        print(__doc__)
        return 2
    trees = [Path(name) for name in sys.argv[1:3]]
    jobs = sys.argv[3:] or list(JOBS)
    differ = False
    for name in jobs:
        place = Path(tempfile.mkdtemp(prefix=f"compare-{name}-"))
        began = time.monotonic()
        pair = []
        for label, root in zip(("before", "now"), trees, strict=True):
            # Both use a folder of the same name: it is stored in adapters and settings.
            tree = Tree(root, place / "work")
            JOBS[name](tree)
            tree.work = tree.work.rename(place / label)
            pair.append(tree)
        found = differences(*pair)
        differ |= bool(found)
        verdict = f"{len(found)} differences" if found else "equal to the bit"
        print(f"{name}: {verdict} ({time.monotonic() - began:.0f} s)", flush=True)
        for line in found[:40]:
            print(f"  {line}")
        if found:
            print(f"  left in {place}")
        else:
            shutil.rmtree(place)
    return int(differ)


if __name__ == "__main__":
    sys.exit(main())
