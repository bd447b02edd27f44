"""LoRA: what is trained, saved, and needed to go on and to load; skipped without peft."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pretrained_models import train_settings
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from training_runs import StopAfter, start_run, update
from transformers import AutoModelForCausalLM

from smallgpt.engines.trained import load_trained_model
from smallgpt.errors import UserError
from smallgpt.evaluation.scoring import score_rows
from smallgpt.inference.evaluate import evaluate_file
from smallgpt.model.build import count_parameters
from smallgpt.model.hardware import Precision
from smallgpt.model.lora import add_adapter
from smallgpt.model.pretrained import load_pretrained
from smallgpt.options.reader import load_settings
from smallgpt.options.training import TrainSettings
from smallgpt.tokens.vocabulary import Vocabulary
from smallgpt.training.data import read_data
from smallgpt.training.gradients import TokenStep
from smallgpt.training.objective import Objective
from smallgpt.training.update import Updater
from train_gpt import train

pytest.importorskip("peft", reason="peft is not installed: the extra `lora`")

FP32 = Precision("fp32", "tests")
pytestmark = pytest.mark.usefixtures("unpainted")


def lora_settings(folder: Path, checkpoint: Path, **values) -> TrainSettings:
    # By the loss, which falls: all parts of the validation rows choose the last evaluation then.
    usual = {"lora_rank": 4, "learning_rate": 1e-2, "num_epochs": 2, "best_metric": "loss"}
    return train_settings(folder, checkpoint, **{**usual, **values})


@pytest.fixture
def adapter_run(made_once, checkpoints):
    """A function: the folder of a finished run that trained an adapter of a checkpoint."""

    def run_of(kind: str) -> Path:
        def make(folder: Path) -> None:
            train(lora_settings(folder, checkpoints / kind))

        return made_once(f"adapter of {kind}", make) / "run"

    return run_of


def trained_names(model: torch.nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def shaken(model: torch.nn.Module) -> None:
    """Give all that is trained other values than it began with."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)


# ------------------------------------------------------------------------------- what is trained


def test_adapters_and_new_tokens_are_trained_and_nothing_else(tmp_path, checkpoints, kind):
    settings = lora_settings(tmp_path, checkpoints / kind, num_epochs=1, dropout=0.0)
    run = start_run(settings)
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    updater = Updater(run)
    for batches in run.updates_of_epoch(0):
        update(updater, batches)
    changed = {name for name, p in run.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == trained_names(run.model)
    assert any("lora_A" in name for name in changed)
    tied = "llama" != kind != "qwen2"
    assert sum("trainable_tokens" in name for name in changed) == (1 if tied else 2)
    assert all("lora_" in name or "trainable_tokens" in name for name in changed)


def test_what_is_trained_is_said(tmp_path, checkpoints, capsys):
    run = start_run(lora_settings(tmp_path, checkpoints / "gpt2"))
    trained = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    width, rank = 32, 4
    maps = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
    assert trained == 2 * sum(rank * (i + o) for i, o in maps) + 6 * width
    said = capsys.readouterr().out
    assert "on c_attn, c_fc, c_proj and the embeddings of 6 new tokens" in said
    assert f"{trained:,} of {count_parameters(run.model):,} parameters are trained" in said
    assert "alpha 8" in said


def test_untouched_adapter_computes_what_its_base_does(tmp_path, checkpoints, kind):
    settings = lora_settings(tmp_path, checkpoints / kind)
    vocabulary = Vocabulary.load(settings.vocab_path)
    start = load_pretrained(settings, vocabulary, print)
    start.model.eval()
    ids = torch.arange(8)[None]
    with torch.no_grad():
        expected = start.model(ids).logits
        add_adapter(start, settings, print)
        assert torch.equal(start.model.eval()(ids).logits, expected)


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "loss scaled"])
def test_gradients_are_those_of_transformers_loss(tmp_path, checkpoints, kind, scaled):
    settings = lora_settings(
        tmp_path, checkpoints / kind, dropout=0.0, label_loss_weight=1.0, token_dropout=0.0
    )
    dataset, _ = read_data(settings, print)
    start = load_pretrained(settings, dataset.vocabulary, print)
    add_adapter(start, settings, print)
    model = start.model.train()
    shaken(model)
    scaler = torch.amp.GradScaler("cpu", enabled=scaled)
    step = TokenStep(Objective(model, dataset, settings, FP32), scaler)
    step.add_gradients([np.array([0, 1]), np.array([2])])  # accumulated
    scale = scaler.get_scale() if scaled else 1.0
    ours = {n: p.grad / scale for n, p in model.named_parameters() if p.requires_grad}
    step.clear_gradients()
    total = sum(dataset.lengths_N[i] - 1 for i in range(3))
    for index in range(3):
        ids = torch.from_numpy(dataset.row(index).astype("int64"))[None]
        (model(ids, labels=ids).loss * (ids.shape[1] - 1) / total).backward()
    for name, gradient in ours.items():
        expected = model.get_parameter(name).grad
        torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-3, msg=name)
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


