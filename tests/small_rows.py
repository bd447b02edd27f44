"""Rows read from a few objects or from a file of JSON lines, and shown as text."""

import json
from pathlib import Path

from smallgpt.rows.groups import VARIANT
from smallgpt.rows.reading import dataset_from_records, read_dataset


def json_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def dataset_of(vocabulary, *records, max_length=64, **options):
    return dataset_from_records(records, vocabulary, max_length=max_length, **options)


def read(path, vocabulary, max_length=64, **options):
    return read_dataset(path, vocabulary, max_length=max_length, **options)


def texts_of(dataset):
    return [dataset.vocabulary.decode(dataset.row(index)) for index in range(len(dataset))]


def unique_rows(counts: dict):
    """Records with distinct bodies, so many for each label."""
    records = []
    for label, count in counts.items():
        for _ in range(count):
            number = len(records)
            body = " ".join("ABCD"[number // 4**place % 4] for place in range(6))
            records.append({"tokens": body, "label": label})
    return records


def variant_rows(sources: int, variants: int) -> list[dict]:
    """Rows of `sources` images, `variants` of each."""
    return [
        {**row, "meta": {"source": number, VARIANT: variant}}
        for number, row in enumerate(unique_rows({0: sources}))
        for variant in range(variants)
    ]
