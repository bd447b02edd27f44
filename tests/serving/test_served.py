"""The served model: many requests at once, each answered as if it were alone."""

import asyncio
import json
import threading

import numpy as np
import pytest

from inference import classify, evaluate_file, generate, load_trained_model
from smallgpt.errors import UserError
from smallgpt.inference.prompts import row_text
from smallgpt.serving.growth import EngineFailedError
from smallgpt.serving.served import ServedModel, Wish
from smallgpt.serving.turns import QueueFullError

ENGINES = ("torch", "onnx")


@pytest.fixture(scope="module")
def serve(model_of):
    """A function: a served model of a kind, by an engine; started once."""
    started = {}

    def served(kind, engine="onnx", **limits):
        key = (kind, engine, *limits.items())
        if key not in started:
            trained = load_trained_model(model_of(kind), "cpu", "fp32", engine=engine)
            started[key] = ServedModel(trained, **{"most_waiting": 256, **limits})
            started[key].start()
        return started[key]

    yield served
    for each in started.values():
        each.stop()


def data_of(model_of, kind):
    """Rows that a model was trained on, or tested with."""
    folder = model_of(kind).parents[1]
    return [*folder.glob("test.jsonl"), *folder.glob("*.jsonl"), *folder.glob("data/*.jsonl")][0]


def rows_of(model_of, kind, count=40):
    """Rows of the data that a model was trained on, without their labels."""
    rows = [json.loads(line) for line in data_of(model_of, kind).read_text().splitlines()][:count]
    return [{key: row[key] for key in ("tokens", "text") if key in row} for row in rows]


async def grown(served, wish):
    """The whole texts, ids and pieces of a wish."""
    pieces = [piece async for piece in served.go_on(wish)]
    texts = ["".join(p.text for p in pieces if p.index == i) for i in range(wish.count)]
    ids = [[t for p in pieces if p.index == i for t in p.ids] for i in range(wish.count)]
    return texts, ids, pieces


# ------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["bars", "letters", "head", "texts"])
def test_labels_are_those_of_classify_alone_and_among_others(serve, model_of, kind, engine):
    served, rows = serve(kind, engine), rows_of(model_of, kind)
    expected = classify(served.trained, rows)

    async def ask():
        together = served.label(served.rows_to_label(rows))
        alone = [served.label(served.rows_to_label(row)) for row in rows]
        return await asyncio.gather(together, *alone)

    together, *alone = asyncio.run(ask())
    for answer, (one,), (label, probabilities) in zip(together, alone, expected, strict=True):
        assert answer["prediction"] == one["prediction"] == label
        assert [*answer["probabilities"]] == [*probabilities]
        for given in (answer, one):
            assert given["probabilities"] == pytest.approx(probabilities, abs=1e-6)


# ------------------------------------------------------------------------------- continuations


