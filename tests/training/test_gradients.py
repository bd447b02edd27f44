"""Gradients of the objective, packed and on a padded matrix: those of transformers' own loss."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from plain_settings import plain_settings

from smallgpt.model.build import build_model
from smallgpt.model.forward import Forward, recompute_blocks
from smallgpt.model.hardware import Precision
from smallgpt.options.training import TrainSettings
from smallgpt.rows.dataset import TokenLabelDataset
from smallgpt.rows.reading import dataset_from_records
from smallgpt.tokens.text_tokenizer import TextTokenizer
from smallgpt.tokens.vocabulary import Vocabulary
from smallgpt.training.gradients import TokenStep, make_step
from smallgpt.training.objective import Objective

ROOT = Path(__file__).parents[2]
SETTINGS = plain_settings(
    n_layer=2, n_head=2, n_embd=16, n_positions=128, max_length=128, batch_size=8, dropout=0.0
)
FP32 = Precision("fp32", "tests")
NO_SCALER = torch.amp.GradScaler("cpu", enabled=False)
WAYS = ("packed", "padded")  # as on a CPU and as elsewhere


@pytest.fixture(scope="module")
def rows(vocabulary) -> TokenLabelDataset:
    """24 rows of 6 to 100 tokens, every fourth without a label."""
    random = np.random.default_rng(0)
    records = []
    for number in range(24):
        length = random.integers(3, 98)
        record = {"tokens": " ".join(random.choice(list("ABCD"), size=length))}
        if number % 4:
            record["label"] = number % 2
        records.append(record)
    return dataset_from_records(records, vocabulary, max_length=128)


def make(kind: str, rows: TokenLabelDataset, settings: TrainSettings, precision=FP32):
    model = build_model(settings, rows.vocabulary).train()
    objective = Objective(model, rows, settings, precision)
    objective.forward._packs &= kind == "packed"
    return TokenStep(objective, NO_SCALER)


def gradients(step, batches: list[np.ndarray]) -> tuple[float, list[torch.Tensor]]:
    """The negative log likelihood and all gradients, which are then cleared."""
    nll = float(step.add_gradients(batches))
    found = [parameter.grad.clone() for parameter in step.objective.model.parameters()]
    step.clear_gradients()
    return nll, found


def assert_close(ours: list[torch.Tensor], theirs: list[torch.Tensor], atol: float = 1e-6) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=atol, rtol=1e-4)


def reference(model, rows: TokenLabelDataset, indices, weight: float):
    """Loss and gradients from transformers' logits, row by row."""
    model.zero_grad()
    numerator, denominator, total = 0.0, 0.0, 0.0
    for number in indices:
        ids = torch.from_numpy(rows.row(number).astype(np.int64))
        nll = torch.nn.functional.cross_entropy(
            model(ids[None]).logits[0, :-1], ids[1:], reduction="none"
        )
        weights = torch.ones(len(nll))
        if rows.classes_N[number] >= 0:
            weights[-2] = weight  # ... <CLS> [<CLS_k>] <EOS>
        numerator, denominator = numerator + (nll * weights).sum(), denominator + weights.sum()
        total += float(nll.detach().sum())
    (numerator / denominator).backward()
    found = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    return total, found


@pytest.mark.parametrize("kind", WAYS)
@pytest.mark.parametrize("weight", [1.0, 7.0, 0.0])
def test_loss_and_gradients_are_those_of_transformers(kind, rows, weight):
    settings = replace(SETTINGS, label_loss_weight=weight)
    indices = np.array([3, 0, 17, 4, 9])  # fewer than batch_size: the last batch of an epoch
    model = build_model(settings, rows.vocabulary).train()
    expected_nll, expected = reference(model, rows, indices, weight)
    nll, found = gradients(make(kind, rows, settings), [indices])
    assert nll == pytest.approx(expected_nll, rel=1e-5)
    assert_close(found, expected)


