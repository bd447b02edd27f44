"""Chunked causal attention gives what torch's own attention gives."""

import pytest
import torch
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

import attention


def random_heads(rows: int, length: int, dtype: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(length)
    return [torch.randn(rows, length, 16, dtype=dtype, requires_grad=True) for _ in range(3)]


# 128 is the chunk: one below, exactly, one above, and several chunks with a rest.
@pytest.mark.parametrize("length", [1, 2, 20, 127, 128, 129, 300])
def test_output_and_gradients_equal_those_of_torch(length):
    heads = random_heads(3, length, torch.float64)
    output = attention.ChunkedCausalAttention.apply(*heads, 0.3)
    expected = functional.scaled_dot_product_attention(*heads, is_causal=True, scale=0.3)
    torch.testing.assert_close(output, expected)
    upstream = torch.randn_like(output)
    ours = torch.autograd.grad(output, heads, upstream)
    theirs = torch.autograd.grad(expected, heads, upstream)
    # Sums over several chunks are kept in fp32.
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [20, 300])
def test_bf16_stays_within_the_rounding_of_bf16(length):
    heads = random_heads(3, length, torch.bfloat16)
    exact = functional.scaled_dot_product_attention(
        *(head.double() for head in heads), is_causal=True
    )
    upstream = torch.randn_like(exact)
    exact_grads = torch.autograd.grad(exact, heads, upstream)
    output = attention.ChunkedCausalAttention.apply(*heads, 16**-0.5)
    grads = torch.autograd.grad(output, heads, upstream.bfloat16())
    for ours, expected in [(output, exact), *zip(grads, exact_grads, strict=True)]:
        error = (ours.double() - expected.double()).norm() / expected.double().norm()
        assert error < 2**-7  # bf16 has 8 significant bits


@pytest.fixture
def models():
    """The same weights with our attention and with transformers' own."""
    pair = []
    for name in (attention.NAME, "sdpa"):
        config = GPT2Config(vocab_size=30, n_positions=300, n_layer=2, n_head=2, n_embd=32)
        config._attn_implementation = name
        torch.manual_seed(0)
        pair.append(GPT2LMHeadModel(config).eval())
    return pair


def test_model_in_bf16_agrees_with_plain_transformers(models):
    ids = torch.randint(30, (3, 200))
    results = []
    for model in models:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(ids, labels=ids).loss
        loss.backward()
        results.append((loss.item(), model.transformer.h[0].attn.c_attn.weight.grad))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-2)
    ours, theirs = results[0][1], results[1][1]
    assert functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.999


def test_attention_mask_and_cache_work_as_in_transformers(models):
    ids = torch.randint(1, 30, (2, 6))
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    ours, theirs = (
        model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0)
        for model in models
    )
    assert torch.equal(ours, theirs)
