"""Closing report of prepare_data.py: figures of the split and the next command to type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smallgpt.console import command_hint, format_duration, format_table, plural
from smallgpt.options.training import TrainSettings
from smallgpt.preparation.folder import SIDES, TRAIN, VALIDATION
from smallgpt.rows.lengths import describe_lengths
from smallgpt.rows.prepared_summary import VOCABULARY
from smallgpt.tokens.vocabulary import UNK


def report_lines(summary: dict[str, Any], seconds: float) -> list[str]:
    """The report of a preparation, from the summary in prepared.json."""
    of_images = "codebook" in summary
    table, facts = [], []
    for name, key in SIDES.items():
        side = summary.get(key)
        if not side or not side["rows"]:
            continue
        cells = [name, f"{side['rows']:,}", f"{side['labelled']:,}"]
        if of_images:
            psnr = side["psnr_db"]
            cells += [f"{side['rmse']:.2%}", "exact" if psnr is None else f"{psnr:.1f} dB"]
        else:
            cells += [f"{side['tokens']:,}", f"{side['unknown_tokens']:,}"]
        table.append(cells)
    header = ["", "rows", "labelled", *(["RMSE", "PSNR"] if of_images else ["tokens", UNK])]
    if of_images:
        book = summary["codebook"]
        size, used = book["patch_size"], book["codes_in_training_rows"]
        facts.append(
            f"{plural(book['size'], 'code')} for patches of {size}x{size} pixels, {used:,} of them "
            f"in training rows"
        )
    if summary["train"].get("variants"):
        kind = "image" if of_images else "text"
        variants = summary["train"]["variants"]
        facts.append(
            f"{plural(variants, 'variant')} of the training {kind}s beside them in {TRAIN}, "
            f"{summary['train']['rows'] + variants:,} lines together; an epoch visits each {kind} "
            f"once, in a variant drawn anew"
        )
    fact = (
        f"{plural(summary['vocabulary_size'], 'token')} in the vocabulary, "
        f"{plural(len(summary['labels']), 'label')}"
    )
    lengths = "" if of_images else describe_lengths(summary["row_lengths"])
    if not lengths:
        fact += f"; every row: {plural(summary['longest_row'], 'token')}"
    facts += [fact, *([lengths] if lengths else [])]
    folder = Path(summary["settings"]["output_dir"])
    return [
        format_table(header, table),
        *facts,
        *summary["notes"],
        f"ready in {folder} after {format_duration(seconds)}; next:",
        f"  {_next_command(summary, folder)}",
    ]


def _next_command(summary: dict[str, Any], folder: Path) -> str:
    """The training command for the prepared rows."""
    # Digits are the first example: inference.py looks for their model in outputs by default. Other
    # runs have a place of their own, where no names are those of that run's files.
    of_digits = summary["command"] == "digits"
    run = "outputs" if of_digits else f"outputs/runs/{folder.resolve().name}"
    words: list[str | Path] = ["--data_path", folder / TRAIN]
    if summary.get("validation", {}).get("rows"):
        words += ["--val_data_path", folder / VALIDATION]
    words += ["--vocab_path", folder / VOCABULARY, "--output_dir", run]
    # With the tokenizer or codebook of a model, training starts from that model.
    base = summary["settings"].get("codebook") or summary["settings"].get("tokenizer", "chars")
    if base not in ("chars", "bpe") and (
        not Path(base).exists() or (Path(base) / "config.json").is_file()
    ):
        words += ["--init_from", base]
    length = summary["suggested_max_length"]
    if length is not None:
        words += ["--max_length", str(length)]
        if length > TrainSettings.n_positions:
            words += ["--n_positions", str(length)]
    return command_hint("train_gpt.py", *words)