def prompts_of(served, rows):
    """Beginnings of rows of different lengths, as ids."""
    prompts = []
    for index, row in enumerate(rows):
        prompt = served.prompt(row.get("text") or row["tokens"].split("<CLS>")[0])
        prompts.append(prompt[: max(1, len(prompt) - index % 7)])
    return prompts


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["bars", "letters", "no labels", "texts"])
def test_continuations_among_63_others_are_those_of_generate(serve, model_of, kind, engine):
    served = serve(kind, engine)
    rows = rows_of(model_of, kind, 16)
    prompts = [p for p in prompts_of(served, rows)]
    wishes = []
    for index in range(64):
        prompt = prompts[index % len(prompts)]
        half = prompt[: max(1, len(prompt) // (1 + index % 3))]
        wishes.append(Wish(half, greedy=index % 4 == 0, temperature=0.5 + index % 3, seed=index))

    async def ask():
        async def one(index, wish):
            await asyncio.sleep(0.001 * (index % 9))  # they join at different times
            return await grown(served, wish)

        return await asyncio.gather(*(one(*each) for each in enumerate(wishes)))

    for wish, (_, (ids,), pieces) in zip(wishes, asyncio.run(ask()), strict=True):
        expected = generate(
            served.trained,
            wish.prompt,
            greedy=wish.greedy,
            temperature=1.0 if wish.greedy else wish.temperature,
            seed=wish.seed,
        )
        assert [*wish.prompt, *ids] == expected.sequences[0]
        assert pieces[-1].finish_reason in ("stop", "length")


def test_several_continuations_of_one_prompt_are_those_of_generate(serve):
    served = serve("letters")
    prompt = served.prompt("a b")
    texts, ids, pieces = asyncio.run(grown(served, Wish(prompt, count=5, seed=3, shares=2)))
    expected = generate(served.trained, "a b", count=5, seed=3).sequences
    assert [prompt + each for each in ids] == expected
    assert [f"a b{text}" for text in texts] == [row_text(served.trained, row) for row in expected]
    for piece in pieces:
        assert len(piece.chosen) == len(piece.likeliest) == len(piece.ids)
        for share, likeliest in zip(piece.chosen, piece.likeliest, strict=True):
            assert share.logprob <= likeliest[0].logprob <= 0
            assert likeliest[0].logprob >= likeliest[1].logprob


@pytest.mark.parametrize("kind", ["texts", "instructions"])
def test_pieces_of_a_text_are_the_text_that_generate_writes(serve, kind):
    served = serve(kind)
    wish = Wish(served.prompt("say 3: the cat"), greedy=True)
    (text,), (ids,), _ = asyncio.run(grown(served, wish))
    (row,) = generate(served.trained, "say 3: the cat", greedy=True).sequences
    whole = row_text(served.trained, row)
    assert ids == (row if kind == "instructions" else row[len(wish.prompt) :])
    assert whole == (text if kind == "instructions" else "say 3: the cat" + text)


def test_an_empty_prompt_begins_as_training_rows_did(serve):
    for kind in ("bars", "letters"):
        served = serve(kind)
        (text,), (ids,), _ = asyncio.run(grown(served, Wish(served.prompt(""), seed=1)))
        assert text == row_text(served.trained, ids)
        first = served.trained.vocabulary.tokens[ids[0]]
        assert first in (["<IMG>"] if kind == "bars" else served.trained.first_tokens)


def test_a_stop_text_ends_a_continuation_before_it(serve):
    served = serve("letters")
    (whole,), _, _ = asyncio.run(grown(served, Wish(served.prompt("a b"), greedy=True)))
    stop = whole.split()[2]
    before = whole[: whole.index(stop)]
    wish = Wish(served.prompt("a b"), greedy=True, stop=("no such text", stop))
    (text,), _, pieces = asyncio.run(grown(served, wish))
    assert text == before
    assert pieces[-1].finish_reason == "stop"


def test_a_prompt_that_no_row_begins_with_or_that_is_full_is_refused(serve):
    served = serve("bars")
    for prompt, reason in (("<IMG> <IMG>", "token 2"), ("<IMG> <Z_000> <Z_9>", "<Z_9>")):
        with pytest.raises(UserError, match=reason):
            asyncio.run(grown(served, Wish(served.prompt(prompt))))
    served = serve("letters")
    full = [served.prompt("a")[0]] * served.trained.max_length
    with pytest.raises(UserError, match="nothing can follow"):
        asyncio.run(grown(served, Wish(full)))


# ------------------------------------------------------------------------------- scores


@pytest.mark.parametrize("kind", ["bars", "no labels", "texts"])
def test_scores_are_those_of_an_evaluation(serve, model_of, kind, tmp_path):
    served = serve(kind)
    path = data_of(model_of, kind)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    evaluate_file(served.trained, path, tmp_path / "out")
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    scores = asyncio.run(served.score(served.rows_to_score(rows), tokens=True))
    for told, line in zip(scores, lines, strict=True):
        expected = json.loads(line)
        tokens = told.pop("tokens")
        assert tokens[0]["nll"] is None
        assert sum(each["nll"] for each in tokens[1:]) == pytest.approx(expected["nll_sum"], 1e-6)
        for name, value in told.items():
            near = pytest.approx(value, abs=1e-6) if not isinstance(value, str | None) else value
            assert expected[name] == near, name
        assert {*expected} - {*told} <= {"line", "row", "body_bytes", "body_characters"} | (
            set() if "label" in told else {"label", "prediction", "confidence", "probabilities",
                                           "raw_confidence", "reason"}
        )  # fmt: skip


# ------------------------------------------------------------------------------- limits and faults


def test_more_requests_than_may_wait_are_refused_and_the_others_answered(serve, model_of):
    served = serve("bars", most_waiting=4, most_rows=2)
    wish = Wish(served.prompt("<IMG>"), seed=0)

    async def ask():
        return await asyncio.gather(
            *(grown(served, wish) for _ in range(40)), return_exceptions=True
        )

    answers = asyncio.run(ask())
    refused = [answer for answer in answers if isinstance(answer, QueueFullError)]
    answered = [answer for answer in answers if not isinstance(answer, BaseException)]
    assert refused and answered and len(refused) + len(answered) == 40
    assert len({tuple(ids) for _, (ids,), _ in answered}) == 1
    assert served.waiting == 0


def test_who_leaves_frees_its_place(serve):
    served = serve("no labels", most_waiting=8, most_rows=1)
    long = Wish([served.prompt("a")[0]], free=True, seed=0)

    async def leave_and_ask_again():
        for _ in range(30):
            pieces = served.go_on(long)
            await anext(pieces)
            await pieces.aclose()
        task = asyncio.create_task(grown(served, long))
        await asyncio.sleep(0)
        task.cancel()
        return await grown(served, long)

    asyncio.run(leave_and_ask_again())
    while not served.is_idle:
        pass
    assert served.growing == 0


def test_a_failure_reaches_those_in_it_and_the_next_are_answered(serve, monkeypatch):
    served = serve("letters", most_rows=8)
    wish = Wish(served.prompt("a b"), seed=0)
    rows = type(served._turns._rows)
    step, calls = rows.step, []

    def failing(self, ids_B):
        calls.append(len(ids_B))
        if len(calls) == 2:
            raise RuntimeError("out of order")
        return step(self, ids_B)

    expected = asyncio.run(grown(served, wish))
    monkeypatch.setattr(rows, "step", failing)

    async def ask():
        return await asyncio.gather(
            *(grown(served, wish) for _ in range(3)), return_exceptions=True
        )

    answers = asyncio.run(ask())
    assert {type(answer) for answer in answers} >= {EngineFailedError}
    assert asyncio.run(grown(served, wish))[:2] == expected[:2]


def test_logits_that_are_not_finite_fail_the_row_alone(serve, monkeypatch):
    served = serve("letters", most_rows=16)
    rows = type(served._turns._rows)
    join = rows.join

    def broken(self, ids):
        logits_V = join(self, ids)
        return np.full_like(logits_V, np.nan) if len(ids) == 3 else logits_V

    monkeypatch.setattr(rows, "join", broken)
    good, bad = Wish(served.prompt("a b"), seed=0), Wish(served.prompt("a b c"), seed=0)

    async def ask():
        return await asyncio.gather(grown(served, good), grown(served, bad), return_exceptions=True)

    (texts, _, _), error = asyncio.run(ask())
    assert texts[0]
    assert isinstance(error, EngineFailedError)


def test_stopping_fails_what_waits(model_of):
    served = ServedModel(load_trained_model(model_of("bars"), "cpu", "fp32"), most_waiting=4)
    served.start()
    wish = Wish(served.prompt("<IMG>"))
    step = served._turns._rows.step
    goes_on = threading.Event()

    def held(ids_B):
        """The next token comes only once the server is to stop."""
        goes_on.wait(60)
        return step(ids_B)

    served._turns._rows.step = held

    async def ask():
        pieces = served.go_on(wish)
        await anext(pieces)
        stopping = asyncio.create_task(asyncio.to_thread(served.stop))
        while not served._turns._stopping:
            await asyncio.sleep(0.001)
        goes_on.set()
        await stopping
        async for _ in pieces:
            pass

    with pytest.raises(EngineFailedError, match="stopping"):
        asyncio.run(ask())
    with pytest.raises(EngineFailedError):
        asyncio.run(grown(served, wish))
