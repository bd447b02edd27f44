"""Use a trained model: predict the next token, continue a row, name its label, score a file.

    python inference.py                                            # interactive prompt
    python inference.py --prompt "<IMG> <Z_190>"                   # one answer
    python inference.py --mode generate --num_return_sequences 9 --image digits.png
    python inference.py --mode classify --prompt "<IMG> ... </IMG>"
    python inference.py --test_data data/digits/test.jsonl         # evaluation folder

From Python:

    from inference import classify, evaluate_file, generate, load_trained_model, next_tokens
    trained = load_trained_model("outputs/best_model")
    next_tokens(trained, "<IMG> <Z_190>")                          # [(token, probability), ...]
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from command_line import check_values, read_settings
from console import (
    EXIT_INTERRUPTED,
    SettingsError,
    UserError,
    can_show_blocks,
    format_table,
    json_text,
    plural,
    printable,
    printable_lines,
    run_command,
)
from input_files import shown, size_text
from instructions import instruction_prompt
from rows import TAIL_LENGTH
from run_folder import check_evaluation_folder, write_json
from settings import InferenceSettings

if TYPE_CHECKING:
    from dataset import TokenLabelDataset
    from evaluation import Scores
    from metrics import LabelShares
    from model_folder import TrainedModel

PREDICTIONS, METRICS = "predictions.jsonl", "metrics.json"
NEXT_TOKENS_SHOWN = 5
MOST_LABELS_SHOWN = 30  # in a table; of more the first and a line for the others
MOST_PROMPT_BYTES = 2**20  # of one line on standard input; longer than any row of a small model
_NOT_FINITE = "{}: the model gives no finite number: damaged weights? (try --precision fp32)"
# Guided generation gives up when this many samples per wanted sequence brought too few.
TRIES_PER_SEQUENCE = 200


def main(argv: list[str]) -> int:
    """The command; returns its exit code."""
    settings = read_settings(
        InferenceSettings,
        argv,
        prog="inference.py",
        description="Use a trained model.",
        epilog="Without flags: an interactive next-token prompt for outputs/best_model.",
    )
    trained = load_trained_model(
        settings.model_path, settings.device, settings.precision, settings.vocab_path
    )
    mode = settings.resolved_mode()
    if mode == "interactive":
        return run_interactive(trained, settings)
    if mode == "generate":
        run_generate(trained, settings)
    elif mode == "classify":
        run_classify(trained, settings)
    else:
        run_evaluate(trained, settings)
    return 0


# ------------------------------------------------------------------------------- library


def load_trained_model(
    model_path: str | Path,
    device: str = "auto",
    precision: str = "auto",
    vocab_path: str | Path | None = None,
) -> TrainedModel:
    """Load a model folder; with `vocab_path`, check that it is the model's own vocabulary.

    Raises:
        UserError: a missing or damaged file, or another vocabulary.
    """
    from model_folder import load_trained_model as load
    from vocabulary import Vocabulary

    trained = load(model_path, device, precision)
    if vocab_path is not None and Vocabulary.load(vocab_path) != trained.vocabulary:
        raise UserError(
            f"{vocab_path}: not the vocabulary that {model_path} was trained with; leave "
            f"--vocab_path out, the model folder holds its own"
        )
    return trained


def prompt_ids(trained: TrainedModel, prompt: str) -> list[int]:
    """Ids of a prompt: tokens separated by spaces, or a text or instruction for such a model.

    Raises:
        UserError: no tokens, or tokens that the vocabulary lacks (named, with the nearest).
    """
    tokenizer = trained.vocabulary.tokenizer
    try:
        if tokenizer is not None:
            if is_instructed(trained) and prompt.strip():
                return tokenizer.encode(instruction_prompt(prompt))
            # The text goes on: it gets the mark of a beginning and not that of an end.
            ids = tokenizer.encode(prompt, marked=False)
            return [*tokenizer.first_ids, *ids] if prompt.strip() else _refuse_empty()
        ids = trained.vocabulary.encode(prompt)
    except ValueError as error:
        raise UserError(str(error)) from None
    except KeyError as error:
        named = []
        for token in list(dict.fromkeys(error.args[0]))[:10]:
            close = trained.vocabulary.nearest(token)
            hint = f" (did you mean {printable(close)}?)" if close else ""
            named.append(shown(token) + hint)
        raise UserError(f"not in the vocabulary: {', '.join(named)}") from None
    if not ids:
        _refuse_empty()
    return ids


def _refuse_empty() -> NoReturn:
    raise UserError("the prompt has no tokens")


def tell_unknown(trained: TrainedModel, prompt: str) -> None:
    """Say on standard error what of a text the model cannot read."""
    tokenizer = trained.vocabulary.tokenizer
    if tokenizer is not None:
        count = tokenizer.count_unknown(tokenizer.encode(prompt))
        if count:
            letters = dict.fromkeys(prompt)
            every = (c for c in letters if tokenizer.count_unknown(tokenizer.encode(c)))
            unknown = list(islice(every, 6))
            named = " ".join(shown(letter) for letter in unknown[:5])
            print(
                f"{plural(count, 'unknown token')} read as <UNK>{': ' if named else ''}{named}"
                + (" ..." if len(unknown) > 5 else ""),
                file=sys.stderr,
            )


def is_instructed(trained: TrainedModel) -> bool:
    """Whether a model answers instructions, each in its prompt's template."""
    return trained.settings.task == "instruct" and trained.vocabulary.tokenizer is not None


