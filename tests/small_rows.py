"""Rows read from a few objects, and shown as text."""

from smallgpt.rows.reading import dataset_from_records, read_dataset


def dataset_of(vocabulary, *records, max_length=64, **options):
    return dataset_from_records(records, vocabulary, max_length=max_length, **options)


def read(path, vocabulary, max_length=64, **options):
    return read_dataset(path, vocabulary, max_length=max_length, **options)


def texts_of(dataset):
    return [dataset.vocabulary.decode(dataset.row(index)) for index in range(len(dataset))]
