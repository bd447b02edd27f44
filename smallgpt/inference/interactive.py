"""inference.py --mode interactive: the prompt."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from smallgpt.console import format_table, json_text, plural, printable, printable_lines
from smallgpt.errors import UserError
from smallgpt.exit_codes import EXIT_INTERRUPTED
from smallgpt.files.reading import size_text
from smallgpt.inference.classify import classify_prompt
from smallgpt.inference.generate import generate
from smallgpt.inference.next_tokens import next_tokens
from smallgpt.inference.prompts import (
    MOST_LABELS_SHOWN,
    is_instructed,
    is_labels_only,
    say_unknown,
    shown_row,
)
from smallgpt.options.inference import InferenceSettings

if TYPE_CHECKING:
    from smallgpt.model.folder import TrainedModel


MOST_PROMPT_BYTES = 2**20  # of one line on standard input; longer than any row of a small model


# ------------------------------------------------------------------------------- modes


def run_interactive(trained: TrainedModel, settings: InferenceSettings) -> int:
    """Answer prompts with the likeliest next tokens until `quit`, Ctrl-D or Ctrl-C.

    A model that only names labels answers with those, one of instructions with its answer.
    """
    show = show_next
    if is_labels_only(trained):
        show = show_label
    elif is_instructed(trained):
        show = show_answer
    if settings.prompt is not None:
        show(trained, settings.prompt, settings.json)
        return 0
    at_terminal = sys.stdin.isatty() and not settings.json
    if at_terminal:
        import readline  # noqa: F401  (gives input() a history and line editing)

        vocabulary = trained.vocabulary
        what = "an instruction" if is_instructed(trained) else "a text"
        if is_labels_only(trained):
            what += " to be told its label"
        if vocabulary.tokenizer is None:
            example = vocabulary.tokens[vocabulary.img_id or len(vocabulary) // 2]
            which = "tokens" if is_labels_only(trained) else "first tokens"
            what = f"the {which} of a row, for example {example}"
        text = f"{trained.folder}: {len(vocabulary)} tokens in the vocabulary. Type {what}; quit or"
        print(printable(f"{text} Ctrl-D leaves."))
    prompt_sign = "tokens> " if trained.vocabulary.tokenizer is None else "text> "
    while True:
        try:
            line = _next_line(prompt_sign if at_terminal else None)
            if line is None or line in ("quit", "exit"):
                return 0
            if line:
                show(trained, line, settings.json)
        except KeyboardInterrupt:
            print()
            return EXIT_INTERRUPTED
        except UserError as error:
            text = printable_lines(str(error))
            print(json_text({"error": str(error)}) if settings.json else text)
        sys.stdout.flush()


def _next_line(prompt_sign: str | None) -> str | None:
    """The next line of standard input without the spaces around it, None at its end.

    Args:
        prompt_sign: what stands before it at a terminal; None where there is none.

    Raises:
        UserError: a line that is too long, which is passed over.
    """
    if prompt_sign is not None:
        try:
            return input(prompt_sign).strip()
        except EOFError:
            return None
        except UnicodeDecodeError:
            raise UserError("not UTF-8 text") from None
    stream = sys.stdin.buffer
    raw = stream.readline(MOST_PROMPT_BYTES + 1)
    if len(raw) > MOST_PROMPT_BYTES:
        while raw and not raw.endswith(b"\n"):
            raw = stream.readline(MOST_PROMPT_BYTES)
        raise UserError(f"a line longer than {size_text(MOST_PROMPT_BYTES)}")
    return raw.decode(errors="replace").strip() if raw else None


def show_next(trained: TrainedModel, prompt: str, as_json: bool) -> None:
    """Print the likeliest next tokens of a prompt."""
    found = next_tokens(trained, prompt)
    say_unknown(trained, prompt)
    if as_json:
        answer = [{"token": token, "probability": share} for token, share in found]
        print(json_text({"prompt": prompt, "next_tokens": answer}))
    else:
        # Pieces of text show their spaces and line ends.
        quote = trained.vocabulary.tokenizer is not None
        rows = [[repr(t) if quote else t, f"{p:.4f}"] for t, p in found]
        print(format_table(["next token", "probability"], rows))


def show_answer(trained: TrainedModel, prompt: str, as_json: bool) -> None:
    """Print the likeliest answer to an instruction."""
    result = generate(trained, prompt, greedy=True)
    say_unknown(trained, prompt)
    answer = shown_row(trained, result.sequences[0])
    if as_json:
        print(json_text({"prompt": prompt, "answer": answer}))
    else:
        print(printable_lines(answer))


def show_label(trained: TrainedModel, prompt: str, as_json: bool) -> None:
    """Print the labels of a prompt and their probabilities."""
    answer = classify_prompt(trained, prompt)
    say_unknown(trained, prompt)
    if answer["tokens_left_out"]:
        print(
            f"{plural(answer['tokens_left_out'], 'token')} left out of the body: the model reads "
            f"rows of at most {trained.max_length}",
            file=sys.stderr,
        )
    if as_json:
        names = ("confidence", "raw_confidence", "probabilities", "probabilities_left_out")
        told = {name: answer[name] for name in names if name in answer}
        print(json_text({"label": answer["prediction"], **told}))
        return
    shares = answer["probabilities"]
    rows = [[name, f"{share:.4f}"] for name, share in [*shares.items()][:MOST_LABELS_SHOWN]]
    print(format_table(["label", "probability"], rows))
    others = len(trained.vocabulary.labels) - len(rows)
    if others:
        rest = max(0.0, 1 - sum([*shares.values()][:MOST_LABELS_SHOWN]))
        print(f"the other {plural(others, 'label')} together {rest:.4f}")