def test_fp16_with_a_scaled_loss_learns_what_fp32_learns(tmp_path, checkpoints, kind):
    """What a GPU does with --precision fp16, here on the CPU."""
    settings = lora_settings(
        tmp_path, checkpoints / kind, dropout=0.0, token_dropout=0.0, grad_accumulation_steps=2,
        batch_size=4,
    )  # fmt: skip
    moved = []
    for half in (False, True):
        run = start_run(dataclasses.replace(settings, output_dir=str(tmp_path / f"run{half}")))
        if half:
            precision = Precision("fp16", "tests")
            scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
            step = TokenStep(Objective(run.model, run.rows, settings, precision), scaler)
            run = dataclasses.replace(run, precision=precision, scaler=scaler, gradients=step)
        before = {n: p.detach().clone() for n, p in run.model.named_parameters() if p.requires_grad}
        updater = Updater(run)
        for batches in run.updates_of_epoch(0)[:2]:
            update(updater, batches)
        now = dict(run.model.named_parameters())
        moved.append(torch.cat([(now[name] - old).flatten() for name, old in before.items()]))
    assert moved[0].norm() > 0
    assert torch.cosine_similarity(*moved, dim=0) > 0.9


def test_recomputed_blocks_give_the_same_gradients(tmp_path, checkpoints, kind):
    settings = lora_settings(tmp_path, checkpoints / kind, attention_dropout=0.2)
    found = []
    for recomputed in (False, True):
        folder = str(tmp_path / f"run{recomputed}")
        run = start_run(
            dataclasses.replace(settings, gradient_checkpointing=recomputed, output_dir=folder)
        )
        shaken(run.model)
        run.model.train()
        torch.manual_seed(0)
        run.gradients.add_gradients([np.arange(6)])
        found.append({n: p.grad for n, p in run.model.named_parameters() if p.requires_grad})
    for name, gradient in found[0].items():
        assert torch.equal(gradient, found[1][name]), name


# ------------------------------------------------------------------------------- saving, loading


def test_merged_logits_equal_those_of_the_adapter(tmp_path, checkpoints, kind):
    run = start_run(lora_settings(tmp_path, checkpoints / kind))
    shaken(run.model)
    run.model.eval()
    ids = torch.arange(10)[None]
    with torch.no_grad():
        expected = run.model(ids).logits
        merged = run.adapter.merged().eval()
        torch.testing.assert_close(merged(ids).logits, expected, atol=1e-4, rtol=0)
        assert torch.equal(run.model(ids).logits, expected)  # the run itself goes on unchanged
    assert not any("lora" in name for name in merged.state_dict())


def test_saved_adapter_is_loaded_with_its_base(tmp_path, checkpoints, adapter_run, kind):
    settings = load_settings(TrainSettings, adapter_run(kind) / "settings.yaml")
    best = adapter_run(kind) / "best_model"
    names = {path.name for path in best.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "vocab.json", "tokenizer.json",
            "settings.yaml"} <= names  # fmt: skip
    assert not {"model.safetensors", "config.json"} & names
    config = json.loads((best / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(checkpoints / kind)
    base = load_file(checkpoints / kind / "model.safetensors")
    assert (best / "adapter_model.safetensors").stat().st_size < sum(
        tensor.nbytes for tensor in base.values()
    )

    trained = load_trained_model(best, "cpu", "fp32")
    run = start_run(dataclasses.replace(settings, output_dir=str(tmp_path / "other")))
    scores = score_rows(trained.engines.torch, run.validation_rows)
    figures = scores.figures(run.validation_rows)
    assert figures["loss"] == pytest.approx(trained.validation["loss"], abs=1e-4)
    assert "lora" not in " ".join(trained.model.state_dict())
    written = evaluate_file(trained, settings.data_path, tmp_path / "evaluation")
    assert written["validation"]["loss"] == trained.validation["loss"]
    with safe_open(best / "adapter_model.safetensors", framework="pt") as handle:
        assert json.loads(handle.metadata()["label_names"]) == trained.label_names


def test_peft_itself_reads_the_adapter(adapter_run):
    from peft import PeftModel

    settings = load_settings(TrainSettings, adapter_run("gpt2") / "settings.yaml")
    best = adapter_run("gpt2") / "best_model"
    vocabulary = Vocabulary.load(settings.vocab_path)
    base = load_pretrained(settings, vocabulary, print).model
    theirs = PeftModel.from_pretrained(base, best).eval()
    ours = load_trained_model(best, "cpu", "fp32").model
    ids = torch.arange(10)[None]
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, ours(ids).logits, atol=1e-4, rtol=0)


def test_merged_run_writes_plain_checkpoints(tmp_path, checkpoints, adapter_run, kind):
    settings = lora_settings(tmp_path, checkpoints / kind)
    adapter = adapter_run(kind) / "best_model"
    merged = train(
        dataclasses.replace(settings, merge_lora=True, output_dir=str(tmp_path / "merged"))
    ).folder.best_model
    assert not (merged / "adapter_config.json").exists()
    theirs = AutoModelForCausalLM.from_pretrained(merged).eval()
    ids = torch.arange(10)[None]
    with torch.no_grad():
        expected = load_trained_model(adapter, "cpu", "fp32").model(ids).logits
        torch.testing.assert_close(theirs(ids).logits, expected, atol=1e-4, rtol=0)
        ours = load_trained_model(merged, "cpu", "fp32").model(ids).logits
        torch.testing.assert_close(ours, theirs(ids).logits)


def test_second_save_changes_only_the_weights(tmp_path, checkpoints):
    run = start_run(lora_settings(tmp_path, checkpoints / "gpt2"))
    folder = tmp_path / "saved"
    run.save_model(folder, {})
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    shaken(run.model)
    run.save_model(folder, {})
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert before.keys() == after.keys()
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"adapter_model.safetensors"}