def shown_token(trained: TrainedModel, index: int) -> str:
    """A token for a person: of a model of texts, the piece of text that it stands for."""
    vocabulary = trained.vocabulary
    token = vocabulary.tokens[index]
    if vocabulary.tokenizer is None:
        return token
    piece = vocabulary.tokenizer.decode([index])
    # Special tokens stand for no text, and some tokens for half of a character.
    return token if not piece or "\ufffd" in piece else piece


def shown_row(trained: TrainedModel, ids: Sequence[int]) -> str:
    """A row for a person: its tokens, or its text for a model of texts."""
    tokenizer = trained.vocabulary.tokenizer
    return tokenizer.decode(ids) if tokenizer is not None else trained.vocabulary.decode(ids)


def refuse_labels_only(trained: TrainedModel) -> None:
    """Raise where a model has no next token.

    Raises:
        UserError: it only names labels.
    """
    if is_labels_only(trained):
        raise UserError(
            f"{trained.folder}: this model only names labels (--classifier head): ask it with "
            f"--mode classify or evaluate"
        )


def is_labels_only(trained: TrainedModel) -> bool:
    """Whether a model tells labels by a head, and predicts no tokens."""
    return trained.settings.classifier == "head"


def next_tokens(
    trained: TrainedModel, prompt: str, count: int = NEXT_TOKENS_SHOWN
) -> list[tuple[str, float]]:
    """The likeliest next tokens of a prompt and their probabilities, falling.

    Raises:
        UserError: unknown tokens, a prompt beyond the trained length, a count below 1, or a model
            that only names labels.
    """
    import torch

    if count < 1:
        raise UserError(f"count: {count} is out of range (1 or above)")
    refuse_labels_only(trained)
    ids = prompt_ids(trained, prompt)
    if len(ids) > trained.max_length:
        raise UserError(
            f"the prompt has {len(ids)} tokens, the model was trained on rows of at most "
            f"{trained.max_length}: shorten it"
        )
    with torch.inference_mode(), trained.precision.autocast(trained.device):
        logits_V = trained.model(torch.tensor([ids], device=trained.device)).logits[0, -1]
    if not logits_V.isfinite().all():
        raise UserError(_NOT_FINITE.format(trained.folder))
    top = logits_V.float().softmax(-1).topk(min(count, len(logits_V)))
    return [
        (shown_token(trained, index), share)
        for share, index in zip(top.values.tolist(), top.indices.tolist(), strict=True)
    ]


