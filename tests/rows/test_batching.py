"""The batches of an epoch, and those for scoring."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from small_rows import dataset_of, read, variant_rows

from smallgpt.rows.batching import batches_by_length, epoch_batches
from smallgpt.rows.groups import VARIANT


def test_epoch_has_one_variant_of_each_source_drawn_anew(vocabulary, write_rows):
    alone = [{"tokens": "A B A B"}, {"tokens": "B A", "meta": {"source": 3}}]
    dataset = read(write_rows(*variant_rows(9, 4), *alone), vocabulary)
    assert dataset.visited_rows == 11
    assert dataset.visits.tolist() == [1 / 4] * 36 + [1, 1]
    met = Counter()
    for epoch in range(200):
        order = np.concatenate(epoch_batches(dataset, 4, 1, epoch))
        assert sorted(dataset.sources_N[order].tolist()) == [-1, -1, *range(9)]
        met.update(order.tolist())
    assert all(met[row] == 200 for row in (36, 37))
    # Each of 4 variants is drawn 50 times in 200 epochs, give or take 4 standard deviations.
    assert all(25 <= met[row] <= 75 for row in range(36))
    again = [batch.tolist() for batch in epoch_batches(dataset, 4, 1, 7)]
    assert again == [batch.tolist() for batch in epoch_batches(dataset, 4, 1, 7)]


@pytest.mark.parametrize(
    "meta",
    [{VARIANT: 1}, {"source": 1}, {"source": 1, VARIANT: "1"}, {"source": 1, "variant": 1}, 7],
)
def test_rows_without_source_and_variant_are_no_variants(vocabulary, write_rows, meta):
    dataset = read(write_rows(*[{"tokens": "A B", "meta": meta}] * 3), vocabulary)
    assert dataset.sources_N.tolist() == [-1, -1, -1]
    assert dataset.visited_rows == 3
    assert dataset.visits.tolist() == [1, 1, 1]
    assert not dataset.has_variants


LABELLED = (2, 9, 12)  # sources of four variants, and a row alone


def partly_labelled(vocabulary, write_rows, visits):
    """Nine sources of four variants and six rows alone, three of which have a label."""
    alone = [{"tokens": f"A{' B' * n}"} for n in range(6)]
    records = [*variant_rows(9, 4), *alone]
    for number, record in enumerate(records):
        record.pop("label", None)
        unit = number // 4 if number < 36 else number - 27
        if unit in LABELLED:
            record["label"] = 0
    return replace(read(write_rows(*records), vocabulary), labelled_visits=visits)


@pytest.mark.parametrize("visits", [1, 2, 5])
def test_rows_with_labels_are_visited_more_often_each_time_in_another_variant(
    vocabulary, write_rows, visits
):
    dataset = partly_labelled(vocabulary, write_rows, visits)
    met = Counter()
    for epoch in range(100):
        order = np.concatenate(epoch_batches(dataset, 4, 1, epoch))
        assert len(order) == dataset.visited_rows == 15 + 3 * (visits - 1)
        met.update(order.tolist())
    of_unit = Counter({unit: 0 for unit in range(15)})
    for row, count in met.items():
        of_unit[row // 4 if row < 36 else row - 27] += count
    assert of_unit == {u: 100 * (visits if u in LABELLED else 1) for u in range(15)}
    seen = [met[row] / 100 for row in range(len(dataset))]
    assert seen == pytest.approx(dataset.visits.tolist(), abs=0.2 * visits**0.5)


def test_an_epoch_of_rows_without_labels_is_what_it_was(vocabulary, write_rows):
    records = [{"tokens": f"A B{' B' * n}"} for n in range(9)]
    dataset = read(write_rows(*records), vocabulary)
    orders = [
        np.concatenate(epoch_batches(replace(dataset, labelled_visits=v), 4, 1, 0)).tolist()
        for v in (1, 3)
    ]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(9))


@pytest.fixture(scope="module")
def ragged(vocabulary):
    lengths = np.random.default_rng(0).integers(2, 200, 1003)
    return dataset_of(vocabulary, *[{"input_ids": [6] * n} for n in lengths], max_length=200)


@pytest.mark.parametrize("batch_size", [1, 7, 32, 5000])
def test_every_row_stands_in_an_epoch_once(ragged, batch_size):
    batches = epoch_batches(ragged, batch_size, seed=42, epoch=3)
    assert sorted(np.concatenate(batches)) == list(range(len(ragged)))
    assert len(batches) == -(-len(ragged) // batch_size)
    assert max(map(len, batches)) <= batch_size


def test_order_follows_from_seed_and_epoch_alone(ragged):
    def order(seed, epoch):
        return np.concatenate(epoch_batches(ragged, 32, seed=seed, epoch=epoch)).tolist()

    assert order(42, 1) == order(42, 1)
    assert order(42, 1) != order(42, 2)
    assert order(42, 1) != order(43, 1)


def test_batches_are_not_in_order_of_length(ragged):
    batches = epoch_batches(ragged, 32, seed=42, epoch=0)
    means = [ragged.lengths_N[batch].mean() for batch in batches]
    assert min(means[:8]) < 100 < max(means[:8])


def test_rows_meet_other_rows_in_another_epoch(ragged):
    companies = [
        {tuple(sorted(batch)) for batch in epoch_batches(ragged, 8, seed=42, epoch=epoch)}
        for epoch in (0, 1)
    ]
    assert len(companies[0] & companies[1]) < 5


def test_batches_of_ragged_rows_have_next_to_no_padding(ragged):
    for batches in (epoch_batches(ragged, 16, 42, 0), list(batches_by_length(ragged, 16))):
        places = sum(len(batch) * int(ragged.lengths_N[batch].max()) for batch in batches)
        assert 1 - ragged.lengths_N.sum() / places < 0.03


def test_batches_for_scoring_hold_every_row_once_longest_first(ragged):
    order = np.concatenate(list(batches_by_length(ragged, 32)))
    assert sorted(order) == list(range(len(ragged)))
    assert (np.diff(ragged.lengths_N[order]) <= 0).all()
