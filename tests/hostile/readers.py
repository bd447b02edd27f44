"""All readers of untrusted files, each with a sound file of its kind.

test_damaged_files.py tries a few hundred damaged files, ../fuzz.py as many as fit into its time.
"""

from hostile import images, models, options, pretrained, rows, texts

READERS = (
    *rows.READERS,
    *texts.READERS,
    *options.READERS,
    *models.READERS,
    *pretrained.READERS,
    *images.READERS,
)