def check_arguments(mode: str, **values: Any) -> None:
    """Hold what a call from Python says to the rules of the command line.

    Args:
        mode: of the command.
        values: options of `InferenceSettings` by name.

    Raises:
        SettingsError: a wrong value, or values that contradict one another.
    """
    try:
        check_values(InferenceSettings(mode=mode, **values))
    except SettingsError as error:
        own_name = [text.replace("num_return_sequences", "count") for text in error.mistakes]
        raise SettingsError(own_name) from None


@dataclass(frozen=True)
class Generated:
    """Sequences from `generate`.

    Attributes:
        sequences: ids of each row, prompt included unless it was an instruction.
        tried: sequences sampled; more than were kept where a label was asked for.
        note: a line for the user where the request was cut, else "".
    """

    sequences: list[list[int]]
    tried: int
    note: str = ""


def generate(
    trained: TrainedModel,
    prompt: str | None = None,
    *,
    count: int = 1,
    max_new_tokens: int | None = None,
    greedy: bool = False,
    temperature: float = 1.0,
    top_k: int = 50,
    top_p: float = 1.0,
    seed: int = 0,
    label: str | None = None,
    batch_size: int = 64,
) -> Generated:
    """Continue a prompt up to <EOS>.

    Args:
        trained: the model.
        prompt: tokens, a text or an instruction, as the model was trained; None = <IMG> for a
            model of images.
        count: how many sequences.
        max_new_tokens: most new tokens; None = up to the trained length.
        greedy, temperature, top_k, top_p: how to choose among the next tokens.
        seed: of the sampling.
        label: keep only sequences that the model itself classifies as this label; each is then
            a whole row with its label tail, no longer than the trained length.
        batch_size: sequences sampled at once.

    Raises:
        SettingsError: a value that the command line would refuse, such as temperature 0.
        UserError: unknown tokens or label, a prompt as long as the trained length, or too few
            samples that the model reads as `label`, or a model that only names labels.
    """
    import torch

    from generation import Sampling, generate_tokens, make_decoder

    check_arguments(
        "generate",
        num_return_sequences=count,
        max_new_tokens=max_new_tokens,
        greedy=greedy,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        label=label,
        batch_size=batch_size,
    )
    refuse_labels_only(trained)
    vocabulary = trained.vocabulary
    if prompt is None:
        if vocabulary.img_id is None:
            raise UserError("--mode generate needs --prompt: the first tokens of a row")
        ids = [vocabulary.img_id]
    else:
        ids = prompt_ids(trained, prompt)
    # With a label its tail stands at the end of the row.
    tail = f", {TAIL_LENGTH} of them for the label" if label is not None else ""
    room = trained.max_length - len(ids) - (TAIL_LENGTH if tail else 0)
    if room < 1:
        raise UserError(
            f"the prompt has {len(ids)} tokens and the model was trained on rows of at most "
            f"{trained.max_length}{tail}: nothing can follow; shorten it"
        )
    note = ""
    if max_new_tokens is not None and max_new_tokens > room:
        note = (
            f"max_new_tokens cut from {max_new_tokens} to {room}: the model was trained on rows "
            f"of at most {trained.max_length} tokens{tail}"
        )
        max_new_tokens = room
    # What is asked for is cut there; what the model itself makes is to end within the room, and
    # with a label the token that ends it is dropped again.
    most = max_new_tokens or (room + 1 if tail else room)
    sampling = Sampling(greedy, temperature, top_k, top_p)
    decoder = make_decoder(trained.model, trained.precision.dtype)
    generator = torch.Generator().manual_seed(seed)
    stops = {vocabulary.eos_id} - {None}
    forbidden = {vocabulary.pad_id}
    if vocabulary.tokenizer is not None:
        # A label tail is not text, and an unknown character is none.
        stops |= {vocabulary.cls_id} - {None}
        forbidden |= {vocabulary.unk_id} - {None}
    if label is not None:
        # The rest of the row would be the model's own label; it is asked for apart.
        stops.add(vocabulary.cls_id)
        forbidden |= vocabulary.label_id_set

    def sample(how_many: int) -> list[list[int]]:
        try:
            new = generate_tokens(
                decoder,
                [ids] * how_many,
                max_new_tokens=most,
                stop_ids=stops,
                sampling=sampling,
                generator=generator,
                forbidden_ids=forbidden,
                batch_size=batch_size,
            )
        except ValueError as error:  # what this call asks for fits: it is the model
            raise UserError(f"{trained.folder}: {error}: damaged weights?") from None
        return [tokens if is_instructed(trained) else ids + tokens for tokens in new]

    if label is None:
        return Generated(sample(count), count, note)

    if label not in vocabulary.labels:  # `new york` of the user's rows is `new_york` in its token
        label = "_".join(label.split())
    if label not in vocabulary.labels:
        known = ", ".join(vocabulary.labels[:20]) or "none"
        rest = f" and {len(vocabulary.labels) - 20:,} more" if len(vocabulary.labels) > 20 else ""
        raise UserError(
            f"--label {shown(label)}: the model has no such label; it has {known}{rest}"
        )
    if vocabulary.cls_id is None or vocabulary.eos_id is None:
        raise UserError("--label: a labelled row needs <CLS> and <EOS> in the vocabulary")
    if not vocabulary.label_id_set.isdisjoint(ids):
        raise UserError("--label: the prompt holds a label token already; leave it out")
    wanted = vocabulary.labels.index(label)
    ends = (vocabulary.cls_id, vocabulary.eos_id)
    kept: list[list[int]] = []
    tried = 0
    while len(kept) < count and tried < TRIES_PER_SEQUENCE * count:
        rows = [row[:-1] if row[-1] in ends else row for row in sample(batch_size)]
        # A row that found no end is none, nor is one that is nothing but a prompt with a tail.
        rows = [row for row in rows if len(row) <= len(ids) + room and row[-1] not in ends]
        tried += batch_size
        if rows:
            read_as = class_shares(trained, rows, batch_size).predicted
            kept += [row for row, found in zip(rows, read_as, strict=True) if found == wanted]
    if len(kept) < count:
        raise UserError(
            f"only {len(kept)} of {tried} samples were read as label {label}, {count} were "
            f"asked for: raise --temperature, or the model does not know this label"
        )
    label_tail = [vocabulary.cls_id, vocabulary.label_ids[wanted], vocabulary.eos_id]
    note = "; ".join(
        text
        for text in (
            note,
            f"{len(kept)} of {tried} samples ({len(kept) / tried:.1%}) were read as {label}",
        )
        if text
    )
    return Generated([row + label_tail for row in kept[:count]], tried, note)


