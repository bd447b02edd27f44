"""Rows split into two sides."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_rows import dataset_of, read, unique_rows

from smallgpt.errors import UserError
from smallgpt.rows.splitting import fold_rows, number_keys, split_dataset, split_rows


def test_each_class_is_held_out_in_the_asked_share(vocabulary):
    dataset = dataset_of(vocabulary, *unique_rows({0: 100, 1: 50, "cat": 7, None: 20}))
    train, held_out = split_dataset(dataset, fraction=0.2, seed=42)
    assert Counter(held_out.classes_N.tolist()) == {0: 20, 1: 10, 2: 1, -1: 4}
    assert len(train) + len(held_out) == len(dataset)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([("A B", 0)], "there is 1 row"),
        ([("A B", 0), ("A B", 1), ("A B", None)], "all 3 rows belong together"),
        ([("A B", 0), ("A C", 1), ("A D", "cat")], "each of 3 labels has one row alone"),
        ([("A B", 0), ("A B", 0), ("A D", "cat")], "or rows of one body or group"),
    ],
)
def test_rows_that_cannot_be_split_are_told_the_true_reason(vocabulary, rows, why):
    records = [{"tokens": tokens, "label": label} for tokens, label in rows]
    with pytest.raises(UserError, match=f"cannot be split .*{why}.*; give more rows") as caught:
        split_dataset(dataset_of(vocabulary, *records), 0.2, seed=1)
    assert "\n" not in str(caught.value)


def test_split_follows_from_the_seed(vocabulary):
    dataset = dataset_of(vocabulary, *unique_rows({0: 60, 1: 40}))
    lines = [split_dataset(dataset, 0.2, seed)[1].lines_N.tolist() for seed in (1, 1, 2)]
    assert lines[0] == lines[1] != lines[2]


def test_split_is_not_in_file_order(vocabulary):
    dataset = dataset_of(vocabulary, *unique_rows({0: 100}))
    held_out = split_dataset(dataset, 0.2, 42)[1].lines_N
    assert held_out.min() < 50 < held_out.max()
    assert np.diff(held_out).min() > 0


def test_rows_with_the_same_body_stay_on_one_side(vocabulary):
    records = unique_rows({0: 20, 1: 20})
    records += [{"tokens": row["tokens"] + " <CLS> <CLS> <EOS>", "label": 0} for row in records]
    for seed in range(10):
        train, held_out = split_dataset(dataset_of(vocabulary, *records), 0.3, seed)
        assert set(train.body_keys()).isdisjoint(held_out.body_keys())


def test_rows_equal_after_cutting_stay_on_one_side(vocabulary):
    bodies = [row["tokens"] for row in unique_rows({0: 12})]
    records = [{"tokens": first + body, "label": 0} for body in bodies for first in ("A ", "B B ")]
    dataset = dataset_of(vocabulary, *records, max_length=9)
    train, held_out = split_dataset(dataset, 0.3, 0)
    assert len(set(dataset.body_keys())) == 12
    assert set(train.body_keys()).isdisjoint(held_out.body_keys())


def test_rows_of_one_source_stay_on_one_side(vocabulary, write_rows):
    records = unique_rows({0: 40})
    for number, record in enumerate(records):
        record["meta"] = {"source": f"image{number // 4}"}
    path = write_rows(*records, {"tokens": "A A", "meta": None}, {"tokens": "B B", "label": 0})
    dataset = read(path, vocabulary, group_by="meta.source")
    assert dataset.groups_N.tolist() == [*[number // 4 for number in range(40)], -1, -1]
    train, held_out = split_dataset(dataset, 0.25, 42)
    assert set(train.groups_N[train.groups_N >= 0]).isdisjoint(held_out.groups_N)
    assert (read(path, vocabulary).groups_N == -1).all()


@given(
    st.lists(st.tuples(st.integers(-1, 5), st.integers(-1, 3)), max_size=30),
    st.floats(0.1, 0.9),
)
def test_every_class_of_two_groups_is_held_out_and_kept(rows, fraction):
    groups_N, classes_N = np.array(rows, np.int64).reshape(-1, 2).T
    classes_N = np.where(groups_N >= 0, groups_N % 3, classes_N)  # a group is of one class
    kept, held_out = split_rows([groups_N], classes_N, fraction, seed=1)
    assert sorted([*kept, *held_out]) == list(range(len(rows)))
    for name in set(classes_N.tolist()):
        members = np.flatnonzero(classes_N == name)
        alone = int((groups_N[members] < 0).sum())
        groups = len({g for g in groups_N[members].tolist() if g >= 0}) + alone
        on_sides = [np.isin(members, side).any() for side in (kept, held_out)]
        assert on_sides == ([True, True] if groups > 1 else [True, False])


def test_group_values_of_any_type_are_told_apart(vocabulary, write_rows):
    values = [1, "1", True, 1.0, {"a": 1, "b": 2}, {"b": 2, "a": 1}, [1], None]
    path = write_rows(*[{"tokens": "A B", "key": value} for value in values])
    groups = read(path, vocabulary, group_by="key").groups_N.tolist()
    assert groups == [0, 1, 2, 3, 4, 4, 5, -1]


def test_class_of_two_rows_is_held_out_once_and_class_of_one_group_never(vocabulary):
    records = [*unique_rows({0: 30, 1: 2}), *[{"tokens": "A A", "label": "cat"}] * 5]
    for seed in range(10):
        train, held_out = split_dataset(dataset_of(vocabulary, *records), 0.2, seed)
        assert Counter(held_out.classes_N.tolist()) == {0: 6, 1: 1}
        assert Counter(train.classes_N.tolist()) == {0: 24, 1: 1, 2: 5}


@pytest.mark.parametrize("records", [[{"tokens": "A B"}] * 9, [{"tokens": "A B", "label": 0}]])
def test_rows_that_all_belong_together_cannot_be_split(vocabulary, records):
    with pytest.raises(UserError, match="cannot be split"):
        split_dataset(dataset_of(vocabulary, *records), 0.2, 42)


KEY_NUMBERS = st.integers(-1, 9)


@given(
    st.lists(st.tuples(KEY_NUMBERS, KEY_NUMBERS, st.integers(-1, 2)), min_size=1, max_size=40),
    st.floats(0.01, 0.99),
    st.integers(0, 99),
)
def test_no_key_is_on_both_sides(rows, fraction, seed):
    first, second, classes = (np.array(column) for column in zip(*rows, strict=True))
    kept, held_out = split_rows([first, second], classes, fraction, seed)
    assert sorted([*kept, *held_out]) == list(range(len(rows)))
    assert (np.diff(kept) > 0).all()
    assert (np.diff(held_out) > 0).all()
    for keys in (first, second):
        assert set(keys[kept][keys[kept] >= 0]).isdisjoint(keys[held_out])


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(-1, 2)), min_size=1, max_size=30),
    st.floats(0.01, 0.99),
    st.integers(0, 99),
)
def test_each_class_is_held_out_as_near_to_its_share_as_its_groups_allow(groups, fraction, seed):
    keys = np.repeat(np.arange(len(groups)), [size for size, _ in groups])
    classes = np.repeat([name for _, name in groups], [size for size, _ in groups])
    _, held_out = split_rows([keys], classes, fraction, seed)
    for name in set(classes.tolist()):
        sizes = [size for size, other in groups if other == name]
        rows, held = sum(sizes), int((classes[held_out] == name).sum())
        if len(sizes) == 1:
            assert held == 0
            continue
        wanted = min(max(round(fraction * rows), 1), rows - 1)
        assert 1 <= held < rows
        assert held <= max(wanted, min(sizes))
        assert wanted - held < max(sizes)


def test_number_keys_counts_distinct_keys_in_order():
    assert number_keys(["b", "a", "b", "c"]).tolist() == [0, 1, 0, 2]


# ---- folds -----------------------------------------------------------------------------


def test_folds_have_each_label_alike(vocabulary):
    rows = dataset_of(vocabulary, *unique_rows({0: 50, 1: 25, "cat": 10, None: 15}))
    fold_N = fold_rows(rows, rows.classes_N >= 0, 5)
    for label, count in ((0, 10), (1, 5), (2, 2), (-1, 3)):
        assert np.bincount(fold_N[rows.classes_N == label]).tolist() == [count] * 5


def test_folds_keep_bodies_and_groups_together_in_any_order_of_the_rows(vocabulary):
    records = unique_rows({0: 30})
    records += [{"tokens": row["tokens"], "label": 1} for row in records[:10]]
    rows = dataset_of(vocabulary, *records)
    groups_N = np.where(np.arange(40) < 30, np.arange(40) % 9, -1)
    rows = replace(rows, groups_N=groups_N)
    fold_N = fold_rows(rows, rows.classes_N >= 0, 5)
    assert set(fold_N) == set(range(5))
    assert (fold_N[30:] == fold_N[:10]).all()
    assert all(len(set(fold_N[:30][number::9])) == 1 for number in range(9))
    order = np.random.default_rng(0).permutation(40)
    mixed = rows.subset(order)
    assert (fold_rows(mixed, mixed.classes_N >= 0, 5) == fold_N[order]).all()


@pytest.mark.parametrize(("labelled", "folds"), [(0, 1), (1, 1), (2, 2), (4, 4), (9, 5)])
def test_every_fold_has_rows_that_count(vocabulary, labelled, folds):
    rows = dataset_of(vocabulary, *unique_rows({None: 30, 0: labelled}))
    fold_N = fold_rows(rows, rows.classes_N >= 0, 5)
    assert fold_N.max() + 1 == folds
    if labelled:
        assert set(fold_N[rows.classes_N >= 0]) == set(range(folds))
