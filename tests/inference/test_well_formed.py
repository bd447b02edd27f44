"""Generated rows are rows like those of training, whatever they begin with."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_settings import plain_settings

from inference import generate
from smallgpt.engines.torch_engine import TorchEngine
from smallgpt.engines.trained import TrainedModel
from smallgpt.errors import UserError
from smallgpt.inference.well_formed import end_of_rows, well_formed
from smallgpt.model.build import build_model
from smallgpt.model.hardware import Precision
from smallgpt.rows.row import parse_row
from smallgpt.tokens.codebook import Codebook
from smallgpt.tokens.vocabulary import Vocabulary

CODES, SIDE = 5, 3
LABELLED = {"rows": 9, "accuracy": 1.0, "labelled_records": 9}
FIGURES = {"all": LABELLED, "some": LABELLED | {"labelled_records": 5}, "none": {"rows": 9}}


def model_of(vocabulary: Vocabulary, max_length: int, codebook: Path | None) -> TrainedModel:
    """A model that was never trained: left to itself it obeys no rule."""
    shape = plain_settings(n_layer=1, n_head=2, n_embd=16, n_positions=40, max_length=max_length)
    torch.manual_seed(0)
    model = build_model(shape, vocabulary).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.7)
    engine = TorchEngine(model, Precision("fp32", ""), vocabulary.label_ids)
    return TrainedModel.of(engine, vocabulary, shape, Path("model"), codebook=codebook)


@pytest.fixture(scope="module")
def of_images(tmp_path_factory):
    path = tmp_path_factory.mktemp("codes") / "codebook.npz"
    Codebook(np.arange(CODES, dtype=np.float32)[:, None], 1, SIDE, SIDE, 1, 0.0, 4.0, 4.0).save(
        path
    )
    return model_of(Vocabulary.for_images(CODES, "ab"), SIDE**2 + 5, path)


@pytest.fixture(scope="module")
def of_events():
    tokens = ["<PAD>", "<UNK>", "<IMG>", "<CLS>", "<EOS>", "A", "B", "C", "<CLS_a>", "<CLS_b>"]
    return model_of(Vocabulary(tokens), 12, None)


def with_labels(trained: TrainedModel, labelled: str) -> TrainedModel:
    return dataclasses.replace(trained, validation=FIGURES[labelled])


def parsed(trained: TrainedModel, ids: list[int]):
    """A generated row, read back; with the tokens of its body."""
    row = parse_row({"input_ids": ids}, trained.vocabulary)
    assert row.change == "" and len(ids) <= trained.max_length
    return row, [trained.vocabulary.tokens[index] for index in ids[: row.body_length]]


@given(
    codes=st.lists(st.integers(0, CODES - 1), min_size=SIDE**2, max_size=SIDE**2),
    cut=st.integers(1, SIDE**2 + 4),
    labelled=st.sampled_from(["all", "some", "none"]),
    label=st.sampled_from([None, "a"]),
    how=st.sampled_from([{"temperature": 9.0, "top_k": 0}, {"greedy": True}]),
)
@settings(max_examples=25, deadline=None)
def test_an_image_has_all_its_codes_whatever_part_of_it_is_given(
    of_images, codes, cut, labelled, label, how
):
    trained = with_labels(of_images, labelled)
    tail = {"all": "<CLS> <CLS_b> <EOS>", "some": "<CLS> <CLS_b> <EOS>", "none": "<EOS>"}[labelled]
    whole = ["<IMG>", *[f"<Z_{code:03d}>" for code in codes], "</IMG>", *tail.split()]
    prompt = " ".join(whole[:cut])
    if label is not None and (cut > SIDE**2 + 1 or "greedy" in how):
        label = None
    if cut >= len(whole):
        with pytest.raises(UserError, match="whole image already"):
            generate(trained, prompt, **how)
        return
    count = 1 if label is not None or "greedy" in how else 3
    try:
        made = generate(trained, prompt, count=count, label=label, **how).sequences
    except UserError as error:  # a model that is not trained may never read one as this label
        assert label is not None and "were read as label" in str(error)
        return
    for ids in made:
        row, body = parsed(trained, ids)
        assert body[0] == "<IMG>" and body[-1] == "</IMG>" and len(body) == SIDE**2 + 2
        assert all(token.startswith("<Z_") for token in body[1:-1])
        assert trained.vocabulary.decode(ids).startswith(prompt)
        if labelled != "some" or label is not None:
            assert (row.label_class >= 0) == (labelled == "all" or label is not None)
        assert ids[-1] == trained.vocabulary.eos_id


@given(
    body=st.lists(st.sampled_from(["A", "B", "<UNK>", "<IMG>", "<CLS>"]), max_size=7),
    cut=st.integers(1, 11),
    labelled=st.sampled_from(["all", "some", "none"]),
    label=st.sampled_from([None, None, "b"]),
    how=st.sampled_from([{"temperature": 9.0, "top_k": 0}, {"top_k": 3}]),
)
@settings(max_examples=60, deadline=None)
def test_a_row_of_tokens_ends_as_training_rows_do(of_events, body, cut, labelled, label, how):
    trained = with_labels(of_events, labelled)
    tail = {"all": "<CLS> <CLS_b>", "some": "<CLS> <CLS_a>", "none": ""}[labelled]
    words = [*body, "C", *tail.split()][:cut]
    if label is not None and words[-1].startswith("<CLS_"):
        label = None
    prompt = " ".join(words)
    known = trained.vocabulary.encode(prompt)
    try:
        made = generate(trained, prompt, count=3, label=label, batch_size=16, **how).sequences
    except UserError as error:
        assert label is not None and "were read as label" in str(error)
        return
    for ids in made:
        row, _ = parsed(trained, ids)
        assert ids[: len(known)] == known
        assert trained.vocabulary.unk_id not in ids[len(known) :]
        if labelled == "all" or label is not None:
            assert row.label_class >= 0 and ids[-1] == trained.vocabulary.eos_id
        if labelled == "none" and label is None:
            assert row.label_class < 0


def test_without_the_rules_any_token_may_come(of_images):
    trained = with_labels(of_images, "all")
    rows = generate(trained, count=20, free=True, seed=1).sequences
    kinds = {trained.vocabulary.tokens[index][:3] for row in rows for index in row[1:10]}
    assert kinds > {"<Z_", "</I", "<CL"}


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("<Z_000>", "token 1 of the prompt is <Z_000>, where the row of an image has <IMG>"),
        (
            "<IMG> <Z_000> </IMG>",
            "token 3 of the prompt is </IMG>, where .* has one of its 9 codes",
        ),
        ("<IMG> " + "<Z_000> " * 10, "token 11 of the prompt is <Z_000>, .* </IMG> after 9 codes"),
        ("<IMG> " + "<Z_000> " * 9 + "</IMG> <CLS> <CLS_a> <EOS>", "nothing can follow"),
    ],
)
def test_a_prompt_that_no_image_begins_with_is_told(of_images, prompt, told):
    with pytest.raises(UserError, match=told):
        generate(with_labels(of_images, "all"), prompt)


def test_a_label_is_given_only_to_a_whole_image(of_images):
    trained = with_labels(of_images, "all")
    with pytest.raises(UserError, match="takes 10 more before its label"):
        generate(trained, label="a", max_new_tokens=3)
    with pytest.raises(UserError, match="nothing can follow"):
        generate(trained, "<IMG> " + "<Z_000> " * 9 + "</IMG>", label="a")


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("A <CLS> <CLS_a> <EOS>", "whole row already"),
        ("A <CLS_a> B", "a label token stands before the label tail"),
        ("A <PAD>", "<PAD> stands inside"),
        ("A B C A B C A B C A", "at most 12, 3 of them for the label: nothing can follow"),
    ],
)
def test_a_prompt_that_no_row_begins_with_is_told(of_events, prompt, told):
    with pytest.raises(UserError, match=told):
        generate(with_labels(of_events, "all"), prompt)


def test_images_that_were_cut_in_training_are_told(of_images):
    short = dataclasses.replace(
        of_images, settings=dataclasses.replace(of_images.settings, max_length=9)
    )
    result = generate(short, count=3)
    assert "the rows hold no whole images" in result.note
    for ids in result.sequences:
        assert parsed(short, ids)[0].label_class >= 0


def test_how_rows_end_is_read_from_the_validation_rows(of_events):
    ends = {name: end_of_rows(with_labels(of_events, name)).name for name in FIGURES}
    assert ends == {"all": "LABEL", "some": "EITHER", "none": "NO_LABEL"}
    assert end_of_rows(of_events).name == "LABEL"  # saved by another tool, without figures
    assert well_formed(with_labels(of_events, "none"), False).rules is not None