@pytest.mark.parametrize("weight", [1.0, 7.0])
def test_rows_with_their_label_first_count_by_their_own_tokens(rows, weight):
    settings = replace(SETTINGS, label_loss_weight=weight, label_first_share=0.5)
    indices = np.arange(20)
    torch.manual_seed(0)
    first = (torch.rand(20) < 0.5).numpy() & (rows.classes_N[:20] >= 0)
    assert 0 < first.sum() < (rows.classes_N[:20] >= 0).sum()
    model = build_model(settings, rows.vocabulary).train()
    step = make_step(model, rows, settings, FP32, NO_SCALER, print)
    total = divisor = 0.0
    for number in indices:
        ids = rows.row(number).tolist()
        weights = [1.0] * (len(ids) - 1)
        if first[number]:
            *body, cls, label, _ = ids
            ids, weights = [label, *body, cls], weights[:-1]
        elif rows.classes_N[number] >= 0:
            weights[-2] = weight
        logits = model(torch.tensor([ids])).logits[0, :-1]
        nll = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
        total, divisor = total + (nll * torch.tensor(weights)).sum(), divisor + sum(weights)
    (total / divisor).backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    step.clear_gradients()
    for batches in ([indices], [indices[:7], indices[7:]]):
        torch.manual_seed(0)
        assert_close(gradients(step, batches)[1], expected)
        assert step.label_first_count == first.sum()


@pytest.mark.parametrize("kind", WAYS)
@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_early_label_is_asked_for_at_each_place_among_labels_alone(kind, class_weights, rows):
    settings = replace(SETTINGS, class_weights=class_weights)
    indices = np.arange(12)
    step = make(kind, rows, settings)
    nll, expected = gradients(step, [indices])
    divisor = step.objective.total_weight([indices], [None])
    model, early = step.objective.model, 0.0
    label_ids = rows.vocabulary.label_ids
    for number in indices[rows.classes_N[indices] >= 0]:
        *body_and_cls, _, _ = rows.row(number).tolist()
        logits = model(torch.tensor([body_and_cls])).logits[0][:, label_ids]
        target = torch.full((len(logits),), int(rows.classes_N[number]))
        weight = float(step.objective.class_weights_L[rows.classes_N[number]])
        early = early + weight * torch.nn.functional.cross_entropy(logits, target)
    (early * 30 / divisor).backward()
    expected = [one + p.grad for one, p in zip(expected, model.parameters(), strict=True)]
    step = make(kind, rows, replace(settings, early_label_weight=30))
    for batches in ([indices], [indices[:5], indices[5:6], indices[6:]]):
        found_nll, found = gradients(step, batches)
        assert found_nll == pytest.approx(nll, rel=1e-5)  # of tokens, unweighted
        assert_close(found, expected)


@pytest.mark.parametrize("kind", WAYS)
def test_rows_with_their_label_first_or_without_one_are_not_asked_early(kind, rows):
    found = []
    for weight in (0.0, 30.0):
        objective = make(kind, rows, replace(SETTINGS, early_label_weight=weight)).objective
        found.append(gradients(TokenStep(objective, NO_SCALER, 1.0), [np.arange(8)])[1])
    assert_close(*found)


