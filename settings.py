"""Every option of every command, once: name, type, default, range and help.

`config.yaml` is this file's training table written out; after a change write it again with

    python settings.py > config.yaml

A flag beats the file and the file beats the default (`command_line.py` does the reading).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command_line import Mistakes, build_settings, option, read_config_file, to_yaml

DEFAULT_CONFIG = Path(__file__).parent / "config.yaml"
DEVICES = ("auto", "cpu", "cuda", "cuda:N", "mps")  # N is a number
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
BEST_METRICS = ("auto", "loss", "label_loss", "label_accuracy")
TASKS = ("auto", "lm", "classify", "instruct")
OPTIMIZERS = ("adamw", "muon")
CLASSIFIERS = ("label_token", "head")
CLASS_WEIGHTS = ("none", "balanced")
BENCHMARK_SECTIONS = ("training", "generation", "classification", "reading", "starting")
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
LARGEST_SEED = 2**32 - 1  # scikit-learn takes no larger one


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


@dataclass(frozen=True)
class InferenceSettings:
    """What `inference.py` needs to know."""

    model_path: str = option(
        "outputs/best_model", "Model folder that training wrote.", group="Model"
    )
    vocab_path: str | None = option(
        None,
        "Check that this vocabulary is the model's own (the model folder holds it already).",
        group="Model",
    )
    device: str = option(
        "auto", "auto = an NVIDIA GPU, else Apple's, else the CPU.", group="Model", choices=DEVICES
    )
    precision: str = option(
        "auto",
        "auto = bf16 where the hardware computes in it, else fp32.",
        group="Model",
        choices=PRECISIONS,
    )

    mode: str | None = option(
        None,
        "interactive: next-token prompt. generate: continue a row. classify: name the label. "
        "evaluate: score a file. Without it: evaluate with --test_data, else interactive.",
        group="Task",
        choices=("interactive", "generate", "classify", "evaluate"),
    )
    prompt: str | None = option(
        None,
        "Tokens of a row, separated by spaces; for a model of texts a text, for one of "
        "instructions an instruction. Answers once and exits.",
        group="Task",
    )
    test_data: str | None = option(
        None, "Rows to evaluate, or with --mode classify to label (JSONL).", group="Task"
    )
    output_dir: str | None = option(
        None,
        "Folder for the result files of --test_data. Default: `evaluation` (`classification` "
        "with --mode classify) beside the model folder.",
        group="Task",
    )
    batch_size: int = option(
        64, "Rows scored, or sequences sampled, at once.", group="Task", minimum=1
    )
    json: bool = option(False, "Print the result as JSON for machines.", group="Task")

    max_new_tokens: int | None = option(
        None,
        "Most tokens to generate after the prompt. Default: until <EOS> or the trained length.",
        group="Generation",
        minimum=1,
    )
    greedy: bool = option(False, "Always take the likeliest token.", group="Generation")
    temperature: float = option(
        1.0,
        "Logits are divided by this: below 1 safer, above 1 wilder.",
        group="Generation",
        above=0,
    )
    top_k: int = option(
        50, "Sample among the k likeliest tokens; 0 = all.", group="Generation", minimum=0
    )
    top_p: float = option(
        1.0,
        "Sample among the likeliest tokens that together hold this probability.",
        group="Generation",
        above=0,
        maximum=1,
    )
    num_return_sequences: int = option(
        1, "How many sequences to generate.", group="Generation", minimum=1
    )
    seed: int | None = option(
        None,
        "Seed of the sampling. Default: a new one each time, which is printed.",
        group="Generation",
        minimum=0,
        maximum=LARGEST_SEED,
    )
    label: str | None = option(
        None,
        "Keep sampling until the model itself classifies the result as this label.",
        group="Generation",
    )
    image: str | None = option(
        None, "Draw the generated images into this PNG file.", group="Generation"
    )

    def contradictions(self) -> list[str]:
        """Values that do not fit together, one line each."""
        found = []
        mode = self.resolved_mode()
        if mode == "evaluate" and self.test_data is None:
            found.append("--mode evaluate needs --test_data FILE")
        if mode == "classify" and (self.test_data is None) == (self.prompt is None):
            found.append("--mode classify needs either --prompt TOKENS or --test_data FILE")
        if self.test_data is not None and mode in ("interactive", "generate"):
            found.append(f"--test_data does not go with --mode {mode}")
        if self.prompt is not None and mode == "evaluate":
            found.append("--prompt does not go with an evaluation of --test_data")
        if mode != "generate":
            for name in ("image", "label"):
                if getattr(self, name) is not None:
                    found.append(f"--{name} needs --mode generate")
        elif self.label is not None and self.greedy:
            found.append("--label samples until one fits, --greedy always gives the same: drop one")
        if self.greedy and self.num_return_sequences > 1:
            found.append("--greedy always gives the same row: drop --num_return_sequences")
        if self.greedy and self.temperature != 1.0:
            found.append("--greedy does not sample: drop --temperature")
        if self.image is not None and not self.image.lower().endswith(".png"):
            found.append(f"--image writes a PNG: {self.image} must end in .png")
        if self.device == "cpu" and self.precision == "fp16":
            found.append("precision fp16 needs a GPU: use bf16 or fp32 on the CPU")
        return found

    def resolved_mode(self) -> str:
        """The mode asked for; `evaluate` where only --test_data is given, else `interactive`."""
        return self.mode or ("evaluate" if self.test_data is not None else "interactive")


def _test_fraction():
    return option(
        0.2, "Share of the rows for the test file, stratified.", group="Split", above=0, below=1
    )


def _split_seed():
    return option(
        42,
        "Seed of the split and the codebook.",
        group="Split",
        minimum=0,
        maximum=LARGEST_SEED,
    )


def _codebook_size():
    return option(
        500, "Codes in the codebook, one token each.", group="Codebook", minimum=2, maximum=65_000
    )


def _augment(of: str = "image", how: str = "shifted, turned and scaled"):
    return option(
        0,
        f"Write so many variants of each training {of} beside it, {how}. An epoch of training "
        f"visits each {of} once, in a variant drawn anew.",
        group="Variants",
        minimum=0,
    )


@dataclass(frozen=True)
class DigitsSettings:
    """What `prepare_data.py digits` needs to know."""

    output_dir: str = option("data/digits", "Folder for the prepared files.", group="Files")
    patch_size: int = option(
        2, "Side of a patch in pixels; the images are 8x8.", group="Codebook", minimum=1, maximum=8
    )
    codebook_size: int = _codebook_size()
    augment: int = _augment()
    test_fraction: float = _test_fraction()
    seed: int = _split_seed()

    def contradictions(self) -> list[str]:
        """Values that do not fit together: none here."""
        return []


@dataclass(frozen=True)
class ImagesSettings:
    """What `prepare_data.py images` needs to know."""

    input: str | None = option(
        None,
        "Images: an IDX file (plain or .gz), an .npz with `images` and `labels`, or a folder "
        "with one subfolder of pictures per class.",
        group="Files",
    )
    labels: str | None = option(None, "Labels of an IDX file (IDX, plain or .gz).", group="Files")
    test_input: str | None = option(
        None, "Test images of your own, in any of the same forms.", group="Files"
    )
    test_labels: str | None = option(None, "Labels of an IDX test file.", group="Files")
    output_dir: str = option("data/images", "Folder for the prepared files.", group="Files")
    image_size: int | None = option(
        None, "Resize pictures of a folder to this many pixels a side.", group="Files", minimum=1
    )
    color: str = option(
        "auto",
        "Read pictures of a folder as grey or rgb. auto = rgb if any picture has colour.",
        group="Files",
        choices=("auto", "grey", "rgb"),
    )
    patch_size: int = option(
        4,
        "Side of a patch in pixels; 1 = one token per pixel.",
        group="Codebook",
        minimum=1,
    )
    codebook_size: int = _codebook_size()
    codebook_images: int = option(
        10_000,
        "Fit the codebook on at most this many training images, drawn at random.",
        group="Codebook",
        minimum=1,
    )
    augment: int = _augment()
    test_fraction: float = _test_fraction()
    test_last: int | None = option(
        None,
        "Hold out the last N images as the test set instead of a random share.",
        group="Split",
        minimum=1,
    )
    seed: int = _split_seed()

    def contradictions(self) -> list[str]:
        """Values that do not fit together, one line each."""
        found = []
        if self.input is None:
            found.append("--input PATH is needed: the images to prepare")
        if self.test_input is not None and self.test_last is not None:
            found.append("--test_input and --test_last both name the test set: give one of them")
        if self.test_labels is not None and self.test_input is None:
            found.append("--test_labels needs --test_input")
        return found


@dataclass(frozen=True)
class TokensSettings:
    """What `prepare_data.py tokens` needs to know."""

    input: tuple[str, ...] = option((), "JSONL files with rows of tokens.", group="Files")
    output_dir: str = option("data/tokens", "Folder for the prepared files.", group="Files")
    min_count: int = option(
        1,
        "Tokens seen less often than this in the training rows become <UNK>.",
        group="Vocabulary",
        minimum=1,
    )
    on_bad_row: str = option(
        "error",
        "A row that breaks the format: stop and list the first 20, or skip and count.",
        group="Files",
        choices=("error", "skip"),
    )
    test_fraction: float = _test_fraction()
    group_by: str | None = option(
        "meta.source",
        "Key whose equal values keep rows on one side of the split. none = no grouping.",
        group="Split",
    )
    seed: int = _split_seed()

    def contradictions(self) -> list[str]:
        """Values that do not fit together, one line each."""
        return [] if self.input else ["--input FILE... is needed: the rows to prepare"]


def _texts_input():
    return option(
        (),
        "Text files: plain text, or records as JSONL, JSON, CSV or TSV. With the datasets library "
        "also Parquet, a folder of save_to_disk, hub:OWNER/NAME or hub:OWNER/NAME/SPLIT.",
        group="Files",
    )


def _tokenizer():
    return option(
        "bpe",
        "chars: one token a character. bpe: byte pairs, learned from the training texts. Or a "
        "pretrained tokenizer: a folder, or a name on the Hugging Face hub.",
        group="Tokens",
    )


def _vocab_size():
    return option(
        None,
        "Most entries of a vocabulary learned here. none = every character that occurs, or "
        "4,096 byte pairs.",
        group="Tokens",
        minimum=8,
        maximum=1_000_000,
    )


def _held_out(what: str, default: float):
    return option(default, f"Share of the records for {what}.", group="Split", minimum=0, below=1)


def _in_order():
    return option(
        False,
        "Hold out the last records instead of random ones: first validation, then test.",
        group="Split",
    )


def _bad_record():
    return option(
        "error",
        "A record without its text or label: stop and list the first 20, or skip and count.",
        group="Files",
        choices=("error", "skip"),
    )


@dataclass(frozen=True)
class TextSettings:
    """What `prepare_data.py text` needs to know."""

    input: tuple[str, ...] = _texts_input()
    test_input: tuple[str, ...] = option(
        (), "Test files of your own; training records that stand in them are left out.",
        group="Files",
    )  # fmt: skip
    text_column: str = option(
        "text",
        "Key or column of the text. A number counts the columns of a CSV or TSV file that has no "
        "heading.",
        group="Files",
    )
    label_column: str | None = option(
        None,
        "Key or column of the label, the same way. none = texts to continue, not to classify.",
        group="Files",
    )
    on_bad_row: str = _bad_record()
    output_dir: str = option("data/text", "Folder for the prepared files.", group="Files")
    tokenizer: str = _tokenizer()
    vocab_size: int | None = _vocab_size()
    max_length: int = option(
        257,
        "Tokens of a row of texts without labels, the first of which is only read.",
        group="Tokens",
        minimum=LEAST_LENGTH,
    )
    stride: int | None = option(
        None,
        "Tokens from the start of one row to the next. none = max_length - 1, so that every token "
        "is predicted once; less shows the same text from other starts, in training only.",
        group="Tokens",
        minimum=1,
    )
    augment: int = _augment(
        "text with a label", "its clauses in another order and a fifth of them left out"
    )
    validation_fraction: float = _held_out("validation", 0.1)
    test_fraction: float = _held_out("the test file", 0.1)
    in_order: bool = _in_order()
    seed: int = _split_seed()

    def contradictions(self) -> list[str]:
        """Values that do not fit together, one line each."""
        found = _text_contradictions(self)
        if self.augment and self.label_column is None:
            found.append("--augment needs --label_column; running text has --stride")
        if self.stride is not None and self.stride >= self.max_length:
            found.append("--stride must be below --max_length, or tokens are left out")
        return found


@dataclass(frozen=True)
class InstructionsSettings:
    """What `prepare_data.py instructions` needs to know."""

    input: tuple[str, ...] = option(
        (),
        "Records of `instruction`, `input` (may be empty) and `output`: JSON, JSONL, CSV or TSV. "
        "With the datasets library also Parquet, a folder of save_to_disk, hub:OWNER/NAME or "
        "hub:OWNER/NAME/SPLIT.",
        group="Files",
    )
    test_input: tuple[str, ...] = option(
        (), "Test files of your own; training records that stand in them are left out.",
        group="Files",
    )  # fmt: skip
    on_bad_row: str = _bad_record()
    output_dir: str = option("data/instructions", "Folder for the prepared files.", group="Files")
    tokenizer: str = _tokenizer()
    vocab_size: int | None = _vocab_size()
    validation_fraction: float = _held_out("validation", 0.05)
    test_fraction: float = _held_out("the test file", 0.1)
    in_order: bool = _in_order()
    seed: int = _split_seed()

    def contradictions(self) -> list[str]:
        """Values that do not fit together, one line each."""
        return _text_contradictions(self)


def _text_contradictions(settings: TextSettings | InstructionsSettings) -> list[str]:
    found = [] if settings.input else ["--input FILE... is needed: the texts to prepare"]
    if settings.validation_fraction + settings.test_fraction >= 1:
        found.append("validation_fraction and test_fraction leave nothing to learn from")
    return found


@dataclass(frozen=True)
class BenchmarkSettings:
    """What `benchmark.py` needs to know."""

    only: tuple[str, ...] = option(
        (),
        f"Measure these alone, of {', '.join(BENCHMARK_SECTIONS)}. Without it: all.",
        group="Benchmark",
    )
    full: bool = option(
        False,
        "More rounds, all sizes, and the peers that take long to prepare: torch.compile, ONNX "
        "Runtime, CTranslate2.",
        group="Benchmark",
    )
    device: str = option(
        "cpu",
        "What to measure. cuda takes larger sizes and has targets of its own.",
        group="Benchmark",
        choices=("cpu", "cuda"),
    )

    def contradictions(self) -> list[str]:
        """Values that do not fit together, one line each."""
        return [
            f"--only {name}: there is {', '.join(BENCHMARK_SECTIONS)}"
            for name in self.only
            if name not in BENCHMARK_SECTIONS
        ]


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
        "Made by: python settings.py > config.yaml"
    )
    print(to_yaml(TrainSettings(), heading=heading, explain=True), end="")
