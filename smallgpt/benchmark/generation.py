"""Generation speed, in turns with other decoders of the same model."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from smallgpt.benchmark.bench import Bench, Measure, as_gpt2
from smallgpt.benchmark.comparison import Comparison, Findings
from smallgpt.benchmark.decoding_peers import (
    TOP_K,
    OwnProcess,
    convert_to_ctranslate2,
    ctranslate2_generate,
    onnx_generate,
    transformers_generate,
)
from smallgpt.benchmark.onnx_export import export_onnx
from smallgpt.decoding.decoder import Decoder
from smallgpt.decoding.generate import generate_tokens
from smallgpt.decoding.sampling import Sampling
from smallgpt.model.folder import TrainedModel

THREADS_REST = 0.5  # seconds until the threads of another engine sleep (OpenMP's wait for 0.2)


def measure_generation(bench: Bench, findings: Findings) -> None:
    """Compare at each batch size; ours in the precision of the device and in fp32."""
    trained, sizes = bench.saved_model(), bench.sizes
    dtypes = {bench.precision.name: bench.precision.dtype, "fp32": torch.float32}
    model = as_gpt2(trained.model)
    decoders = {f"ours {name}": Decoder(model, dtype) for name, dtype in dtypes.items()}
    for batch in sizes.batches_full if bench.settings.full else sizes.batches:
        found = compare_generation(bench, trained, decoders, batch)
        findings.add(found)
        for mine in found.entries[: len(decoders)]:
            about = f"batch {batch}, {mine.name.removeprefix('ours ')} against"
            for other in ("generate fp32", "CTranslate2", "ONNX Runtime"):
                findings.reach(f"{about} {other}", found.lead(other, of=mine))
            findings.reach(f"{about} the best generate", found.lead("generate", of=mine))


def compare_generation(
    bench: Bench, trained: TrainedModel, decoders: dict[str, Decoder], batch: int
) -> Comparison:
    """New tokens per second of all decoders; all rows of a batch run to the full length."""
    prompt, new_tokens = bench.sizes.prompt, bench.sizes.new_tokens
    generator = torch.Generator().manual_seed(batch)
    low, high = len(trained.vocabulary.special_ids), len(trained.vocabulary) - 10
    prompts = torch.randint(low, high, (batch, prompt), generator=generator).tolist()

    def ours(decoder: Decoder) -> Measure:
        run = partial(
            generate_tokens,
            decoder,
            prompts,
            max_new_tokens=new_tokens,
            stop_ids=[],
            sampling=Sampling(top_k=TOP_K),
            generator=generator,
            forbidden_ids=[trained.vocabulary.pad_id],
            batch_size=batch,
        )
        return bench.rate(run, batch * new_tokens)

    contenders = {name: ours(decoder) for name, decoder in decoders.items()}
    peers = decoding_peers(bench, trained, prompts)
    entries = bench.take_turns(f"generation, batch {batch}", contenders, peers)
    title = f"Generation, batch {batch}, {new_tokens} new tokens after {prompt}, top-k {TOP_K}"
    return Comparison(title, "tokens/s", list(entries.values()))


def decoding_peers(
    bench: Bench, trained: TrainedModel, prompts: list[list[int]]
) -> dict[str, Callable[[], Measure]]:
    """Other decoders by name, each a function that makes its contender (new tokens per second)."""
    new_tokens, folder = bench.sizes.new_tokens, bench.folder
    amount, model = len(prompts) * new_tokens, as_gpt2(trained.model)

    def transformers(dtype: torch.dtype) -> Measure:
        run = transformers_generate(model, prompts, new_tokens, dtype)
        return bench.rate(run, amount)

    def apart(make: Callable[..., Any], *arguments: Any) -> Measure:
        measure = bench.rate(OwnProcess(make, *arguments), amount)

        def then_rest() -> float:
            rate = measure()
            time.sleep(THREADS_REST)
            return rate

        return then_rest

    def onnx() -> Measure:
        path = folder / "model.onnx"
        if not path.exists():
            export_onnx(model, path)
        return apart(onnx_generate, path, model.config, prompts, new_tokens)

    def ctranslate2(compute_type: str) -> Measure:
        path = folder / "ctranslate2"
        if not path.exists():
            convert_to_ctranslate2(trained.folder, path)
        words = [[trained.vocabulary.tokens[index] for index in prompt] for prompt in prompts]
        return apart(ctranslate2_generate, path, compute_type, words, new_tokens)

    found = {"generate fp32": lambda: transformers(torch.float32)}
    if bench.precision.name == "bf16":
        found["generate bf16"] = lambda: transformers(torch.bfloat16)
    if bench.settings.full and bench.device.type == "cpu":
        found["ONNX Runtime fp32"] = onnx
        found["CTranslate2 fp32"] = lambda: ctranslate2("float32")
        found["CTranslate2 int8"] = lambda: ctranslate2("int8")
    return found
