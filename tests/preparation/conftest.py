"""What several test files of the preparation share: a writer of .npz files."""

from pathlib import Path

import numpy as np
import pytest
from prepared_files import SMALL, SMALL_LABELS


@pytest.fixture
def npz(tmp_path):
    def write(images=SMALL, labels=SMALL_LABELS, name="images.npz") -> Path:
        path = tmp_path / name
        np.savez(path, images=images, **({} if labels is None else {"labels": labels}))
        return path

    return write
