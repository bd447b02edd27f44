"""What the benchmark measures on: rows and their lengths."""

from toy_bench import SHAPE

from smallgpt.benchmark.workloads import (
    equal,
    ragged,
    vocabulary_of,
    write_rows,
)
from smallgpt.rows.reading import read_dataset


def test_written_rows_are_read_without_complaint_and_have_their_lengths(tmp_path):
    vocabulary, lengths = vocabulary_of(SHAPE), [6, 30, 11, 8]
    files = [
        write_rows(tmp_path / name, vocabulary, lengths, seed)
        for name, seed in (("one", 1), ("again", 1), ("other", 2))
    ]
    rows = read_dataset(files[0], vocabulary, max_length=64)
    assert rows.lengths_N.tolist() == lengths
    assert (rows.classes_N >= 0).all()
    assert rows.counts.lines() == []
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()


def test_ragged_lengths_are_spread_evenly_between_their_ends():
    job = ragged(5, 2, 10, 50)
    assert job.lengths == (10, 20, 30, 40, 50)
    assert job.inputs == [9, 19, 29, 39, 49]
    assert job.is_ragged and not equal("even", 2, 10, steps=3).is_ragged
