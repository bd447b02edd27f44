"""The peers that benchmark.py compares with: other ways to train the same model or to decode it.

    python benchmark.py --full
    pip install -r requirements-benchmark.txt     # those that the toolkit itself does not need

Training: `MinimalGPT`, transformers' model in a plain loop, and `transformers.Trainer`. Decoding:
`model.generate`, ONNX Runtime, CTranslate2. A peer that is not installed raises ImportError where
it is made ready.

Sizes in names: B rows, T positions, H heads, D width of a head, E = H x D, V vocabulary, P tokens
in the cache.
"""

from __future__ import annotations

import copy
import logging
import multiprocessing
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from smallgpt.model.hardware import Precision

IGNORED = -100  # target of a padding position: cross_entropy leaves it out
LEARNING_RATE, LARGEST_NORM = 1e-3, 1.0
TOP_K = 50

Batch = dict[str, Tensor]


# ------------------------------------------------------------------------------- minimal GPT-2


class MinimalGPT(nn.Module):
    """A GPT-2 in plain PyTorch, as one writes it today: fused attention, one map for q, k and v.

    One rate serves every dropout, that of the attention weights included, unless the caller
    gives another.
    """

    def __init__(self, model: nn.Module, dropout: float, attention_dropout: float | None = None):
        """Take shape and weights of a GPT2LMHeadModel.

        Args:
            model: where the weights are copied from.
            dropout: of embeddings, residuals and, without `attention_dropout`, attention.
            attention_dropout: of attention weights; above 0 it costs torch's fused kernel on a CPU.
        """
        super().__init__()
        config, old = model.config, model.transformer
        E = config.n_embd
        self.tokens = nn.Embedding(config.vocab_size, E)
        self.positions = nn.Embedding(config.n_positions, E)
        self.dropout = dropout
        rate = dropout if attention_dropout is None else attention_dropout
        self.blocks = nn.ModuleList(_Block(block, config, dropout, rate) for block in old.h)
        self.norm = nn.LayerNorm(E, config.layer_norm_epsilon)
        self.tokens.load_state_dict(old.wte.state_dict())
        self.positions.load_state_dict(old.wpe.state_dict())
        self.norm.load_state_dict(old.ln_f.state_dict())

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
    def __init__(self, old: nn.Module, config: Any, dropout: float, attention_dropout: float):
        super().__init__()
        E, I = config.n_embd, old.mlp.c_fc.nf  # noqa: E741
        self.n_head, self.dropout, self.attention_dropout = (
            config.n_head,
            dropout,
            attention_dropout,
        )
        self.norm_1, self.norm_2 = (nn.LayerNorm(E, config.layer_norm_epsilon) for _ in range(2))
        self.qkv, self.attention_out = nn.Linear(E, 3 * E), nn.Linear(E, E)
        self.mlp_in, self.mlp_out = nn.Linear(E, I), nn.Linear(I, E)
        self.norm_1.load_state_dict(old.ln_1.state_dict())
        self.norm_2.load_state_dict(old.ln_2.state_dict())
        for mine, theirs in (
            (self.qkv, old.attn.c_attn),
            (self.attention_out, old.attn.c_proj),
            (self.mlp_in, old.mlp.c_fc),
            (self.mlp_out, old.mlp.c_proj),
        ):
            with torch.no_grad():  # transformers' Conv1D keeps its weight the other way round
                mine.weight.copy_(theirs.weight.T)
                mine.bias.copy_(theirs.bias)

    def forward(self, x_BxTxE: Tensor) -> Tensor:
        B, T, E = x_BxTxE.shape
        qkv = self.qkv(self.norm_1(x_BxTxE)).view(B, T, 3, self.n_head, -1)
        q_BxHxTxD, k_BxHxTxD, v_BxHxTxD = qkv.permute(2, 0, 3, 1, 4)
        attended_BxHxTxD = functional.scaled_dot_product_attention(
            q_BxHxTxD,
            k_BxHxTxD,
            v_BxHxTxD,
            is_causal=True,
            dropout_p=self.attention_dropout if self.training else 0.0,
        )
        out = self.attention_out(attended_BxHxTxD.transpose(1, 2).reshape(B, T, E))
        x_BxTxE = x_BxTxE + functional.dropout(out, self.dropout, self.training)
        out = self.mlp_out(functional.gelu(self.mlp_in(self.norm_2(x_BxTxE))))
        return x_BxTxE + functional.dropout(out, self.dropout, self.training)


