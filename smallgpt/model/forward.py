"""Forward pass of any model on packed rows, for training, scoring and classifying.

    forward = Forward(model, precision)
    hidden_NxE = forward(ids_N, lengths_B)             # last hidden states of all tokens
    last_BxE = forward(ids_N, lengths_B, "last")       # of the last token of each row
    logits_BxL = forward(ids_N, lengths_B, "labels")   # of a model with a classification head
    logits_NxV = TokenHead.of(model)(hidden_NxE)

Rows are concatenated without padding. A GPT-2 on a CPU is computed by `cpu_forward`, which never
computes padding; everything else (GPUs, adapters, other architectures) goes through transformers'
own modules on a padded matrix, under autocast and with fused attention. Decoding with a cache has
its own code: `smallgpt/decoding`.

Sizes in names: B rows, T longest row, N tokens of all rows, E width, V vocabulary, L labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import GPT2ForSequenceClassification

from smallgpt.errors import UserError
from smallgpt.model.cpu_forward import is_gpt2, packed_hidden_states, supports
from smallgpt.model.cpu_inference import FixedGpt2
from smallgpt.model.hardware import Precision, random_states, set_random_states
from smallgpt.model.head import head_name
from smallgpt.model.packed_rows import PackedRows

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Forward(nn.Module):
    """A model's forward pass on packed rows; dropout as the model's mode says.

    A module, so that wrappers that hook a call see it.
    """

    def __init__(self, model: PreTrainedModel, precision: Precision, fixed: bool = False):
        """`fixed`: no gradients, and the weights of now, whatever becomes of the model's."""
        super().__init__()
        self.model, self.precision, self.compiled = model, precision, False
        self._packs = supports(model)
        self._fixed: FixedGpt2 | None = None
        if fixed and supports(model) and model.device.type == "cpu":
            self._fixed = FixedGpt2(model, precision.dtype)
        self._through_backbone: Callable[[Tensor], Tensor] = self._backbone

    def forward(
        self, ids_N: Tensor, lengths_B: Sequence[int] | np.ndarray, of: str = "tokens"
    ) -> Tensor:
        """Hidden states or label logits of rows of at least one token each.

        `of`: "tokens" gives N x E; "last", of the last token of each row, B x E; "labels" the
        logits of a classification head, B x L in fp32.
        """
        rows = PackedRows(lengths_B)
        if of == "tokens":
            return self._states(ids_N, rows)
        if of == "last":
            return self._last_states(ids_N, rows)
        return self._label_logits(ids_N, rows)

    def _states(self, ids_N: Tensor, rows: PackedRows) -> Tensor:
        if self._fixed is not None:
            return self._fixed.hidden_states(ids_N, rows)
        if self._packs and is_gpt2(self.model) and ids_N.device.type == "cpu" and not self.compiled:
            return packed_hidden_states(self.model, ids_N, rows, self.precision.dtype)
        # With causal attention no token sees the padding behind it.
        with self.precision.autocast(ids_N.device):
            return rows.from_matrix(self._through_backbone(rows.to_matrix(ids_N)))

    def _backbone(self, ids_BxT: Tensor) -> Tensor:
        return self.model.base_model(ids_BxT, use_cache=False).last_hidden_state

    def _last_states(self, ids_N: Tensor, rows: PackedRows) -> Tensor:
        if self._fixed is not None:
            return self._fixed.last_states(ids_N, rows)
        return self._states(ids_N, rows)[rows.last_B.to(ids_N.device)]

    def _label_logits(self, ids_N: Tensor, rows: PackedRows) -> Tensor:
        if isinstance(self.model, GPT2ForSequenceClassification):
            return self.model.score(self._last_states(ids_N, rows).float())
        # Encoders attend to both sides and need a padding mask.
        mask_BxT = rows.to_matrix(torch.ones_like(ids_N))
        ids_BxT = rows.to_matrix(ids_N).masked_fill(mask_BxT == 0, self.model.config.pad_token_id)
        with self.precision.autocast(ids_N.device):
            logits_BxL = self.model(ids_BxT, attention_mask=mask_BxT).logits
        return rows.in_order(logits_BxL.float())

    @torch.no_grad()
    def head_inputs(self, ids_N: Tensor, lengths_B: Sequence[int] | np.ndarray) -> Tensor:
        """Inputs of the classification head, one a row, B x width in fp32.

        The model is in evaluation mode and its head one that `head.is_plain` approves.
        """
        last_B = PackedRows(lengths_B).last_B.to(ids_N.device)
        if isinstance(self.model, GPT2ForSequenceClassification):
            return self(ids_N, lengths_B)[last_B].float()
        seen = []
        head = getattr(self.model, head_name(self.model))
        hook = head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        try:
            self(ids_N, lengths_B, "labels")
        finally:
            hook.remove()
        (inputs,) = seen
        rows = PackedRows(lengths_B)
        if inputs.dim() == 3:  # causal models map all positions and choose the last
            return rows.from_matrix(inputs)[last_B].float()
        return rows.in_order(inputs.float())

    def compile_backbone(self, say: Callable[[str], None]) -> None:
        """Use torch.compile from now on, unless a first try fails; `say` prints a line."""
        say("torch.compile: the first step takes a minute or so longer")
        device = next(self.model.parameters()).device
        states = random_states(device)  # restored after the try
        self.compiled = True
        self._through_backbone = torch.compile(self._backbone, dynamic=True)
        try:
            ids_N = torch.zeros(5, dtype=torch.int64, device=device)
            self(ids_N, [3, 2]).sum().backward()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # the compiler's own
            first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            say(f"torch.compile does not work here, going on without: {first_line}")
            self.compiled, self._through_backbone = False, self._backbone
        self.model.zero_grad(set_to_none=True)
        set_random_states(states, device)


@dataclass(frozen=True)
class TokenHead:
    """The map from last hidden states to logits of tokens, in fp32."""

    weight_VxE: Tensor
    bias_V: Tensor | None

    @classmethod
    def of(cls, model: PreTrainedModel, ids: Sequence[int] | None = None) -> TokenHead:
        """The head of a model, without gradients; for the tokens `ids` alone where given."""
        head = model.get_output_embeddings()
        weight_VxE, bias_V = head.weight.detach(), getattr(head, "bias", None)
        chosen: slice | Tensor = slice(None)
        if ids is not None:
            chosen = torch.tensor(ids, dtype=torch.long, device=weight_VxE.device)
        bias_V = None if bias_V is None else bias_V.detach()[chosen].float()
        return cls(weight_VxE[chosen].float(), bias_V)

    def __call__(self, hidden_MxE: Tensor) -> Tensor:
        return functional.linear(hidden_MxE.float(), self.weight_VxE, self.bias_V)


def recompute_blocks(model: PreTrainedModel) -> None:
    """Gradient checkpointing: in training a block keeps only its input and is computed again.

    Dropout's random numbers are drawn a second time, so gradients are the same bit for bit.

    Raises:
        UserError: transformers cannot do that for this model.
    """
    # Like transformers' own method, without its hooks on the embeddings, which non-reentrant
    # checkpointing does not need.
    recomputing: list[Any] = [
        module for module in model.modules() if hasattr(module, "gradient_checkpointing")
    ]
    if not recomputing:
        raise UserError(f"gradient_checkpointing: a {model.config.model_type} model cannot do that")
    for module in recomputing:
        module.gradient_checkpointing = True
        module._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
