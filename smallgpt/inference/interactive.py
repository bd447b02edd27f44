"""Interactive prompt: likeliest next tokens, answers or labels, one prompt a line."""

from __future__ import annotations

import sys

from smallgpt.console import format_table, json_text, printable, printable_lines
from smallgpt.engines.trained import TrainedModel
from smallgpt.errors import UserError
from smallgpt.exit_codes import EXIT_INTERRUPTED, EXIT_OK
from smallgpt.files.reading import size_text
from smallgpt.inference.classify import say_label
from smallgpt.inference.next_tokens import next_tokens
from smallgpt.inference.prompts import row_text

MOST_PROMPT_BYTES = 2**20  # of one line on standard input; longer than any row of a small model


def run_interactive(trained: TrainedModel, prompt: str | None, as_json: bool) -> int:
    """Answer one prompt, or those typed until `quit`, Ctrl-D or Ctrl-C; returns the exit code.

    A label head answers with labels, a model of instructions with its answer, any other model with
    the likeliest next tokens.
    """
    answer = say_next_tokens
    if trained.is_classifier:
        answer = say_label
    elif trained.is_instructed:
        answer = say_answer
    if prompt is not None:
        answer(trained, prompt, as_json)
        return EXIT_OK
    at_terminal = sys.stdin.isatty() and not as_json
    if at_terminal:
        import readline  # noqa: F401  (gives input() a history and line editing)

        print(printable(_welcome(trained)))
    prompt_sign = "tokens> " if trained.vocabulary.tokenizer is None else "text> "
    while True:
        try:
            line = _next_line(prompt_sign if at_terminal else None)
            if line is None or line in ("quit", "exit"):
                return EXIT_OK
            if line:
                answer(trained, line, as_json)
        except KeyboardInterrupt:
            print()
            return EXIT_INTERRUPTED
        except UserError as error:
            text = printable_lines(str(error))
            print(json_text({"error": str(error)}) if as_json else text)
        sys.stdout.flush()


def _welcome(trained: TrainedModel) -> str:
    """What to type."""
    vocabulary = trained.vocabulary
    what = "an instruction" if trained.is_instructed else "a text"
    if trained.is_classifier:
        what += " to be told its label"
    if vocabulary.tokenizer is None:
        example = vocabulary.tokens[vocabulary.img_id or len(vocabulary) // 2]
        which = "tokens" if trained.is_classifier else "first tokens"
        what = f"the {which} of a row, for example {example}"
    size = len(vocabulary)
    return f"{trained.name}: {size} tokens in the vocabulary. Type {what}; quit or Ctrl-D leaves."


def _next_line(prompt_sign: str | None) -> str | None:
    """The next line of standard input, stripped; None at its end.

    `prompt_sign` is None where input is no terminal. UserError: not UTF-8, or too long (skipped).
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


def say_next_tokens(trained: TrainedModel, prompt: str, as_json: bool) -> None:
    """Print the likeliest next tokens of a prompt."""
    found = next_tokens(trained, prompt)
    if as_json:
        answer = [{"token": token, "probability": probability} for token, probability in found]
        print(json_text({"prompt": prompt, "next_tokens": answer}))
    else:
        # Pieces of text show their spaces and line ends.
        quote = trained.vocabulary.tokenizer is not None
        rows = [[repr(t) if quote else t, f"{p:.4f}"] for t, p in found]
        print(format_table(["next token", "probability"], rows))


def say_answer(trained: TrainedModel, prompt: str, as_json: bool) -> None:
    """Print the likeliest answer to an instruction."""
    from smallgpt.inference.generate import Generated, generate  # and with it torch

    result = generate(trained, prompt, greedy=True)
    assert isinstance(result, Generated)  # one row was asked for
    answer = row_text(trained, result.sequences[0])
    if as_json:
        print(json_text({"prompt": prompt, "answer": answer}))
    else:
        print(printable_lines(answer))
