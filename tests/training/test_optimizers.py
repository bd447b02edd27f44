"""Which parameters are whose."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from training_runs import change, small_settings, start_run, update

from smallgpt.training.update import Updater


@pytest.fixture
def settings(tmp_path):
    return small_settings(tmp_path)


def test_decay_touches_matrices_only(settings):
    run = start_run(settings)
    (optimizer,) = run.optimizers
    decayed, plain = optimizer.param_groups
    assert decayed["weight_decay"] == settings.weight_decay and plain["weight_decay"] == 0
    assert {p.dim() for p in decayed["params"]} == {2}
    assert {p.dim() for p in plain["params"]} == {1}


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest(settings):
    run = start_run(change(settings, optimizer="muon"))
    muon, adamw = run.optimizers
    names = {id(p): name for name, p in run.model.named_parameters()}
    of_muon = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    of_adamw = {names[id(p)] for group in adamw.param_groups for p in group["params"]}
    assert of_muon == {n for n in names.values() if ".h." in n and n.endswith("weight")} - {
        n for n in names.values() if "ln_" in n
    }
    assert of_adamw == set(names.values()) - of_muon
    assert {"transformer.wte.weight", "transformer.wpe.weight"} <= of_adamw


class Kinds(TorchDispatchMode):
    """Notes the types of all tensors that are computed."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        result = function(*arguments, **(named or {}))
        self.seen |= {t.dtype for t in torch.utils._pytree.tree_leaves(result)
                      if isinstance(t, torch.Tensor) and t.is_floating_point()}  # fmt: skip
        return result


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_computes_in_no_other_precision_than_its_own(settings, precision):
    """On a CPU without bf16 a product in it takes ten times as long as in fp32."""
    run = start_run(change(settings, optimizer="muon", precision=precision))
    with Kinds() as kinds:
        update(Updater(run), [np.arange(4)])
    assert (torch.bfloat16 in kinds.seen) == (precision == "bf16")
