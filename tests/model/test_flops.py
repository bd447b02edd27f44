"""FLOPs of a training step, by hand and as torch counts them."""

import torch
from torch.utils.flop_counter import FlopCounterMode
from toy_bench import small_model

from smallgpt.model.flops import counted_parameters, training_flops


def test_operations_of_a_step_computed_by_hand():
    # 6 x 10 parameters x 4 or 5 tokens, and 6 x 2 layers x 3 wide x (4 x 4 or 5 x 5)
    assert training_flops(10, 2, 3, [4, 5]).tolist() == [240 + 576, 300 + 900]


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
    parameters = counted_parameters(model, head=True)
    assert training_flops(parameters, 2, 16, [length] * rows).sum() == expected


def test_a_forward_pass_without_the_head_leaves_the_token_table_out():
    model = small_model()
    difference = counted_parameters(model, head=True) - counted_parameters(model, head=False)
    assert difference == model.transformer.wte.weight.numel()


def test_an_output_layer_of_its_own_counts_as_a_tied_one_does():
    model = small_model()
    tied = counted_parameters(model, head=True)
    table = model.transformer.wte.weight
    model.lm_head.weight = torch.nn.Parameter(table.detach().clone())
    assert counted_parameters(model, head=True) == tied
