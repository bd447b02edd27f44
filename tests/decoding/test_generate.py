"""Generation against transformers' own forward pass, `model.generate` and logits warpers."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from smallgpt.decoding import generate as generation
from smallgpt.decoding import sampling as sampling_module
from smallgpt.decoding.decoder import Decoder
from smallgpt.decoding.generate import generate_tokens
from smallgpt.decoding.sampling import (
    Sampling,
    UniformNumbers,
    choose_in_arrays,
    sampling_probabilities,
)

PAD, STOP, VOCAB, POSITIONS = 0, 5, 40, 64
GREEDY = Sampling(greedy=True)


def make_model(seed=0, std=0.2, **config):
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(
        GPT2Config(
            **{
                "vocab_size": VOCAB,
                "n_positions": POSITIONS,
                "n_embd": 32,
                "n_layer": 2,
                "n_head": 2,
                "activation_function": "gelu_pytorch_tanh",
                "bos_token_id": STOP,
                "eos_token_id": STOP,
                "pad_token_id": PAD,
                **config,
            }
        )
    ).eval()
    # The usual 0.02 gives nearly flat logits, zero biases and unit norms: nothing to get wrong.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            mean = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
            parameter.normal_(mean, std)
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def decoder(model):
    return Decoder(model)


def random_ids(*lengths, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, VOCAB, (n,), generator=generator).tolist() for n in lengths]


def padded(rows):
    rows = [torch.tensor(row) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)


@torch.no_grad()
def plain_logits(model, row):
    """Next-token logits after each token of one row, by the plain forward pass."""
    return model(torch.tensor([row]), use_cache=False).logits[0]


def logits_along(decoder, rows, prompt_lengths, steps):
    """logits_BxSxV of the decoder: prompts of the given lengths, then the rows' own tokens."""
    prompts = [row[:n] for row, n in zip(rows, prompt_lengths, strict=True)]
    capacity = max(prompt_lengths) + steps
    logits = [decoder.prefill(padded(prompts), torch.tensor(prompt_lengths), capacity)]
    for step in range(steps):
        ids = [row[n + step] for row, n in zip(rows, prompt_lengths, strict=True)]
        logits.append(decoder.step(torch.tensor(ids)))
    return torch.stack(logits, dim=1)


def plain_logits_along(model, rows, prompt_lengths, steps):
    return torch.stack(
        [
            plain_logits(model, row)[n - 1 : n + steps]
            for row, n in zip(rows, prompt_lengths, strict=True)
        ]
    )


