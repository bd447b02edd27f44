"""Answers to instructions: greedy generation; exact match, token F1, BLEU and ROUGE-L.

    answers = generate_answers(trained, dataset)         # one a row, None: no instruction
    figures = answer_figures(expected, given)            # exact_match, token_f1, bleu, rouge_l

Token F1 (Rajpurkar et al., 2016) is of the words that both answers have, in any order, 0 to 1.
BLEU (Papineni et al., 2002) is sacrebleu's over the whole file, 0 to 100; ROUGE-L (Lin, 2004) is
rouge-score's F1, its mean over the rows, 0 to 1. Both libraries are optional
(the extra `text`): without one its figure is None, and the evaluation goes on.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np

from smallgpt.console import format_table, plural, printable, progress_bar
from smallgpt.distribution import install_extra
from smallgpt.engines.trained import TrainedModel
from smallgpt.evaluation.scoring import scoring_batches
from smallgpt.rows.dataset import TokenLabelDataset

MOST_EXAMPLES = 3
_LONGEST_SHOWN = 200
_LEAST_NEW_TOKENS = 32
_HAN = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA = r"\u3040-\u30ff"
# Chinese and Japanese have no spaces between words: one token a character.
_TOKEN = re.compile(rf"[{_HAN}{_KANA}]|[^\W_{_HAN}{_KANA}]+")
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_WORD = re.compile(rf"[{_HAN}{_KANA}]|[^\s{_HAN}{_KANA}]+")
_HAN_LETTER = re.compile(rf"[{_HAN}]")


# ------------------------------------------------------------------------------- generating


def generate_answers(
    trained: TrainedModel,
    dataset: TokenLabelDataset,
    batch_size: int = 64,
    max_new_tokens: int | None = None,
    together: Iterable[np.ndarray] | None = None,
) -> list[str | None]:
    """Greedy answers to the instructions of rows read with `keep_records`.

    Prompts are read as in training, a long one without its beginning; answers end at the trained
    length. `max_new_tokens` None: `most_new_tokens` of these rows. `together`: which rows are
    decoded at once; None: those that are scored at once, so that whoever has the whole batches of a
    part of the rows gives the very answers that all rows would get.

    Returns:
        One text a row: "" where the expected answer alone fills the trained length, which leaves
        no prompt; None for a row that is no instruction.
    """
    # Here, since reading figures and answers needs no torch.
    from smallgpt.decoding.generate import generate_tokens
    from smallgpt.decoding.sampling import Sampling

    assert dataset.records is not None  # read with `keep_records`
    vocabulary, tokenizer = trained.vocabulary, trained.vocabulary.tokenizer
    answers = ["" if is_instruction(record) else None for record in dataset.records]
    prompt_lengths_N = dataset.prompt_lengths_N
    if not prompt_lengths_N.any() or tokenizer is None:  # without a tokenizer no row has a prompt
        return answers
    most = most_new_tokens(dataset) if max_new_tokens is None else max_new_tokens
    assert most is not None  # there is a prompt
    rooms_N = np.minimum(most, trained.max_length - prompt_lengths_N)
    stops = {each for each in (vocabulary.eos_id, vocabulary.cls_id) if each is not None}
    # An unknown character is no text.
    forbidden = {each for each in (vocabulary.pad_id, vocabulary.unk_id) if each is not None}
    asked_N = prompt_lengths_N > 0
    decoder = trained.engines.decoder(batch_size, int(rooms_N[asked_N].sum()))
    with progress_bar("answering", int(asked_N.sum()), "row") as bar:
        for indices_B in together or scoring_batches(dataset, batch_size, of_tokens=True):
            asked = indices_B[asked_N[indices_B]]
            made = generate_tokens(
                decoder,
                [dataset.row(index)[: prompt_lengths_N[index]].tolist() for index in asked],
                max_new_tokens=rooms_N[asked].tolist(),
                stop_ids=stops,
                sampling=Sampling(greedy=True),
                forbidden_ids=forbidden,
                batch_size=batch_size,
                on_progress=bar.update,
            )
            for index, ids in zip(asked.tolist(), made, strict=True):
                answers[index] = tokenizer.decode(ids)
    return answers


def most_new_tokens(rows: TokenLabelDataset) -> int | None:
    """Most tokens of an answer: twice the longest expected one, at least 32; None without any.

    A model that never ends would take the time of all its positions for every row.
    """
    expected = rows.scored_counts[rows.prompt_lengths_N > 0]
    return max(_LEAST_NEW_TOKENS, 2 * int(expected.max())) if len(expected) else None


def is_instruction(record: dict[str, Any]) -> bool:
    """Whether a valid record is an instruction with its answer, by the rule of `row.parse_row`."""
    given = record.get("tokens") is not None or record.get("input_ids") is not None
    return not given and "instruction" in record


# ------------------------------------------------------------------------------- figures


def answer_figures(expected: Sequence[str], given: Sequence[str]) -> dict[str, Any]:
    """Similarity of answers, at least one, to the expected ones.

    exact_match is the share of equal ones, leading and trailing whitespace ignored; token_f1 and
    rouge_l are means over the answers; bleu_tokenizer
    sacrebleu's `zh` where most expected answers have Chinese characters, else `13a`.
    """
    pairs = list(zip(expected, given, strict=True))
    chinese = sum(_HAN_LETTER.search(text) is not None for text in expected)
    tokenizer = "zh" if chinese > len(pairs) / 2 else "13a"
    return {
        "answers": len(pairs),
        "exact_match": sum(wanted.strip() == got.strip() for wanted, got in pairs) / len(pairs),
        "token_f1": sum(token_f1(wanted, got) for wanted, got in pairs) / len(pairs),
        "bleu": _bleu(expected, given, tokenizer),
        "bleu_tokenizer": tokenizer,
        "rouge_l": _rouge_l(pairs),
    }


def token_f1(expected: str, given: str) -> float:
    """F1 of the words that two answers share, each as often as both have it, 0 to 1.

    As SQuAD measures it (Rajpurkar et al., 2016): lower case, without punctuation and the articles
    a, an, the. Chinese and Japanese have no spaces between words: one word a character. Two
    answers without any word are equal: 1.
    """
    wanted, got = (Counter(_words(text)) for text in (expected, given))
    if not wanted or not got:
        return float(wanted == got)
    return 2 * (wanted & got).total() / (wanted.total() + got.total())


def _words(text: str) -> list[str]:
    letters = "".join(letter for letter in text.lower() if not _is_punctuation(letter))
    return _WORD.findall(_ARTICLE.sub(" ", letters))


def _is_punctuation(letter: str) -> bool:
    """SQuAD's list is ASCII's; punctuation of other scripts is what Unicode calls so."""
    return letter in string.punctuation or unicodedata.category(letter).startswith("P")


def _bleu(expected: Sequence[str], given: Sequence[str], tokenizer: str) -> float | None:
    try:  # an optional library
        from sacrebleu import corpus_bleu
    except ImportError:
        return None
    # Without effective_order a file of answers below four words would get 0 however right it is;
    # other files get the same with it. force: no advice on standard error about final periods.
    return corpus_bleu(
        list(given), [list(expected)], tokenize=tokenizer, force=True, use_effective_order=True
    ).score


def _rouge_l(pairs: Sequence[tuple[str, str]]) -> float | None:
    try:  # an optional library
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        return None
    scorer = RougeScorer(["rougeL"], tokenizer=RougeTokenizer())
    total = 0.0
    with progress_bar("comparing answers", len(pairs), "row") as bar:
        for wanted, got in pairs:
            total += scorer.score(wanted, got)["rougeL"].fmeasure
            bar.update()
    return total / len(pairs)


class RougeTokenizer:
    """Lower-case words of any script; of Chinese and Japanese, characters.

    Equal to rouge-score's own tokenizer on ASCII text; that one drops all other letters.
    """

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text."""
        return _TOKEN.findall(text.lower())


