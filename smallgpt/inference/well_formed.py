"""Rules of well-formed rows for a model, and the prompts that they can complete."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from smallgpt.decoding.row_rules import (
    End,
    RowRules,
    check_image_prompt,
    check_token_prompt,
    image_plan,
    image_rules,
    token_rules,
)
from smallgpt.engines.trained import TrainedModel
from smallgpt.errors import UserError
from smallgpt.tokens.codebook import Codebook
from smallgpt.tokens.vocabulary import END_IMG, IMG

FREE_REMEDY = "--free (from Python free=True) generates without the rules of a row"


@dataclass(frozen=True)
class WellFormed:
    """How rows are completed to rows like those of training."""

    rules: RowRules | None  # None where any token may follow
    note: str  # for the user, "" mostly
    _check: Callable[[Sequence[int]], None]

    def check(self, prompt: Sequence[int]) -> None:
        """Check that a prompt is the beginning of such a row.

        Raises:
            UserError: it is not, or nothing can follow it.
        """
        try:
            self._check(prompt)
        except ValueError as error:
            raise UserError(f"{error}; {FREE_REMEDY}") from None


def any_token() -> WellFormed:
    """No rules."""
    return WellFormed(None, "", lambda prompt: None)


def well_formed(trained: TrainedModel, label_given: bool) -> WellFormed:
    """The rules of rows like those of training, none for a model of texts.

    `label_given`: a label tail is appended afterwards.
    """
    vocabulary, longest = trained.vocabulary, trained.max_length
    if vocabulary.tokenizer is not None:
        return any_token()
    end = End.LABEL_GIVEN if label_given else end_of_rows(trained)
    note = ""
    codebook = codebook_of_rows(trained)
    if codebook is not None:
        codes = codebook.patches_per_image
        code_ids = {vocabulary.ids[token] for token in codebook.code_tokens}
        plan = image_plan(codes, longest, end)
        if max(len(plan), codes + 2) <= longest:
            check = partial(
                check_image_prompt, vocabulary=vocabulary, code_ids=code_ids, codes=codes, plan=plan
            )
            return WellFormed(image_rules(vocabulary, code_ids, plan), "", check)
        note = (
            f"the rows hold no whole images: the model was trained on rows of at most "
            f"{longest} tokens, an image of {codes} codes takes {max(len(plan), codes + 2)}"
        )
    check = partial(check_token_prompt, vocabulary=vocabulary, max_length=longest, end=end)
    return WellFormed(token_rules(vocabulary, longest, end), note, check)


def codebook_of_rows(trained: TrainedModel) -> Codebook | None:
    """The codebook in the model folder, of whose images the rows are; None for other rows."""
    if trained.codebook is None:
        return None
    codebook = Codebook.load(trained.codebook)
    needed = {IMG, END_IMG, *codebook.code_tokens}
    return codebook if needed <= trained.vocabulary.ids.keys() else None


def end_of_rows(trained: TrainedModel) -> End:
    """How the rows of training ended, by the figures of the validation rows."""
    vocabulary, figures = trained.vocabulary, trained.validation
    if not vocabulary.labels or None in (vocabulary.cls_id, vocabulary.eos_id):
        return End.NO_LABEL
    if not figures:  # saved by another tool
        return End.LABEL
    if "accuracy" not in figures:
        return End.NO_LABEL
    some = figures.get("labelled_records", figures["rows"]) < figures["rows"]
    return End.EITHER if some else End.LABEL
