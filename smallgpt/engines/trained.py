"""A trained model, ready to use; its weights are loaded when something asks for them.

    trained = load_trained_model("outputs/best_model")
    trained.engines.for_row().label_logits(ids_M, lengths_B)
    trained.model(ids_BxT).logits                                   # transformers' own module

Nothing here imports torch before it is needed: with ONNX graphs at hand it is not.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallgpt.console import plural, printable_lines
from smallgpt.engines.engines import AUTO, TORCH, Engines, can_make_graphs
from smallgpt.engines.graph_engine import read_facts
from smallgpt.engines.kept_graphs import ExportedGraphs, Graphs
from smallgpt.engines.runtimes import RUNTIMES, is_installed, require_runtime
from smallgpt.errors import SettingsError, UserError
from smallgpt.graphs.graph_files import FACTS
from smallgpt.model.own_config import ID2LABEL, is_plain_gpt2, read_own_config
from smallgpt.model.place import CONFIG, find_model_folder, is_adapter_folder
from smallgpt.model.weights_file import (
    CODEBOOK,
    SETTINGS,
    WEIGHTS,
    check_validation,
    existing,
    is_ours,
    parse_validation,
    read_header,
)
from smallgpt.options.reader import load_settings
from smallgpt.options.training import BEFORE_RECIPE, TrainSettings
from smallgpt.rows.label_tail import TAIL_LENGTH
from smallgpt.tokens.pretrained_vocabulary import PretrainedVocabulary
from smallgpt.tokens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from smallgpt.engines.torch_engine import TorchEngine

_EXPORT_REPORT = "export_report.json"  # in an export of any format


@dataclass(frozen=True)
class TrainedModel:
    """A model folder, or an export of one."""

    vocabulary: Vocabulary
    settings: TrainSettings
    codebook: Path | None  # None for rows that are no images
    folder: Path
    validation: dict[str, Any]  # figures on the validation rows; {} if training stored none
    engines: Engines  # compute it
    # How many training rows began with each token, the most frequent first; {} if none is stored.
    first_tokens: dict[str, int] = field(default_factory=dict)
    learned_unknown: bool = False  # whether training rows had <UNK>, or token dropout made it
    hub_name: str | None = None  # of a model on the Hugging Face hub, whose copy `folder` is

    @classmethod
    def of(
        cls,
        engine: TorchEngine,
        vocabulary: Vocabulary,
        settings: TrainSettings,
        folder: Path,
        validation: Mapping[str, Any] | None = None,
        codebook: Path | None = None,
        learned_unknown: bool = False,
    ) -> TrainedModel:
        """A model that is in memory."""
        return cls(
            vocabulary,
            settings,
            codebook,
            folder,
            dict(validation or {}),
            Engines.of(engine, vocabulary, settings),
            learned_unknown=learned_unknown,
        )

    @property
    def name(self) -> str:
        """The model as the user names it: its folder, or its name on the Hugging Face hub."""
        return self.hub_name or str(self.folder)

    @property
    def is_pretrained(self) -> bool:
        """Whether it is a model of Hugging Face as it is, which training did not write."""
        return isinstance(self.vocabulary, PretrainedVocabulary)

    @property
    def model(self) -> PreTrainedModel:
        """transformers' module, in evaluation mode; an adapter is merged into its base."""
        return self.engines.torch.model

    @property
    def temperature(self) -> float:
        """Temperature of the calibrated confidence; 1 (none) if it was never calibrated."""
        temperature: float = self.validation.get("calibration", {}).get("temperature", 1.0)
        return temperature

    @property
    def label_names(self) -> list[str]:
        """The labels as the training rows spelled them, parallel to `vocabulary.labels`."""
        return self.vocabulary.label_names

    @property
    def max_length(self) -> int:
        """The longest row it was trained for; evaluation and generation keep to it."""
        return self.settings.max_length

    @property
    def longest_read(self) -> int:
        """The longest row, as far as the model itself reads it."""
        return self.max_length - (0 if self.vocabulary.reads_tail else TAIL_LENGTH)

    @property
    def length_limit(self) -> str:
        """What to say where a row is too long."""
        if self.is_pretrained:
            return f"the model reads at most {self.longest_read}"
        return f"the model was trained on rows of at most {self.max_length}"

    @property
    def is_classifier(self) -> bool:
        """Whether it has a classification head and predicts no tokens."""
        return self.settings.classifier == "head"

    @property
    def is_instructed(self) -> bool:
        """Whether it answers instructions in their prompt template."""
        return self.settings.task == "instruct" and self.vocabulary.tokenizer is not None


