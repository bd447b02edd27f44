"""Large files in parts: joined, all of them are the evaluation of the whole file, byte for byte."""

import copy
import csv
import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from command_program import run_here
from hugging_face_models import save
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_settings import plain_settings
from small_rows import json_lines
from trained_models import BEST_MODEL

from inference import columns_of, load_trained_model, main
from smallgpt.engines.torch_engine import TorchEngine
from smallgpt.engines.trained import TrainedModel
from smallgpt.errors import SettingsError, UserError
from smallgpt.evaluation import parts as parts_module
from smallgpt.evaluation.parts import name_of
from smallgpt.files.locks import hold_folder
from smallgpt.inference import shards as shards_module
from smallgpt.inference.classify import classify_given
from smallgpt.inference.evaluate import evaluate_given
from smallgpt.inference.files import read_source
from smallgpt.inference.log_rows import open_given
from smallgpt.inference.merge import merge_parts
from smallgpt.inference.shards import compute_shard, own_rows
from smallgpt.model.build import build_model
from smallgpt.model.folder import save_model_folder
from smallgpt.model.hardware import Precision
from smallgpt.options.inference import InferenceSettings, Shard
from smallgpt.options.reader import check_settings
from smallgpt.rows.batching import batches_by_length
from smallgpt.rows.reading import dataset_from_records
from smallgpt.tokens.vocabulary import Vocabulary

ROOT = Path(__file__).parents[2]
SPECIAL = ["<PAD>", "<UNK>", "<CLS>", "<EOS>"]
BODY = ["A", "B", "C", "D", "E", "F"]
MANY = 230  # labels, of which a row keeps the largest
STORED = {
    "measured_on": "the validation rows of the training run",
    "step": 7,
    "rows": 50,
    "loss": 1.0,
    "perplexity": 2.7,
    "body_perplexity": 3.0,
    "labelled_records": 50,
    "accuracy": 0.6,
    "accuracy_interval": [0.46, 0.72],
    "chance_accuracy": 0.2,
    "above_chance": True,
    "not_above_chance": [],
    "too_few_rows": [],
    "calibration": {"temperature": 1.7, "rows": 50, "raw_ece": 0.2, "ece": 0.1},
    "baselines": {"majority_class_accuracy": 0.3, "unigram_perplexity": 9.0},
}
KINDS = ("tokens", "head", "many labels", "texts", "instructions", "bert", "llama")


# ---- models and rows of every kind -----------------------------------------------------


def save_random(folder: Path, vocabulary: Vocabulary, **values) -> None:
    """A model of drawn weights, wide enough apart that its answers differ from row to row."""
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 32, "max_length": 32}
    chosen = plain_settings(**{**shape, **values})
    model = build_model(chosen, vocabulary)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.4 * torch.randn_like(parameter)
    save_model_folder(model, folder, vocabulary, chosen, None, STORED)


def bodies(random: np.random.Generator, count: int, most: int = 40) -> list[str]:
    return [" ".join(random.choice(BODY, random.integers(1, most))) for _ in range(count)]


def rows_of(kind: str) -> list[dict | bytes]:
    """Rows with and without labels, some that are cut, and some that cannot be read."""
    random = np.random.default_rng(7)
    labels = [f"l{number}" for number in range(MANY)] if kind == "many labels" else ["a", "b"]
    if kind in ("tokens", "head", "many labels"):
        rows = [
            {"tokens": body, "id": number, "label": str(random.choice(labels))}
            for number, body in enumerate(bodies(random, 60))
        ]
        for row in rows[::4]:
            del row["label"]
        rows[3]["tokens"] = rows[3]["tokens"] + " nonsense"
        rows[8]["tokens"] = "A <CLS_a> B"  # scored, and not asked
        return [*rows[:20], b"oops", *rows[20:], {"tokens": "A", "label": "nobody", "k": [1.5]}]
    words = ["the", "quick", "brown", "fox", "lazy", "dog", "IRS", "0123"]
    texts = [" ".join(random.choice(words, random.integers(1, 9))) for _ in range(40)]
    if kind == "instructions":
        asked = [
            {"instruction": text, "output": str(random.choice(words)), "id": number}
            for number, text in enumerate(texts)
        ]
        return [*asked, {"text": "the fox"}, {"instruction": "no output"}]
    known = {"texts": ["good", "bad"], "bert": ["very good", "so-so"]}.get(kind, ["any"])
    return [
        {"text": text, "label": str(random.choice(known)), "note": "é"}
        if number % 3
        else {"text": text}
        for number, text in enumerate(texts)
    ] + [{"text": 5}]


