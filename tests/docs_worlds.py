"""Folders with the data and the models of a user, on which commands in the documents are shown.

Each is made in an empty folder; `shell` runs a command there.
"""

import csv
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from PIL import Image
from pretrained_models import save_byte_level, write_data
from sklearn.datasets import load_digits

Shell = Callable[[str], str]

EVENTS = ["login", "search", "view", "add to cart", "buy"]
LOG = "--group_column session --event_column event --time_column at --label_column result"


def write_log(path: Path, sessions: dict[str, tuple[list[str], str]]) -> None:
    """Events of sessions that run beside one another: for each its events and its result."""
    rows = []
    for number, (session, (events, result)) in enumerate(sessions.items()):
        start = datetime(2026, 3, 1) + timedelta(minutes=7 * number)
        for place, event in enumerate(events):
            at = start + timedelta(minutes=3 * place)
            rows.append([at.isoformat(" "), session, event, result])
    with open(path, "w", newline="") as handle:
        csv.writer(handle).writerows([["at", "session", "event", "result"], *sorted(rows)])


def shop_sessions(count: int, longest: int, rare: float) -> dict[str, tuple[list[str], str]]:
    """Sessions of a shop; `rare`: the share of events that come once, pages with a number."""
    chance = np.random.default_rng(1)
    sessions = {}
    for number in range(count):
        bought = chance.random() < 0.5
        share = [0.2, 0.3, 0.35, 0.01, 0.14] if bought else [0.25, 0.35, 0.39, 0.01, 0]
        events = list(chance.choice(EVENTS, chance.integers(4, longest), p=share))
        events = [
            f"page_{chance.integers(10**6)}" if chance.random() < rare else str(event)
            for event in events
        ]
        sessions[f"S{number}"] = (events, "bought" if bought else "not bought")
    return sessions


def make_log(folder: Path, shell: Shell) -> None:
    """A log in which a few pages were seen once."""
    write_log(folder / "events.csv", shop_sessions(400, longest=21, rare=0.008))


def make_robot(folder: Path, shell: Shell) -> None:
    """A log with the session of a robot, far longer than all others."""
    sessions = shop_sessions(600, longest=21, rare=0)
    robot = np.random.default_rng(2).choice(["search", "view"], 12_003)
    write_log(folder / "events.csv", {"robot": (robot.tolist(), "not bought")} | sessions)


def make_leak(folder: Path, shell: Shell) -> None:
    """Prepared rows in which a token comes after the label that it tells."""
    chance = np.random.default_rng(1)
    names = ["login", "search", "view", "compare", "filter", "help", "wish", "logout"]
    lines = []
    for number in range(1200):
        buys = number % 2 == 0
        share = np.array([1, 2, 4, 2, 1, 1, 3, 1] if buys else [1, 3, 3, 2, 2, 2, 1, 1.0])
        body = chance.choice(names, chance.integers(4, 11), p=share / share.sum()).tolist()
        if buys and chance.random() < 0.73:
            body.append("receipt_mail")
        label = "customer" if buys else "visitor"
        lines.append(json.dumps({"tokens": " ".join(body), "label": label}))
    (folder / "rows.jsonl").write_text("\n".join(lines))
    shell("python prepare_data.py tokens --input rows.jsonl --output_dir data/shop")


def make_chance(folder: Path, shell: Shell) -> None:
    """A model of rows whose tokens mostly follow a rule, and whose labels follow none."""
    chance = np.random.default_rng(1)
    lines = []
    for _ in range(1500):
        starts = chance.integers(6, size=10)
        body = " ".join("abcdef"[(start + place) % 6] for start in starts for place in range(6))
        label = str(chance.choice(["red", "green", "blue"]))
        lines.append(json.dumps({"tokens": body, "label": label}))
    for name, part in (("train", lines[:1200]), ("test", lines[1200:])):
        (folder / f"{name}.jsonl").write_text("\n".join(part))
    tokens = ["<PAD>", "<UNK>", "<CLS>", "<EOS>", *"abcdef", "<CLS_red>", "<CLS_green>"]
    vocabulary = {token: index for index, token in enumerate([*tokens, "<CLS_blue>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    shell(
        "python train_gpt.py --data_path train.jsonl --vocab_path vocab.json --preset tiny "
        "--num_epochs 6 --output_dir outputs/runs/chance"
    )


def make_reviews(folder: Path, shell: Shell) -> None:
    """A model of reviews, and a table of new ones, one of them empty."""
    chance = np.random.default_rng(1)
    words = {
        "good": ["quiet room", "kind staff", "lovely bed", "clean and bright", "great view"],
        "not good": ["dirty room", "rude staff", "hard bed", "loud and dark", "never again"],
    }
    with open(folder / "reviews.csv", "w", newline="") as handle:
        write = csv.writer(handle).writerow
        write(["review", "rating"])
        for number in range(600):
            rating = ("good", "not good")[number % 2]
            other = ("not good", "good")[number % 2]
            said = [*chance.choice(words[rating], 3), chance.choice(words[other])]
            write([", ".join(chance.permutation(said)), rating])
    shell(
        "python prepare_data.py text --input reviews.csv --text_column review "
        "--label_column rating --output_dir data/reviews"
    )
    shell(
        "python train_gpt.py --data_path data/reviews/train.jsonl --val_data_path "
        "data/reviews/val.jsonl --vocab_path data/reviews/vocab.json --preset tiny "
        "--num_epochs 10 --output_dir outputs/runs/reviews"
    )
    (folder / "new.csv").write_text(
        'id;review;rating\nn1;"dirty room, rude staff; never again";not good\n'
        'n2;"quiet, kind, and a ""lovely"" bed";\nn3;;\n'
    )


def make_pretrained(folder: Path, shell: Shell) -> None:
    """A GPT-2 as transformers writes it, and labelled rows in its tokens."""
    save_byte_level(folder / "models" / "gpt2")
    write_data(folder / "data", folder / "models" / "gpt2")


def make_book(folder: Path, shell: Shell) -> None:
    """A prepared text, and another one."""
    for name, word in (("book", "sea"), ("other", "mountain")):
        text = "".join(f"On day {day} they saw the {word} again.\n" for day in range(500))
        (folder / f"{name}.txt").write_text(text)
    shell("python prepare_data.py text --input book.txt")


def make_pictures(folder: Path) -> None:
    """new/: three scans that are larger than the training images, and a file that is none."""
    (folder / "new").mkdir()
    digits = load_digits()
    for index in (3, 1000, 1700):
        image = Image.fromarray((digits.images[index] * 255 / 16).round().astype(np.uint8))
        name = f"scan {index}_{digits.target[index]}.png"
        image.resize((28, 28)).save(folder / "new" / name)
    (folder / "new" / "broken.png").write_bytes(b"no picture")


WORLDS = {
    "log": make_log,
    "robot": make_robot,
    "leak": make_leak,
    "chance": make_chance,
    "reviews": make_reviews,
    "pretrained": make_pretrained,
    "book": make_book,
}
