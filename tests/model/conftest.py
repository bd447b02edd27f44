"""What several tests of models share."""

from pathlib import Path

import pytest
from pretrained_models import KINDS, save_byte_level, save_chinese


def save_checkpoints(folder: Path) -> None:
    for name in KINDS:
        save_byte_level(folder / name, name)
    save_chinese(folder / "chinese")


@pytest.fixture(scope="session")
def checkpoints(made_once) -> Path:
    """A folder with a small checkpoint of each architecture; a test that changes one copies it."""
    return made_once("checkpoints", save_checkpoints)


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param
