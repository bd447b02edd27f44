"""The peers that decode continue as we do; a peer in a process of its own."""

import os
from functools import partial

import pytest
import torch

from smallgpt.benchmark import decoding_peers
from smallgpt.benchmark.onnx_export import export_onnx
from smallgpt.decoding.decoder import Decoder
from smallgpt.decoding.generate import generate_tokens
from smallgpt.decoding.sampling import Sampling
from smallgpt.model.folder import save_model_folder


@pytest.mark.parametrize("peer", ["generate", "ONNX Runtime", "CTranslate2"])
def test_a_decoder_without_choice_continues_as_ours(peer, make_bench, monkeypatch):
    needed = {"ONNX Runtime": ["onnxscript", "onnxruntime"], "CTranslate2": ["ctranslate2"]}
    for name in needed.get(peer, []):
        pytest.importorskip(name)
    monkeypatch.setattr(decoding_peers, "TOP_K", 1)
    bench, prompts = make_bench(full=True), [[2, 17, 40], [2, 9, 77]]
    trained, new_tokens = bench.saved_model(), 12
    with torch.no_grad():  # apart, or rounding would choose
        trained.model.transformer.wte.weight.mul_(20)
    if peer == "generate":
        run = decoding_peers.transformers_generate(
            trained.model, prompts, new_tokens, torch.float32
        )
    elif peer == "ONNX Runtime":
        path = bench.folder / "model.onnx"
        export_onnx(trained.model, path)
        run = decoding_peers.onnx_generate(path, trained.model.config, prompts, new_tokens)
    else:
        folder = bench.folder / "strong"
        save_model_folder(
            trained.model, folder, trained.vocabulary, trained.settings, codebook=None
        )
        path = bench.folder / "ctranslate2"
        decoding_peers.convert_to_ctranslate2(folder, path)
        words = [[trained.vocabulary.tokens[index] for index in prompt] for prompt in prompts]
        run = decoding_peers.ctranslate2_generate(path, "float32", words, new_tokens)
    ours = generate_tokens(
        Decoder(trained.model),
        prompts,
        max_new_tokens=new_tokens,
        stop_ids=[],
        sampling=Sampling(greedy=True),
    )
    assert run() == ours


def test_function_in_a_process_of_its_own_answers_again_and_again_and_fails_here():
    call = decoding_peers.OwnProcess(partial, os.getpid)
    assert call() == call() != os.getpid()
    with pytest.raises(ZeroDivisionError):
        decoding_peers.OwnProcess(divmod, 1, 0)
    fails_later = decoding_peers.OwnProcess(partial, divmod, 1, 0)
    with pytest.raises(ZeroDivisionError):
        fails_later()
