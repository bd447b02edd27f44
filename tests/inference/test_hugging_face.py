"""Models that other people trained, used as they are: the same answers as transformers gives."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_program import run_here
from hugging_face_models import CAUSAL, CLASSIFIERS, LABELS, save
from local_hub import LocalHub, Repository
from pretrained_models import POSITIONS
from transformers import AutoModelForCausalLM, AutoTokenizer, BertTokenizer, pipeline
from transformers.utils import logging

from inference import (
    classify,
    embeddings,
    evaluate_file,
    generate,
    load_trained_model,
    main,
    next_tokens,
)
from smallgpt.errors import UserError
from smallgpt.inference.prompts import row_text

ROOT = Path(__file__).parents[2]
TEXTS = {
    "chinese": ["今天天气很好", "房间很小", "书"],
    None: ["the cat sat on the house", "a dog", "to be é or not " + "the cat " * 2],
}


@pytest.fixture(scope="session")
def folders(made_once):
    """A function: the folder of a model of a kind."""
    return lambda kind: made_once(kind.replace(" ", "_"), lambda folder: save(kind, folder))


@pytest.fixture(autouse=True)
def quiet():
    logging.disable_progress_bar()


def loaded(folder: Path):
    return load_trained_model(folder, "cpu", "fp32")


def peer_of(folder: Path, kind: str):
    """The model and tokenizer of transformers, and a function: the ids of an open text."""
    tokenizer = (BertTokenizer if kind == "chinese" else AutoTokenizer).from_pretrained(folder)

    def ids_of(text: str) -> list[int]:
        ids = tokenizer(text).input_ids
        return ids[:-1] if kind == "chinese" else ids  # without [SEP]

    return AutoModelForCausalLM.from_pretrained(folder).eval(), tokenizer, ids_of


def texts_of(kind: str) -> list[str]:
    return TEXTS.get(kind, TEXTS[None])


def ends_of(model, tokenizer) -> set[int]:
    """Ids that end a text: the tokenizer's and the model's."""
    told = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(told if isinstance(told, list) else [told])}
    return (ends | {tokenizer.sep_token_id} if tokenizer.eos_token_id is None else ends) - {None}


def never_of(model, tokenizer) -> list[int]:
    """Ids that are not to be generated: rows without a token, and padding and unknown tokens."""
    roles = {tokenizer.pad_token_id, tokenizer.unk_token_id} - ends_of(model, tokenizer) - {None}
    return sorted({*range(len(tokenizer), model.config.vocab_size), *roles})


# ------------------------------------------------------------------------------- causal models


@pytest.mark.parametrize("kind", CAUSAL)
def test_the_greedy_continuation_is_that_of_transformers(kind, folders):
    model, tokenizer, ids_of = peer_of(folders(kind), kind)
    trained = loaded(folders(kind))
    for text in texts_of(kind):
        ids = ids_of(text)
        expected = model.generate(
            torch.tensor([ids]), do_sample=False, max_new_tokens=12, pad_token_id=0,
            eos_token_id=sorted(ends_of(model, tokenizer)),
            suppress_tokens=never_of(model, tokenizer) or None,
        )  # fmt: skip
        made = generate(trained, text, greedy=True, max_new_tokens=12)
        assert made.sequences == expected.tolist()
        assert len(made.sequences[0]) > len(ids)


@pytest.mark.parametrize("kind", CAUSAL)
def test_the_next_tokens_have_the_probabilities_of_transformers(kind, folders):
    model, _, ids_of = peer_of(folders(kind), kind)
    trained = loaded(folders(kind))
    many = next_tokens(trained, texts_of(kind), 10)
    for text, found in zip(texts_of(kind), many, strict=True):
        with torch.no_grad():
            probabilities = model(torch.tensor([ids_of(text)])).logits[0, -1].softmax(-1)
        assert [p for _, p in found] == pytest.approx(
            probabilities.topk(10).values.tolist(), abs=1e-5
        )


@pytest.mark.parametrize("kind", CAUSAL)
def test_perplexity_and_bits_are_those_of_a_direct_calculation(kind, folders, tmp_path):
    model, tokenizer, ids_of = peer_of(folders(kind), kind)
    lines = [{"text": text, "label": "x", "who": 7} for text in texts_of(kind)]
    data = tmp_path / "texts.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    figures = evaluate_file(loaded(folders(kind)), data, tmp_path / "out")
    nats, count, size, letters = 0.0, 0, 0, 0
    for text in texts_of(kind):
        ids = ids_of(text)
        with torch.no_grad():
            log_probs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        nats -= sum(log_probs[place, ids[place + 1]].item() for place in range(len(ids) - 1))
        count += len(ids) - 1
        begins_marked = ids[0] == tokenizer.bos_token_id or kind == "chinese"
        # Without a mark the first token is predicted from nothing.
        scored = text if begins_marked else text[len(tokenizer.decode(ids[:1])) :]
        size, letters = size + len(scored.encode()), letters + len(scored)
    assert figures["tokens"] == count
    assert figures["perplexity"] == pytest.approx(math.exp(nats / count), rel=1e-4)
    assert figures["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-4)
    assert figures["bits_per_character"] == pytest.approx(nats / math.log(2) / letters, rel=1e-4)
    rows = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").open()]
    assert sum(row["body_bytes"] for row in rows) == size
    assert sum(row["body_characters"] for row in rows) == letters
    assert rows[0]["row"]["who"] == 7


def test_several_sequences_depend_on_the_seed_alone(folders):
    trained = loaded(folders("qwen2"))
    how = {"count": 4, "temperature": 0.9, "top_k": 0, "top_p": 0.95, "max_new_tokens": 8}
    first = generate(trained, "the cat", seed=3, **how)
    assert len({tuple(row) for row in first.sequences}) == 4
    assert generate(trained, "the cat", seed=3, batch_size=2, **how) == first
    assert generate(trained, "the cat", seed=4, **how) != first


def test_a_continuation_ends_at_any_end_that_the_model_names(folders):
    trained = loaded(folders("llama"))
    assert trained.vocabulary.stop_ids == {2, 5}
    made = generate(trained, "the", count=60, temperature=50.0, top_k=0, max_new_tokens=40)
    ended = [row for row in made.sequences if len(row) < max(map(len, made.sequences))]
    assert ended and {row[-1] for row in ended} == {2, 5}
    assert not any({2, 5} & set(row[1:-1]) for row in made.sequences)


def test_rows_of_the_embedding_without_a_token_are_never_generated(folders):
    trained = loaded(folders("qwen2"))
    size = len(AutoTokenizer.from_pretrained(folders("qwen2")))
    assert trained.vocabulary.read == size + 7
    made = generate(trained, "the", count=100, temperature=1000.0, top_k=0, max_new_tokens=30)
    found = {index for row in made.sequences for index in row}
    assert len(found) > size / 2 and max(found) < size


def test_special_tokens_in_a_prompt_are_read_as_transformers_reads_them(folders):
    for kind, prompt in (
        ("chinese", "今天[SEP]天气"),
        ("llama", "the</s>cat"),
        ("gpt2", "a<|endoftext|>b"),
    ):
        _, _, ids_of = peer_of(folders(kind), kind)
        trained = loaded(folders(kind))
        made = generate(trained, prompt, greedy=True, max_new_tokens=1)
        assert made.sequences[0][:-1] == ids_of(prompt)


def test_text_is_told_without_special_tokens_and_as_it_was_given(folders):
    for kind in CAUSAL:
        trained = loaded(folders(kind))
        text = texts_of(kind)[0]
        made = generate(trained, text, greedy=True, max_new_tokens=3)
        assert row_text(trained, made.sequences[0]).startswith(text)


def test_without_a_number_a_continuation_has_an_end_that_is_told(tmp_path):
    folder = save("gpt2", tmp_path / "long")
    config = json.loads((folder / "config.json").read_text()) | {"n_positions": 2000}
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(**{**config, "n_embd": 8, "n_layer": 1, "n_head": 1})
    GPT2LMHeadModel(config).save_pretrained(folder)
    made = generate(loaded(folder), "the", greedy=True)
    assert len(made.sequences[0]) <= 1 + 256 and "at most 256 new tokens" in made.note


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_bf16_is_near_fp32(kind, folders):
    trained = load_trained_model(folders(kind), "cpu", "bf16")
    if kind != "gpt2":
        assert next(trained.model.parameters()).dtype == torch.bfloat16
    assert next_tokens(trained, "the cat", 1)[0][1] == pytest.approx(
        next_tokens(loaded(folders(kind)), "the cat", 1)[0][1], rel=0.1
    )


def test_a_text_is_as_long_as_the_positions(folders):
    trained = loaded(folders("gpt2"))
    text = "the cat " * POSITIONS
    with pytest.raises(UserError, match=f"the model reads at most {POSITIONS}.*shorten it"):
        generate(trained, text)
    with pytest.raises(UserError, match=f"the model reads at most {POSITIONS}"):
        next_tokens(trained, text)


def test_the_commands_take_such_a_model(folders, tmp_path):
    def run(*words):
        return run_here(main, "--model_path", folders("gpt2"), "--device", "cpu", *words)

    made = run("--mode", "generate", "--prompt", "the cat", "--num_return_sequences", "3",
               "--temperature", "0.8", "--top_k", "20", "--top_p", "0.9", "--seed", "5",
               "--max_new_tokens", "6", "--json")  # fmt: skip
    assert made.returncode == 0, made.stderr
    told = json.loads(made.stdout)
    assert len(told["sequences"]) == 3 and told["seed"] == 5
    assert made.stderr.count("used as it is") == 1 and f"{POSITIONS} tokens" in made.stderr
    made = run("--prompt", "the cat", "--json")
    assert len(json.loads(made.stdout)["next_tokens"]) == 5
    table = tmp_path / "texts.csv"
    table.write_text("text,label\nthe cat sat,a\na dog ran to,b\n")
    made = run("--test_data", table, "--output_dir", tmp_path / "out", "--json")
    assert made.returncode == 0, made.stderr
    assert "2 labels left out: the model names none" in made.stderr
    assert json.loads(made.stdout)["bits_per_byte"] > 0
    made = run("--test_data", table, "--output_dir", tmp_path / "out")
    assert "bits a byte" in made.stdout and "label figures need" not in made.stdout
    made = run("--mode", "classify", "--prompt", "the cat")
    assert made.returncode == 1 and made.stderr.endswith("has no labels: it cannot classify\n")


# ------------------------------------------------------------------------------- classifiers


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_labels_and_shares_are_those_of_the_pipeline(kind, folders):
    folder = folders(kind)
    trained = loaded(folder)
    assert trained.label_names == list(LABELS.values())
    texts = ["The cat sat on the mat", "a", "the dog and the house " * 3]
    if kind != "gpt2 classifier":  # which has no length that its tokenizer knows
        texts.append("cat on the mat dog " * POSITIONS)
    peer = pipeline("text-classification", model=str(folder), device="cpu", top_k=None)
    for text, (label, shares) in zip(texts, classify(trained, texts), strict=True):
        expected = {each["label"]: each["score"] for each in peer([text], truncation=True)[0]}
        assert label == max(expected, key=expected.__getitem__)
        assert shares == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_classifier_is_evaluated_on_its_own_labels(kind, folders, tmp_path):
    folder = folders(kind)
    texts = ["the cat", "a dog ran", "the house and the dog", "to the mat", "mat " * 100]
    peer = pipeline(
        "text-classification", model=str(folder), device="cpu", max_length=POSITIONS - 8
    )
    data = tmp_path / "labelled.jsonl"
    given = ["BAD", "very good", "very_good", "so-so", "BAD"]
    rows = [{"text": text, "label": label} for text, label in zip(texts, given, strict=True)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    figures = evaluate_file(loaded(folder), data, tmp_path / "out")
    told = [peer([text], truncation=True)[0]["label"] for text in texts[:4]]
    rows = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").open()]
    assert [row["prediction"] for row in rows[:4]] == told
    assert figures["rows_cut"] == 1 and "perplexity" not in figures
    right = sum(row["prediction"] == row["label"] for row in rows)
    assert figures["accuracy"] == right / 5 and figures["labelled_records"] == 5


def test_labels_beside_rows_to_classify_are_not_told_as_tokens(folders, tmp_path):
    (tmp_path / "new.csv").write_text("text,label\nthe cat,BAD\na dog,so-so\n")
    flags = ("--test_data", tmp_path / "new.csv", "--output_dir", tmp_path / "out")
    made = run_here(main, "--model_path", folders("bert"), "--mode", "classify", *flags)
    assert made.returncode == 0, made.stderr
    rows = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").open()]
    assert [row["label"] for row in rows] == ["BAD", "so-so"]
    assert "`label`" not in made.stdout + made.stderr


def test_the_command_names_labels(folders):
    made = run_here(main, "--model_path", folders("bert"), "--device", "cpu", "--mode", "classify",
                    "--prompt", "the cat")  # fmt: skip
    assert made.returncode == 0 and all(name in made.stdout for name in LABELS.values())
    assert made.stderr.count("not calibrated") == 1
    made = run_here(main, "--model_path", folders("bert"), "--mode", "generate", "--prompt", "a")
    assert made.returncode == 1 and "only names labels" in made.stderr


def test_embeddings_of_such_models(folders):
    for kind in ("llama", "bert", "gpt2 classifier"):
        trained = loaded(folders(kind))
        many = embeddings(trained, ["the cat", "a dog ran"])
        assert many.shape == (2, 32) and np.allclose(
            many[0], embeddings(trained, "the cat"), atol=1e-5
        )


# ------------------------------------------------------------------------------- the hub


def test_names_on_the_hub_are_models(folders, tmp_path):
    files = {path.name: path.read_bytes() for path in folders("qwen2").iterdir()}
    (tmp_path / "texts.csv").write_text("text\nthe cat sat\n")
    program = f"""