def load_trained_model(
    model_path: str | Path,
    device: str = AUTO,
    precision: str = AUTO,
    vocab_path: str | Path | None = None,
    engine: str = AUTO,
) -> TrainedModel:
    """Load a model folder that training wrote, an export of one, or a model of Hugging Face.

    That is a folder of transformers, or a name on the hub, of a causal model or a classifier. It is
    used as it is, which is told on standard error.

    `device`, `precision` and `engine` "auto" take the best there is; `vocab_path` must equal the
    model's own.

    Raises:
        UserError: the folder or a file of it is missing, damaged, or contradicts another; a
            library that the engine needs is missing, or the engine cannot compute the model; or
            of another kind than those above.
    """
    folder = find_model_folder(model_path)
    hub_name = str(model_path) if folder != Path(model_path) else None
    if is_export(folder):
        trained = _load_export(folder, precision, engine)
    elif (folder / CONFIG).exists() and not is_ours(folder):
        trained = _load_hugging_face(hub_name or str(folder), folder, device, precision, engine)
    else:
        trained = _load_model_folder(folder, device, precision, engine)
    trained = replace(trained, hub_name=hub_name)
    if vocab_path is not None and Vocabulary.load(vocab_path) != trained.vocabulary:
        raise UserError(
            f"{vocab_path}: not the vocabulary that {model_path} was trained with; leave "
            f"--vocab_path out, the model folder holds its own"
        )
    return trained


def _load_model_folder(folder: Path, device: str, precision: str, engine: str) -> TrainedModel:
    """Load a model folder; see `load_trained_model`."""
    if (folder / _EXPORT_REPORT).is_file() and not (folder / CONFIG).exists():
        raise UserError(
            f"{folder} is an export for other programs: name the folder of its model, or an export "
            f"of --format onnx, onnx-int8 or hub"
        )
    if precision == "int8" and engine == AUTO:
        engine = _first_installed()
    if engine in RUNTIMES:
        require_runtime(engine)
    vocabulary = Vocabulary.load(existing(folder / "vocab.json"))
    settings = stored_settings(folder)
    validation: dict[str, Any] = {}

    def load() -> TorchEngine:
        from smallgpt.engines.torch_engine import TorchEngine
        from smallgpt.model.folder import load_model
        from smallgpt.model.hardware import choose_device, choose_precision

        place = choose_device(device)
        model, figures = load_model(folder, settings, vocabulary, place)
        validation.update(figures)
        of_blocks = choose_precision(AUTO if precision == "int8" else precision, place)
        return TorchEngine(model, of_blocks, vocabulary.label_ids)

    def write(new: Path, kind: str) -> None:
        from smallgpt.graphs.graph_files import write_graphs

        temperature, length = trained.temperature, settings.max_length
        write_graphs(trained.model, vocabulary, length, temperature, new, kind, {})

    graphs = None
    on_cpu = device.partition(":")[0] in (AUTO, "cpu")
    if engine in RUNTIMES or (engine == AUTO and on_cpu and _may_use_graphs(folder)):
        graphs = Graphs(folder, write)
    engines = Engines(engine, precision, vocabulary, settings, load, graphs)
    if graphs is not None and engines.has_graphs:
        # Their hash says that they were made of these very files, which were checked then.
        header, _, _ = read_header(existing(folder / WEIGHTS))
        validation.update(parse_validation(folder / WEIGHTS, header.get("__metadata__")))
        names = read_own_config(folder / CONFIG).get(ID2LABEL)
        vocabulary.spell_labels(names.values() if isinstance(names, dict) else ())
        if not graphs.are_of_the_folder:  # training replaced it meanwhile
            return _load_model_folder(folder, device, precision, engine)
        engines.answers_by_graphs = True
    else:
        engines.torch  # noqa: B018  (loaded and checked now)
    # No figure, and stored among them since it belongs to the same weights.
    first_tokens = validation.pop("first_tokens", {})
    trained = _trained(folder, vocabulary, settings, dict(validation), first_tokens, engines)
    if engine in RUNTIMES:
        engines.for_row()  # where there are no graphs, they are made now
    return trained


