"""The format hub: a checkpoint that plain transformers loads, with a card and its calibration."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GenerationConfig,
    PreTrainedModel,
)

from smallgpt.decoding.plain_decoder import PlainDecoder
from smallgpt.engines.trained import TrainedModel
from smallgpt.evaluation.calibration import apply_temperature
from smallgpt.export.agreement import seconds_of_tokens
from smallgpt.export.decision import write_decision_files
from smallgpt.export.formats import Reader
from smallgpt.export.model_card import model_card
from smallgpt.model.config_json import quiet
from smallgpt.model.folder import save_model_folder
from smallgpt.model.head import head_name
from smallgpt.model.place import is_adapter_folder
from smallgpt.model.weights_file import WEIGHTS
from smallgpt.options.training import TrainSettings
from smallgpt.rows.dataset import TokenLabelDataset


class HubFormat:
    """As `ExportFormat`."""

    def require(self) -> None:
        """As `ExportFormat.require`; all comes with transformers."""

    def refuse(self, trained: TrainedModel) -> None:
        """As `ExportFormat.refuse`; every model is one of transformers."""

    def write(self, trained: TrainedModel, folder: Path, digest: str) -> list[str]:
        """As `ExportFormat.write`."""
        figures = {**trained.validation, "first_tokens": trained.first_tokens}
        new = folder / "model"
        save_model_folder(
            trained.model,
            new,
            trained.vocabulary,
            _public_settings(trained),
            trained.codebook,
            figures if trained.validation else None,
        )
        for path in new.iterdir():
            os.rename(path, folder / path.name)
        new.rmdir()
        if trained.model.can_generate():
            _let_it_sample(folder)
        write_decision_files(trained, folder)
        return [WEIGHTS]

    def readers(self, trained: TrainedModel, folder: Path) -> tuple[dict[str, Reader], str]:
        """As `ExportFormat.readers`."""
        reader = PlainReader(trained, folder)
        return {"fp32": reader}, f"plain transformers {transformers.__version__}"

    def readme(
        self,
        trained: TrainedModel,
        folder: Path,
        labels: TokenLabelDataset | None,
        report: dict[str, Any],
    ) -> str:
        """As `ExportFormat.readme`."""
        return model_card(trained, folder, PlainReader(trained, folder), report)


def _public_settings(trained: TrainedModel) -> TrainSettings:
    """The settings without the folders of this machine: of its files the names remain."""
    settings = trained.settings
    data, validation, start = settings.data_path, settings.val_data_path, settings.init_from
    if start is not None and (os.path.isabs(start) or os.path.isdir(start)):
        start = Path(start).name  # else a name on the hub
    if validation is not None:
        validation = Path(validation).name
        if validation == Path(data).name:
            validation = f"validation-{validation}"  # they lay in two folders
    return replace(
        settings,
        data_path=Path(data).name,
        val_data_path=validation,
        vocab_path="vocab.json",
        init_from=start,
        output_dir="outputs",
        merge_lora=is_adapter_folder(trained.folder) or settings.merge_lora,
    )


def _let_it_sample(folder: Path) -> None:
    """Generate as inference.py does where nothing else is asked for: sampled.

    Without `do_sample`, `transformers serve` is greedy and ignores the temperature of a request.
    """
    config = GenerationConfig.from_pretrained(folder)
    config.do_sample = True
    config._from_model_config = False  # else transformers makes it anew, without this
    config.save_pretrained(folder)


class PlainReader:
    """As `Reader`: the folder as transformers loads it without this toolkit."""

    def __init__(self, trained: TrainedModel, folder: Path):
        self._temperature = trained.temperature
        self._label_ids = None if trained.is_classifier else trained.vocabulary.label_ids
        hidden = trained.settings.classifier_hidden
        with quiet():
            if not trained.is_classifier:
                self._model: Any = AutoModelForCausalLM.from_pretrained(folder)
            elif hidden is None:
                self._model = AutoModelForSequenceClassification.from_pretrained(folder)
            else:
                self._model = _with_hidden_layer(folder, hidden)
        self._model.eval()

    @torch.inference_mode()
    def probabilities(self, ids_M: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
        """As `Reader.probabilities`."""
        rows = np.split(ids_M, np.cumsum(lengths_B)[:-1])
        logits = [self._model(torch.from_numpy(ids_T)[None].long()).logits for ids_T in rows]
        if self._label_ids is None:
            logits_BxL = torch.cat(logits)
        else:
            logits_BxL = torch.stack([each[0, -1, self._label_ids] for each in logits])
        return apply_temperature(logits_BxL.double().log_softmax(-1).numpy(), self._temperature)

    @torch.inference_mode()
    def token_logits(self, ids_T: np.ndarray) -> np.ndarray:
        """As `Reader.token_logits`."""
        return self._model(torch.from_numpy(ids_T)[None].long()).logits[0].numpy()

    def token_seconds(self, first_id: int, tokens: int) -> list[float]:
        """As `Reader.token_seconds`."""
        return seconds_of_tokens(PlainDecoder(self._model), first_id, tokens)


def _with_hidden_layer(folder: Path, width: int) -> PreTrainedModel:
    """A classifier whose head has a hidden layer, which transformers does not know.

    The program of the model card does the same.
    """
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(
        AutoConfig.from_pretrained(folder)
    )
    name = head_name(model)
    linear: Any = getattr(model, name)
    layers = (nn.Linear(linear.in_features, width), nn.GELU(), nn.Dropout())
    setattr(model, name, nn.Sequential(*layers, nn.Linear(width, linear.out_features)))
    model.load_state_dict(load_file(folder / WEIGHTS))
    return model
