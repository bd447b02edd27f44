"""Other trainers of the same model: a minimal GPT-2, transformers in a plain loop, its Trainer.

    minimal = MinimalGPT(model, dropout=0.1)
    epoch = plain_epoch(minimal, minimal.loss, rows, batch_size=64, precision=precision)
    epoch()                                             # trains on all rows once

Sizes in names: B rows, T positions, H heads, D width of a head, E = H x D, V vocabulary.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from transformers import (
    DataCollatorForLanguageModeling,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.models.gpt2.modeling_gpt2 import GPT2Block
from transformers.pytorch_utils import Conv1D
from transformers.trainer_callback import PrinterCallback

from smallgpt.benchmark.bench import synchronize
from smallgpt.model.cpu_forward import blocks_of
from smallgpt.model.hardware import Precision

IGNORED = -100  # target of a padding position: cross_entropy leaves it out
LEARNING_RATE, LARGEST_NORM = 1e-3, 1.0

Batch = dict[str, Tensor]


class MinimalGPT(nn.Module):
    """GPT-2 in plain PyTorch, as one writes it today: fused attention, one map for q, k and v."""

    def __init__(self, model: GPT2LMHeadModel, dropout: float, attention_dropout: float = 0.0):
        """Copy a GPT2LMHeadModel. On a CPU attention dropout costs torch's fused kernel."""
        super().__init__()
        old = model.transformer
        self.dropout = dropout
        self.tokens: nn.Embedding = copy.deepcopy(old.wte)
        self.positions: nn.Embedding = copy.deepcopy(old.wpe)
        heads = model.config.n_head
        self.blocks = nn.ModuleList(
            _Block(b, heads, dropout, attention_dropout) for b in blocks_of(model)
        )
        self.norm = copy.deepcopy(old.ln_f)

    def forward(self, ids_BxT: Tensor) -> Tensor:
        """Logits B x T x V; the head is the token embedding."""
        places_T = torch.arange(ids_BxT.shape[1], device=ids_BxT.device)
        x = self.tokens(ids_BxT) + self.positions(places_T)
        x = functional.dropout(x, self.dropout, self.training)
        for block in self.blocks:
            x = block(x)
        return functional.linear(self.norm(x), self.tokens.weight)

    def loss(self, batch: Batch) -> Tensor:
        """Mean negative log likelihood of the next tokens; padding lies on the right."""
        logits_BxTxV = self(batch["input_ids"][:, :-1])
        targets_BxT = batch["labels"][:, 1:]
        return functional.cross_entropy(
            logits_BxTxV.flatten(0, 1), targets_BxT.flatten(), ignore_index=IGNORED
        )


class _Block(nn.Module):
    def __init__(self, old: GPT2Block, n_head: int, dropout: float, attention_dropout: float):
        super().__init__()
        self.n_head, self.dropout, self.attention_dropout = n_head, dropout, attention_dropout
        self.norm_1, self.norm_2 = copy.deepcopy(old.ln_1), copy.deepcopy(old.ln_2)
        self.qkv, self.attention_out = _linear(old.attn.c_attn), _linear(old.attn.c_proj)
        self.mlp_in, self.mlp_out = _linear(old.mlp.c_fc), _linear(old.mlp.c_proj)

    def forward(self, x_BxTxE: Tensor) -> Tensor:
        B, T, E = x_BxTxE.shape
        qkv = self.qkv(self.norm_1(x_BxTxE)).view(B, T, 3, self.n_head, -1)
        q_BxHxTxD, k_BxHxTxD, v_BxHxTxD = qkv.permute(2, 0, 3, 1, 4)
        dropout = self.attention_dropout if self.training else 0.0
        attended_BxHxTxD = functional.scaled_dot_product_attention(
            q_BxHxTxD, k_BxHxTxD, v_BxHxTxD, dropout_p=dropout, is_causal=True
        )
        out = self.attention_out(attended_BxHxTxD.transpose(1, 2).reshape(B, T, E))
        x_BxTxE = x_BxTxE + functional.dropout(out, self.dropout, self.training)
        out = self.mlp_out(functional.gelu(self.mlp_in(self.norm_2(x_BxTxE))))
        return x_BxTxE + functional.dropout(out, self.dropout, self.training)


