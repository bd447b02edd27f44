"""What the benchmark measures on: rows and their lengths, unavoidable operations."""

import torch
from torch.utils.flop_counter import FlopCounterMode
from toy_bench import SHAPE, small_model

from smallgpt.benchmark.workloads import (
    Shape,
    counted_parameters,
    equal,
    ragged,
    training_flops,
    vocabulary_of,
    write_rows,
)
from smallgpt.rows.reading import read_dataset


def test_operations_of_a_step_computed_by_hand():
    # 6 x 10 parameters x (4 + 5) tokens, and 6 x 2 layers x 3 wide x (4 x 4 + 5 x 5)
    assert training_flops(10, Shape(n_layer=2, n_embd=3), [4, 5]) == 540 + 1476


def test_operations_of_a_step_are_those_that_torch_counts():
    model = small_model()
    model.set_attn_implementation("eager")  # products that torch can count
    rows, length = 3, 11
    ids = torch.randint(6, 100, (rows, length))
    with FlopCounterMode(display=False) as counter:
        model(ids).logits.sum().backward()
    counts = {str(name): count for name, count in counter.get_flop_counts()["Global"].items()}
    attention = sum(count for name, count in counts.items() if "bmm" in name)
    # torch multiplies the masked half too, and counts products alone: a bias and a norm's weight
    # are no product, but parameters.
    vectors = sum(p.numel() for p in model.parameters() if p.dim() == 1)
    expected = sum(counts.values()) - attention / 2 + 6 * vectors * rows * length
    shape = Shape(n_layer=2, n_embd=16)
    parameters = counted_parameters(model, head=True)
    assert training_flops(parameters, shape, [length] * rows) == expected


def test_a_forward_pass_without_the_head_leaves_the_token_table_out():
    model = small_model()
    difference = counted_parameters(model, head=True) - counted_parameters(model, head=False)
    assert difference == model.transformer.wte.weight.numel()


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