@pytest.mark.parametrize("kind", WAYS)
def test_loss_of_a_row_is_the_loss_that_transformers_computes_from_labels(kind, rows):
    step = make(kind, rows, SETTINGS)
    for number in (0, 1, 2):
        ids = torch.from_numpy(rows.row(number).astype(np.int64))[None]
        expected = step.objective.model(ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        assert float(step.add_gradients([np.array([number])])) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", WAYS)
def test_accumulated_gradients_equal_one_large_batch(kind, rows):
    settings = replace(SETTINGS, batch_size=24)
    step = make(kind, rows, settings)
    nll, expected = gradients(step, [np.arange(24)])
    parts_nll, found = gradients(step, np.array_split(np.arange(24), 5))
    assert parts_nll == pytest.approx(nll, rel=1e-5)
    assert_close(found, expected)


@pytest.mark.parametrize("kind", WAYS)
def test_losses_of_many_tokens_are_those_of_all_at_once(kind, rows, monkeypatch):
    expected = gradients(make(kind, rows, SETTINGS), [np.arange(8)])
    monkeypatch.setattr("smallgpt.training.objective._MOST_LOGITS", 7 * len(rows.vocabulary))
    found = gradients(make(kind, rows, SETTINGS), [np.arange(8)])
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert_close(found[1], expected[1])


@pytest.mark.parametrize("kind", WAYS)
def test_a_step_leaves_nothing_to_the_next(kind, rows):
    step = make(kind, rows, SETTINGS)
    first = gradients(step, [np.arange(8)])
    gradients(step, [np.arange(8, 24, 2)])
    again = gradients(step, [np.arange(8)])
    assert again[0] == pytest.approx(first[0], rel=1e-6)
    assert_close(again[1], first[1])


def test_both_ways_agree_in_bf16(rows):
    bf16 = Precision("bf16", "tests")
    (nll, packed), (padded_nll, padded) = (
        gradients(make(kind, rows, SETTINGS, bf16), [np.arange(8)]) for kind in WAYS
    )
    assert padded_nll == pytest.approx(nll, rel=5e-3)
    for one, other in zip(packed, padded, strict=True):
        assert (one - other).norm() <= 0.05 * other.norm() + 1e-6


@pytest.mark.long  # compiling takes half a minute
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler: no g++")
def test_compiled_step_computes_the_same(rows):
    settings = replace(SETTINGS, n_layer=1)
    said = []
    model = build_model(settings, rows.vocabulary).train()
    expected = gradients(make("packed", rows, settings), [np.arange(8)])
    before = torch.get_rng_state()
    step = make_step(model, rows, replace(settings, compile="on"), FP32, NO_SCALER, said.append)
    assert torch.equal(torch.get_rng_state(), before)  # the first try draws nothing from a run
    nll, found = gradients(step, [np.arange(8)])
    assert [line.split(":")[0] for line in said] == ["torch.compile"] and step.compiled
    assert nll == pytest.approx(expected[0], rel=1e-5)
    assert_close(found, expected[1])


@pytest.mark.long
def test_run_without_a_compiler_goes_on(tmp_path):
    program = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "sys.path.insert(0, 'tests/training')\n"
        "from test_gradients import *\n"
        "from smallgpt.tokens.vocabulary import Vocabulary\n"
        "special = ['<PAD>', '<UNK>', '<CLS>', '<EOS>']\n"
        "words = Vocabulary([*special, 'A', 'B', '<CLS_0>', '<CLS_1>'])\n"
        "records = [{'tokens': 'A B A', 'label': 0}, {'tokens': 'B B', 'label': 1}]\n"
        "rows = dataset_from_records(records, words, max_length=128)\n"
        "said = []\n"
        "settings = replace(SETTINGS, n_layer=1, compile='on')\n"
        "model = build_model(settings, words).train()\n"
        "step = make_step(model, rows, settings, FP32, NO_SCALER, said.append)\n"
        "found = gradients(step, [np.arange(2)])\n"
        "expected = gradients(make('packed', rows, settings), [np.arange(2)])\n"
        "assert abs(found[0] - expected[0]) < 1e-4\n"
        "assert_close(found[1], expected[1])\n"
        "assert len(said) == 2 and 'torch.compile does not work here' in said[1], said\n"
        "assert not step.compiled\n"
    )
    environment = {
        **os.environ,
        "CXX": str(tmp_path / "no-such-compiler"),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------- token dropout


def test_dropped_tokens_are_a_share_of_the_body_and_never_special(rows):
    objective = make("packed", rows, replace(SETTINGS, token_dropout=0.3)).objective
    ids_N = torch.from_numpy(rows.gather(np.arange(24))[0]).repeat(20)
    dropped_N = objective.drop_tokens(ids_N)
    body_N = torch.isin(ids_N, torch.tensor(rows.vocabulary.encode("A B C D")))
    assert torch.equal(dropped_N[~body_N], ids_N[~body_N])
    share = (dropped_N == rows.vocabulary.unk_id)[body_N].float().mean().item()
    assert share == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize(("dropout", "token_dropout"), [(0.0, None), (0.2, 0.0)])
def test_no_tokens_are_dropped_where_none_should_be(rows, dropout, token_dropout):
    settings = replace(SETTINGS, dropout=dropout, token_dropout=token_dropout)
    ids_N = torch.from_numpy(rows.gather(np.arange(24))[0])
    assert torch.equal(make("packed", rows, settings).objective.drop_tokens(ids_N), ids_N)


# ------------------------------------------------------------------------------- the choice


@pytest.mark.parametrize("wanted", ["auto", "off"])
def test_nothing_is_compiled_unless_asked_for(rows, wanted):
    model, said = build_model(SETTINGS, rows.vocabulary), []
    settings = replace(SETTINGS, compile=wanted, num_epochs=10**9)
    step = make_step(model, rows, settings, FP32, NO_SCALER, said.append)
    assert (type(step), step.compiled, said) == (TokenStep, False, [])


# ---- rows of text --------------------------------------------------------------------


@pytest.fixture(scope="module")
def text_rows(text_vocabulary) -> TokenLabelDataset:
    """Instructions, long texts and labelled texts beside one another."""
    records = [
        {"instruction": "Say fox.", "output": "fox"},
        {"text": "the quick brown fox jumps over the lazy dog"},
        {"instruction": "Say it.", "input": "the dog is lazy", "output": "the lazy dog is it"},
        {"text": "房间很好", "label": "good"},
        {"instruction": "好世界", "output": "你好 世界"},
    ]
    return dataset_from_records(records, text_vocabulary, max_length=100)


def transformers_loss(model, rows: TokenLabelDataset, indices: list[int]) -> torch.Tensor:
    """The loss of transformers for a padded batch, prompts and padding marked by -100."""
    longest = max(int(rows.lengths_N[index]) for index in indices)
    ids = torch.full((len(indices), longest), rows.vocabulary.pad_id)
    labels = torch.full_like(ids, -100)
    for place, index in enumerate(indices):
        row = torch.from_numpy(rows.row(index).astype(np.int64))
        ids[place, : len(row)] = row
        labels[place, rows.prompt_lengths_N[index] : len(row)] = row[rows.prompt_lengths_N[index] :]
    return model(ids, attention_mask=(ids != rows.vocabulary.pad_id).long(), labels=labels).loss


@pytest.mark.parametrize("kind", WAYS)
@pytest.mark.parametrize("indices", [[0], [0, 2, 4], [0, 1, 2, 3, 4]])
def test_prompts_are_read_but_not_learned(kind, text_rows, indices):
    settings = replace(SETTINGS, label_loss_weight=1.0)
    model = build_model(settings, text_rows.vocabulary).train()
    expected = transformers_loss(model, text_rows, indices)
    expected.backward()
    nll, found = gradients(make(kind, text_rows, settings), [np.array(indices)])
    assert nll / text_rows.scored_counts[indices].sum() == pytest.approx(expected.item(), rel=1e-5)
    assert_close(found, [parameter.grad for parameter in model.parameters()])


@pytest.mark.parametrize("kind", WAYS)
def test_prompts_do_not_count_in_accumulated_gradients(kind, text_rows):
    settings = replace(SETTINGS, label_loss_weight=3.0)
    indices = np.arange(5)
    step = make(kind, text_rows, settings)
    nll, whole = gradients(step, [indices])
    parts_nll, parts = gradients(step, [indices[:1], indices[1:3], indices[3:]])
    assert parts_nll == pytest.approx(nll, rel=1e-5)
    assert_close(parts, whole)


# ------------------------------------------------------------------------------- recomputing


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("path", ["packed blocks", "modules"])
@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_recomputed_blocks_give_the_same_gradients(rows, path, dropout, name):
    """Bit for bit: dropout draws the same random numbers the second time."""
    settings = replace(SETTINGS, dropout=dropout, attention_dropout=dropout)
    found = []
    for recomputed in (False, True):
        model = build_model(settings, rows.vocabulary).train()
        if path == "modules":  # a map that cpu_block.py does not know
            for block in model.transformer.h:
                block.mlp.c_fc = torch.nn.Sequential(block.mlp.c_fc)
        if recomputed:
            recompute_blocks(model)
        objective = Objective(model, rows, settings, Precision(name, "tests"))
        step = TokenStep(objective, NO_SCALER)
        torch.manual_seed(0)
        found.append(gradients(step, [np.arange(8), np.arange(8, 12)]))
        found[-1] += (torch.get_rng_state(),)
    assert found[0][0] == found[1][0]
    for plain, again in zip(found[0][1], found[1][1], strict=True):
        assert torch.equal(plain, again)
    assert torch.equal(found[0][2], found[1][2])


class Saved:
    """Bytes that autograd keeps for the backward pass."""

    def __init__(self):
        self.storages: dict[int, int] = {}

    def __enter__(self):
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.note, lambda tensor: tensor)
        self.hooks.__enter__()
        return self

    def __exit__(self, *_):
        self.hooks.__exit__()

    def note(self, tensor):
        self.storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    @property
    def total(self) -> int:
        return sum(self.storages.values())