# ------------------------------------------------------------------------------- training


def transformers_model(like: nn.Module, shipped: bool) -> nn.Module:
    """A GPT2LMHeadModel of the shape of another one.

    Args:
        like: gives the shape and, unless `shipped`, everything else.
        shipped: leave activation and dropout at transformers' defaults.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    if not shipped:
        return copy.deepcopy(like)
    names = (
        "vocab_size", "n_positions", "n_layer", "n_head", "n_embd",
        "bos_token_id", "eos_token_id", "pad_token_id",
    )  # fmt: skip
    config = GPT2Config(**{name: getattr(like.config, name) for name in names})
    return GPT2LMHeadModel(config).to(like.device)


def pad_batch(rows: Sequence[Sequence[int]], pad_id: int = 0) -> Batch:
    """Rows as a matrix padded on the right, with attention mask and targets.

    Returns:
        input_ids, attention_mask, labels: B x T; labels are IGNORED where there is padding.
    """
    longest = max(len(row) for row in rows)
    ids_BxT = torch.full((len(rows), longest), pad_id)
    mask_BxT = torch.zeros_like(ids_BxT)
    for place, row in enumerate(rows):
        ids_BxT[place, : len(row)] = torch.tensor(row)
        mask_BxT[place, : len(row)] = 1
    labels_BxT = ids_BxT.masked_fill(mask_BxT == 0, IGNORED)
    return {"input_ids": ids_BxT, "attention_mask": mask_BxT, "labels": labels_BxT}


def plain_epoch(
    model: nn.Module,
    loss_of: Callable[[Batch], Tensor],
    rows: list[list[int]],
    batch_size: int,
    precision: Precision,
) -> Callable[[], None]:
    """A function that trains `model` on all rows once, in a plain loop.

    Args:
        model: what is trained.
        loss_of: its loss on a batch of `pad_batch`.
        rows: ids of each row.
        batch_size: rows in a step.
        precision: of the forward pass.
    """
    device = next(model.parameters()).device
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    loader = DataLoader(rows, batch_size, shuffle=True, collate_fn=pad_batch)

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

    Returns:
        A function that trains on all rows once and returns the seconds of that epoch: what
        Trainer does before and after it, and the optimizer, which it keeps, do not count.

    Raises:
        ImportError: accelerate is not installed.
    """
    from transformers import (
        DataCollatorForLanguageModeling,
        PreTrainedTokenizerFast,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )
    from transformers.trainer_callback import PrinterCallback

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


def synchronize(device: torch.device) -> None:
    """Wait until an accelerator has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


# ------------------------------------------------------------------------------- decoding


def transformers_generate(
    model: nn.Module, prompts: list[list[int]], new_tokens: int, dtype: torch.dtype
) -> Callable[[], list[list[int]]]:
    """A function that continues all prompts by `model.generate`; returns the new tokens."""
    model = copy.deepcopy(model).to(dtype).eval()
    ids_BxT = torch.tensor(prompts, device=model.device)
    mask_BxT = torch.ones_like(ids_BxT)
    model.generation_config.eos_token_id = None  # no row ends early

    def run() -> list[list[int]]:
        with torch.inference_mode():
            found = model.generate(
                ids_BxT,
                attention_mask=mask_BxT,
                max_new_tokens=new_tokens,
                do_sample=True,
                top_k=TOP_K,
            )
        return found[:, ids_BxT.shape[1] :].tolist()

    return run


class OwnProcess:
    """A function in a process of its own.

    The threads of another engine wait busily for their next work: in our process they took half of
    the speed of everybody else, theirs included.
    """

    def __init__(self, make: Callable[..., Callable[[], Any]], *arguments: Any):
        """
        Args:
            make: function of a module; called there, it makes the function.
            arguments: of `make`.

        Raises:
            Exception: whatever `make` raised.
        """
        context = multiprocessing.get_context("spawn")
        self._pipe, far_end = context.Pipe()
        context.Process(target=_serve, args=(far_end, make, arguments), daemon=True).start()
        far_end.close()
        self._answer()

    def __call__(self) -> Any:
        """Call the function once."""
        self._pipe.send(None)
        return self._answer()

    def _answer(self) -> Any:
        result, error = self._pipe.recv()
        if error is not None:
            raise error
        return result


def _serve(pipe: Connection, make: Callable[..., Callable[[], Any]], arguments: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, and ends the pipe
    try:
        run = make(*arguments)
        pipe.send((None, None))
        while True:
            pipe.recv()
            pipe.send((run(), None))
    except EOFError:
        return
    except Exception as error:
        pipe.send((None, error))


class _WithCache(nn.Module):
    """ids and cache in, logits and longer cache out: what an exported graph can express."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, ids_BxT: Tensor, past: list[Tensor]) -> tuple[Tensor, ...]:
        from transformers import DynamicCache

        cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
        found = self.model(ids_BxT, past_key_values=cache, use_cache=True, logits_to_keep=1)
        present = [t for layer in found.past_key_values.layers for t in (layer.keys, layer.values)]
        return found.logits[:, -1], *present