def class_shares(
    trained: TrainedModel, rows: Sequence[Sequence[int]], batch_size: int = 64
) -> LabelShares:
    """The label shares of rows (ids without a tail)."""
    from dataset import TokenLabelDataset

    records = [{"input_ids": list(row)} for row in rows]
    dataset = TokenLabelDataset.from_records(
        records, trained.vocabulary, max_length=trained.max_length, for_label=True
    )
    return classify_dataset(trained, dataset, batch_size)


def classify_dataset(
    trained: TrainedModel, dataset: TokenLabelDataset, batch_size: int
) -> LabelShares:
    """The label shares of rows read with `for_label`, each asked after its body.

    Raises:
        UserError: the vocabulary has no labels.
    """
    from evaluation import head_shares, prompted_shares

    how = {"batch_size": batch_size, "temperature": trained.temperature}
    if is_labels_only(trained):
        return head_shares(trained.model, dataset, trained.precision, **how)
    if not trained.vocabulary.labels or trained.vocabulary.cls_id is None:
        raise UserError("this model has no label tokens (<CLS_...>): it cannot classify")
    return prompted_shares(
        trained.model,
        [dataset.classification_prompt(index) for index in range(len(dataset))],
        trained.vocabulary.label_ids,
        trained.precision,
        **how,
    )