def generate_by_transformers(model, prompts, max_new_tokens):
    """Greedy by `model.generate`, prompts padded on the left, each cut after the stop token."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    rows = model.generate(ids, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False)[
        :, longest:
    ].tolist()
    return [row[: row.index(STOP) + 1] if STOP in row else row for row in rows]


# --- the forward pass ---------------------------------------------------------------------------


@pytest.mark.parametrize("prompt_lengths", [[1], [7], [4, 4, 4], [5, 1, 9, 3]])
def test_prefill_and_step_equal_the_plain_forward(model, decoder, prompt_lengths):
    rows = random_ids(*[n + 6 for n in prompt_lengths])
    torch.testing.assert_close(
        logits_along(decoder, rows, prompt_lengths, steps=6),
        plain_logits_along(model, rows, prompt_lengths, steps=6),
        atol=1e-5,
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    "config",
    [
        {"activation_function": "gelu_new"},
        {"activation_function": "gelu"},
        {"activation_function": "relu"},
        {"activation_function": "silu", "n_inner": 48, "n_head": 4, "n_layer": 3},
        {"scale_attn_weights": False, "layer_norm_epsilon": 1e-2},
        {"tie_word_embeddings": False},
    ],
    ids=str,
)
def test_settings_of_the_model_are_followed(config):
    model = make_model(**config)
    rows = random_ids(10, 8)
    torch.testing.assert_close(
        logits_along(Decoder(model), rows, [6, 4], steps=4),
        plain_logits_along(model, rows, [6, 4], steps=4),
        atol=1e-5,
        rtol=1e-5,
    )


@pytest.mark.parametrize(("n_head", "n_embd"), [(1, 32), (2, 32), (5, 30), (6, 36), (8, 48)])
def test_many_rows_whose_heads_are_taken_in_groups(n_head, n_embd):
    model = make_model(n_head=n_head, n_embd=n_embd)
    rows, lengths = random_ids(10, 8, 9, 7) * 5, [6, 4, 1, 3] * 5
    torch.testing.assert_close(
        logits_along(Decoder(model), rows, lengths, steps=4),
        plain_logits_along(model, rows, lengths, steps=4),
        atol=1e-5,
        rtol=1e-5,
    )


def test_cache_grows_past_its_first_block():
    model = make_model(n_positions=600)
    rows = random_ids(570, 560)
    torch.testing.assert_close(
        logits_along(Decoder(model), rows, [20, 10], steps=550),
        plain_logits_along(model, rows, [20, 10], steps=550),
        atol=2e-5,
        rtol=1e-5,
    )


def test_padding_ids_do_not_matter(decoder):
    lengths = torch.tensor([2, 5])
    ids = torch.tensor([[7, 8, 0, 0, 0], [1, 2, 3, 4, 6]])
    other_ids = ids.clone()
    other_ids[0, 2:] = torch.tensor([39, 17, 23])
    next_ids = torch.tensor([9, 9])
    first = decoder.prefill(ids, lengths, 6), decoder.step(next_ids)
    second = decoder.prefill(other_ids, lengths, 6), decoder.step(next_ids)
    torch.testing.assert_close(first, second, atol=0, rtol=0)


@pytest.mark.parametrize("kept", [[0, 1], [2], [0, 3, 2], [3, 0], [1, 0, 3, 2], [0, 18, 2, 17]])
def test_kept_rows_go_on_as_if_alone(model, decoder, kept):
    prompt_lengths = [5, 1, 9, 3] * (1 if max(kept) < 4 else 5)
    rows = random_ids(*[n + 6 for n in prompt_lengths])
    expected = plain_logits_along(model, rows, prompt_lengths, steps=6)
    prompts = [row[:n] for row, n in zip(rows, prompt_lengths, strict=True)]
    decoder.prefill(padded(prompts), torch.tensor(prompt_lengths), capacity=15)
    live = list(range(len(rows)))
    for step in range(6):
        if step == 3:
            decoder.keep(kept)
            live = kept
        ids = torch.tensor([rows[row][prompt_lengths[row] + step] for row in live])
        torch.testing.assert_close(
            decoder.step(ids), expected[live, step + 1], atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.15), (torch.float16, 0.02)])
@pytest.mark.parametrize("copies", [1, 6], ids=["fp32 cache", "half precision cache"])
def test_half_precision_logits_agree(dtype, tolerance, copies):
    model = make_model(std=0.15, n_head=4)
    rows = random_ids(20, 15, 12) * copies
    plain = plain_logits_along(model, rows, [10, 5, 2] * copies, steps=10)
    half = logits_along(Decoder(model, dtype), rows, [10, 5, 2] * copies, steps=10)
    assert half.dtype == torch.float32
    assert plain.std() > 0.5
    torch.testing.assert_close(half, plain, atol=tolerance, rtol=0)


def test_decoder_keeps_its_weights_when_the_model_is_trained():
    model = make_model()
    decoder = Decoder(model)
    rows = random_ids(9)
    before = logits_along(decoder, rows, [5], steps=4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    torch.testing.assert_close(logits_along(decoder, rows, [5], steps=4), before, atol=0, rtol=0)


def test_more_steps_than_the_capacity_raise(decoder):
    decoder.prefill(torch.tensor([[1, 2, 3]]), torch.tensor([3]), capacity=4)
    decoder.step(torch.tensor([4]))
    with pytest.raises(ValueError, match="4 columns"):
        decoder.step(torch.tensor([4]))


def test_unsupported_models_are_refused():
    with pytest.raises(ValueError, match="scale_attn_by_inverse_layer_idx"):
        Decoder(make_model(scale_attn_by_inverse_layer_idx=True))


# --- greedy generation --------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [[1], [8], [6, 6, 6], [3, 11, 1, 7, 5, 2, 9]], ids=str)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_greedy_equals_transformers_generate(lengths, seed):
    model = make_model(seed=seed)
    prompts = random_ids(*lengths, seed=seed)
    ours = generate_tokens(
        Decoder(model), prompts, max_new_tokens=20, stop_ids=[STOP], sampling=GREEDY
    )
    assert ours == generate_by_transformers(model, prompts, max_new_tokens=20)


@pytest.mark.parametrize("steps_per_look", [1, 7])
def test_stop_token_ends_a_row_and_the_others_go_on(decoder, monkeypatch, steps_per_look):
    # On a GPU finished rows are looked for every few steps only; let the CPU do so too.
    monkeypatch.setitem(generation._STEPS_PER_LOOK, "cpu", steps_per_look)
    prompts = random_ids(*range(1, 25))
    unstopped = generate_tokens(decoder, prompts, max_new_tokens=20, stop_ids=[], sampling=GREEDY)
    assert all(len(tokens) == 20 for tokens in unstopped)
    stops = {unstopped[0][3], unstopped[1][8]}
    stopped = generate_tokens(decoder, prompts, max_new_tokens=20, stop_ids=stops, sampling=GREEDY)
    for tokens, full in zip(stopped, unstopped, strict=True):
        ends = [index for index, token in enumerate(full) if token in stops]
        assert tokens == (full[: ends[0] + 1] if ends else full)
    assert len({len(tokens) for tokens in stopped}) > 2


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_results_come_in_prompt_order(decoder, batch_size):
    prompts = random_ids(4, 9, 2, 9, 1, 6, 12, 3)
    alone = [
        generate_tokens(decoder, [prompt], max_new_tokens=8, stop_ids=[STOP], sampling=GREEDY)[0]
        for prompt in prompts
    ]
    assert alone == generate_tokens(
        decoder,
        prompts,
        max_new_tokens=8,
        stop_ids=[STOP],
        sampling=GREEDY,
        batch_size=batch_size,
    )


@pytest.mark.parametrize("steps_per_look", [1, 16])
def test_each_prompt_may_have_a_most_of_its_own(decoder, monkeypatch, steps_per_look):
    monkeypatch.setitem(generation._STEPS_PER_LOOK, "cpu", steps_per_look)
    prompts = random_ids(POSITIONS - 2, 4, 30, POSITIONS - 7, 1, 20)
    most = [2, POSITIONS - 4, 5, 7, 1, 5]  # the first and the fourth fill the positions

    def generated(prompts, most):
        return generate_tokens(
            decoder, prompts, max_new_tokens=most, stop_ids=[STOP], sampling=GREEDY
        )

    alone = [generated([prompt], each)[0] for prompt, each in zip(prompts, most, strict=True)]
    together = generated(prompts, most)
    assert together == alone
    assert max(map(len, together)) > 7 and len(together[4]) == 1
    with pytest.raises(ValueError, match="prompt 3 has 57 tokens; with 8 new ones"):
        generated(prompts, [2, 5, 5, 8, 1, 5])


def test_progress_counts_every_prompt_once(decoder):
    counts = []
    generate_tokens(
        decoder,
        random_ids(*range(1, 12)),
        max_new_tokens=12,
        stop_ids=range(5, 10),
        sampling=GREEDY,
        batch_size=4,
        on_progress=counts.append,
    )
    assert sum(counts) == 11
    assert min(counts) > 0


def test_no_prompts_give_no_rows(decoder):
    assert generate_tokens(decoder, [], max_new_tokens=3, stop_ids=[], sampling=Sampling()) == []


# --- probabilities and sampling -----------------------------------------------------------------


def warped_by_transformers(logits, temperature, top_k, top_p):
    logits = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k > 0:
        logits = TopKLogitsWarper(top_k)(None, logits)
    if top_p < 1:
        logits = TopPLogitsWarper(top_p)(None, logits)
    return logits.softmax(dim=-1)


# Halves as well as arbitrary numbers: equal logits at the border of top-k are the hard case.
logit = st.one_of(
    st.floats(-20, 20, width=32), st.integers(-6, 6).map(lambda n: n / 2), st.just(-torch.inf)
)


@settings(max_examples=300, deadline=None)
@given(
    rows=st.integers(1, 12).flatmap(
        lambda width: st.lists(
            st.lists(logit, min_size=width, max_size=width).filter(lambda row: max(row) > -21),
            min_size=1,
            max_size=4,
        )
    ),
    temperature=st.floats(0.05, 5),
    top_k=st.integers(0, 15),
    top_p=st.one_of(st.just(1.0), st.floats(0.01, 1)),
)
# Shares that meet the border of top-p exactly, and a p too small for any share.
@example(rows=[[0.0, 0.0, 0.0, 0.0]], temperature=1.0, top_k=0, top_p=0.5)
@example(rows=[[0.0, 1.0, 2.0]], temperature=1.0, top_k=0, top_p=1e-9)
# Logits that are equal beside the largest one, and are not.
@example(rows=[[0.0, 1.0, 5.317538839603264e-19]], temperature=1.0, top_k=2, top_p=1.0)
def test_probabilities_equal_the_warpers_of_transformers(rows, temperature, top_k, top_p):
    logits = torch.tensor(rows)
    torch.testing.assert_close(
        sampling_probabilities(logits, Sampling(False, temperature, top_k, top_p)),
        warped_by_transformers(logits, temperature, top_k, top_p),
        atol=1e-6,
        rtol=1e-5,
    )


@given(
    row=st.lists(
        st.floats(-(2.0**127), 2.0**127, width=32)
        | st.floats(-20, 20, width=32)
        | st.just(-torch.inf),
        min_size=2,
        max_size=9,
    ).filter(lambda row: max(row) > -torch.inf),
    temperature=st.floats(-320, 308).map(lambda power: 10**power) | st.sampled_from([1e-45, 1e30]),
    top_k=st.integers(0, 4),
    top_p=st.sampled_from([1.0, 0.5, 1e-9]),
)
@example(row=[90.0, 100.0], temperature=1e-40, top_k=0, top_p=1.0)
@example(row=[90.0, 100.0, -torch.inf], temperature=1e-45, top_k=2, top_p=0.5)
@example(row=[90.0, 100.0, -torch.inf], temperature=1e300, top_k=2, top_p=0.5)
def test_any_temperature_gives_probabilities_and_a_tiny_one_is_greedy(
    row, temperature, top_k, top_p
):
    if not temperature:  # 10**-330 and the like
        return
    logits = torch.tensor([row])
    probs = sampling_probabilities(logits, Sampling(False, temperature, top_k, top_p))
    assert probs.sum().item() == pytest.approx(1, abs=1e-5)
    assert (probs[logits == -torch.inf] == 0).all()
    largest = logits.amax()
    rest = logits[logits < largest]
    if temperature < 1e-30 and (largest - rest > 1e-20).all():
        assert (probs[logits < largest] == 0).all()
    for number in (0.0, 0.5, 1 - 2**-24):
        chosen = sampling_module.choose_tokens(
            logits, Sampling(False, temperature, top_k, top_p), torch.tensor([number])
        )
        assert probs[0, chosen] > 0


@given(
    seed=st.integers(0, 2**40),
    temperature=st.floats(0.05, 5),
    top_k=st.integers(0, 15),
    top_p=st.sampled_from([1.0, 0.9, 0.3, 1e-9]),
    greedy=st.booleans(),
)
def test_arrays_and_tensors_choose_the_same_tokens_by_the_same_numbers(
    seed, temperature, top_k, top_p, greedy
):
    logits_BxV = np.random.default_rng(seed).normal(size=(6, 12)).astype(np.float32)
    uniform_B = UniformNumbers(seed).draw(6)
    drawn_B = torch.rand(6, generator=torch.Generator().manual_seed(seed))
    assert uniform_B.tolist() == drawn_B.tolist()
    sampling = Sampling(greedy, temperature, top_k, top_p)
    expected_B = sampling_module.choose_tokens(torch.tensor(logits_BxV), sampling, drawn_B)
    assert choose_in_arrays(logits_BxV, sampling, uniform_B).tolist() == expected_B.tolist()


def test_greedy_probability_is_all_on_the_largest_logit():
    probs = sampling_probabilities(torch.tensor([[1.0, 3.0, 2.0], [0.0, -1.0, -2.0]]), GREEDY)
    assert probs.tolist() == [[0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(top_k=0),
        Sampling(top_k=0, temperature=0.5),
        Sampling(top_k=7),
        Sampling(top_k=0, top_p=0.7),
        Sampling(temperature=1.5, top_k=12, top_p=0.8),
    ],
    ids=str,
)
def test_sampling_follows_the_distribution(sampling):
    model = make_model(std=0.12)
    prompt = random_ids(6)[0]
    expected = warped_by_transformers(
        plain_logits(model, prompt)[-1:], sampling.temperature, sampling.top_k, sampling.top_p
    )[0].double()
    draws = 20_000
    rows = generate_tokens(
        Decoder(model),
        [prompt] * draws,
        max_new_tokens=1,
        stop_ids=[],
        sampling=sampling,
        generator=torch.Generator().manual_seed(0),
        batch_size=2_000,
    )
    counts = torch.bincount(torch.tensor(rows)[:, 0], minlength=VOCAB).double()
    assert counts[expected == 0].sum() == 0
    # The chi-square approximation wants about five expected draws in each cell.
    rare = expected * draws < 5
    observed = torch.cat([counts[~rare], counts[rare].sum()[None]])
    awaited = torch.cat([expected[~rare], expected[rare].sum()[None]])
    possible = awaited > 0
    observed, awaited = observed[possible], awaited[possible] / awaited.sum()
    assert len(awaited) >= 5
    assert chisquare(observed, awaited * draws).pvalue > 1e-3


def test_second_token_follows_the_first():
    """The joint distribution of two tokens is the product of the model's conditionals."""
    model = make_model(std=0.12)
    prompt = random_ids(4)[0]
    sampling = Sampling(top_k=3)
    rows = generate_tokens(
        Decoder(model),
        [prompt] * 10_000,
        max_new_tokens=2,
        stop_ids=[],
        sampling=sampling,
        generator=torch.Generator().manual_seed(1),
        batch_size=2_000,
    )
    expected = {}
    first = warped_by_transformers(plain_logits(model, prompt)[-1:], 1.0, 3, 1.0)[0]
    for a in first.nonzero()[:, 0].tolist():
        second = warped_by_transformers(plain_logits(model, [*prompt, a])[-1:], 1.0, 3, 1.0)[0]
        for b in second.nonzero()[:, 0].tolist():
            expected[a, b] = float(first[a] * second[b])
    counts = dict.fromkeys(expected, 0)
    for a, b in rows:
        counts[a, b] += 1
    total = sum(expected.values())
    awaited = [10_000 * share / total for share in expected.values()]
    assert min(awaited) > 5
    assert chisquare(list(counts.values()), awaited).pvalue > 1e-3