def test_recomputed_blocks_keep_little(rows):
    kept = []
    for recomputed in (False, True):
        model = build_model(replace(SETTINGS, n_layer=6), rows.vocabulary).train()
        if recomputed:
            recompute_blocks(model)
        inputs_M, _, counts_B = rows.shifted(np.arange(16))
        with Saved() as saved:
            hidden = Forward(model, FP32)(torch.from_numpy(inputs_M), counts_B)
        kept.append(saved.total)
        del hidden
    assert kept[1] < kept[0] / 5


@pytest.mark.parametrize("kind", WAYS)
def test_pairs_are_asked_early_from_their_separator_on(kind):
    tokenizer = TextTokenizer.learn_characters(["abc"], ["<PAD>", "<UNK>", "<CLS>", "<EOS>"])
    tokenizer = tokenizer.with_separator().with_special(["<CLS_0>", "<CLS_1>"])
    vocabulary = Vocabulary(tokenizer.tokens, tokenizer)
    records = [
        {"text": "ab <SEP> cab", "label": 1},
        {"text": "no pair", "label": 0},
        {"text": "cabba <SEP> b", "label": 0},
    ]
    pairs, indices = dataset_from_records(records, vocabulary, max_length=128), np.arange(3)
    step = make(kind, pairs, SETTINGS)
    _, expected = gradients(step, [indices])
    divisor = step.objective.total_weight([indices], [None])
    model, early = step.objective.model, 0.0
    for number, first in enumerate((2, 0, 5)):  # characters of the first text
        ids = pairs.row(number).tolist()[:-2]
        logits = model(torch.tensor([ids])).logits[0][first:, vocabulary.label_ids]
        target = torch.full((len(logits),), int(pairs.classes_N[number]))
        early = early + torch.nn.functional.cross_entropy(logits, target)
    (early * 30 / divisor).backward()
    expected = [one + p.grad for one, p in zip(expected, model.parameters(), strict=True)]
    step = make(kind, pairs, replace(SETTINGS, early_label_weight=30))
    assert_close(gradients(step, [indices])[1], expected)