def classify(trained: TrainedModel, prompt: str) -> tuple[str, dict[str, float]]:
    """The label of a row and the calibrated share of every label, the largest first.

    Of more than 200 labels those of the 50 likeliest.

    Raises:
        UserError: unknown tokens, or a model without labels.
    """
    answer = classify_prompt(trained, prompt)
    return answer["prediction"], answer["probabilities"]


def classify_prompt(trained: TrainedModel, prompt: str) -> dict[str, Any]:
    """What predictions.jsonl would say of a row's label, the largest probability first, and
    how many tokens did not fit.

    Raises:
        UserError: unknown tokens, or a model without labels.
    """
    from dataset import TokenLabelDataset
    from evaluation import predictions_of

    if trained.vocabulary.tokenizer is not None:
        record: dict[str, Any] = {"text": prompt}
    else:
        record = {"input_ids": prompt_ids(trained, prompt)}
    dataset = TokenLabelDataset.from_records(
        [record], trained.vocabulary, max_length=trained.max_length, for_label=True
    )
    shares = classify_dataset(trained, dataset, 1)
    answer = predictions_of(dataset, shares, trained.temperature)[0]
    if answer["prediction"] is None:
        raise UserError(_NOT_FINITE.format(trained.folder))
    by_share = sorted(answer["probabilities"].items(), key=lambda pair: -pair[1])
    left_out = dataset.counts.cut_tokens
    return {**answer, "probabilities": dict(by_share), "tokens_left_out": left_out}


def classify_file(
    trained: TrainedModel, path: str | Path, output_dir: str | Path, batch_size: int = 64
) -> list[dict[str, Any]]:
    """Label every row of a JSONL file and write `predictions.jsonl`.

    What reading changed, such as rows that were cut, is told on standard error.

    Returns:
        The written objects, one a row in input order.

    Raises:
        SettingsError: a value that the command line would refuse, or rows that would be
            overwritten.
        UserError: files of others in output_dir, no such file, not one row that can be classified,
            or a model without labels.
    """
    from evaluation import predictions_of, write_predictions

    check_arguments("classify", test_data=path, output_dir=output_dir, batch_size=batch_size)
    refuse_overwriting(path, output_dir)
    dataset = read_rows(trained, path, for_label=True)
    if not len(dataset):
        _refuse_unusable(dataset, path, "classified")
    for line in dataset.counts.lines():
        print(printable_lines(f"{path}: {line}"), file=sys.stderr)
    shares = classify_dataset(trained, dataset, batch_size)
    predictions = predictions_of(dataset, shares, trained.temperature)
    remove_earlier(output_dir)
    write_predictions(Path(output_dir) / PREDICTIONS, predictions)
    return predictions


