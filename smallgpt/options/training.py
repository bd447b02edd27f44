"""Options of train_gpt.py, and presets: model shapes with a name.

python -m smallgpt.options.training > config.yaml      # every option, default and help
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from smallgpt.options.common import (
    DEVICE,
    FP16_NEEDS_GPU,
    LARGEST_SEED,
    LEAST_LENGTH,
    ON_BAD_ROW,
    PRECISIONS,
)
from smallgpt.options.config_file import to_yaml
from smallgpt.options.option import AUTO, Mistakes, option, shared
from smallgpt.options.plan import read_plan

DEFAULT_CONFIG = Path(__file__).parents[2] / "config.yaml"
# Far above any small GPT: larger values in a config file are mistakes.
MOST_LAYERS, MOST_WIDTH, MOST_POSITIONS = 1000, 65_536, 1_048_576
MOST_SECONDS = 1_000_000.0
_LENGTHS = ("max_minutes", "steps", "num_epochs")  # how long to train, one of them
DIGITS_ROWS = "data/digits/train.jsonl"
# The shape of a model, and the presets: OpenAI's GPT-2 in its four sizes (Radford et al., 2019),
# the default, and one to try things with.
SHAPE = ("n_layer", "n_head", "n_embd", "n_positions")
PRESETS = {
    "tiny": (2, 4, 128, 1024),
    "small-token": (6, 8, 384, 1024),
    "gpt2": (12, 12, 768, 1024),
    "gpt2-medium": (24, 16, 1024, 1024),
    "gpt2-large": (36, 20, 1280, 1024),
    "gpt2-xl": (48, 25, 1600, 1024),
}

# Who computes: no figure hangs on it but in its last bits.
WHO_TRAINS = ("processes", "exchange_timeout")

# What options that the recipe chooses were before it could, in settings that lack them.
BEFORE_RECIPE: dict[str, Any] = {
    "dropout": 0.2,
    "token_dropout": None,
    "ema_decay": 0.0,
    "early_label_weight": 0.0,
    "labelled_visits": 1,
}


def chosen(help: str, **facts: Any) -> Any:
    """An option that the recipe chooses where it is not given (training/recipe.py)."""
    return option(AUTO, help, can_be_auto=True, **facts)


@dataclass(frozen=True)
class TrainSettings:
    """Settings of `train_gpt.py`."""

    # Options that are gone, which stored settings may still have.
    OF_OLDER_VERSIONS: ClassVar = ("language_share",)

    data_path: str = option(DIGITS_ROWS, "Rows to learn from: JSONL, one row a line.", group="Data")
    val_data_path: str | None = option(
        None, "Validation rows of your own (JSONL). Without it, a share of data_path is held out."
    )
    vocab_path: str | None = option(
        None,
        "Vocabulary: one JSON object, token -> id. Without it vocab.json beside data_path, else "
        "data/digits/vocab.json.",
    )
    task: str = option(
        "auto",
        "lm: all tokens count alike. classify: rows have labels. instruct: rows are instructions, "
        "and their answers alone are learned. auto = what the rows are.",
        choices=("auto", "lm", "classify", "instruct"),
    )
    max_length: int = option(
        1024,
        "Longest row in tokens. Longer rows lose tokens from the left of their body; a leading "
        "<IMG> and the label tail stay.",
        minimum=LEAST_LENGTH,
        maximum=MOST_POSITIONS,
    )
    validation_fraction: float = option(
        0.1,
        "Share of the rows held out for validation, stratified by label. Rows with the same "
        "body stay on one side.",
        above=0,
        below=1,
    )
    group_by: str | None = option(
        "meta.source",
        "Key (dots reach into objects) whose equal values keep rows on one side of the split: "
        "the variants of one image, the sessions of one user. none = no grouping.",
    )
    on_bad_row: str = shared(ON_BAD_ROW)
    unknown_token: str = option(
        "error",
        "A token that the vocabulary lacks: a bad row, or <UNK> and counted.",
        choices=("error", "unk"),
    )

    preset: str = option(
        "none",
        "A shape by name: sets n_layer, n_head, n_embd and n_positions. gpt2 to gpt2-xl = "
        "those of OpenAI.",
        group="Model",
        choices=("none", *PRESETS),
    )
    init_from: str | None = option(
        None,
        "Start from a pretrained causal model (with a head, an encoder too): a folder (one of ours "
        "as well), or a name on the Hugging Face hub (HF_TOKEN opens private ones). It sets the "
        "shape. none = from scratch.",
    )
    classifier: str = option(
        "label_token",
        "How labels are told: as the next token at the end of a row, or by a head, a linear map "
        "of the last token's state (of an encoder such as BERT, of its first). A model with a "
        "head reads rows without their label tail and only names labels.",
        choices=("label_token", "head"),
    )
    classifier_hidden: int | None = option(
        None,
        "Width of a hidden layer in the head (Linear, GELU, Dropout, Linear). none = one linear "
        "map, which plain transformers loads as well; of a head with a hidden layer it loads the "
        "backbone only.",
        minimum=1,
        maximum=MOST_WIDTH,
    )
    n_layer: int = chosen("Transformer blocks.", minimum=1, maximum=MOST_LAYERS)
    n_head: int = chosen("Attention heads in a block; must divide n_embd.", minimum=1)
    n_embd: int = chosen("Width of the model.", minimum=1, maximum=MOST_WIDTH)
    n_positions: int = option(
        1024,
        "Positions the model has; at least max_length.",
        minimum=LEAST_LENGTH,
        maximum=MOST_POSITIONS,
    )
    dropout: float = chosen("Dropout of embeddings and residuals.", minimum=0, below=1)
    token_dropout: float | None = chosen(
        "Share of the input tokens that training reads as <UNK> (never special or label tokens). "
        "none = half of dropout.",
        minimum=0,
        below=1,
    )
    label_first_share: float = option(
        0.0,
        "Share of the labelled rows of an update that are learned with their label first, as "
        "<CLS_k> and the body, so that `inference.py --mode generate --label k` makes rows for a "
        "label directly. The label itself is learned from the other rows.",
        minimum=0,
        below=1,
    )
    attention_dropout: float = option(
        0.0,
        "Dropout of attention weights. On a CPU, rows of 800 tokens take 1.3 times as long "
        "with it.",
        minimum=0,
        below=1,
    )

    num_epochs: int = chosen("Passes over the training rows.", group="Training", minimum=1)
    labelled_visits: int = chosen(
        "How often an epoch visits each row that has a label; one without is visited once.",
        minimum=1,
    )
    max_minutes: float | None = option(
        None,
        "Instead of num_epochs: as many updates as fit into this time, the evaluations included. "
        "The plan is made anew where the machine turns out slower or faster.",
        above=0,
    )
    steps: str | None = option(
        None,
        "Instead of num_epochs: a number of updates. A run with max_minutes notes here what it "
        "planned, so that its settings.yaml repeats it: 1200 1100@300 = first 1,200, after 300 of "
        "them 1,100.",
    )
    batch_size: int = chosen("Rows in one forward pass.", minimum=1)
    grad_accumulation_steps: int = option(
        1,
        "Forward passes before one update. It has the rows of batch_size times this many at once "
        "and, but for rounding and dropout's random numbers, the same result.",
        minimum=1,
    )
    gradient_checkpointing: bool = option(
        False,
        "Keep only what goes into each block and compute its inside again for the gradient: less "
        "memory for long rows and deep models, the same result, each step up to 1.4 times as long.",
    )
    freeze_backbone: bool = option(
        False, "Train the head alone; the pretrained model under it stays as it is, to the bit."
    )
    lora_rank: int = option(
        0,
        "Fine-tune init_from through low-rank additions of this rank to the linear maps of its "
        "blocks (LoRA); the rest stays as it is, but for the embeddings of new tokens. 0 = all "
        "weights.",
        minimum=0,
    )
    lora_alpha: float | None = option(
        None, "The additions are scaled by lora_alpha / lora_rank. none = twice lora_rank.", above=0
    )
    merge_lora: bool = option(
        False,
        "Save models with the additions merged in, as plain checkpoints, instead of as an adapter.",
    )
    optimizer: str = chosen(
        "muon = Muon for the matrices of the blocks, AdamW for the rest: fewer steps for the "
        "same loss, each step longer.",
        choices=("adamw", "muon"),
    )
    learning_rate: float = chosen("Peak learning rate.", above=0)
    warmup_fraction: float = option(
        0.05, "Share of all steps in which the learning rate rises to its peak.", minimum=0, below=1
    )
    final_lr_fraction: float = option(
        0.05, "The cosine ends at this share of the peak learning rate.", minimum=0, maximum=1
    )
    weight_decay: float = option(0.1, "AdamW weight decay, on matrices only.", minimum=0)
    adam_beta1: float = option(0.9, "AdamW decay of the gradient's mean.", minimum=0, below=1)
    adam_beta2: float = option(
        0.95, "AdamW decay of the squared gradient's mean.", minimum=0, below=1
    )
    ema_decay: float = chosen(
        "Evaluate and save a running mean of the weights with this decay instead of the last ones: "
        "0.998 remembers some 500 updates. Steadier and often better with few rows. 0 = the "
        "weights as they are.",
        minimum=0,
        below=1,
    )
    max_grad_norm: float = option(1.0, "Gradients are scaled down to this norm.", above=0)
    label_loss_weight: float = option(
        10.0,
        "Weight of the label position in the training objective; other tokens weigh 1. "
        "Reported losses are unweighted.",
        minimum=0,
    )
    early_label_weight: float = chosen(
        "Weight of the label asked for early as well: at each place of a row, among the labels "
        "alone, which asks nothing of next tokens. All places of a row together weigh so much. "
        "0 = only at the label position.",
        minimum=0,
    )
    class_weights: str = option(
        "none",
        "balanced: in the training objective a label weighs rows / (labels x its rows), counted "
        "over an epoch, so that rare ones count as much as frequent ones.",
        choices=("none", "balanced"),
    )
    best_metric: str = option(
        "auto",
        "Which validation figure names the best model. auto = label_loss where rows have "
        "labels, else loss.",
        choices=("auto", "loss", "label_loss", "label_accuracy"),
    )
    early_stopping_patience: int = option(
        10,
        "Stop after this many evaluations without progress of best_metric, counted in the second "
        "half of the plan, when the learning rate has fallen; 0 = never.",
        minimum=0,
    )

    output_dir: str = option("outputs", "Folder of the run.", group="Run")
    device: str = shared(DEVICE)
    precision: str = option(
        "auto",
        "Arithmetic of the matrix products; weights are kept in fp32. auto = bf16 where the "
        "hardware computes in it, else fp32. The choice and its reason are printed.",
        choices=PRECISIONS,
    )
    compile: str = option(
        "auto",
        "on = torch.compile the forward pass, which takes a minute at first. auto = off: on a "
        "CPU the toolkit's own code is faster.",
        choices=("auto", "on", "off"),
    )
    processes: int = option(
        1,
        "Train with so many processes on this machine, each with a share of the rows of every "
        "update: the same model, faster where cores or GPUs are free. Several machines: torchrun, "
        "see docs/scaling.md.",
        minimum=1,
    )
    exchange_timeout: float = option(
        600.0,
        "Seconds that a process waits in an update for another one that does not answer; then all "
        "save and end.",
        above=0,
        maximum=MOST_SECONDS,
    )
    seed: int = option(
        42,
        "Seed of the split, the weights, the order and dropout.",
        minimum=0,
        maximum=LARGEST_SEED,
    )
    on_nonfinite: str = option(
        "stop",
        "A step whose loss or gradient is not a finite number updates nothing; stop there, or "
        "skip it with a warning. Either way step and rows are named.",
        choices=("stop", "skip"),
    )
    log_steps: int = option(
        10, "Write a training row to metrics.jsonl every so many steps.", minimum=1
    )
    tensorboard: bool = option(
        False,
        "Write the figures of metrics.jsonl as TensorBoard event files beside it as well; needs "
        "the extra `tensorboard`.",
    )
    checkpoint_steps: int = option(
        0, "Save a checkpoint every so many steps; 0 = by the clock only.", minimum=0
    )
    checkpoint_minutes: float = option(
        2.0,
        "Save a checkpoint every so many minutes; 0 = only at the start, when stopped and at the "
        "end.",
        minimum=0,
    )
    keep_checkpoints: int = option(2, "How many of the newest checkpoints stay.", minimum=1)

    config: str | None = option(
        None,
        "Read options from this file instead of config.yaml.",
        group="This call",
        flag_only=True,
    )
    resume: bool = option(
        False,
        "Go on from the last checkpoint in output_dir with the settings stored there; flags "
        "still count. Where there is no run, a new one begins, and a line says so.",
        flag_only=True,
    )
    overwrite: bool = option(
        False,
        "Delete the run in output_dir with its evaluations, nothing else there, and start again.",
        flag_only=True,
    )
    check_data: bool = option(
        False,
        "Check the data, write data_report.json with a picture and leave without training; bad "
        "rows are listed in it, up to 10,000, and the exit is then 1.",
        flag_only=True,
    )
    learning_curve: bool = option(
        False,
        "Train on 1/8, 1/4 and 1/2 of the training rows as well, and tell whether more rows would "
        "help: learning_curve.json and plots/learning_curve.png. Takes about 2.6 times as long; "
        "max_minutes is then the time of all.",
        flag_only=True,
    )

    def __post_init__(self) -> None:
        if self.vocab_path is None:
            found = _vocabulary_of(self.data_path)
            object.__setattr__(self, "vocab_path", found)  # frozen
        # A preset alone decides the shape; it is resolved here, and so stored.
        shape = PRESETS.get(self.preset, ()) if isinstance(self.preset, str) else ()
        for name, value in zip(SHAPE, shape, strict=False):
            object.__setattr__(self, name, value)
        for name, value in vars(self).items():
            if isinstance(value, os.PathLike):  # from Python; files and flags have text
                object.__setattr__(self, name, os.fspath(value))

    @property
    def vocabulary_file(self) -> str:
        """`vocab_path`, which is found where it was left out."""
        assert self.vocab_path is not None  # see __post_init__
        return self.vocab_path

    @staticmethod
    def settle_file(values: dict[str, Any], flags: Mapping[str, Any]) -> None:
        """Drop the vocabulary of a config file where one lies beside the rows asked for.

        Only one beside the digits or the file's own rows: any other was chosen. And what a run
        that is resumed has stored stays, unless its rows have moved. A flag that says how long to
        train beats what the file says of it.
        """
        if any(flags.get(name) is not None for name in _LENGTHS):
            values.pop("max_minutes", None)
            values.pop("steps", None)
        if flags.get("resume") and "data_path" not in flags:
            return
        usual = DIGITS_ROWS, values.get("data_path", DIGITS_ROWS)
        rows = flags.get("data_path", usual[1])
        if values.get("vocab_path") in set(map(_beside, usual)) and os.path.exists(_beside(rows)):
            del values["vocab_path"]

    @staticmethod
    def flag_contradictions(flags: Set[str], values: Mapping[str, Any]) -> Mistakes:
        """Flags of the shape, where a preset or a checkpoint decides it; two lengths of a run."""
        mistakes = []
        lengths = [name for name in _LENGTHS if name in flags and values[name] is not None]
        if len(lengths) > 1:
            given = " and ".join(f"--{name}" for name in lengths)
            mistakes = [(lengths[0], f"{given}: each says how long to train; give one of them")]
        preset, init_from = values.get("preset", "none"), values.get("init_from")
        shaping = [name for name in SHAPE if name in flags]
        if init_from is not None and "preset" in flags and preset != "none":
            shaping.append("preset")
        if not shaping or (preset == "none" and init_from is None):
            return mistakes
        given = " ".join(f"--{name}" for name in shaping)
        if init_from is not None:
            text = f"{given}: the shape is that of init_from {init_from}; drop the one or the other"
        else:
            text = f"{given}: preset {preset} sets the shape; drop it or give --preset none"
        return [*mistakes, (shaping[0], text)]

    def resolved_token_dropout(self) -> float:
        """The share of the input tokens that training reads as <UNK>."""
        return self.dropout / 2 if self.token_dropout is None else self.token_dropout

    def contradictions(self) -> Iterator[str]:
        from_scratch, lora = self.init_from is None, self.lora_rank > 0
        head, compiled = self.classifier == "head", self.compile == "on"
        no_labels = self.task in ("lm", "instruct")
        if from_scratch and AUTO not in (self.n_embd, self.n_head) and self.n_embd % self.n_head:
            near = self.n_head * max(1, round(self.n_embd / self.n_head))
            yield (
                f"n_embd ({self.n_embd}) must be divisible by n_head ({self.n_head}): "
                f"try --n_embd {near}"
            )
        if from_scratch and self.max_length > self.n_positions:
            limit = f"n_positions ({self.n_positions}): lower the first or raise the second"
            if self.preset != "none":
                limit = f"the {self.n_positions} positions of {self.preset}: lower it"
            yield f"max_length ({self.max_length}) is above {limit}"
        if from_scratch and lora:
            yield "lora_rank adapts a pretrained model: name one with --init_from"
        if self.steps is not None:
            try:
                read_plan(self.steps)
            except ValueError:
                yield f"steps {self.steps!r} is no number of updates, such as 1200 or 1200 1100@300"
        if self.lora_alpha is not None and not lora:
            yield "lora_alpha has no effect without --lora_rank"
        if self.merge_lora and not lora:
            yield "merge_lora has no effect without --lora_rank"
        if self.class_weights != "none" and no_labels:
            yield f"class_weights {self.class_weights} needs task classify"
        if self.label_first_share and (head or self.task == "instruct"):
            what = "classifier head" if head else "task instruct"
            yield f"label_first_share learns rows from their labels, which {what} does not"
        if self.early_label_weight not in (AUTO, 0) and (head or no_labels):
            what = "classifier head" if head else f"task {self.task}"
            yield f"early_label_weight needs labels told by tokens, which {what} does not learn"
        if self.classifier_hidden is not None and not head:
            yield "classifier_hidden needs --classifier head"
        if self.freeze_backbone and not head:
            yield "freeze_backbone needs --classifier head"
        if head and no_labels:
            yield f"classifier head only names labels: task {self.task} needs label_token"
        if head and lora:
            yield "lora_rank does not go with classifier head: drop one of them"
        if head and compiled:
            yield "compile on has no effect with classifier head: use compile auto or off"
        if head and self.freeze_backbone and from_scratch:
            yield "freeze_backbone keeps a pretrained model: name one with --init_from"
        if head and self.freeze_backbone and self.optimizer == "muon":
            yield "freeze_backbone leaves no block to optimizer muon: use adamw"
        if self.processes > 1 and self.learning_curve:
            yield "--learning_curve trains in one process: drop --processes"
        if self.check_data and (self.resume or self.overwrite or self.learning_curve):
            yield "--check_data trains nothing: drop --resume, --overwrite and --learning_curve"
        if self.resume and self.overwrite:
            yield "--resume keeps a run and --overwrite deletes it: give one of them"
        if compiled and self.precision == "fp16":
            yield "compile on has no effect with precision fp16: use bf16, or compile off"
        if compiled and self.gradient_checkpointing:
            yield "compile on has no effect with gradient_checkpointing: drop one of them"
        if self.val_data_path is not None and (
            os.path.realpath(self.val_data_path) == os.path.realpath(self.data_path)
        ):
            yield (
                "val_data_path is data_path: validation on the training rows means nothing "
                "(leave val_data_path out to hold out a share)"
            )
        if no_labels and self.best_metric.startswith("label_"):
            yield f"best_metric {self.best_metric} needs task classify"
        if self.device == "cpu" and self.precision == "fp16":
            yield FP16_NEEDS_GPU


def _beside(data_path: Any) -> str:
    """The place of a vocabulary beside rows."""
    return os.path.join(os.path.dirname(str(data_path)), "vocab.json")


def _vocabulary_of(data_path: Any) -> str:
    """The vocabulary of rows for which none was named."""
    beside, usual = _beside(data_path), _beside(DIGITS_ROWS)
    return beside if os.path.exists(beside) or not os.path.exists(usual) else usual


if __name__ == "__main__":
    heading = (
        "Settings of train_gpt.py, each with its default. A flag of the same name beats this\n"
        "file: python train_gpt.py --batch_size 64\n"
        "The recipe chooses what is `auto` by the training rows, and says what and why.\n"
        "Made by: python -m smallgpt.options.training > config.yaml"
    )
    print(to_yaml(TrainSettings(), heading=heading, explain=True), end="")
