"""Options of inference.py."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from smallgpt.files.reading import shown
from smallgpt.options.common import DEVICE, FP16_NEEDS_GPU, LARGEST_SEED, PRECISIONS
from smallgpt.options.option import option, options_of, shared

STANDARD_INPUT = "-"  # as --test_data
# What --merge takes; all else is told by the parts.
_OF_MERGE = ("merge", "output_dir", "overwrite", "output_format", "strict", "json")


class Shard(NamedTuple):
    """One part of the rows of a file: the second of eight is 2/8."""

    number: int  # from 1
    parts: int

    def __str__(self) -> str:
        return f"{self.number}/{self.parts}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard that `2/8` is.

        Raises:
            ValueError: it is none; says what it should be.
        """
        found = re.fullmatch("([0-9]{1,6})/([0-9]{1,6})", text)
        if found is None:
            raise ValueError("say which part of how many, such as 2/8")
        shard = cls(int(found[1]), int(found[2]))
        if not 1 <= shard.number <= shard.parts:
            last = max(1, shard.parts)
            raise ValueError(f"parts are counted from 1: give 1/{last} to {last}/{last}")
        return shard


@dataclass(frozen=True)
class InferenceSettings:
    """Settings of `inference.py`."""

    model_path: tuple[str, ...] = option(
        ("outputs/best_model",),
        "Model folder that training wrote, an export of one, or a causal model or classifier of "
        "Hugging Face as it is: a folder, or a name on the hub. With --mode compare several model "
        "folders, or evaluation folders, or one folder of runs.",
        group="Model",
    )
    vocab_path: str | None = option(
        None, "Check that this vocabulary is the model's own (the model folder holds it already)."
    )
    device: str = shared(DEVICE)
    engine: str = option(
        "auto",
        "What computes. auto: the fastest one that is installed and computes in floating point, "
        "measured on this machine where there is enough to do. onnx and openvino need an extra.",
        choices=("auto", "torch", "onnx", "openvino"),
    )
    precision: str = option(
        "auto",
        "auto = bf16 where the hardware computes in it, else fp32. int8: faster and less exact, "
        "by the engines onnx and openvino.",
        choices=(*PRECISIONS, "int8"),
    )

    mode: str | None = option(
        None,
        "interactive: next-token prompt. generate: continue a row. classify: name the label. "
        "evaluate: score a file. compare: models with one another. Without it: evaluate with "
        "--test_data or labelled --images, classify with other --images, else interactive.",
        group="Task",
        choices=("interactive", "generate", "classify", "evaluate", "compare"),
    )
    prompt: str | None = option(
        None,
        "Tokens of a row, separated by spaces; for a model of texts a text, for one of "
        "instructions an instruction. Answers once and exits.",
    )
    test_data: str | None = option(
        None,
        "Rows to evaluate, or with --mode classify to label: JSONL, or a table (CSV, TSV); - reads "
        "either from standard input.",
    )
    text_column: str | None = option(
        None,
        "Column of the texts of --test_data, or their key in JSONL. A number counts the columns of "
        "a table without a heading. Default: text, or of instructions `instruction`, `input` and "
        "`output`.",
    )
    pair_column: str | None = option(
        None,
        "For a model of pairs of texts the column of the second one, the same way. Default: the "
        "text holds both, <SEP> between them.",
    )
    tokens_column: str | None = option(
        None, "Column of rows of tokens, parted by spaces, the same way. Default: tokens."
    )
    label_column: str | None = option(
        None, "Column of the labels, the same way. Default: label, where there is one."
    )
    group_column: str | None = option(
        None,
        "Where each line of --test_data is one event: the column that says whose, such as session. "
        "The events of one value are a row.",
    )
    event_column: str | None = option(None, "The column of the events, with --group_column.")
    time_column: str | None = option(
        None,
        "The column by which the events of a group are ordered: numbers or ISO dates. Default: the "
        "order of the file.",
    )
    images: str | None = option(
        None,
        "Pictures for a model of images: a picture file, a folder of them (with a subfolder per "
        "class to evaluate), an .npz or an IDX file. With --mode generate one picture to complete.",
    )
    labels: str | None = option(None, "Labels of an IDX file of --images (IDX, plain or .gz).")
    output_format: str | None = option(
        None,
        "csv: beside predictions.jsonl a predictions.csv, of a table the same with columns added. "
        "Of standard input without --output_dir, the form in which predictions are printed. "
        "Default: csv for a table, else jsonl.",
        choices=("jsonl", "csv"),
    )
    output_dir: str | None = option(
        None,
        "Folder for the result files of --test_data or --images. Default: none for standard input "
        "(its predictions are printed), else beside the model folder one named after the file: "
        "`evaluation_test` (`classification_test` to classify, `comparison_test` beside the first "
        "model to compare) for test.jsonl; where that holds other results, the next free of "
        "`evaluation_test_2` ...",
    )
    overwrite: bool = option(
        False, "Replace results of another evaluation in the folder, or the file of --image."
    )
    shard: str | None = option(
        None,
        "One part of the rows of --test_data alone, such as 2/8, the second of eight: processes or "
        "machines share a large file. It goes to a folder of its own in --output_dir.",
    )
    merge: str | None = option(
        None,
        "The folder in which all parts of --shard are: joins them into the results that the whole "
        "file would have, there or in --output_dir.",
    )
    unknown_token: str | None = option(
        None,
        "A token that the vocabulary lacks: error = the prompt or row is refused, unk = it is read "
        "as <UNK> and counted. Default: as training was told; unk where training rows had <UNK>.",
        choices=("error", "unk"),
    )
    abstain_below: float | None = option(
        None,
        "No label is told for a row whose confidence is below this: its prediction is empty, with "
        "the reason. An evaluation tells what share is answered, and how well. Default: every row "
        "is answered.",
        above=0,
        maximum=1,
    )
    strict: bool = option(
        False, "Exit with 1 where a row of --test_data or --images could not be used."
    )
    batch_size: int = option(64, "Rows scored, or sequences sampled, at once.", minimum=1)
    json: bool = option(False, "Print the result as JSON for machines.")

    max_new_tokens: int | None = option(
        None,
        "Most tokens to generate after the prompt. Default: until <EOS> or the trained length; 256 "
        "of a model of Hugging Face.",
        group="Generation",
        minimum=1,
    )
    greedy: bool = option(False, "Always take the likeliest token.")
    temperature: float = option(
        1.0,
        "Logits are divided by this: below 1 safer, above 1 wilder.",
        above=0,
        instead="--greedy always takes the likeliest token",
    )
    top_k: int = option(50, "Sample among the k likeliest tokens; 0 = all.", minimum=0)
    top_p: float = option(
        1.0,
        "Sample among the likeliest tokens that together hold this probability.",
        above=0,
        maximum=1,
    )
    num_return_sequences: int = option(1, "How many sequences to generate.", minimum=1)
    seed: int | None = option(
        None,
        "Seed of the sampling. Default: a new one each time, which is printed.",
        minimum=0,
        maximum=LARGEST_SEED,
    )
    label: str | None = option(
        None,
        "Rows that the model reads as this label: generated from the label by a model trained with "
        "--label_first_share, picked from its samples by any other.",
    )
    free: bool = option(
        False,
        "Let any token follow. Without it rows of tokens are whole: an image has all its codes, a "
        "labelled row its label tail.",
    )
    keep: float | None = option(
        None,
        "Share of the picture of --images that is kept, from its top; the model makes the rest.",
        above=0,
        below=1,
    )
    image: str | None = option(None, "Draw the generated images into this PNG file.")

    def contradictions(self) -> Iterator[str]:
        if self.merge is not None:
            yield from self._contradictions_of_merge()
            return
        if self.shard is not None:
            yield from self._contradictions_of_shard()
        mode = self.resolved_mode()
        of_files = [name for name in ("test_data", "images") if getattr(self, name) is not None]
        given = [f"--{name}" for name in of_files] + ["--prompt"] * (self.prompt is not None)
        if len(given) > 1:
            yield f"{' and '.join(given)} name different inputs: give one of them"
        elif mode == "evaluate" and not of_files:
            yield "--mode evaluate needs --test_data FILE or --images PATH"
        elif mode == "classify" and not given:
            yield "--mode classify needs --prompt TOKENS, --test_data FILE or --images PATH"
        elif mode == "compare":
            yield from self._contradictions_of_compare()
        elif mode in ("interactive", "generate") and self.test_data is not None:
            yield f"--test_data does not go with --mode {mode}"
        elif mode == "interactive" and self.images is not None:
            yield "--images does not go with --mode interactive"
        if mode != "compare" and len(self.model_path) > 1:
            yield f"--model_path names {len(self.model_path)} models: --mode compare takes several"
        named = self._named_columns()
        if named and self.test_data is None:
            yield f"--{next(iter(named))} needs --test_data"
        if len(set(named.values())) < len(named):
            yield f"{' and '.join(f'--{name}' for name in named)} name the same column"
        elif "text_column" in named and "tokens_column" in named:
            yield "--text_column and --tokens_column name different rows: give one of them"
        elif "pair_column" in named and "tokens_column" in named:
            yield "--pair_column is a second text and --tokens_column has no first: drop one"
        of_log = [name for name in ("group_column", "event_column", "time_column") if name in named]
        if of_log and not {"group_column", "event_column"} <= named.keys():
            yield f"--{of_log[0]}: a log of events needs --group_column and --event_column"
        elif of_log and (of_rows := {"text_column", "pair_column", "tokens_column"} & named.keys()):
            drop = " and ".join(f"--{name}" for name in named if name in of_rows)
            yield f"--group_column makes rows of events: drop {drop}"
        elif of_log and self.test_data == STANDARD_INPUT:
            yield "--group_column needs a file as --test_data, not standard input"
        if self.output_format is not None and not of_files:
            yield "--output_format needs --test_data or --images"
        elif self.output_format is not None and not self.keeps_results():
            if mode == "evaluate":
                yield "--output_format needs --output_dir to evaluate standard input"
            elif self.json and self.output_format == "csv":
                yield "--json and --output_format csv print different forms: give one of them"
        if self.labels is not None and (self.images is None or mode == "generate"):
            yield "--labels needs --images to evaluate or to classify"
        if (self.keep is None) != (mode != "generate" or self.images is None):
            yield "--keep SHARE goes with --mode generate --images PICTURE, and they with it"
        if self.overwrite and not of_files and self.image is None and mode != "compare":
            yield "--overwrite needs --test_data, --images or --image: it replaces their files"
        if self.strict and (not of_files or mode == "generate"):
            yield "--strict needs --test_data or --images, to evaluate or to classify"
        if self.abstain_below is not None and mode not in ("classify", "evaluate"):
            yield "--abstain_below needs --mode classify, or rows to evaluate"
        if mode != "generate" and self.image is not None:
            yield "--image needs --mode generate"
        if mode != "generate" and self.label is not None:
            yield "--label needs --mode generate"
        if mode == "generate" and self.label is not None and self.greedy:
            yield "--label samples until one fits, --greedy always gives the same: drop one"
        if mode != "generate" and self.free:
            yield "--free needs --mode generate"
        if self.greedy and self.num_return_sequences > 1:
            yield "--greedy always gives the same row: drop --num_return_sequences"
        if self.greedy and self.temperature != 1.0:
            yield "--greedy does not sample: drop --temperature"
        if self.image is not None and not self.image.lower().endswith(".png"):
            yield f"--image writes a PNG: {self.image} must end in .png"
        if self.device == "cpu" and self.precision == "fp16":
            yield FP16_NEEDS_GPU
        yield from self._contradictions_of_engines()

    def _contradictions_of_engines(self) -> Iterator[str]:
        """Engines and precisions that do not go together."""
        of_graphs = self.engine in ("onnx", "openvino")
        able = {"torch": PRECISIONS, "onnx": ("auto", "fp32", "int8")}.get(self.engine)
        if able and self.precision not in able:
            others = "onnx and openvino do" if self.precision == "int8" else "leave --engine out"
            yield f"--engine {self.engine} does not compute in {self.precision}: {others}"
        elif self.engine == "openvino" and self.precision == "fp16":
            yield "--engine openvino computes on a CPU in fp32, bf16 or int8"
        if self.device not in ("auto", "cpu") and (of_graphs or self.precision == "int8"):
            needed = f"--engine {self.engine}" if of_graphs else "--precision int8"
            yield f"{needed} computes on the CPU: drop --device {self.device}"

    def _contradictions_of_compare(self) -> Iterator[str]:
        """Options that say nothing to a comparison."""
        for name in ("prompt", "images", "output_format"):
            if getattr(self, name) is not None:
                yield f"--{name} does not go with --mode compare"
        if self.strict:
            yield "--strict does not go with --mode compare: it says how many rows were left out"
        if self.test_data == STANDARD_INPUT:
            yield "--mode compare reads --test_data once a model: give a file, not standard input"

    def _contradictions_of_shard(self) -> Iterator[str]:
        """Options that say nothing to a part of the rows, and a shard that is none."""
        assert self.shard is not None
        try:
            Shard.parse(self.shard)
        except ValueError as error:
            yield f"--shard {shown(self.shard)}: {error}"
        if self.test_data in (None, STANDARD_INPUT):
            yield "--shard needs --test_data FILE: all parts are read from it"
        elif self.resolved_mode() not in ("evaluate", "classify"):
            yield f"--shard does not go with --mode {self.mode}: it evaluates or classifies rows"
        for name in ("output_format", "strict", "json"):
            if getattr(self, name):
                yield f"--{name} goes with --merge, not with --shard: the parts have all of it"

    def _contradictions_of_merge(self) -> Iterator[str]:
        """Options that the parts have settled."""
        settled = [
            f"--{name}"
            for name, each in options_of(type(self)).items()
            if name not in _OF_MERGE and getattr(self, name) != each.default
        ]
        if settled:
            yield f"--merge joins parts as they were made: drop {' and '.join(settled)}"

    def _named_columns(self) -> dict[str, str]:
        """The columns of --test_data that were named, by option."""
        of_rows = ("text_column", "pair_column", "tokens_column", "label_column")
        of_events = ("group_column", "event_column", "time_column")
        given = {name: getattr(self, name) for name in (*of_rows, *of_events)}
        return {name: column for name, column in given.items() if column is not None}

    def keeps_results(self) -> bool:
        """Whether result files are written: of standard input only where a folder is given."""
        return self.test_data != STANDARD_INPUT or self.output_dir is not None

    def resolved_mode(self) -> str:
        """The mode asked for; without one `evaluate` with a file or images, else `interactive`.

        (Images without labels are then classified, which only reading them shows.)
        """
        has_rows = self.test_data is not None or self.images is not None
        return self.mode or ("evaluate" if has_rows else "interactive")
