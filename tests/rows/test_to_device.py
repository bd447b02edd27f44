"""Batches on a device hold what the rows hold."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.reading import dataset_from_records
from smallgpt.rows.to_device import rows_as_batch, rows_to_predict

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def rows(vocabulary) -> TokenLabelDataset:
    """24 rows of 3 to 20 tokens before their tails, every fourth without a label."""
    random = np.random.default_rng(0)
    records = []
    for number in range(24):
        record = {"tokens": " ".join(random.choice(list("ABCD"), size=random.integers(3, 20)))}
        records.append(record | ({"label": number % 2} if number % 4 else {}))
    return dataset_from_records(records, vocabulary, max_length=128)


some_rows = st.lists(st.integers(0, 23), min_size=1, max_size=8, unique=True)


@given(some_rows)
def test_every_token_is_to_predict_the_next_of_its_row(rows, numbers):
    batch = rows_to_predict(rows, np.array(numbers), CPU)
    ids, targets = (part.split(batch.lengths_B.tolist()) for part in (batch.ids_M, batch.targets_M))
    for number, inputs, following in zip(numbers, ids, targets, strict=True):
        assert inputs.tolist() == rows.row(number)[:-1].tolist()
        assert following.tolist() == rows.row(number)[1:].tolist()
    assert batch.scored_M is None


@given(some_rows, st.sets(st.integers(0, 23)))
def test_a_row_with_its_label_first_goes_on_with_its_body_up_to_cls(rows, numbers, first):
    first = {number for number in first if rows.classes_N[number] >= 0}
    chosen = np.array([number in first for number in numbers])
    batch = rows_to_predict(rows, np.array(numbers), CPU, chosen)
    ids, targets = (part.split(batch.lengths_B.tolist()) for part in (batch.ids_M, batch.targets_M))
    for number, inputs, following in zip(numbers, ids, targets, strict=True):
        row = rows.row(number).tolist()
        if number in first:
            *body, cls, label, _ = row
            row = [label, *body, cls]
        assert (inputs.tolist(), following.tolist()) == (row[:-1], row[1:])
    predicted = batch.targets_M[torch.from_numpy(batch.label_places_R)].tolist()
    asked = [n for n in numbers if rows.classes_N[n] >= 0 and n not in first]
    assert predicted == [rows.vocabulary.label_ids[rows.classes_N[number]] for number in asked]
    assert batch.labelled_B.tolist() == [number in asked for number in numbers]


@given(some_rows)
def test_label_places_are_those_that_predict_the_label_token(rows, numbers):
    batch = rows_to_predict(rows, np.array(numbers), CPU)
    labelled = [number for number in numbers if rows.classes_N[number] >= 0]
    assert [n for n, is_labelled in zip(numbers, batch.labelled_B, strict=True) if is_labelled] == (
        labelled
    )
    expected = [rows.vocabulary.label_ids[rows.classes_N[number]] for number in labelled]
    assert batch.targets_M[torch.from_numpy(batch.label_places_R)].tolist() == expected


@given(some_rows)
def test_whole_rows_lie_one_after_another_and_may_be_followed_by_a_token(rows, numbers):
    for then, more in ((None, []), (2, [2])):
        batch = rows_as_batch(rows, np.array(numbers), CPU, then)
        expected = [rows.row(number).tolist() + more for number in numbers]
        assert batch.ids_M.tolist() == [token for row in expected for token in row]
        assert batch.lengths_B.tolist() == [len(row) for row in expected]
