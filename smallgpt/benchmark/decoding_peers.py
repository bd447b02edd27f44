"""Other decoders of the same model: `model.generate`, ONNX Runtime, CTranslate2.

    run = transformers_generate(model, prompts, new_tokens=100, dtype=torch.float32)
    run()                       # the new ids of each prompt

A peer that is not installed raises ImportError where it is made.
"""

from __future__ import annotations

import copy
import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GPT2LMHeadModel

TOP_K = 50

Decoding = Callable[[], list[list[int]]]  # continues all prompts, returns the new ids


def transformers_generate(
    model: GPT2LMHeadModel, prompts: list[list[int]], new_tokens: int, dtype: torch.dtype
) -> Decoding:
    """transformers' `model.generate`, on a copy of the model."""
    # The types of transformers are wrong about the first arguments of `to` and `generate`.
    model = copy.deepcopy(model).to(dtype).eval()  # type: ignore[arg-type]
    ids_BxT = torch.tensor(prompts, device=model.device)
    mask_BxT = torch.ones_like(ids_BxT)
    model.generation_config.eos_token_id = None  # no row ends early

    def run() -> list[list[int]]:
        with torch.inference_mode():
            found = model.generate(  # type: ignore[misc]
                ids_BxT,
                attention_mask=mask_BxT,
                max_new_tokens=new_tokens,
                do_sample=True,
                top_k=TOP_K,
            )
        return found[:, ids_BxT.shape[1] :].tolist()

    return run


def onnx_generate(path: Path, config: Any, prompts: list[list[int]], new_tokens: int) -> Decoding:
    """ONNX Runtime on a file of `export_onnx`, with as many threads as torch; copies no cache."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
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
    """Convert a model folder to the format of CTranslate2."""
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(model_folder)).convert(str(path))


def ctranslate2_generate(
    path: Path, compute_type: str, prompts: list[list[str]], new_tokens: int
) -> Decoding:
    """CTranslate2 on a converted folder; its prompts are tokens, not ids."""
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


class OwnProcess:
    """A function that runs in a process of its own; errors there are raised here.

    Threads of another engine wait busily for work: in our process they took half of the speed of
    everybody else, theirs included.
    """

    def __init__(self, make: Callable[..., Callable[[], Any]], *arguments: Any):
        """`make(*arguments)`, `make` at the top of a module, makes the function in the process."""
        context = multiprocessing.get_context("spawn")
        self._pipe, far_end = context.Pipe()
        context.Process(target=_serve, args=(far_end, make, arguments), daemon=True).start()
        far_end.close()
        self._answer()

    def __call__(self) -> Any:
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