def sample(decoder, prompts, seed, **options):
    return generate_tokens(
        decoder,
        prompts,
        **{
            "max_new_tokens": 15,
            "stop_ids": [STOP],
            "sampling": Sampling(temperature=2.0),
            "generator": torch.Generator().manual_seed(seed),
            **options,
        },
    )


def test_seed_reproducibility(decoder):
    prompts = random_ids(3, 8, 5, 5)
    assert sample(decoder, prompts, seed=3) == sample(decoder, prompts, seed=3)
    assert sample(decoder, prompts, seed=3) != sample(decoder, prompts, seed=4)


def test_batch_size_does_not_change_the_samples(decoder):
    prompts = random_ids(3, 8, 5, 5, 1, 12, 7)
    together = sample(decoder, prompts, seed=3)
    assert sample(decoder, prompts, seed=3, batch_size=1) == together
    assert sample(decoder, prompts, seed=3, batch_size=3) == together


def test_equal_prompts_get_different_samples(decoder):
    rows = sample(decoder, random_ids(4) * 10, seed=0)
    assert len({tuple(row) for row in rows}) == 10


@pytest.mark.parametrize(
    "sampling",
    [GREEDY, Sampling(top_k=0), Sampling(top_k=8), Sampling(top_k=50, top_p=0.95)],
    ids=str,
)
def test_forbidden_ids_never_appear(decoder, sampling):
    forbidden = {PAD, 1, 2, *range(20, 39)}
    rows = sample(
        decoder,
        random_ids(*[5] * 50),
        seed=0,
        stop_ids=[],
        sampling=sampling,
        forbidden_ids=forbidden,
    )
    produced = {token for row in rows for token in row}
    assert produced
    assert not produced & forbidden


