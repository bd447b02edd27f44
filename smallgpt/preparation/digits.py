"""The handwritten digits of scikit-learn as rows: prepare_data.py digits."""

from __future__ import annotations

from typing import Any

from smallgpt.options.preparation import DigitsSettings
from smallgpt.preparation.folder import check_output, holding_output
from smallgpt.preparation.images import _prepare

# ------------------------------------------------------------------------------- digits, images


@holding_output
def prepare_digits(settings: DigitsSettings) -> dict[str, Any]:
    """Prepare the 1,797 handwritten digits that come with scikit-learn (8x8, values 0..16).

    Returns:
        The summary, as written to prepared.json.

    Raises:
        UserError: output_dir holds somebody's own data, or no test images are left.
    """
    import numpy as np
    from sklearn.datasets import load_digits

    from smallgpt.preparation.labelled_images import LabelledImages

    check_output(settings.output_dir, ())
    digits = load_digits()
    images_NxHxWxC = digits.images.astype(np.uint8)[..., None]
    labels = [str(label) for label in digits.target.tolist()]
    return _prepare("digits", settings, LabelledImages(images_NxHxWxC, labels))