def evaluate_file(
    trained: TrainedModel,
    path: str | Path,
    output_dir: str | Path,
    batch_size: int = 64,
    max_new_tokens: int | None = None,
) -> dict[str, Any]:
    """Score a JSONL file, answer its instructions and write the evaluation folder.

    Every row of the file stands in `predictions.jsonl`, one that could not be scored with its
    reason; every figure of `metrics.json` can be computed again from it.

    Returns:
        The figures, as in metrics.json.

    Raises:
        SettingsError: a value that the command line would refuse, or rows that would be
            overwritten.
        UserError: files of others in output_dir, no such file, or not one row that can be scored.
    """
    from answers import answer_figures, generate_answers
    from evaluation import leave_out_failures, predictions_of, score_rows, write_predictions
    from evaluation_report import draw_evaluation
    from metrics import MOST_LABELS_WHOLE

    check_arguments(
        "evaluate",
        test_data=path,
        output_dir=output_dir,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
    )
    refuse_overwriting(path, output_dir)
    dataset = read_rows(trained, path)
    scores = score_rows(
        trained.model,
        dataset,
        trained.precision,
        batch_size=batch_size,
        temperature=trained.temperature,
    )
    dataset, scores = leave_out_failures(dataset, scores)
    if not len(dataset):
        _refuse_unusable(dataset, path, "scored")
    ask_unlabelled(trained, dataset, scores, batch_size)
    answers = []
    if scores.of_tokens:
        answers = generate_answers(trained, dataset, batch_size, max_new_tokens)
    answered = [index for index, answer in enumerate(answers) if answer is not None]
    expected = [dataset.records[index]["output"] for index in answered]
    figures = {
        "model": str(trained.folder),
        "data": str(path),
        "device": trained.device.type,
        "precision": trained.precision.name,
        "records": len(dataset) + len(dataset.bad_rows),
        "unscored": len(dataset.bad_rows),
        "unlabelled": int((dataset.classes_N < 0).sum()),
        "rows_cut": dataset.counts.cut,
        "tokens_left_out": dataset.counts.cut_tokens,
        "unknown_tokens": dataset.counts.unknown_tokens,
        **({"tokens": int(scores.token_count_N.sum())} if scores.of_tokens else {}),
        **scores.figures(dataset, trained.temperature),
        **(answer_figures(expected, [answers[i] for i in answered]) if answered else {}),
        "validation": trained.validation or None,
    }
    predictions = predictions_of(dataset, scores.shares, trained.temperature, scores, answers)
    folder = Path(output_dir)
    remove_earlier(folder)
    write_predictions(folder / PREDICTIONS, predictions)
    # Of very many labels a line for each, not for each of their figures.
    many = len(figures.get("labels", ())) > MOST_LABELS_WHOLE
    write_json(folder / METRICS, figures, most_levels=2 if many else None)
    draw_evaluation(folder, figures, predictions, dataset, trained.codebook)
    return figures


def refuse_overwriting(path: str | Path, output_dir: str | Path) -> None:
    """Raise where an evaluation would write over its own rows or over files of others.

    Raises:
        SettingsError: the file of rows is one of those that it writes, by whatever name.
        UserError: no evaluation has left what bears the name of such a file.
    """
    from evaluation_report import PICTURES

    if any(are_one(path, Path(output_dir) / name) for name in (PREDICTIONS, METRICS, *PICTURES)):
        raise SettingsError([f"--test_data {path} would be overwritten: give another --output_dir"])
    if os.path.exists(output_dir) and not os.path.isdir(output_dir):
        raise UserError(f"{output_dir} is a file: give a folder as --output_dir")
    check_evaluation_folder(Path(output_dir), "one writes under that name")


def are_one(path: str | Path, other: str | Path) -> bool:
    """Whether two paths name one file, however they are written."""
    try:
        return os.path.samefile(path, other)
    except OSError:  # one of them is not there
        return False


def remove_earlier(output_dir: str | Path) -> None:
    """Remove figures and pictures of an earlier evaluation, so that none stands beside new rows."""
    from evaluation_report import PICTURES

    for name in (METRICS, *PICTURES):
        (Path(output_dir) / name).unlink(missing_ok=True)


def ask_unlabelled(
    trained: TrainedModel, dataset: TokenLabelDataset, scores: Scores, batch_size: int
) -> None:
    """Put the label shares of rows without a label into `scores`, as `classify` would tell them.

    Their tokens were scored to the full length; for the question the body leaves room for a tail,
    so these rows are read anew. A head has answered already where that cuts nothing more. What
    cannot be asked, such as a row with a label token in its body, has no shares.

    Args:
        trained: the model.
        dataset: rows read with keep_records.
        scores: theirs.
        batch_size: rows in one forward pass.
    """
    import numpy as np

    from dataset import TokenLabelDataset

    unlabelled = np.flatnonzero(dataset.classes_N < 0)
    if not len(unlabelled) or not trained.vocabulary.labels or trained.vocabulary.cls_id is None:
        return
    questions = TokenLabelDataset.from_records(
        [dataset.records[index] for index in unlabelled],
        trained.vocabulary,
        max_length=trained.max_length,
        on_bad_row="skip",
        unknown_token=trained.settings.unknown_token,
        for_label=True,
    )
    asked = unlabelled[questions.lines_N - 1]
    scores.shares.log_shares_NxK[np.setdiff1d(unlabelled, asked)] = np.nan
    if is_labels_only(trained):
        cut = np.flatnonzero(questions.body_lengths_N < dataset.body_lengths_N[asked])
        questions, asked = questions.subset(cut), asked[cut]
    scores.shares.put_shares(asked, classify_dataset(trained, questions, batch_size))