# ------------------------------------------------------------------------------- going on


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_resumed_run_ends_where_the_uninterrupted_one_ends(
    tmp_path, checkpoints, kind, monkeypatch
):
    settings = lora_settings(tmp_path, checkpoints / kind, grad_accumulation_steps=2, batch_size=4)
    whole = train(dataclasses.replace(settings, output_dir=str(tmp_path / "whole")))
    with monkeypatch.context() as patch:
        patch.setattr("train_gpt.StopSignal", lambda _: StopAfter(3))
        assert train(settings).exit_code == 130
    checkpoint = next((tmp_path / "run" / "checkpoints").iterdir())
    stored = load_file(checkpoint / "model.safetensors")
    assert all("lora_" in name or "trainable_tokens" in name for name in stored)
    assert train(dataclasses.replace(settings, resume=True)).exit_code == 0
    for name in ("best_model", "final_model"):
        one, other = (
            load_file(Path(folder) / name / "adapter_model.safetensors")
            for folder in (whole.folder.root, settings.output_dir)
        )
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_resume_with_a_changed_base_is_refused(tmp_path, checkpoints, monkeypatch):
    base = tmp_path / "base"
    shutil.copytree(checkpoints / "gpt2", base)
    settings = lora_settings(tmp_path, base)
    with monkeypatch.context() as patch:
        patch.setattr("train_gpt.StopSignal", lambda _: StopAfter(3))
        train(settings)
    change_weights(base)
    with pytest.raises(UserError, match=r"the base model \(init_from\) was"):
        train(dataclasses.replace(settings, resume=True))


# ------------------------------------------------------------------------------- mistakes


def change_weights(folder: Path) -> None:
    weights = {n: tensor.clone() for n, tensor in load_file(folder / "model.safetensors").items()}
    next(iter(weights.values())).add_(1)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_base_given_from_here_is_found_from_everywhere(tmp_path, checkpoints, monkeypatch):
    shutil.copytree(checkpoints / "gpt2", tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    best = train(lora_settings(tmp_path, Path("base"), num_epochs=1)).folder.best_model
    monkeypatch.chdir("/")
    assert load_trained_model(best, "cpu", "fp32").settings.init_from == str(tmp_path / "base")
    config = json.loads((best / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "base")


def lose(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("damage", "words"),
    [(change_weights, "has changed since"), (lose, "its base cannot be loaded")],
)
def test_base_that_is_gone_or_changed_is_told_in_one_line(tmp_path, checkpoints, damage, words):
    base = tmp_path / "base"
    shutil.copytree(checkpoints / "gpt2", base)
    best = train(lora_settings(tmp_path, base, num_epochs=1)).folder.best_model
    damage(base)
    with pytest.raises(UserError, match=words) as caught:
        load_trained_model(best)
    assert len(str(caught.value).splitlines()) == 1
    assert str(base) in str(caught.value)


def test_damaged_adapter_is_told_in_one_line(tmp_path, adapter_run):
    best = tmp_path / "best_model"
    shutil.copytree(adapter_run("gpt2") / "best_model", best)
    weights = best / "adapter_model.safetensors"
    whole = weights.read_bytes()
    with safe_open(weights, framework="pt") as handle:
        header = handle.metadata()
    state = {name: tensor.clone() for name, tensor in load_file(weights).items()}
    lacking = dict(list(state.items())[1:])
    for damaged in (whole[: len(whole) // 2], None, lacking):
        if damaged is None:
            weights.unlink()
        elif isinstance(damaged, bytes):
            weights.write_bytes(damaged)
        else:
            save_file(damaged, weights, metadata=header)
        with pytest.raises(UserError, match="adapter_model") as caught:
            load_trained_model(best)
        assert len(str(caught.value).splitlines()) == 1


def test_adapter_is_no_start(tmp_path, checkpoints, adapter_run):
    best = adapter_run("gpt2") / "best_model"
    with pytest.raises(UserError, match="--merge_lora"):
        train(lora_settings(tmp_path, checkpoints / "gpt2", init_from=str(best)))


def test_missing_peft_is_told_before_any_work(tmp_path, checkpoints, monkeypatch):
    monkeypatch.setattr("smallgpt.model.lora.importlib.util.find_spec", lambda name: None)
    settings = lora_settings(tmp_path, checkpoints / "gpt2")
    with pytest.raises(UserError, match=r"pip install -e '\.\[lora\]'"):
        train(settings)
    assert not (tmp_path / "run" / "data_report.json").exists()