def _linear(old: Conv1D) -> nn.Linear:
    """A Conv1D of transformers, whose weight is transposed, as nn.Linear."""
    inputs, outputs = old.weight.shape
    new = nn.Linear(inputs, outputs, device=old.weight.device)
    with torch.no_grad():
        new.weight.copy_(old.weight.T)
        new.bias.copy_(old.bias)
    return new


def transformers_model(like: GPT2LMHeadModel, shipped: bool) -> GPT2LMHeadModel:
    """A copy of a GPT2LMHeadModel; if `shipped`, its shape with transformers' defaults."""
    if not shipped:
        return copy.deepcopy(like)
    names = (
        "vocab_size", "n_positions", "n_layer", "n_head", "n_embd",
        "bos_token_id", "eos_token_id", "pad_token_id",
    )  # fmt: skip
    config = GPT2Config(**{name: getattr(like.config, name) for name in names})
    # The types of transformers take the first argument of `to` for the model.
    return GPT2LMHeadModel(config).to(like.device)  # type: ignore[arg-type]


def pad_batch(rows: Sequence[Sequence[int]], pad_id: int = 0) -> Batch:
    """Rows padded on the right: input_ids, attention_mask, labels (IGNORED in padding), B x T."""
    tensors = [torch.tensor(row) for row in rows]
    ids_BxT, labels_BxT = (
        pad_sequence(tensors, batch_first=True, padding_value=value) for value in (pad_id, IGNORED)
    )
    mask_BxT = (labels_BxT != IGNORED).long()
    return {"input_ids": ids_BxT, "attention_mask": mask_BxT, "labels": labels_BxT}


def plain_epoch(
    model: nn.Module,
    loss_of: Callable[[Batch], Tensor],
    rows: list[list[int]],
    batch_size: int,
    precision: Precision,
) -> Callable[[], None]:
    """A function that trains on all rows once; `loss_of` is the loss on a batch of `pad_batch`."""
    device = next(model.parameters()).device
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    # torch takes a list for a data set, its types do not.
    loader: DataLoader = DataLoader(
        rows,  # type: ignore[arg-type]
        batch_size,
        shuffle=True,
        collate_fn=pad_batch,
    )

    def epoch() -> None:
        for batch in loader:
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            with precision.autocast(device):
                loss = loss_of(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), LARGEST_NORM)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return epoch


def trainer_epoch(
    model: nn.Module,
    tokenizer_folder: Path,
    rows: list[list[int]],
    batch_size: int,
    precision: Precision,
    output_dir: Path,
) -> Callable[[], float]:
    """`transformers.Trainer` with dynamic padding, ready to train; nothing is saved or evaluated.

    Returns a function that trains on all rows once and returns the seconds of that epoch alone: not
    of Trainer's work before and after it, nor of making the optimizer, which Trainer keeps.
    """
    device = next(model.parameters()).device
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)

    class Clock(TrainerCallback):
        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            synchronize(device)
            self.began = time.perf_counter()

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            synchronize(device)
            self.seconds = time.perf_counter() - self.began

    clock = Clock()
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(output_dir),
            num_train_epochs=1,
            per_device_train_batch_size=batch_size,
            learning_rate=LEARNING_RATE,
            bf16=precision.name == "bf16",
            use_cpu=device.type == "cpu",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=[{"input_ids": row} for row in rows],
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        callbacks=[clock],
    )
    trainer.remove_callback(PrinterCallback)

    def epoch() -> float:
        trainer.train()
        return clock.seconds

    return epoch