@pytest.fixture(scope="session")
def world_of(made_once, text_vocabulary):
    """A function: a folder with the model of a kind, and rows.jsonl for it."""

    def make(kind: str, folder: Path) -> None:
        if kind in ("bert", "llama"):
            save(kind, folder / "model")
        elif kind in ("texts", "instructions"):
            task = {"task": "instruct"} if kind == "instructions" else {}
            save_random(folder / "model", text_vocabulary, n_positions=96, max_length=96, **task)
        else:
            names = [f"l{number}" for number in range(MANY)] if kind == "many labels" else "ab"
            vocabulary = Vocabulary([*SPECIAL, *BODY, *(f"<CLS_{name}>" for name in names)])
            head = {"classifier": "head"} if kind == "head" else {}
            save_random(folder / "model", vocabulary, **head)
        with open(folder / "rows.jsonl", "wb") as handle:
            for row in rows_of(kind):
                handle.write((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n")

    return lambda kind: made_once(
        f"shards_{kind.replace(' ', '_')}", lambda folder: make(kind, folder)
    )


def settings_of(world: Path, out: Path, **values) -> InferenceSettings:
    given = {"test_data": str(world / "rows.jsonl"), "output_dir": str(out), **values}
    return check_settings(InferenceSettings(**{"batch_size": 4, **given}))


def whole(trained, asked: InferenceSettings) -> None:
    """The evaluation or classification of the undivided file."""
    rows = open_given(trained, asked.test_data, columns_of(asked))
    classify = asked.resolved_mode() == "classify"
    given_rows = read_source(trained, rows, classify)
    if classify:
        classify_given(
            trained, given_rows, asked.output_dir, asked.batch_size, asked.overwrite,
            abstain_below=asked.abstain_below,
        )  # fmt: skip
    else:
        evaluate_given(
            trained, given_rows, asked.output_dir, asked.batch_size, asked.max_new_tokens,
            asked.overwrite, abstain_below=asked.abstain_below,
        )  # fmt: skip


def compute(trained, asked: InferenceSettings, shard: Shard) -> Path:
    """One part, computed in this process."""
    source = open_given(trained, asked.test_data, columns_of(asked))
    return compute_shard(trained, source, dataclasses.replace(asked, shard=str(shard))).path


def in_parts(trained, asked: InferenceSettings, count: int) -> None:
    """All parts, the last first, and what they are joined to."""
    for number in range(count, 0, -1):
        compute(trained, asked, Shard(number, count))
    merge_parts(Path(asked.output_dir), None, False, None)


def contents_of(folder: Path) -> dict[str, bytes]:
    """The files of results."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def check_alike(trained, world: Path, tmp_path: Path, counts, **values) -> None:
    """The whole and all divisions have the same files, byte for byte."""
    whole(trained, settings_of(world, tmp_path / "whole", **values))
    expected = contents_of(tmp_path / "whole")
    assert expected
    for count in counts:
        out = tmp_path / f"by_{count}"
        in_parts(trained, settings_of(world, out, **values), count)
        assert contents_of(out) == expected


# ---- joined parts are the whole --------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_any_rows_and_models_join_to_the_whole(kind, world_of, tmp_path, unpainted):
    world = world_of(kind)
    trained = load_trained_model(world / "model", "cpu", "fp32")
    check_alike(trained, world, tmp_path, (1, 2, 3, 7))
    figures = json.loads((tmp_path / "whole" / "metrics.json").read_text())
    assert figures["unscored"] > 0 and figures["records"] > 40
    assert kind != "instructions" or figures["answers"] == 40
    assert ("bits_per_byte" in figures) == (kind in ("texts", "llama"))


@pytest.mark.parametrize("kind", ["tokens", "head", "many labels", "texts", "bert"])
def test_parts_are_classified_as_the_whole(kind, world_of, tmp_path):
    world = world_of(kind)
    trained = load_trained_model(world / "model", "cpu", "fp32")
    check_alike(trained, world, tmp_path, (2, 7), mode="classify", abstain_below=0.95)
    reasons = {row.get("reason") for row in json_lines(tmp_path / "whole" / "predictions.jsonl")}
    assert "confidence below 0.95" in reasons


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_parts_are_the_whole_in_either_precision(precision, world_of, tmp_path, unpainted):
    world = world_of("tokens")
    trained = load_trained_model(world / "model", "cpu", precision)
    check_alike(trained, world, tmp_path, (3,), batch_size=5, abstain_below=0.7)


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_parts_of_other_engines_join_to_the_whole(engine, world_of, tmp_path, unpainted):
    world = world_of("tokens")
    shutil.copytree(world / "model", tmp_path / "model")  # graphs are written beside it
    trained = load_trained_model(tmp_path / "model", "cpu", "fp32", engine=engine)
    check_alike(trained, world, tmp_path, (3,))


@pytest.fixture(scope="module")
def small(untrained) -> dict[str, TrainedModel]:
    """Small models; those called `failing` give no number for rows of ten tokens and more."""
    made = dict(untrained)
    for classifier, trained in untrained.items():
        model = copy.deepcopy(trained.model)
        with torch.no_grad():
            model.transformer.wpe.weight[9:] = torch.nan
        engine = TorchEngine(model, Precision("fp32", ""), trained.vocabulary.label_ids)
        made[f"failing {classifier}"] = TrainedModel.of(
            engine, trained.vocabulary, trained.settings, trained.folder
        )
    return made


ROW = st.builds(
    lambda body, label, spoiled: {
        "tokens": " ".join([*body, *["oops"] * spoiled]),
        **({} if label is None else {"label": label}),
    },
    st.lists(st.sampled_from("ABCD"), min_size=1, max_size=15),
    st.sampled_from([None, "0", "1", "cat"]),
    st.sampled_from([False, False, False, True]),
)


@given(
    rows=st.lists(ROW, min_size=1, max_size=30),
    count=st.integers(1, 9),
    batch_size=st.integers(1, 6),
)
@settings(max_examples=15)
@pytest.mark.parametrize("model", ["tokens", "head", "failing tokens", "failing head"])
def test_parts_of_random_files_join_to_the_whole(
    small, tmp_path_factory, model, rows, count, batch_size
):
    """Where the whole is refused, so are the parts, with the same words."""
    world = tmp_path_factory.mktemp("random")
    (world / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = {name: settings_of(world, world / name, batch_size=batch_size) for name in "ab"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("smallgpt.inference.evaluate.draw_evaluation", lambda *_: None)
        refusals = []
        for work in (
            lambda: whole(small[model], asked["a"]),
            lambda: in_parts(small[model], asked["b"], count),
        ):
            try:
                work()
            except UserError as error:
                refusals.append(str(error))
    assert refusals in ([], [refusals[0]] * 2 if refusals else [])
    if not refusals:
        assert contents_of(world / "a") == contents_of(world / "b")


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=60),
    parts=st.integers(1, 8),
    batch_size=st.integers(1, 9),
)
def test_shards_take_whole_batches_and_about_equal_work(vocabulary, lengths, parts, batch_size):
    rows = dataset_from_records(
        [{"tokens": "A " * length + "<EOS>"} for length in lengths], vocabulary, max_length=64
    )
    work_N = rows.lengths_N.astype(np.int64)
    own = [
        own_rows(rows, work_N, batch_size, True, Shard(number, parts))
        for number in range(1, parts + 1)
    ]
    assert sorted(np.concatenate(own).tolist()) == list(range(len(rows)))
    batches = [indices.tolist() for indices in batches_by_length(rows, batch_size)]
    for indices in own:
        mine = [
            indices[each].tolist() for each in batches_by_length(rows.subset(indices), batch_size)
        ]
        assert mine == [batch for batch in batches if set(batch) <= set(indices.tolist())]
    loads = [int(work_N[indices].sum()) for indices in own]
    assert max(loads) - min(loads) <= max(int(work_N[batch].sum()) for batch in batches)


# ---- tables, logs, few rows ------------------------------------------------------------


def write_table(path: Path, delimiter: str) -> None:
    """A table whose rows are texts, with line ends; one row has a cell too many."""
    random = np.random.default_rng(3)
    with open(path, "w", newline="") as handle:
        writer = csv.writer(handle, delimiter=delimiter)
        writer.writerow(["id", "text", "label", "prediction"])
        for number in range(20):
            text = f"the {random.choice(['fox', 'dog'])}\nagain, {number}"
            row = [number, text, random.choice(["good", "bad", ""]), "mine"]
            spoiled = number == 7 and delimiter != "\t"
            writer.writerow([*row, "too many"] if spoiled else row)


@pytest.mark.parametrize(("name", "delimiter"), [("rows.csv", ";"), ("rows.tsv", "\t")])
@pytest.mark.parametrize("mode", ["evaluate", "classify"])
def test_a_table_comes_back_whole(world_of, tmp_path, unpainted, mode, name, delimiter):
    trained = load_trained_model(world_of("texts") / "model", "cpu", "fp32")
    write_table(tmp_path / name, delimiter)
    check_alike(trained, tmp_path, tmp_path, (1, 3), test_data=str(tmp_path / name), mode=mode)
    assert (tmp_path / "whole" / "predictions.csv").read_text().count("mine") == 20


def test_a_log_of_events_is_parted_by_its_rows(world_of, tmp_path, unpainted):
    random = np.random.default_rng(3)
    lines = [
        f"s{random.integers(9)},{random.choice(BODY)},{number},{'ab'[number % 2]}"
        for number in range(60)
    ]
    (tmp_path / "log.csv").write_text("\n".join(["session,event,at,client", *lines, "s1,,8,x"]))
    trained = load_trained_model(world_of("tokens") / "model", "cpu", "fp32")
    log = {"group_column": "session", "event_column": "event", "time_column": "at"}
    check_alike(
        trained, tmp_path, tmp_path, (2,), test_data=str(tmp_path / "log.csv"), batch_size=2, **log
    )


def test_there_may_be_more_shards_than_rows(world_of, tmp_path, unpainted):
    (tmp_path / "rows.jsonl").write_text('{"tokens": "A B", "label": "a"}\noops\n')
    trained = load_trained_model(world_of("tokens") / "model", "cpu", "fp32")
    check_alike(trained, tmp_path, tmp_path, (5,))
    assert json.loads((tmp_path / "whole" / "metrics.json").read_text())["records"] == 2


def test_a_file_without_one_good_row_is_refused_by_every_shard(world_of, tmp_path):
    (tmp_path / "rows.jsonl").write_text('oops\n{"tokens": 5}\n')
    trained = load_trained_model(world_of("tokens") / "model", "cpu", "fp32")
    with pytest.raises(UserError, match=r"rows\.jsonl:1: .*\nnot one of 2 rows can be scored"):
        compute(trained, settings_of(tmp_path, tmp_path / "out"), Shard(2, 2))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "told"), [("rows.jsonl", "no such file"), ("", "is a folder")])
def test_a_file_that_is_none_is_told_as_ever(world_of, tmp_path, name, told):
    trained = load_trained_model(world_of("tokens") / "model", "cpu", "fp32")
    asked = settings_of(tmp_path, tmp_path / "out", test_data=str(tmp_path / name))
    for work in (lambda: whole(trained, asked), lambda: compute(trained, asked, Shard(1, 2))):
        with pytest.raises(UserError, match=f"{tmp_path / name}: {told}"):
            work()
    assert not (tmp_path / "out").exists()


def test_only_the_rows_of_a_shard_are_kept(world_of, tmp_path, monkeypatch):
    """Of the others no record, and no token."""
    world, kept = world_of("tokens"), []
    trained = load_trained_model(world / "model", "cpu", "fp32")
    scored = shards_module.evaluate_rows

    def evaluate_rows(trained, rows, *others):
        kept.append(rows.dataset)
        return scored(trained, rows, *others)

    monkeypatch.setattr(shards_module, "evaluate_rows", evaluate_rows)
    for number in range(1, 5):
        compute(trained, settings_of(world, tmp_path), Shard(number, 4))
    assert sum(map(len, kept)) == 59
    for dataset in kept:
        assert len(dataset.tokens) == dataset.lengths_N.sum()
        assert len(dataset.records) == len(dataset) <= 16
        assert len(dataset.bad_rows) <= 1
        assert dataset.counts.rows == 59  # of the whole file


# ---- parts that are missing, of others, damaged ----------------------------------------


@pytest.fixture(scope="module")
def three_parts(world_of, tmp_path_factory):
    """The parts of a file of the model of tokens, by three; to be copied before they change."""
    out = tmp_path_factory.mktemp("parts") / "out"
    world = world_of("tokens")
    trained = load_trained_model(world / "model", "cpu", "fp32")
    for number in (2, 3, 1):
        compute(
            trained, settings_of(world, out, model_path=(str(world / "model"),)), Shard(number, 3)
        )
    return out


@pytest.fixture
def parts(three_parts, tmp_path):
    shutil.copytree(three_parts, tmp_path / "out")
    return tmp_path / "out"


def refusal(folder: Path) -> str:
    """What the merge of a folder is refused with, in one line; nothing is written."""
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError) as found:
        merge_parts(folder, None, False, None)
    assert sorted(folder.rglob("*")) == before
    assert "\n" not in str(found.value)
    return str(found.value)


def test_missing_parts_are_named_with_the_commands_that_make_them(parts, world_of):
    world = world_of("tokens")
    shutil.rmtree(parts / "shard_1_of_3")
    shutil.rmtree(parts / "shard_3_of_3")
    told = refusal(parts)
    assert told.startswith(f"{parts}: 2 of 3 parts missing: `")
    commands = told.split("`")[1::2]
    expected = f"--test_data {world / 'rows.jsonl'} --batch_size 4 --shard 1/3 --output_dir {parts}"
    assert commands[0] == f"python inference.py --model_path {world / 'model'} {expected}"
    for command in commands:
        words = [*command.split()[2:], "--device", "cpu", "--precision", "fp32"]
        assert run_here(main, *words).returncode == 0
    merge_parts(parts, None, False, None)
    shutil.rmtree(parts / "shard_2_of_3")
    assert "1 of 3 parts missing" in refusal(parts)


def test_a_folder_without_parts_is_refused(tmp_path):
    assert "no parts in it; inference.py --test_data FILE --shard 1/8" in refusal(tmp_path)
    done = run_here(main, "--merge", tmp_path / "nowhere")
    assert done.returncode == 1 and "no parts in it" in done.stderr


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"weights": "0" * 32}, "by another model"),
        ({"rows": "0" * 32}, "of other rows"),
        ({"mode": "classify"}, "for another --mode"),
        ({"settings": {"batch_size": 9}}, "with batch_size 9 and not 4"),
        ({"settings": {"precision": "bf16"}}, "with precision bf16 and not fp32"),
        ({"versions": {"torch": "1.0"}}, "with torch 1.0 and not "),
    ],
)
def test_a_part_of_another_evaluation_is_refused_and_named(parts, change, told):
    head = json.loads((parts / "shard_1_of_3" / "part.json").read_text())
    for name, value in change.items():
        belongs = head["belongs"]
        belongs[name] = {**belongs[name], **value} if isinstance(value, dict) else value
    write_head(parts / "shard_1_of_3", head)
    found = refusal(parts)
    assert found.startswith(f"{parts / 'shard_1_of_3'} holds a part {told}")
    assert ", unlike shard_2_of_3: `python inference.py " in found
    assert found.endswith("--shard 1/3 --output_dir " + str(parts) + " --overwrite`")


def write_head(part: Path, head: dict) -> None:
    """Write a part.json whose digest is right."""
    head.pop("digest", None)
    digest = parts_module._digest_of_head(head)
    (part / "part.json").write_text(json.dumps({**head, "digest": digest}))


def test_a_part_of_another_version_is_refused(parts):
    head = json.loads((parts / "shard_1_of_3" / "part.json").read_text())
    head["belongs"]["versions"]["smallgpt"] = "0.9"
    write_head(parts / "shard_1_of_3", head)
    assert "it was written by smallgpt 0.9, and this is " in refusal(parts)


@pytest.mark.parametrize("name", ["part.json", "rows.npz", "predictions.jsonl"])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_part_is_refused_and_made_again(parts, world_of, name, damage):
    path = parts / "shard_2_of_3" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content if damage == "changed" else content[:-9])
    told = refusal(parts)
    assert str(path) in told and "damaged" in told and "--shard 2/3 --output_dir" in told
    world = world_of("tokens")
    trained = load_trained_model(world / "model", "cpu", "fp32")
    compute(trained, settings_of(world, parts), Shard(2, 3))
    merge_parts(parts, None, False, None)


def test_a_renamed_part_is_refused(parts):
    shutil.rmtree(parts / "shard_2_of_3")
    (parts / "shard_1_of_3").rename(parts / "shard_2_of_3")
    assert "shard_2_of_3: it holds part 1 of 3" in refusal(parts)


def test_parts_of_two_divisions_are_refused(parts, world_of):
    world = world_of("tokens")
    trained = load_trained_model(world / "model", "cpu", "fp32")
    compute(trained, settings_of(world, parts), Shard(1, 2))
    assert f"{parts} has parts of divisions by 2 and by 3: delete" in refusal(parts)


def test_all_can_be_done_twice(parts, world_of):
    merge_parts(parts, None, False, None)
    expected = contents_of(parts)
    world = world_of("tokens")
    trained = load_trained_model(world / "model", "cpu", "fp32")
    part = parts / "shard_2_of_3"
    before = contents_of(part)
    compute(trained, settings_of(world, parts, model_path=(str(world / "model"),)), Shard(2, 3))
    assert contents_of(part) == before
    merge_parts(parts, None, False, None)
    assert contents_of(parts) == expected
    assert not [path for path in parts.iterdir() if path.name.startswith(".")]


def test_the_part_of_another_evaluation_stays_unless_it_is_to_be_replaced(parts, world_of):
    world = world_of("tokens")
    trained = load_trained_model(world / "model", "cpu", "fp32")
    before = contents_of(parts / "shard_1_of_3")
    other = settings_of(world, parts, batch_size=5)
    with pytest.raises(UserError, match="holds a part with batch_size 4 and not 5: give another"):
        compute(trained, other, Shard(1, 3))
    assert contents_of(parts / "shard_1_of_3") == before
    compute(trained, dataclasses.replace(other, overwrite=True), Shard(1, 3))
    assert "with batch_size 5 and not 4, unlike shard_2_of_3" in refusal(parts)


def test_files_of_others_stay_where_a_part_would_be(world_of, tmp_path):
    world = world_of("tokens")
    trained = load_trained_model(world / "model", "cpu", "fp32")
    asked = settings_of(world, tmp_path / "out")
    mine = tmp_path / "out" / "shard_1_of_2" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(UserError, match=r"mine\.txt was left by no shard"):
        compute(trained, asked, Shard(1, 2))
    shutil.rmtree(mine.parent)
    mine.parent.write_text("mine")
    with pytest.raises(UserError, match="shard_1_of_2 was left by no shard"):
        compute(trained, asked, Shard(1, 2))
    assert mine.parent.read_text() == "mine"
    with pytest.raises(UserError, match="is a file: give a folder as --output_dir"):
        compute(trained, settings_of(world, mine.parent), Shard(1, 2))
    mine.parent.unlink()
    mine.parent.mkdir()
    rows = mine.parent / "predictions.jsonl"
    rows.write_text('{"tokens": "A B"}\n')
    with pytest.raises(SettingsError, match="would be overwritten: give another --output_dir"):
        compute(trained, dataclasses.replace(asked, test_data=str(rows)), Shard(1, 2))


def test_one_process_alone_computes_a_part(world_of, tmp_path):
    world = world_of("tokens")
    trained = load_trained_model(world / "model", "cpu", "fp32")
    asked = settings_of(world, tmp_path)
    with (
        hold_folder(tmp_path / ".shard_1_of_2", "test"),
        pytest.raises(UserError, match="another run of --shard 1/2 uses this folder"),
    ):
        compute(trained, asked, Shard(1, 2))
    compute(trained, asked, Shard(1, 2))  # and beside it any other part
    with hold_folder(tmp_path / ".shard_1_of_2", "test"):
        compute(trained, asked, Shard(2, 2))


def test_a_file_that_changes_while_it_is_read_is_refused(world_of, tmp_path, monkeypatch):
    shutil.copy(world_of("tokens") / "rows.jsonl", tmp_path)
    trained = load_trained_model(world_of("tokens") / "model", "cpu", "fp32")
    read = shards_module._read_lines

    def read_lines(*given):
        with open(tmp_path / "rows.jsonl", "a") as handle:
            handle.write('{"tokens": "A B"}\n')
        return read(*given)

    monkeypatch.setattr(shards_module, "_read_lines", read_lines)
    with pytest.raises(UserError, match=r"rows\.jsonl changed while it was read"):
        compute(trained, settings_of(tmp_path, tmp_path / "out"), Shard(1, 2))
    assert not (tmp_path / "out").exists()


def test_results_of_another_evaluation_are_not_merged_over(parts, world_of):
    world = world_of("tokens")
    trained = load_trained_model(world / "model", "cpu", "fp32")
    whole(trained, settings_of(world, parts, abstain_below=0.5))
    before = contents_of(parts)
    with pytest.raises(UserError, match=r"holds an evaluation of .* with other settings"):
        merge_parts(parts, None, False, None)
    assert contents_of(parts) == before
    merge_parts(parts, str(parts.parent / "elsewhere"), False, None)
    assert contents_of(parts) == before
    merge_parts(parts, None, True, None)
    assert contents_of(parts) == contents_of(parts.parent / "elsewhere")


def test_parts_of_other_processors_are_joined_and_told(parts, capsys):
    for number, kind in ((1, "CPU of one kind"), (3, "another \x1b[31mCPU")):
        part = parts / name_of(Shard(number, 3))
        head = json.loads((part / "part.json").read_text())
        write_head(part, head | {"computed_on": kind})
    merge_parts(parts, None, False, None)
    told = capsys.readouterr().err
    assert "the parts were computed by 3 kinds of processors, which may round otherwise" in told
    assert "\x1b" not in told


# ---- the command line ------------------------------------------------------------------


def mistakes_of(*words: object) -> str:
    done = run_here(main, *words)
    assert done.returncode == 2, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("shard", "told"),
    [
        ("0/4", "parts are counted from 1: give 1/4 to 4/4"),
        ("5/4", "parts are counted from 1: give 1/4 to 4/4"),
        ("1/0", "parts are counted from 1: give 1/1 to 1/1"),
        ("2", "say which part of how many, such as 2/8"),
        ("a/b", "say which part of how many, such as 2/8"),
        ("1/2/3", "say which part of how many, such as 2/8"),
        ("-1/4", "say which part of how many, such as 2/8"),
        ("1 / 4", "say which part of how many, such as 2/8"),
        ("1/9999999", "say which part of how many, such as 2/8"),
        ("\u0661/2", "say which part of how many, such as 2/8"),
    ],
)
def test_a_shard_that_is_none_is_told_in_one_line(shard, told):
    said = mistakes_of("--test_data", "rows.jsonl", f"--shard={shard}")
    assert said.startswith("error: --shard '") and said.endswith(f"': {told}\n")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--shard 1/2", "--shard needs --test_data FILE: all parts are read from it"),
        ("--shard 1/2 --test_data -", "--shard needs --test_data FILE"),
        ("--shard 1/2 --images new", "--shard needs --test_data FILE"),
        ("--shard 1/2 --prompt A", "--shard needs --test_data FILE"),
        ("--shard 1/2 --mode compare --test_data a --model_path A B", "go with --mode compare"),
        ("--shard 1/2 --mode generate --test_data a", "--shard does not go with --mode generate"),
        ("--shard 1/2 --test_data a --strict", "--strict goes with --merge, not with --shard"),
        ("--shard 1/2 --test_data a --json", "--json goes with --merge, not with --shard"),
        ("--shard 1/2 --test_data a --output_format csv", "--output_format goes with --merge"),
        ("--merge D --shard 1/2", "--merge joins parts as they were made: drop --shard"),
        ("--merge D --model_path M --test_data a", "drop --model_path and --test_data"),
        ("--merge D --mode classify --abstain_below 0.5", "drop --mode and --abstain_below"),
    ],
)
def test_what_does_not_go_with_parts_is_told(words, told):
    assert told in mistakes_of(*words.split())


def test_a_model_that_cannot_abstain_or_classify_is_told_before_anything_is_read(
    world_of, tmp_path
):
    argv = ["--model_path", world_of("llama") / "model", "--device", "cpu", "--shard", "1/2"]
    argv += ["--test_data", tmp_path / "nowhere.jsonl", "--output_dir", tmp_path / "out"]
    (tmp_path / "nowhere.jsonl").write_text('{"text": "the cat"}\n')
    for flags in (["--mode", "classify"], ["--abstain_below", "0.5"]):
        done = run_here(main, *argv, *flags)
        assert done.returncode == 1 and "it cannot classify" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_merge_tells_what_the_evaluation_of_the_whole_tells(bars, tmp_path, unpainted):
    rows = [json.loads(line) for line in (bars / "test.jsonl").read_text().splitlines()]
    for row in rows[::5]:
        row["label"] = 1 - row["label"]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"tokens": "nonsense"}]))
    own = ["--model_path", bars / BEST_MODEL, "--device", "cpu", "--test_data", data]
    for mode in ("evaluate", "classify"):
        flags = [*own, "--mode", mode, "--batch_size", 7]
        out, parted = tmp_path / f"{mode}_whole", tmp_path / f"{mode}_parts"
        expected = run_here(main, *flags, "--output_dir", out, "--strict", "--output_format", "csv")
        for number in (1, 2, 3):
            done = run_here(main, *flags, "--output_dir", parted, "--shard", f"{number}/3")
            assert done.returncode == 0, done.stderr
            place = parted / f"shard_{number}_of_3"
            assert f"of 41 rows, written to {place}\n" in done.stdout
            assert f"python inference.py --merge {parted}\n" in done.stdout
        done = run_here(main, "--merge", parted, "--strict", "--output_format", "csv")
        assert done.returncode == expected.returncode == 1
        assert done.stdout == expected.stdout.replace(str(out), str(parted))
        assert contents_of(parted) == contents_of(out)
        expected = run_here(main, *flags, "--output_dir", out, "--json")
        done = run_here(main, "--merge", parted, "--json")
        assert done.stdout == expected.stdout


def test_without_an_output_folder_parts_lie_where_the_evaluation_would(bars, tmp_path, unpainted):
    shutil.copytree(bars / BEST_MODEL, tmp_path / "model")
    own = ["--model_path", tmp_path / "model", "--device", "cpu"]
    own += ["--test_data", bars / "test.jsonl"]
    folder = tmp_path / "evaluation_test"
    for number in (2, 1):
        done = run_here(main, *own, "--shard", f"{number}/2")
        assert f"written to {folder / f'shard_{number}_of_2'}" in done.stdout, done.stderr
    assert run_here(main, "--merge", folder).returncode == 0
    parts = contents_of(folder)
    assert run_here(main, *own).returncode == 0  # of the same rows, by the same model: replaced
    assert contents_of(folder)["metrics.json"] != b"" and parts.keys() == contents_of(folder).keys()


# ---- real processes --------------------------------------------------------------------


def process(*words: object, **options) -> subprocess.Popen:
    command = [sys.executable, "inference.py", *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, **pipes, **options)


def check(*running: subprocess.Popen) -> None:
    """Wait for processes, none of which may fail."""
    for each in running:
        _, err = each.communicate(timeout=600)
        assert each.returncode == 0, err


def check_processes(world: Path, tmp_path: Path, counts) -> None:
    """The command lines of the whole and of each division, its parts two at the same time."""
    own = ["--model_path", world / "model", "--device", "cpu", "--test_data", world / "rows.jsonl"]
    own += ["--batch_size", "4"]
    check(process(*own, "--output_dir", tmp_path / "whole"))
    expected = contents_of(tmp_path / "whole")
    assert "metrics.json" in expected
    for count in counts:
        out = tmp_path / f"by_{count}"
        for number in range(1, count + 1, 2):
            shards = [f"{each}/{count}" for each in range(number, min(number + 2, count + 1))]
            check(*[process(*own, "--output_dir", out, "--shard", shard) for shard in shards])
        check(process("--merge", out))
        assert contents_of(out) == expected


@pytest.mark.long
@pytest.mark.parametrize("kind", ["tokens", "head", "many labels", "instructions", "bert"])
def test_parts_made_by_many_processes_join_to_the_whole(kind, world_of, tmp_path):
    # In the process all counts join to the whole, of every kind.
    check_processes(world_of(kind), tmp_path, (2, 7) if kind == "tokens" else (3,))


def test_a_killed_shard_leaves_nothing_half_and_can_be_made_again(world_of, tmp_path):
    world = world_of("tokens")
    data, out = tmp_path / "rows.jsonl", tmp_path / "out"
    good = [line for line in (world / "rows.jsonl").read_text().splitlines() if '"A' in line]
    data.write_text("\n".join(good * 400) + "\n")
    own = ["--model_path", world / "model", "--device", "cpu", "--test_data", data]
    own += ["--output_dir", out, "--batch_size", "1"]
    running = process(*own, "--shard", "1/2")
    deadline = time.monotonic() + 120
    while not (out / ".shard_1_of_2").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait(timeout=60)
    assert [path.name for path in out.iterdir()] == [".shard_1_of_2"]
    assert "no parts in it" in refusal(out)
    (out / ".shard_1_of_2" / ".shard_1_of_2.77.tmp").mkdir()  # where it was killed while writing
    check(process(*own[:-2], "--batch_size", "64", "--shard", "1/2"))
    assert [path.name for path in out.iterdir()] == ["shard_1_of_2"]


def test_a_merge_loads_no_torch(parts):
    program = (
        "import sys\n"
        "from inference import main\n"
        f"assert main(['--merge', {str(parts)!r}]) == 0\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