def _refuse_unusable(dataset: TokenLabelDataset, path: str | Path, what: str) -> NoReturn:
    bad = dataset.bad_rows[0]
    remedy = ""
    if all("not valid JSON" in each.reason for each in dataset.bad_rows):
        remedy = ": rows come as JSONL, `python prepare_data.py text` makes them of a table"
    raise UserError(
        f"{path}:{bad.line}: {bad.reason}\n"
        f"not one of {plural(len(dataset.bad_rows), 'row')} can be {what}{remedy}"
    )


def read_rows(
    trained: TrainedModel, path: str | Path, for_label: bool = False
) -> TokenLabelDataset:
    """Read a JSONL file as the model was trained to read; bad rows are kept with their reason."""
    from dataset import TokenLabelDataset

    return TokenLabelDataset.read(
        path,
        trained.vocabulary,
        max_length=trained.max_length,
        on_bad_row="keep",
        unknown_token=trained.settings.unknown_token,
        keep_records=True,
        for_label=for_label,
    )


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
    tell_unknown(trained, prompt)
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
    tell_unknown(trained, prompt)
    answer = shown_row(trained, result.sequences[0])
    if as_json:
        print(json_text({"prompt": prompt, "answer": answer}))
    else:
        print(printable_lines(answer))


def show_label(trained: TrainedModel, prompt: str, as_json: bool) -> None:
    """Print the labels of a prompt and their probabilities."""
    answer = classify_prompt(trained, prompt)
    tell_unknown(trained, prompt)
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


def run_generate(trained: TrainedModel, settings: InferenceSettings) -> None:
    """Print generated rows and draw them where asked to."""
    if settings.image is not None and trained.codebook is None:
        raise UserError(
            f"--image: {trained.folder} holds no codebook.npz; only rows made of images by "
            f"prepare_data.py can be drawn"
        )
    if settings.image is not None:
        inputs = [*trained.folder.iterdir(), *filter(None, [settings.vocab_path])]
        if any(are_one(path, settings.image) for path in inputs):
            raise SettingsError([f"--image {settings.image} would overwrite a file of the model"])
    seed = settings.seed if settings.seed is not None else int.from_bytes(os.urandom(4), "big")
    result = generate(
        trained,
        settings.prompt,
        count=settings.num_return_sequences,
        max_new_tokens=settings.max_new_tokens,
        greedy=settings.greedy,
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        seed=seed,
        label=settings.label,
        batch_size=settings.batch_size,
    )
    if settings.prompt is not None:
        tell_unknown(trained, settings.prompt)
    rows = [shown_row(trained, sequence) for sequence in result.sequences]
    if settings.image is not None:
        draw_rows(trained, rows, Path(settings.image))
    if settings.json:
        answer = {
            "sequences": rows,
            "seed": None if settings.greedy else seed,
            "tried": result.tried,
            "image": settings.image,
            "note": result.note or None,
        }
        print(json_text(answer))
        return
    for row in rows:
        print(printable_lines(row))
    notes = [result.note, "" if settings.greedy else f"--seed {seed} gives the same again"]
    if settings.image is not None:
        notes.append(f"drawn: {settings.image}")
    for note in filter(None, notes):
        print(printable_lines(note), file=sys.stderr)


