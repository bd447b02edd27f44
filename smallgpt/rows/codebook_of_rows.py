"""Which codebook the codes of an image row belong to: rows of another one are refused.

Every codebook names its codes `<Z_000>`, `<Z_001>` ...: rows of another one would be read without
a word, and mean other patches.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from smallgpt.errors import UserError
from smallgpt.files.reading import shown
from smallgpt.tokens.codebook import Codebook

CODES_OF = "codebook_digest"  # in `meta` of a row: digest of the codebook that made it


class KnownCodebook(NamedTuple):
    """The codebook that the image rows of a run or a model belong to."""

    path: str
    digest: str

    @classmethod
    def at(cls, path: Path | None) -> KnownCodebook | None:
        """The codebook in a codebook.npz; None for rows that are no images.

        Raises:
            UserError: not a codebook.
        """
        return None if path is None else cls(str(path), Codebook.load(path).digest)

    def made(self, record: Any, source: str | Path, line: int) -> bool:
        """Whether a row says that this codebook made it; False where it says nothing.

        Raises:
            UserError: the row, a line of the file `source`, says that another codebook did.
        """
        try:
            digest = record["meta"][CODES_OF]
        except (LookupError, TypeError):  # no digest; or no row at all, which is told elsewhere
            return False
        if digest == self.digest:
            return True
        other = shown(digest).strip("'")
        raise UserError(
            f"{source}:{line}: a row of codebook {other}, and {self.path} is {self.digest}: the "
            f"same tokens stand for other patches\n"
            f"prepare its pictures with `prepare_data.py images --codebook {self.path}`, or use "
            f"the vocabulary or model that belongs to these rows"
        )
