"""Rows read from a few objects, and shown as text."""

from smallgpt.rows.dataset import TokenLabelDataset


def dataset_of(vocabulary, *records, max_length=64, **options):
    return TokenLabelDataset.from_records(records, vocabulary, max_length=max_length, **options)


def read(path, vocabulary, max_length=64, **options):
    return TokenLabelDataset.read(path, vocabulary, max_length=max_length, **options)


def texts_of(dataset):
    return [dataset.vocabulary.decode(dataset.row(index)) for index in range(len(dataset))]