def draw_rows(trained: TrainedModel, rows: list[str], path: Path) -> None:
    """Draw image rows into one PNG, each captioned with the label its tail names."""
    from image_tokens import Codebook
    from plots import draw_image_sheet

    codebook = Codebook.load(trained.codebook)
    images, captions, malformed = [], [], 0
    label_tokens = dict(
        zip(
            (trained.vocabulary.tokens[index] for index in trained.vocabulary.label_ids),
            trained.vocabulary.labels,
            strict=True,
        )
    )
    for row in rows:
        words = row.split(" ")
        image, count = codebook.image_from_tokens(words)
        malformed += count != codebook.patches_per_image
        images.append(image)
        captions.append(next((label_tokens[word] for word in words if word in label_tokens), ""))
    title = f"{plural(len(rows), 'image')} from {trained.folder}"
    if malformed:
        title += f", {malformed} without exactly {codebook.patches_per_image} codes"
        print(
            f"{malformed} of {len(rows)} rows do not have {codebook.patches_per_image} codes: "
            f"missing patches are drawn dark, surplus ones left out",
            file=sys.stderr,
        )
    draw_image_sheet(path, images, captions, (codebook.low, codebook.high), columns=10, title=title)


def beside(folder: Path, name: str) -> Path:
    """The path of a folder beside `folder`, also where that is called `.`, without a name."""
    if folder.name in ("", ".."):
        folder = Path(os.path.abspath(folder))
    return folder.parent / name


def run_classify(trained: TrainedModel, settings: InferenceSettings) -> None:
    """Name the label of a prompt, or of every row of a file."""
    from evaluation_report import describe_confidence

    if settings.prompt is not None:
        show_label(trained, settings.prompt, settings.json)
        if settings.json:
            return
        print(describe_confidence(trained.validation), file=sys.stderr)
        return
    folder = settings.output_dir or beside(trained.folder, "classification")
    predictions = classify_file(trained, settings.test_data, folder, settings.batch_size)
    if settings.json:
        for row in predictions:
            print(json_text(row))
        return
    counts: dict[str, int] = {}
    for row in predictions:
        name = row["prediction"] if row["prediction"] is not None else "could not be classified"
        counts[name] = counts.get(name, 0) + 1
    names = sorted(counts)
    if len(names) > MOST_LABELS_SHOWN:
        names = sorted(names, key=lambda name: -counts[name])[:MOST_LABELS_SHOWN]
    print(format_table(["predicted label", "rows"], [[n, f"{counts[n]:,}"] for n in names]))
    if len(counts) > len(names):
        rest = plural(sum(counts.values()) - sum(counts[name] for name in names), "row")
        print(f"and {plural(len(counts) - len(names), 'more label')} of {rest}")
    tell_bad_rows(predictions)
    print(describe_confidence(trained.validation))
    print(f"written: {printable(str(Path(folder) / PREDICTIONS))}")


def run_evaluate(trained: TrainedModel, settings: InferenceSettings) -> None:
    """Score a file, write the evaluation folder and tell the figures."""
    from answers import describe_examples
    from evaluation_report import PICTURES, describe_figures

    folder = Path(settings.output_dir or beside(trained.folder, "evaluation"))
    figures = evaluate_file(
        trained, settings.test_data, folder, settings.batch_size, settings.max_new_tokens
    )
    if settings.json:
        print(json_text(figures))
        return
    print(describe_figures(figures, can_show_blocks(sys.stdout)), end="\n\n")
    if figures["unscored"] or "answers" in figures:
        with open(folder / PREDICTIONS, encoding="utf-8") as handle:
            read = map(json.loads, handle)
            predictions = [row for row in read if "reason" in row or "answer" in row]
        if "answers" in figures:
            print(describe_examples(predictions), end="\n\n")
        tell_bad_rows(predictions)
    drawn = [name for name in PICTURES if (folder / name).exists()]
    files = ", ".join([METRICS, PREDICTIONS, *drawn])
    print(f"written to {printable(str(folder))}: {files}")


def tell_bad_rows(predictions: list[dict[str, Any]]) -> None:
    """Say how many rows could not be used, and why the first few."""
    bad = [row for row in predictions if "reason" in row]
    if bad:
        print(
            f"{plural(len(bad), 'row')} could not be used (kept in predictions.jsonl), the first:"
        )
        for row in bad[:5]:
            print(f"  line {row['line']}: {printable(row['reason'])}")


if __name__ == "__main__":
    run_command(main)
