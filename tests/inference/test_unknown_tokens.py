"""Tokens that training never saw: refused or read as <UNK>, named, counted, never lost."""

import json

import pytest
import torch
from plain_settings import plain_settings

from inference import load_trained_model, main
from smallgpt.errors import SettingsError, UserError
from smallgpt.model.build import build_model
from smallgpt.model.folder import save_model_folder
from train_gpt import train

ROWS = [
    {"id": 1, "tokens": "A B", "label": "0"},
    {"id": 2, "tokens": "A chat B chat", "label": "1"},
    {"id": 3, "tokens": "voice A", "label": "0"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, vocabulary):
    """A model with drawn weights that was told nothing about unknown tokens."""
    shape = plain_settings(
        n_layer=1, n_head=2, n_embd=16, n_positions=12, max_length=12, token_dropout=0
    )
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "model"
    save_model_folder(build_model(shape, vocabulary), path, vocabulary, shape, None)
    return path


@pytest.fixture
def run(folder, write_rows, tmp_path):
    """A function that runs inference.py on the rows; returns code, predictions and metrics."""

    def run(*flags: str, rows=ROWS):
        out = tmp_path / "out"
        argv = [f"--model_path={folder}", "--device=cpu", f"--test_data={write_rows(*rows)}"]
        code = main([*argv, f"--output_dir={out}", "--overwrite", *flags])
        told = (out / "predictions.jsonl").read_text().splitlines()
        metrics = out / "metrics.json"
        figures = json.loads(metrics.read_text()) if metrics.exists() else None
        return code, [json.loads(line) for line in told], figures

    return run


def test_a_prompt_with_a_new_event_names_it_and_the_remedy(folder):
    argv = [f"--model_path={folder}", "--device=cpu", "--prompt", "A chat"]
    for mode in ("interactive", "classify", "generate"):
        with pytest.raises(UserError, match=r"not in the vocabulary: .chat.*--unknown_token unk"):
            main([*argv, "--mode", mode])


@pytest.mark.parametrize("mode", ["interactive", "classify", "generate"])
def test_a_prompt_is_read_with_unk_where_asked(folder, mode, capsys):
    argv = [f"--model_path={folder}", "--device=cpu", "--mode", mode]
    seed = ["--seed", "1"] if mode == "generate" else []
    assert main([*argv, *seed, "--prompt", "A <UNK>"]) == 0
    expected = capsys.readouterr().out
    assert main([*argv, *seed, "--prompt", "A chat", "--unknown_token", "unk"]) == 0
    out, err = capsys.readouterr()
    assert out == expected
    assert "1 unknown token read as <UNK>: 'chat'; training never had <UNK>" in err


@pytest.mark.parametrize("mode", ["evaluate", "classify"])
def test_rows_with_unknown_tokens_are_the_first_thing_told(run, mode, capsys):
    code, predictions, figures = run("--mode", mode)
    out = capsys.readouterr().out
    verb = "scored" if mode == "evaluate" else "classified"
    assert out.startswith(f"!!! 2 of 3 rows could not be {verb}; the predictions have them")
    assert "!!!   token 'chat' is not in the vocabulary (line 2)" in out
    assert "!!! --unknown_token unk" in out.split("\n\n")[0]
    assert code == 0
    assert ["reason" in row for row in predictions] == [False, True, True]
    assert [row["row"]["id"] for row in predictions] == [1, 2, 3]
    assert figures is None or figures["unscored"] == 2


@pytest.mark.parametrize("mode", ["evaluate", "classify"])
def test_strict_fails_where_a_row_could_not_be_used_after_writing(run, mode, capsys):
    assert run("--mode", mode, "--strict", "--json")[0] == 1
    assert capsys.readouterr().err.startswith("!!! 2 of 3 rows") or mode == "classify"
    assert run("--mode", mode, "--strict", "--unknown_token", "unk")[0] == 0


@pytest.mark.parametrize("mode", ["evaluate", "classify"])
def test_strict_counts_rows_that_the_model_gives_no_number(run, monkeypatch, mode):
    def load(*args):
        trained = load_trained_model(*args)
        with torch.no_grad():
            trained.model.transformer.wpe.weight[6] = float("inf")
        return trained

    monkeypatch.setattr("smallgpt.engines.trained.load_trained_model", load)
    rows = [{"tokens": "A B"}, {"tokens": "A B " * 4}]
    code, predictions, _ = run("--mode", mode, "--strict", rows=rows)
    assert code == 1
    assert ["no finite number" in row.get("reason", "") for row in predictions] == [False, True]


@pytest.mark.parametrize("flags", [[], ["--mode=generate", "--images=x.png", "--keep=0.5"]])
def test_strict_needs_rows_of_a_file(flags):
    with pytest.raises(SettingsError, match="--strict needs --test_data or --images"):
        main(["--strict", *flags])


@pytest.mark.parametrize("mode", ["evaluate", "classify"])
def test_unknown_tokens_are_named_and_counted(run, mode, capsys):
    code, predictions, figures = run("--mode", mode, "--unknown_token", "unk")
    told = "".join(capsys.readouterr())
    assert "3 unknown tokens read as <UNK>: 'chat' (2 times), 'voice'; training never had" in told
    assert code == 0 and "!!!" not in told.split("labels")[0]
    assert [row.get("unknown_tokens") for row in predictions] == [None, ["chat"] * 2, ["voice"]]
    assert all(row["prediction"] in ("0", "1", "cat") for row in predictions)
    if figures is not None:
        assert figures["unknown_tokens"] == 3
        assert figures["unknown_names"] == {"chat": 2, "voice": 1}
        assert figures["unscored"] == 0


def test_metrics_have_the_most_frequent_names_and_the_number_of_the_others(run):
    rows = [{"tokens": f"A chat new{number} chat"} for number in range(30)]
    figures = run("--unknown_token", "unk", rows=rows)[2]
    assert (figures["unknown_tokens"], figures["unknown_names_left_out"]) == (90, 11)
    assert len(figures["unknown_names"]) == 20 and figures["unknown_names"]["chat"] == 60


def test_rows_of_another_world_are_told_loudly(run, capsys):
    run("--unknown_token", "unk", rows=ROWS)
    assert "is it the one for these rows?" not in capsys.readouterr().err
    run("--unknown_token", "unk", rows=[{"tokens": "x y z x y z x y"}])
    assert "!!! " in (told := capsys.readouterr().err) and "is it the one for these rows?" in told


def test_an_unknown_label_token_is_never_read_as_unk(run):
    rows = [ROWS[0], {"tokens": "A <CLS> <CLS_new> <EOS>"}]
    _, predictions, _ = run("--unknown_token", "unk", rows=rows)
    assert "label token '<CLS_new>' is not in the vocabulary" in predictions[1]["reason"]


def test_unk_is_no_remedy_for_an_unknown_label_token(run, folder, capsys):
    rows = [ROWS[0], {"tokens": "A <CLS> <CLS_new> <EOS>"}]
    run(rows=rows)
    assert "label token '<CLS_new>' is not in the vocabulary" in (out := capsys.readouterr().out)
    assert "--unknown_token" not in out
    with pytest.raises(UserError, match="not in the vocabulary: '<CLS_new>'") as refused:
        main([f"--model_path={folder}", "--device=cpu", "--prompt", "A <CLS> <CLS_new>"])
    assert "--unknown_token" not in str(refused.value)


def test_another_way_to_read_unknown_tokens_is_another_evaluation(run, folder, write_rows):
    rows = write_rows(*ROWS)
    argv = [f"--model_path={folder}", "--device=cpu", f"--test_data={rows}"]
    for flags in ([], ["--unknown_token=unk"], []):
        assert main([*argv, *flags]) == 0
    found = sorted(path.name for path in folder.parent.glob("evaluation_*"))
    assert found == ["evaluation_rows", "evaluation_rows_2"]


@pytest.mark.parametrize("has_unk", [True, False])
def test_a_model_of_rows_with_unk_reads_unknown_tokens_as_unk(
    has_unk, vocabulary, write_rows, tmp_path, capsys
):
    bodies = ["A B", "B A", "A A B", "B B A", "C D", "D C", "C C D", "D D C"]
    bodies += [f"{body} {'<UNK>' if has_unk else 'A'} {body}" for body in bodies]
    rows = write_rows(*({"tokens": body, "label": i % 2} for i, body in enumerate(bodies)))
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary.ids))
    settings = plain_settings(
        data_path=str(rows),
        vocab_path=str(tmp_path / "vocab.json"),
        output_dir=str(tmp_path / "run"),
        **{"n_layer": 1, "n_head": 1, "n_embd": 8, "n_positions": 16, "max_length": 16},
        **{"num_epochs": 1, "dropout": 0.0, "device": "cpu"},
    )
    told = train(settings)
    assert ("some training rows have <UNK>" in capsys.readouterr().out) == has_unk
    trained = load_trained_model(told.folder.best_model, "cpu")
    assert trained.settings.unknown_token == ("unk" if has_unk else "error")
    assert trained.learned_unknown == has_unk
    assert "unknown_token: error" in told.folder.settings.read_text()  # of reading training rows
