"""Images decoded from generated rows."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from smallgpt.console import plural
from smallgpt.engines.trained import TrainedModel
from smallgpt.tokens.codebook import Codebook
from smallgpt.tokens.pictures import draw_image_sheet


def draw_rows(trained: TrainedModel, sequences: Sequence[Sequence[int]], path: Path) -> None:
    """Draw image rows into one PNG, each captioned with the label in its tail."""
    assert trained.codebook is not None  # its rows are images
    codebook, vocabulary = Codebook.load(trained.codebook), trained.vocabulary
    images, captions, malformed = [], [], 0
    for ids in sequences:
        image, count = codebook.image_from_tokens([vocabulary.tokens[index] for index in ids])
        malformed += count != codebook.patches_per_image
        images.append(image)
        named = (vocabulary.class_of_id[i] for i in ids if i in vocabulary.class_of_id)
        captions.append(next((vocabulary.label_names[k] for k in named), ""))
    title = f"{plural(len(sequences), 'image')} from {trained.folder}"
    if malformed:
        title += f", {malformed} without exactly {codebook.patches_per_image} codes"
        print(
            f"{malformed} of {len(sequences)} rows do not have {codebook.patches_per_image} codes: "
            f"missing patches are drawn dark, surplus ones left out",
            file=sys.stderr,
        )
    draw_image_sheet(path, images, captions, (codebook.low, codebook.high), columns=10, title=title)
