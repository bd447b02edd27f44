"""Random rows with a leak planted in them, and reports of rows."""

import numpy as np
from plain_settings import plain_settings

from smallgpt.checks.leaks import find_leaks
from smallgpt.checks.report import report_data
from smallgpt.checks.sides import Sides
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.reading import dataset_from_records
from smallgpt.rows.splitting import split_dataset
from smallgpt.tokens.vocabulary import Vocabulary

WORDS = [f"w{number}" for number in range(60)]
LABELS = ["red", "green", "blue", "cat"]
VOCABULARY = Vocabulary(
    ["<PAD>", "<UNK>", "<CLS>", "<EOS>", *WORDS, "X", "X0", "X1", "X2", "X3", "[Green]"]
    + [f"<CLS_{label}>" for label in LABELS]
)
ONE_FILE = plain_settings(data_path="rows.jsonl")
TWO_FILES = plain_settings(data_path="rows.jsonl", val_data_path="held_out.jsonl")


def make_rows(plant, rows=600, labels=4, one_length=False, seed=0) -> TokenLabelDataset:
    """Random rows, changed by `plant(body, class, random)`."""
    random = np.random.default_rng(seed)
    records = []
    for _ in range(rows):
        number = int(random.choice(labels))
        length = 12 if one_length else random.integers(5, 20)
        body = [WORDS[i] for i in random.integers(60, size=length)]
        records.append({"tokens": plant(body, number, random), "label": LABELS[number]})
    return dataset_from_records(records, VOCABULARY, max_length=64)


def leaks_of(rows: TokenLabelDataset) -> list[dict]:
    return find_leaks(Sides(*split_dataset(rows, 0.2, 1), "a.jsonl"))[0]


def nothing(body, number, random):
    return body


def somewhere(body, token, random):
    place = random.integers(len(body) + 1)
    return [*body[:place], token, *body[place:]]


def at(body, place, token):
    return [*body[:place], token, *body[place:][1:]]


def report_of(train, validation, settings=TWO_FILES) -> dict:
    return report_data(train, validation, settings, None)