def test_one_token_left_is_always_chosen(decoder):
    rows = sample(decoder, random_ids(5), seed=0, forbidden_ids=set(range(VOCAB)) - {7})
    assert rows == [[7] * 15]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=2.0)], ids=str)
def test_gpu_gives_the_tokens_of_the_cpu(sampling):
    prompts = random_ids(*range(1, 25))
    on_cpu = sample(Decoder(make_model()), prompts, seed=0, sampling=sampling)
    on_gpu = sample(Decoder(make_model().cuda()), prompts, seed=0, sampling=sampling)
    assert on_gpu == on_cpu


# --- limits -------------------------------------------------------------------------------------


def test_prompt_and_new_tokens_may_fill_all_positions(model, decoder):
    prompts = random_ids(POSITIONS - 10, 5)
    ours = generate_tokens(decoder, prompts, max_new_tokens=10, stop_ids=[STOP], sampling=GREEDY)
    assert ours == generate_by_transformers(model, prompts, max_new_tokens=10)


def test_too_long_prompt_raises(decoder):
    with pytest.raises(ValueError, match="prompt 1 has 55 tokens; with 10 new ones"):
        sample(decoder, random_ids(5, POSITIONS - 9), seed=0, max_new_tokens=10)


def test_empty_prompt_raises(decoder):
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        sample(decoder, [[3], []], seed=0)


def test_all_tokens_forbidden_raises(decoder):
    with pytest.raises(ValueError, match="forbidden"):
        sample(decoder, [[3]], seed=0, forbidden_ids=range(VOCAB))


def test_model_with_damaged_weights_raises():
    model = make_model()
    with torch.no_grad():
        model.transformer.ln_f.weight[0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        sample(Decoder(model), [[3]], seed=0)


def test_model_whose_logits_go_astray_while_it_generates_raises(model):
    class Astray(Decoder):
        def step(self, ids_B):
            return super().step(ids_B) * torch.nan

    with pytest.raises(ValueError, match="not finite"):
        sample(Astray(model), [[3]], seed=0)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.5},
    ],
    ids=str,
)
def test_senseless_sampling_raises(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Sampling(**options)