import json, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from command_program import run_here
from inference import main
how = ["--device", "cpu", "--precision", "fp32", "--json"]
for words in (["owner/model", "--prompt", "the cat"], ["owner/model", "--test_data", "texts.csv"],
              ["owner/private", "--prompt", "a"]):
    done = run_here(main, "--model_path", *words, *how)
    print(json.dumps([done.returncode, done.stdout, done.stderr]))
"""
    with LocalHub() as hub:
        hub.repositories["models", "owner/model"] = Repository(files | {"pytorch_model.bin": b"x"})
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, env=hub.environment(tmp_path / "cache"),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    prompted, evaluated, private = map(json.loads, done.stdout.splitlines())
    here = next_tokens(loaded(folders("qwen2")), "the cat")
    found = json.loads(prompted[1])["next_tokens"]
    assert [each["probability"] for each in found] == pytest.approx([p for _, p in here])
    assert prompted[2].startswith("owner/model: a model of Hugging Face")
    assert json.loads(evaluated[1])["model"] == "owner/model"
    # Not beside its copy in the hub's cache.
    assert (tmp_path / "outputs" / "evaluation_texts" / "metrics.json").is_file()
    assert private[0] == 1 and len(private[2].splitlines()) == 1
    assert "no such name, or a private one: set HF_TOKEN" in private[2]
    assert not any(".bin" in path for path in hub.asked)


def test_only_pickles_on_the_hub_are_refused_with_what_converts_them(folders, tmp_path):
    files = {path.name: path.read_bytes() for path in folders("qwen2").glob("*.json")}
    program = "from smallgpt.model.place import find_model_folder as find; find('owner/model')"
    with LocalHub() as hub:
        hub.repositories["models", "owner/model"] = Repository(files | {"pytorch_model.bin": b"x"})
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=hub.environment(tmp_path),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    told = done.stderr.splitlines()[-1]
    assert "owner/model: no weights as safetensors" in told
    assert "from_pretrained('owner/model').save_pretrained('model')" in told


def test_evaluations_of_such_models_are_compared(folders, tmp_path):
    data = tmp_path / "labelled.jsonl"
    texts = ["the cat", "a dog ran", "the house and the dog", "to the mat"]
    rows = [{"text": text, "label": "BAD"} for text in texts]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    outs = []
    for kind in ("bert", "roberta"):
        outs.append(tmp_path / kind)
        evaluate_file(loaded(folders(kind)), data, outs[-1])
    words = (
        "--mode",
        "compare",
        "--model_path",
        *outs,
        "--output_dir",
        tmp_path / "both",
        "--json",
    )
    made = run_here(main, *words)
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["comparisons"]
    made = run_here(main, "--mode", "compare", "--model_path", folders("bert"), folders("roberta"))
    assert made.returncode == 1 and "compare the evaluation folders" in made.stderr
