"""What several tests of the checks share."""

from pathlib import Path

import pytest

import prepare_data
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.reading import dataset_from_records, read_dataset
from smallgpt.tokens.vocabulary import Vocabulary


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory) -> Path:
    """The digits, each once, in the reference vocabulary of 500 codes."""
    folder = tmp_path_factory.mktemp("digits")
    flags = ["--codebook_size", "500", "--augment", "0", "--output_dir", str(folder)]
    prepare_data.main(["digits", *flags])
    return folder


@pytest.fixture(scope="session")
def digits(digits_folder) -> TokenLabelDataset:
    """The training rows of the digits, with their records."""
    vocabulary = Vocabulary.load(digits_folder / "vocab.json")
    path = digits_folder / "train.jsonl"
    return read_dataset(path, vocabulary, max_length=64, keep_records=True)


@pytest.fixture
def make(vocabulary):
    """A dataset of `tokens:label` texts."""

    def make(*texts, max_length=64):
        pairs = [text.split(":") for text in texts]
        records = [{"tokens": tokens, "label": label or None} for tokens, label in pairs]
        return dataset_from_records(records, vocabulary, max_length=max_length)

    return make
