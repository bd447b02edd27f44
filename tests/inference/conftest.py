"""What several tests of the use of models share."""

import functools

import pytest
import torch
from command_program import run_here
from plain_settings import plain_settings
from trained_models import BEST_MODEL

from inference import load_trained_model, main
from smallgpt.engines.torch_engine import TorchEngine
from smallgpt.engines.trained import TrainedModel
from smallgpt.model.build import build_model
from smallgpt.model.hardware import Precision


@pytest.fixture(scope="session")
def trained(bars) -> TrainedModel:
    """The model of `bars`."""
    return load_trained_model(bars / BEST_MODEL, "cpu", "fp32")


@pytest.fixture
def run(bars):
    """A function that runs inference.py with the model of `bars` on the words of a command line."""
    return functools.partial(run_here, main, "--model_path", bars / BEST_MODEL, "--device", "cpu")


@pytest.fixture(scope="session")
def untrained(tmp_path_factory, vocabulary) -> dict[str, TrainedModel]:
    """Models whose weights were drawn and not trained, wide enough apart to show any difference."""
    made = {}
    for classifier in ("tokens", "head"):
        settings = plain_settings(
            n_layer=1, n_head=2, n_embd=16, n_positions=12, max_length=12, classifier=classifier
        )
        model = build_model(settings, vocabulary).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(10)
        engine = TorchEngine(model, Precision("fp32", ""), vocabulary.label_ids)
        folder = tmp_path_factory.mktemp(classifier)
        made[classifier] = TrainedModel.of(engine, vocabulary, settings, folder)
    return made
