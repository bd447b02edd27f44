"""Generation speed, in turns with other decoders of the same model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from smallgpt.benchmark.bench import Bench, Measure, as_gpt2
from smallgpt.benchmark.classification import rested
from smallgpt.benchmark.comparison import Comparison, Findings
from smallgpt.benchmark.decoding_peers import (
    TOP_K,
    OwnProcess,
    ctranslate2_generate,
    onnx_generate,
    transformers_generate,
)
from smallgpt.decoding.generate import generate_tokens
from smallgpt.decoding.sampling import Sampling
from smallgpt.decoding.token_decoder import TokenDecoder
from smallgpt.engines.trained import TrainedModel


def measure_generation(bench: Bench, findings: Findings) -> None:
    """Compare at each batch size; ours by each engine and precision."""
    sizes = bench.sizes
    trained = bench.saved_model()
    ours = bench.engines()
    for batch in sizes.batches_full if bench.settings.full else sizes.batches:
        decoders = {name: each.engines.decoder(batch, 0) for name, each in ours.items()}
        found = compare_generation(bench, trained, decoders, batch)
        findings.add(found)
        for peers in ("generate fp32", "generate bf16", "generate"):
            which = "the best generate" if peers == "generate" else peers
            findings.reach(f"batch {batch}, best against {which}", found.lead_of_ours(peers=peers))
        if bench.settings.full and found.is_complete:
            findings.reach(f"batch {batch}, best against the best peer", found.lead_of_ours())
            fp32 = found.lead_of_ours("fp32", "fp32")
            findings.reach(f"batch {batch}, fp32 against the best fp32 peer", fp32)


def compare_generation(
    bench: Bench, trained: TrainedModel, decoders: dict[str, TokenDecoder], batch: int
) -> Comparison:
    """New tokens per second of all decoders; all rows of a batch run to the full length."""
    prompt, new_tokens = bench.sizes.prompt, bench.sizes.new_tokens
    generator = torch.Generator().manual_seed(batch)
    low, high = len(trained.vocabulary.special_ids), len(trained.vocabulary) - 10
    prompts = torch.randint(low, high, (batch, prompt), generator=generator).tolist()

    def ours(decoder: TokenDecoder) -> Measure:
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
    new_tokens = bench.sizes.new_tokens
    amount, model = len(prompts) * new_tokens, as_gpt2(trained.model)

    def transformers(dtype: torch.dtype) -> Measure:
        run = transformers_generate(model, prompts, new_tokens, dtype)
        return bench.rate(run, amount)

    def apart(make: Callable[..., Any], *arguments: Any) -> Measure:
        return rested(bench.rate(OwnProcess(make, *arguments), amount))

    def onnx(int8: bool) -> Measure:
        path = bench.plain_graph(model, int8)
        return apart(onnx_generate, path, model.config, prompts, new_tokens)

    def ctranslate2(compute_type: str) -> Measure:
        path = bench.ctranslate2_folder()
        words = [[trained.vocabulary.tokens[index] for index in prompt] for prompt in prompts]
        return apart(ctranslate2_generate, path, compute_type, words, new_tokens)

    found = {"generate fp32": lambda: transformers(torch.float32)}
    if bench.precision.name == "bf16":
        found["generate bf16"] = lambda: transformers(torch.bfloat16)
    if bench.settings.full and bench.device.type == "cpu":
        found["ONNX Runtime fp32"] = lambda: onnx(False)
        found["ONNX Runtime int8"] = lambda: onnx(True)
        found["CTranslate2 fp32"] = lambda: ctranslate2("float32")
        found["CTranslate2 int8"] = lambda: ctranslate2("int8")
    return found