def _load_hugging_face(
    name: str, folder: Path, device: str, precision: str, engine: str
) -> TrainedModel:
    """Load a model that training did not write; see `load_trained_model`."""
    if engine in RUNTIMES or precision == "int8":
        asked = f"--engine {engine}" if engine in RUNTIMES else "--precision int8"
        raise UserError(f"{name}: {asked} computes models that training wrote; leave it out")
    from smallgpt.engines.torch_engine import torch_engine_of
    from smallgpt.model.hardware import choose_device, choose_precision
    from smallgpt.model.hugging_face import load_hugging_face

    place = choose_device(device)
    of_blocks = choose_precision(precision, place)
    found = load_hugging_face(name, folder, place, of_blocks)
    computing = torch_engine_of(found.model, of_blocks, found.vocabulary.label_ids)
    print(
        printable_lines(
            f"{name}: a model of Hugging Face, used as it is: it reads up to "
            f"{plural(found.positions, 'token')}"
        ),
        file=sys.stderr,
    )
    trained = TrainedModel.of(
        computing, found.vocabulary, found.settings, folder, learned_unknown=True
    )
    trained.engines.torch  # noqa: B018  (it is loaded)
    return trained


def _may_use_graphs(folder: Path) -> bool:
    """Whether auto may take an engine other than torch for a model folder."""
    if is_adapter_folder(folder) or not can_make_graphs() or not any(map(is_installed, RUNTIMES)):
        return False
    return is_plain_gpt2(read_own_config(existing(folder / CONFIG)))


def _first_installed() -> str:
    return next((name for name in RUNTIMES if is_installed(name)), next(iter(RUNTIMES)))


def is_export(folder: Path) -> bool:
    """Whether a folder is one that export_model.py wrote."""
    return (folder / FACTS).is_file() and not (folder / CONFIG).exists()


def refuse_export(folder: Path, remedy: str) -> None:
    """Refuse an export where only its model will do, by a UserError."""
    if is_export(folder):
        raise UserError(f"{folder} is an export, not a model folder: {remedy}")


def _load_export(folder: Path, precision: str, engine: str) -> TrainedModel:
    """Load an export; see `load_trained_model`."""
    if engine == TORCH:
        raise UserError(f"{folder} is an export, which torch does not read: leave --engine out")
    engine = _first_installed() if engine == AUTO else engine
    require_runtime(engine)
    facts = read_facts(folder)
    kind = facts["precision"]
    if precision == AUTO and kind == "int8":
        precision = kind
    vocabulary = Vocabulary.load(existing(folder / "vocab.json"))
    vocabulary.spell_labels(facts.get("labels", ()))
    settings = stored_settings(folder)
    validation = check_validation(folder / FACTS, facts.get("validation", {}))
    first_tokens = validation.pop("first_tokens", {})
    graphs = ExportedGraphs(folder, kind)
    engines = Engines(engine, precision, vocabulary, settings, None, graphs)
    trained = _trained(folder, vocabulary, settings, validation, first_tokens, engines)
    engines.for_row()  # of this precision?
    return trained


def _trained(
    folder: Path,
    vocabulary: Vocabulary,
    settings: TrainSettings,
    validation: dict[str, Any],
    first_tokens: dict[str, int],
    engines: Engines,
) -> TrainedModel:
    codebook = folder / CODEBOOK
    return TrainedModel(
        vocabulary=vocabulary,
        settings=settings,
        codebook=codebook if codebook.exists() else None,
        folder=folder,
        validation=validation,
        engines=engines,
        first_tokens=first_tokens,
        learned_unknown=settings.unknown_token == "unk"
        # A frozen backbone reads its rows whole.
        or (settings.resolved_token_dropout() > 0 and not settings.freeze_backbone),
    )


def stored_settings(folder: Path) -> TrainSettings:
    """The settings in a model folder.

    Raises:
        UserError: none, or not such that training wrote.
    """
    try:
        settings = load_settings(TrainSettings, existing(folder / SETTINGS))
    except SettingsError as error:  # not a wrong flag: the exit code is that of a bad model
        raise UserError(
            f"{folder / SETTINGS}: not the settings that training wrote\n{error.mistakes[0]}"
        ) from None
    # What the recipe chose stands there; an option that is missing had an older version's default.
    missing = {k: v for k, v in BEFORE_RECIPE.items() if getattr(settings, k) == AUTO}
    return replace(settings, **missing)