# ------------------------------------------------------------------------------- describing


def describe_answers(figures: dict[str, Any]) -> str:
    """Table of `answer_figures`; names the package to install for a missing one."""

    def shown(name: str, form: str, library: str) -> str:
        if figures[name] is not None:
            return form.format(figures[name])
        return f"needs {library}: {install_extra('text')}"

    rows = [
        ["equal to the expected one", f"{100 * figures['exact_match']:.1f} %"],
        ["token F1", f"{figures['token_f1']:.3f}"],
        [f"BLEU ({figures['bleu_tokenizer']})", shown("bleu", "{:.1f}", "sacrebleu")],
        ["ROUGE-L F1", shown("rouge_l", "{:.3f}", "rouge-score")],
    ]
    return format_table([plural(figures["answers"], "answer"), ""], rows, left=(0, 1))


def describe_examples(predictions: Iterable[dict[str, Any]]) -> str:
    """The first instructions of predictions.jsonl with expected and generated answers."""
    lines = []
    answered = (row for row in predictions if row.get("answer") is not None)
    for row in islice(answered, MOST_EXAMPLES):
        asked = row["row"]["instruction"]
        if row["row"].get("input"):
            asked += f" | {row['row']['input']}"
        lines += [
            f"line {row['line']}: {_one_line(asked)}",
            f"  expected: {_one_line(row['row']['output'])}",
            f"  answer:   {_one_line(row['answer'])}",
        ]
    return "\n".join(lines)


def _one_line(text: str) -> str:
    words = " ".join(text.split())
    return printable(words if len(words) <= _LONGEST_SHOWN else words[: _LONGEST_SHOWN - 3] + "...")
