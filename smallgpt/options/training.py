"""Every option of train_gpt.py.

python -m smallgpt.options.training > config.yaml
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smallgpt.options.common import DEVICES, LARGEST_SEED, PRECISIONS
from smallgpt.options.config_file import read_config_file, to_yaml
from smallgpt.options.values import Mistakes, build_settings, option

DEFAULT_CONFIG = Path(__file__).parents[2] / "config.yaml"
BEST_METRICS = ("auto", "loss", "label_loss", "label_accuracy")
TASKS = ("auto", "lm", "classify", "instruct")
OPTIMIZERS = ("adamw", "muon")
CLASSIFIERS = ("label_token", "head")
CLASS_WEIGHTS = ("none", "balanced")
# Far above any small GPT; a config file beyond them is a mistake, not a wish.
MOST_LAYERS, MOST_WIDTH, MOST_POSITIONS = 1000, 65_536, 1_048_576
LEAST_LENGTH = 8  # of the longest row: below it there is no room for a body and its label
# What makes the shape of a model, and the shapes that have a name: OpenAI's GPT-2 in its four sizes
# (Radford et al., 2019), the default, and one to try things with.
SHAPE = ("n_layer", "n_head", "n_embd", "n_positions")
PRESETS = {
    "tiny": (2, 4, 128, 1024),
    "small-token": (6, 8, 384, 1024),
    "gpt2": (12, 12, 768, 1024),
    "gpt2-medium": (24, 16, 1024, 1024),
    "gpt2-large": (36, 20, 1280, 1024),
    "gpt2-xl": (48, 25, 1600, 1024),
}


@dataclass(frozen=True)
class TrainSettings:
    """What `train_gpt.py` needs to know."""

    data_path: str = option(
        "data/digits/train.jsonl", "Rows to learn from: JSONL, one row a line.", group="Data"
    )
    val_data_path: str | None = option(
        None,
        "Validation rows of your own (JSONL). Without it, a share of data_path is held out.",
        group="Data",
    )
    vocab_path: str = option(
        "data/digits/vocab.json", "Vocabulary: one JSON object, token -> id.", group="Data"
    )
    task: str = option(
        "auto",
        "lm: all tokens count alike. classify: rows have labels. instruct: rows are instructions, "
        "and their answers alone are learned. auto = what the rows are.",
        group="Data",
        choices=TASKS,
    )
    max_length: int = option(
        1024,
        "Longest row in tokens. Longer rows lose tokens from the left of their body; a leading "
        "<IMG> and the label tail stay.",
        group="Data",
        minimum=LEAST_LENGTH,
        maximum=MOST_POSITIONS,
    )
    validation_fraction: float = option(
        0.2,
        "Share of the rows held out for validation, stratified by label. Rows with the same "
        "body stay on one side.",
        group="Data",
        above=0,
        below=1,
    )
    group_by: str | None = option(
        "meta.source",
        "Key (dots reach into objects) whose equal values keep rows on one side of the split: "
        "the variants of one image, the sessions of one user. none = no grouping.",
        group="Data",
    )
    on_bad_row: str = option(
        "error",
        "A row that breaks the format: stop and list the first 20, or skip and count.",
        group="Data",
        choices=("error", "skip"),
    )
    unknown_token: str = option(
        "error",
        "A token that the vocabulary lacks: a bad row, or <UNK> and counted.",
        group="Data",
        choices=("error", "unk"),
    )

    preset: str = option(
        "none",
        "A shape by name: sets n_layer, n_head, n_embd and n_positions. small-token = the default "
        "shape; gpt2 to gpt2-xl = those of OpenAI.",
        group="Model",
        choices=("none", *PRESETS),
    )
    init_from: str | None = option(
        None,
        "Start from a pretrained causal model (with a head, an encoder too): a folder (one of ours "
        "as well), or a name on the Hugging Face hub (HF_TOKEN opens private ones). It sets the "
        "shape. none = from scratch.",
        group="Model",
    )
    classifier: str = option(
        "label_token",
        "How labels are told: as the next token at the end of a row, or by a head, a linear map "
        "of the last token's state (of an encoder such as BERT, of its first). A model with a "
        "head reads rows without their label tail and only names labels.",
        group="Model",
        choices=CLASSIFIERS,
    )
    classifier_hidden: int | None = option(
        None,
        "Width of a hidden layer in the head (Linear, GELU, Dropout, Linear). none = one linear "
        "map, which plain transformers loads as well; of a head with a hidden layer it loads the "
        "backbone only.",
        group="Model",
        minimum=1,
        maximum=MOST_WIDTH,
    )
    n_layer: int = option(6, "Transformer blocks.", group="Model", minimum=1, maximum=MOST_LAYERS)
    n_head: int = option(
        8, "Attention heads in a block; must divide n_embd.", group="Model", minimum=1
    )
    n_embd: int = option(384, "Width of the model.", group="Model", minimum=1, maximum=MOST_WIDTH)
    n_positions: int = option(
        1024,
        "Positions the model has; at least max_length.",
        group="Model",
        minimum=LEAST_LENGTH,
        maximum=MOST_POSITIONS,
    )
    dropout: float = option(
        0.2,
        "Dropout of embeddings and residuals. The default suits a few thousand rows; with many "
        "tens of thousands 0 to 0.1 learns faster.",
        group="Model",
        minimum=0,
        below=1,
    )
    token_dropout: float | None = option(
        None,
        "Share of the input tokens that training reads as <UNK> (never special or label tokens). "
        "none = half of dropout.",
        group="Model",
        minimum=0,
        below=1,
    )
    attention_dropout: float = option(
        0.0,
        "Dropout of attention weights. On a CPU, rows of 800 tokens take 1.3 times as long "
        "with it.",
        group="Model",
        minimum=0,
        below=1,
    )

    num_epochs: int = option(16, "Passes over the training rows.", group="Training", minimum=1)
    batch_size: int = option(32, "Rows in one forward pass.", group="Training", minimum=1)
    grad_accumulation_steps: int = option(
        1,
        "Forward passes before one update. It has the rows of batch_size times this many at once "
        "and, but for rounding and dropout's random numbers, the same result.",
        group="Training",
        minimum=1,
    )
    gradient_checkpointing: bool = option(
        False,
        "Keep only what goes into each block and compute its inside again for the gradient: less "
        "memory for long rows and deep models, the same result, each step up to 1.4 times as long.",
        group="Training",
    )
    freeze_backbone: bool = option(
        False,
        "Train the head alone; the pretrained model under it stays as it is, to the bit.",
        group="Training",
    )
    lora_rank: int = option(
        0,
        "Fine-tune init_from through low-rank additions of this rank to the linear maps of its "
        "blocks (LoRA); the rest stays as it is, but for the embeddings of new tokens. 0 = all "
        "weights.",
        group="Training",
        minimum=0,
    )
    lora_alpha: float | None = option(
        None,
        "The additions are scaled by lora_alpha / lora_rank. none = twice lora_rank.",
        group="Training",
        above=0,
    )
    merge_lora: bool = option(
        False,
        "Save models with the additions merged in, as plain checkpoints, instead of as an adapter.",
        group="Training",
    )
    optimizer: str = option(
        "adamw",
        "muon = Muon for the matrices of the blocks, AdamW for the rest: fewer steps for the "
        "same loss, each step longer; it wants larger batches.",
        group="Training",
        choices=OPTIMIZERS,
    )
    learning_rate: float = option(1e-3, "Peak learning rate.", group="Training", above=0)
    warmup_fraction: float = option(
        0.05,
        "Share of all steps in which the learning rate rises to its peak.",
        group="Training",
        minimum=0,
        below=1,
    )
    final_lr_fraction: float = option(
        0.05,
        "The cosine ends at this share of the peak learning rate.",
        group="Training",
        minimum=0,
        maximum=1,
    )
    weight_decay: float = option(
        0.1, "AdamW weight decay, on matrices only.", group="Training", minimum=0
    )
    adam_beta1: float = option(
        0.9, "AdamW decay of the gradient's mean.", group="Training", minimum=0, below=1
    )
    adam_beta2: float = option(
        0.95, "AdamW decay of the squared gradient's mean.", group="Training", minimum=0, below=1
    )
    ema_decay: float = option(
        0.0,
        "Evaluate and save a running mean of the weights with this decay instead of the last ones: "
        "0.998 remembers some 500 updates. Steadier and often better with few rows. 0 = the "
        "weights as they are.",
        group="Training",
        minimum=0,
        below=1,
    )
    max_grad_norm: float = option(
        1.0, "Gradients are scaled down to this norm.", group="Training", above=0
    )
    label_loss_weight: float = option(
        10.0,
        "Weight of the label position in the training objective; other tokens weigh 1. "
        "Reported losses are unweighted.",
        group="Training",
        minimum=0,
    )
    class_weights: str = option(
        "none",
        "balanced: in the training objective a label weighs rows / (labels x its rows), counted "
        "over an epoch, so that rare ones count as much as frequent ones.",
        group="Training",
        choices=CLASS_WEIGHTS,
    )
    best_metric: str = option(
        "auto",
        "Which validation figure names the best model. auto = label_loss where rows have "
        "labels, else loss.",
        group="Training",
        choices=BEST_METRICS,
    )
    early_stopping_patience: int = option(
        10,
        "Stop after this many evaluations without progress of best_metric; 0 = never. Progress "
        "often comes late, when the learning rate has fallen.",
        group="Training",
        minimum=0,
    )

    output_dir: str = option("outputs", "Folder of the run.", group="Run")
    device: str = option(
        "auto", "auto = an NVIDIA GPU, else Apple's, else the CPU.", group="Run", choices=DEVICES
    )
    precision: str = option(
        "auto",
        "Arithmetic of the matrix products; weights are kept in fp32. auto = bf16 where the "
        "hardware computes in it, else fp32. The choice and its reason are printed.",
        group="Run",
        choices=PRECISIONS,
    )
    compile: str = option(
        "auto",
        "torch.compile. auto = only a long run on an NVIDIA GPU; on a CPU the toolkit's own code "
        "is faster.",
        group="Run",
        choices=("auto", "on", "off"),
    )
    seed: int = option(
        42,
        "Seed of the split, the weights, the order and dropout.",
        group="Run",
        minimum=0,
        maximum=LARGEST_SEED,
    )
    on_nonfinite: str = option(
        "stop",
        "A step whose loss or gradient is not a finite number updates nothing; stop there, or "
        "skip it with a warning. Either way step and rows are named.",
        group="Run",
        choices=("stop", "skip"),
    )
    log_steps: int = option(
        10, "Write a training row to metrics.jsonl every so many steps.", group="Run", minimum=1
    )
    tensorboard: bool = option(
        False,
        "Write the figures of metrics.jsonl as TensorBoard event files beside it as well; needs "
        "requirements-tensorboard.txt.",
        group="Run",
    )
    checkpoint_steps: int = option(
        0, "Save a checkpoint every so many steps; 0 = by the clock only.", group="Run", minimum=0
    )
    checkpoint_minutes: float = option(
        2.0,
        "Save a checkpoint every so many minutes; 0 = only at the start, when stopped and at the "
        "end.",
        group="Run",
        minimum=0,
    )
    keep_checkpoints: int = option(
        2, "How many of the newest checkpoints stay.", group="Run", minimum=1
    )

    config: str | None = option(
        None, "Read options from this file instead of config.yaml.", group="This call",
        flag_only=True,
    )  # fmt: skip
    resume: bool = option(
        False,
        "Go on from the last checkpoint in output_dir with the settings stored there; flags "
        "still count. Starts a run where there is none.",
        group="This call",
        flag_only=True,
    )
    overwrite: bool = option(
        False,
        "Delete the run in output_dir, and nothing else there, and start again.",
        group="This call",
        flag_only=True,
    )
    check_data: bool = option(
        False,
        "Check the data, write data_report.json with a picture and leave without training; bad "
        "rows are listed in it, up to 10,000, and the exit is then 1.",
        group="This call",
        flag_only=True,
    )

    def __post_init__(self):
        shape = PRESETS.get(self.preset, ()) if isinstance(self.preset, str) else ()
        for name, value in zip(SHAPE, shape, strict=False):
            object.__setattr__(self, name, value)  # frozen
        for name, value in vars(self).items():
            if isinstance(value, os.PathLike):  # from Python; files and flags have text
                object.__setattr__(self, name, os.fspath(value))

    @staticmethod
    def flag_contradictions(flags: Set[str], values: Mapping[str, Any]) -> Mistakes:
        """What the command line asks for that a preset or a checkpoint has decided.

        Args:
            flags: options given on the command line.
            values: all options given, there or in the file.
        """
        preset, init_from = values.get("preset", "none"), values.get("init_from")
        shaping = [name for name in SHAPE if name in flags]
        if init_from is not None and "preset" in flags and preset != "none":
            shaping.append("preset")
        if not shaping or (preset == "none" and init_from is None):
            return []
        given = " ".join(f"--{name}" for name in shaping)
        if init_from is not None:
            text = f"{given}: the shape is that of init_from {init_from}; drop the one or the other"
        else:
            text = f"{given}: preset {preset} sets the shape; drop it or give --preset none"
        return [(shaping[0], text)]

    def contradictions(self) -> list[str]:
        """Values that do not fit together, one line each."""
        found = []
        if self.init_from is None:
            found += self._shape_contradictions()
            if self.lora_rank:
                found.append("lora_rank adapts a pretrained model: name one with --init_from")
        if not self.lora_rank:
            for name, is_set in (
                ("lora_alpha", self.lora_alpha is not None),
                ("merge_lora", self.merge_lora),
            ):
                if is_set:
                    found.append(f"{name} has no effect without --lora_rank")
        found += self._head_contradictions()
        if self.check_data and (self.resume or self.overwrite):
            found.append("--check_data trains nothing: drop --resume and --overwrite")
        if self.resume and self.overwrite:
            found.append("--resume keeps a run and --overwrite deletes it: give one of them")
        if self.compile == "on" and self.precision == "fp16":
            found.append("compile on has no effect with precision fp16: use bf16, or compile off")
        if self.compile == "on" and self.gradient_checkpointing:
            found.append("compile on has no effect with gradient_checkpointing: drop one of them")
        if self.val_data_path is not None and (
            os.path.realpath(self.val_data_path) == os.path.realpath(self.data_path)
        ):
            found.append(
                "val_data_path is data_path: validation on the training rows means nothing "
                "(leave val_data_path out to hold out a share)"
            )
        if self.task in ("lm", "instruct") and self.best_metric.startswith("label_"):
            found.append(f"best_metric {self.best_metric} needs task classify")
        if self.device == "cpu" and self.precision == "fp16":
            found.append("precision fp16 needs a GPU: use bf16 or fp32 on the CPU")
        return found

    def _head_contradictions(self) -> list[str]:
        found = []
        if self.class_weights != "none" and self.task in ("lm", "instruct"):
            found.append(f"class_weights {self.class_weights} needs task classify")
        if self.classifier != "head":
            for name, is_set in (
                ("classifier_hidden", self.classifier_hidden is not None),
                ("freeze_backbone", self.freeze_backbone),
            ):
                if is_set:
                    found.append(f"{name} needs --classifier head")
            return found
        if self.task in ("lm", "instruct"):
            found.append(f"classifier head only names labels: task {self.task} needs label_token")
        if self.lora_rank:
            found.append("lora_rank does not go with classifier head: drop one of them")
        if self.compile == "on":
            found.append("compile on has no effect with classifier head: use compile auto or off")
        if self.freeze_backbone and self.init_from is None:
            found.append("freeze_backbone keeps a pretrained model: name one with --init_from")
        if self.freeze_backbone and self.optimizer == "muon":
            found.append("freeze_backbone leaves no block to optimizer muon: use adamw")
        return found

    def _shape_contradictions(self) -> list[str]:
        found = []
        if self.n_embd % self.n_head:
            found.append(
                f"n_embd ({self.n_embd}) must be divisible by n_head ({self.n_head}): "
                f"try --n_embd {self.n_head * max(1, round(self.n_embd / self.n_head))}"
            )
        if self.max_length > self.n_positions:
            what, remedy = (
                f"n_positions ({self.n_positions})",
                "lower the first or raise the second",
            )
            if self.preset != "none":
                what, remedy = f"the {self.n_positions} positions of {self.preset}", "lower it"
            found.append(f"max_length ({self.max_length}) is above {what}: {remedy}")
        return found


def load_train_settings(path: Path) -> TrainSettings:
    """Read a `settings.yaml` that training wrote.

    Raises:
        SettingsError: the file has unknown keys or wrong values.
    """
    mistakes: Mistakes = []
    values = read_config_file(TrainSettings, path, mistakes)
    return build_settings(TrainSettings, values, mistakes)


if __name__ == "__main__":
    heading = (
        "Settings of train_gpt.py, each with its default. A flag of the same name beats this\n"
        "file: python train_gpt.py --batch_size 64\n"
        "Made by: python -m smallgpt.options.training > config.yaml"
    )
    print(to_yaml(TrainSettings(), heading=heading, explain=True), end="")
