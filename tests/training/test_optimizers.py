"""Which parameters are whose."""

import pytest
from training_runs import change, small_settings, start_run


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