def export_onnx(model: nn.Module, path: Path) -> None:
    """Write a GPT2LMHeadModel with its cache as an ONNX file, for any B, T and P.

    Raises:
        ImportError: onnx or onnxscript is not installed.
    """
    import onnxscript  # noqa: F401  (torch.onnx needs it and would raise an error of its own)
    from torch.export import Dim

    warnings.simplefilter("ignore", FutureWarning)  # of torch about its own exporter
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    config = model.config
    count = 2 * config.n_layer
    shape = (2, config.n_head, 3, config.n_embd // config.n_head)
    cache = [torch.zeros(shape) for _ in range(count)]
    torch.onnx.export(
        _WithCache(copy.deepcopy(model)).eval(),
        (torch.zeros(2, 4, dtype=torch.int64), cache),
        str(path),
        dynamo=True,
        dynamic_shapes=(
            {0: Dim.DYNAMIC, 1: Dim.DYNAMIC},
            [{0: Dim.DYNAMIC, 2: Dim.DYNAMIC}] * count,
        ),
        input_names=["ids", *(f"past_{i}" for i in range(count))],
        output_names=["logits", *(f"present_{i}" for i in range(count))],
        verbose=False,
    )


def _onnx_session(path: Path) -> Any:
    """ONNX Runtime on an exported file, with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def onnx_generate(
    path: Path, config: Any, prompts: list[list[int]], new_tokens: int
) -> Callable[[], list[list[int]]]:
    """A function that continues all prompts by ONNX Runtime; the cache is never copied by us.

    Raises:
        ImportError: onnxruntime is not installed.
    """
    import numpy as np
    import onnxruntime

    session = _onnx_session(path)
    names = [f"{i}" for i in range(2 * config.n_layer)]
    shape = (len(prompts), config.n_head, 0, config.n_embd // config.n_head)

    def run() -> list[list[int]]:
        cache = [onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))] * len(names)
        ids_BxT, new = torch.tensor(prompts), []
        for _ in range(new_tokens):
            binding = session.io_binding()
            binding.bind_cpu_input("ids", ids_BxT.numpy())
            for name, value in zip(names, cache, strict=True):
                binding.bind_ortvalue_input(f"past_{name}", value)
            for output in ("logits", *(f"present_{name}" for name in names)):
                binding.bind_output(output)
            session.run_with_iobinding(binding)
            logits, *cache = binding.get_outputs()
            top = torch.from_numpy(logits.numpy()).topk(TOP_K)
            chosen_Bx1 = torch.multinomial(top.values.softmax(-1), 1)
            ids_BxT = top.indices.gather(1, chosen_Bx1)
            new.append(ids_BxT)
        return torch.cat(new, dim=1).tolist()

    return run


def convert_to_ctranslate2(model_folder: Path, path: Path) -> None:
    """Write a model folder as CTranslate2 reads it.

    Raises:
        ImportError: ctranslate2 is not installed.
    """
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(model_folder)).convert(str(path))


def ctranslate2_generate(
    path: Path, compute_type: str, prompts: list[list[str]], new_tokens: int
) -> Callable[[], list[list[int]]]:
    """A function that continues all prompts (tokens, not ids) by CTranslate2.

    Raises:
        ImportError: ctranslate2 is not installed.
    """
    import ctranslate2

    generator = ctranslate2.Generator(
        str(path), compute_type=compute_type, intra_threads=torch.get_num_threads()
    )

    def run() -> list[list[int]]:
        found = generator.generate_batch(
            prompts,
            min_length=new_tokens,
            max_length=new_tokens,
            sampling_topk=TOP_K,
            include_prompt_in_result=False,  # reads the prompt at once instead of token by token
        )
        return [row.sequences_ids[0] for row in found]

    return run
