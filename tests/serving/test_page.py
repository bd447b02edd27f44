"""GET / of the server in a real browser: used as people do, and it answers as the API does."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from trained_models import image_of
from web_pages import ASK, PHONE, codes_of, draw, expect_label

from smallgpt.engines.trained import load_trained_model
from smallgpt.export.web_facts import PAGE
from smallgpt.tokens.codebook import Codebook

pytest.importorskip("fastapi", reason="fastapi is not installed: the extra `serve`")
expect = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: the extra `browser`"
).expect
ROOT = Path(__file__).parents[2]
TOKEN = "a token of the tests"[:16].replace(" ", "-")


class Running:
    """A server process."""

    def __init__(self, model: Path, *flags: str, port: int = 0):
        self.words = ["--model_path", str(model), *flags]
        self.start(port)

    def start(self, port: int) -> None:
        """Start it; it has an address before its model is there."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SMALLGPT_")}
        self.process = subprocess.Popen(
            [sys.executable, "serve.py", *self.words, "--port", str(port)],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        found = None
        while found is None:
            line = self.process.stdout.readline()
            assert line, "the server has ended"
            found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        self.port = int(found[1])
        self.address = f"http://127.0.0.1:{self.port}/"
        while True:
            try:
                self.get("readyz")
                return
            except OSError:
                time.sleep(0.05)

    def end(self) -> None:
        """Ask it to end, and wait."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        self.process.stdout.close()

    def get(self, path: str, **headers: str) -> "urllib.request.addinfourl":
        """The answer to a GET."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return urllib.request.urlopen(urllib.request.Request(self.address + path, headers=headers))

    def ask(self, path: str, **body: object):
        """The JSON that a POST of JSON is answered with."""
        request = urllib.request.Request(
            self.address + path, json.dumps(body).encode(), {"content-type": "application/json"}
        )
        return json.load(urllib.request.urlopen(request))


@pytest.fixture(scope="module")
def running(model_of):
    """A function: the server of a kind of model, with a token where flags give one."""
    servers: dict[tuple[str, ...], Running] = {}

    def server(kind: str, *flags: str) -> Running:
        if (kind, *flags) not in servers:
            servers[kind, *flags] = Running(model_of(kind), *flags)
        return servers[kind, *flags]

    yield server
    for each in servers.values():
        each.end()


@pytest.fixture(scope="module")
def pages():
    """Pages that are open, by server and options."""
    opened = {}
    yield opened
    for page in opened.values():
        page.context.close()


@pytest.fixture
def open_page(browser, running, pages):
    """A function: the page of a kind of model, ready, nothing drawn or written in it.

    There is no error in its console, and it asks no other host.
    """
    used = []

    def open_it(kind: str, **options):
        name = f"{kind} {options}"
        if name not in pages:
            page = pages[name] = new_page(browser, running(kind).address, **options)
            page.locator("html[data-ready=true]").wait_for()
        page = pages[name]
        used.append(page)
        page.get_by_role("button", name=re.compile("Clear|清除")).click()
        # What completed an earlier drawing is gone.
        expect(page.locator(".gallery.four figure[data-codes]")).to_have_count(0)
        return page

    yield open_it
    assert [page.told for page in used if page.told] == []


def new_page(browser, address: str, **options):
    """A page at an address; `told` has what its console said, and requests to other hosts."""
    context = browser.new_context(**{"locale": "en-US", **options})
    context.set_default_timeout(15_000)
    page = context.new_page()
    page.told = []
    page.on("console", lambda line: page.told.append(line.text))
    page.on("pageerror", lambda error: page.told.append(str(error)))
    page.on(
        "request",
        lambda each: each.url.startswith(address) or page.told.append(f"asked {each.url}"),
    )
    page.goto(address)
    return page


def shown_shares(page) -> dict[str, str]:
    """Labels or tokens with their shares, as they stand there."""
    return {
        bar.locator(".name").inner_text(): bar.locator(".share").inner_text()
        for bar in page.locator("div.bar").all()
    }


# ------------------------------------------------------------------------------- images


def test_a_drawing_has_the_label_and_the_shares_that_predict_tells(open_page, running, model_of):
    page = open_page("bars")
    draw(page, (0, 0.12), (1, 0.12))
    expect_label(page, "0")
    draw(page, (0, 0.88), (1, 0.88))
    page.get_by_role("button", name="Undo").click()
    expect_label(page, "0")
    page.get_by_role("button", name="Clear").click()
    page.get_by_text("Draw something").wait_for()
    draw(page, (0, 0.88), (1, 0.88))
    expect_label(page, "1")

    trained = load_trained_model(model_of("bars"))
    codebook = Codebook.load(trained.codebook)
    random = np.random.default_rng(8)
    images = np.stack([image_of(n % 2, random) for n in range(8)]).astype(np.float32)[..., None]
    questions = [{"image": image.ravel().tolist()} for image in images]
    looks = page.evaluate(ASK, {"method": "look", "questions": questions})
    codes = codebook.encode(images).tolist()
    assert [look["codes"] for look in looks] == codes
    rows = [" ".join(["<IMG>", *(codebook.code_tokens[k] for k in row), "</IMG>"]) for row in codes]
    told = running("bars").ask("predict", input_data=rows)["predictions"]
    for look, answer in zip(looks, told, strict=True):
        shares = dict(zip(trained.label_names, look["labels"], strict=True))
        assert shares == answer["probabilities"]


def test_images_are_made_up_and_named(open_page):
    page = open_page("bars")
    page.get_by_role("button", name="Make up images").click()
    made = codes_of(page.locator(".gallery:not(.four) figure"))
    assert len(made) == 8 and all(len(codes) == 16 for codes in made)
    assert len({tuple(codes) for codes in made}) > 1
    assert page.get_by_role("img", name=re.compile("Made-up image ., read as [01]")).count() == 8


def test_a_half_drawn_image_is_completed_as_completions_do_it(open_page, running, model_of):
    page = open_page("bars")
    draw(page, (0, 0.12), (1, 0.12))
    for codes in codes_of(page.locator(".gallery.four figure")):
        assert len(codes) == 16 and codes[:4] == [3] * 4
    image = [3.0] * 4 + [1.0] * 12
    question = {"image": image, "kept": 2, "count": 1, "temperature": 0}
    drawn = page.evaluate(ASK, {"method": "draw", "questions": [question]})[0]["codes"][0]
    tokens = Codebook.load(load_trained_model(model_of("bars")).codebook).code_tokens
    prompt = " ".join(["<IMG>", *(tokens[code] for code in drawn[:8])])
    asked = running("bars").ask("v1/completions", prompt=prompt, max_tokens=8, temperature=0)
    assert asked["choices"][0]["text"].split() == [tokens[code] for code in drawn[8:]]


def test_the_keyboard_is_enough(open_page):
    page = open_page("bars")
    surface = page.locator("canvas.pad")
    while not surface.evaluate("canvas => canvas === document.activeElement"):
        page.keyboard.press("Tab")
    for key in ["Shift+ArrowUp"] * 4 + ["Shift+ArrowLeft"] * 6 + ["Space"]:
        page.keyboard.press(key)
    for key in ["Shift+ArrowRight"] * 10 + ["Space"]:
        page.keyboard.press(key)
    expect_label(page, "0")
    maker = page.get_by_role("button", name="Make up images")
    while not maker.evaluate("button => button === document.activeElement"):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    codes_of(page.locator(".gallery:not(.four) figure"))


def test_it_speaks_chinese_and_says_where_it_computes(open_page):
    page = open_page("bars", locale="zh-CN", **PHONE)
    draw(page, (0, 0.12), (1, 0.12))
    expect_label(page, "0")
    visible = page.locator("body").inner_text().replace("Delete", "").replace("English", "")
    assert not re.search("[A-Za-z]{4,}", visible)
    assert "在此页的服务器上运行" in visible and "不向其他网站发出请求" in visible
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.get_by_role("button", name="English").click()
    page.get_by_text("It runs on the server of this page.").wait_for()
    expect_label(page, "0")  # what was drawn stays


# ------------------------------------------------------------------------------- rows


def test_next_tokens_surprise_and_labels_of_a_row_are_those_of_the_api(open_page, running):
    page, server = open_page("letters"), running("letters")
    rows = [" ".join("abcdefabcdef"[start : start + n]) for start in range(4) for n in (1, 4)]
    questions = [{"text": row, "added": []} for row in rows]
    answers = page.evaluate(ASK, {"method": "read", "questions": questions})
    labels = server.ask("predict", input_data=rows)["predictions"]
    for row, answer, label in zip(rows, answers, labels, strict=True):
        told = dict(zip(("down", "up"), answer["labels"], strict=True))
        assert told == pytest.approx(label["probabilities"])
        asked = server.ask("v1/completions", prompt=row, max_tokens=1, logprobs=10, temperature=0)
        top = asked["choices"][0]["logprobs"]["top_logprobs"][0]
        found = {each["piece"]: each["share"] for each in answer["next"]}
        assert found == pytest.approx({text: np.exp(share) for text, share in top.items()})
        assert all(each["id"] >= 0 for each in answer["next"])
        if len(row) > 1:
            scored = server.ask("v1/score", rows=[row], tokens=True)["scores"][0]["tokens"]
            assert [each["surprise"] for each in answer["tokens"]] == [x["nll"] for x in scored]


def test_a_next_token_is_chosen_and_the_row_goes_on_to_its_end(open_page):
    page = open_page("letters")
    row = page.get_by_role("textbox")
    row.press_sequentially("a b <cls_")
    expect(page.get_by_role("option")).to_have_text(["<CLS_down>", "<CLS_up>"])
    row.press("Escape")
    page.get_by_text("Not in the vocabulary: <cls_").wait_for()
    row.fill("a b c")
    letter = page.locator("button.bar").filter(has_text=re.compile("^[a-f]")).first
    token = letter.locator(".name").inner_text()
    letter.click()
    expect(row).to_have_value(f"a b c {token}")
    page.get_by_role("slider", name="Temperature").press("Home")
    page.get_by_role("button", name="Go on").click()
    expect(row).to_have_value(re.compile("<CLS> <CLS_(up|down)> <EOS>$"))
    count = len(row.input_value().split())
    page.locator(".chip").nth(count - 1).wait_for()
    chips = page.locator(".chip").all_inner_texts()
    assert re.search(r": \d+\.\d\d nats", chips[1]) and "not predicted" in chips[0]
    page.get_by_role("button", name="Go on").click()
    page.get_by_role("status").filter(has_text="The row is whole").wait_for()
    row.fill("a b <CLS> <EOS>")  # the page knows no mistake in it, the server does
    page.get_by_text("The server does not take it: the tail <CLS> <EOS>").wait_for()
    row.fill("a b c d e f " * 10)
    page.get_by_text("The row has 60 tokens").wait_for()
    assert page.locator(".bar.strong").count()  # its label is that of its end


def test_an_empty_page_begins_as_a_training_row_did(open_page):
    page = open_page("letters")
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_role("textbox")).to_have_value(re.compile("<EOS>$"))


@pytest.mark.parametrize("kind", ["letters", "texts"])
def test_a_megabyte_of_garbage_is_told_and_the_page_goes_on(kind, open_page):
    page = open_page(kind)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    garbage = "\ud83d x\u0000<EOS>\u202e" + "\U0001f600 %s\n" * 150_000
    page.evaluate("text => navigator.clipboard.writeText(text)", garbage)
    page.get_by_role("textbox").press("Control+v")
    page.get_by_role("status").filter(has_text="letters; at most 100,000 are read").wait_for()
    page.get_by_role("textbox").fill("a b")
    page.locator("button.bar").first.wait_for()


def test_texts_are_read_and_written_on_by_the_tokenizer_of_the_server(open_page, running, model_of):
    page, server = open_page("texts"), running("texts")
    trained = load_trained_model(model_of("texts"))
    text = page.get_by_role("textbox")
    text.fill("the cat <CLS_yes> sat\n")
    page.locator(".chip").nth(5).wait_for()
    assert page.get_by_role("status").count() == 0
    assert {"yes", "no"} == set(page.locator("div.bar .name").all_inner_texts()[:2])
    rows = ["the cat", "x <EOS> 好\n", "  the house", "好", "don't 12"]
    questions = [{"text": row, "added": []} for row in rows]
    answers = page.evaluate(ASK, {"method": "read", "questions": questions})
    labels = server.ask("predict", input_data=rows)["predictions"]
    for row, answer, label in zip(rows, answers, labels, strict=True):
        assert answer["problem"] is None
        assert answer["ids"] == trained.vocabulary.tokenizer.encode(row, marked=False)
        told = dict(zip(trained.label_names, answer["labels"], strict=True))
        assert told == pytest.approx(label["probabilities"])
        assert len(answer["next"]) == 10 and all(each["id"] >= 0 for each in answer["next"])
        assert all(each["surprise"] > 0 for each in answer["tokens"][1:])
    asked = [{**question, "temperature": 0} for question in questions]
    made = page.evaluate(ASK, {"method": "goOn", "questions": asked})
    written = page.evaluate(
        ASK, {"method": "write", "questions": [{"ids": each["added"]} for each in made]}
    )
    for row, words in zip(rows, written, strict=True):
        answer = server.ask("v1/completions", prompt=row, temperature=0)
        assert words == answer["choices"][0]["text"]
    text.fill("the cat")
    choice = page.locator("button.bar").first
    choice.click()
    expect(text).not_to_have_value("the cat")
    page.get_by_role("button", name="Go on").click()
    expect(text).to_have_value(re.compile("^the cat.."))


def test_an_instruction_is_answered(open_page):
    page = open_page("instructions")
    page.get_by_role("textbox").fill("say 3")
    page.locator("button.bar").first.wait_for()
    assert page.locator(".chip").count() == 0  # the prompt was never to be predicted
    page.get_by_role("slider", name="Temperature").press("Home")
    page.get_by_role("button", name="Answer").click()
    expect(page.locator(".answer")).to_have_text(re.compile("..."))
    page.locator(".chip").first.wait_for()
    assert page.get_by_role("textbox").input_value() == "say 3"


# ------------------------------------------------------------------------------- the server


def test_a_server_with_a_token_is_asked_only_with_it(browser, running):
    server = running("head", "--token", TOKEN)
    asked = []
    page = new_page(browser, server.address)
    page.on("request", lambda each: asked.append(each.url))
    token = page.get_by_label("This server wants its token")
    token.wait_for()
    assert page.told == []
    with pytest.raises(urllib.error.HTTPError, match="401"):
        server.get("model/page.json")
    token.fill("another one")
    token.press("Enter")
    page.get_by_text("That is not the token of this server.").wait_for()
    page.get_by_role("button", name="中文").click()
    page.get_by_text("这不是此服务器的令牌。").wait_for()
    page.get_by_role("button", name="English").click()
    page.told.clear()  # a browser writes there of each answer 401
    page.get_by_label("This server wants its token").fill(TOKEN)
    page.get_by_role("button", name="Open").click()
    page.get_by_role("textbox").fill("a b c d")
    page.locator(".bar.strong").first.wait_for()
    assert page.get_by_role("heading", name="What comes next").count() == 0
    page.reload()
    page.get_by_role("textbox").wait_for()  # the tab has kept it
    assert page.told == [] and not any(TOKEN in url for url in asked)
    assert page.evaluate("Object.keys(localStorage)") == ["smallgpt-language"]
    page.context.close()


def test_a_server_that_is_gone_or_wants_a_token_later_is_told_and_asked_again(browser, model_of):
    server = Running(model_of("letters"))
    page = new_page(browser, server.address)
    page.locator("html[data-ready=true]").wait_for()
    server.end()
    page.get_by_role("textbox").fill("a b c")
    page.get_by_role("alert").filter(has_text="The server does not answer").wait_for()
    server.start(server.port)
    page.locator(".bar.strong").first.wait_for()
    expect(page.get_by_role("alert")).to_have_count(0)
    # It comes again with a token: what was written stays, and is read once the token is there.
    server.end()
    server.words += ["--token", TOKEN]
    server.start(server.port)
    page.get_by_role("textbox", name="Tokens of a row").fill("a b c d")
    page.get_by_label("This server wants its token").fill(TOKEN)
    page.get_by_role("button", name="Open").click()
    page.locator(".chip").nth(3).wait_for()
    server.end()
    page.context.close()


def test_files_of_the_page_are_a_fixed_list_and_forbid_other_sites(running):
    server = running("bars")
    with server.get("") as answer:
        page, headers = answer.read().decode(), answer.headers
    assert 'data-server="open"' in page and headers["content-type"].startswith("text/html")
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy
    assert "unsafe" not in policy and headers["x-content-type-options"] == "nosniff"
    for path in sorted((PAGE / "page").iterdir()):
        with server.get(f"page/{path.name}") as answer:
            assert answer.read() == path.read_bytes()
            kind = answer.headers["content-type"].partition(";")[0]
        expected = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
        assert kind == expected[path.suffix]
    for path in ("page/../index.html", "page/%2e%2e/index.html", "page/", "model/vocab.json"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            server.get(path)
    with pytest.raises(urllib.error.HTTPError, match="304"):
        server.get("", if_none_match=headers["etag"])


def test_what_the_page_knows_of_the_model(running, model_of):
    server = running("bars")
    with server.get("model/page.json") as answer:
        facts = json.load(answer)
        assert answer.headers["cache-control"] == "no-store"
    trained = load_trained_model(model_of("bars"), engine="torch")
    count = sum(each.numel() for each in trained.model.parameters())
    assert facts["server"] is True and facts["kind"] == "images"
    assert facts["predicts_tokens"] is True and facts["parameters"] == count
    assert "files" not in facts and str(model_of("bars").parents[1]) not in json.dumps(facts)
    with server.get("model/tokens.json") as answer:
        assert json.load(answer) == trained.vocabulary.tokens
    with server.get("model/codebook.bin") as answer:
        centers = np.frombuffer(answer.read(), "<f4")
    assert np.array_equal(centers, Codebook.load(trained.codebook).centers_KxD.ravel())
    with server.get("openapi.json") as answer:
        paths = json.load(answer)["paths"]
    assert not [path for path in paths if path.startswith(("/page", "/model"))]


def test_ids_that_are_none_and_texts_that_are_none_are_told(running):
    server = running("texts")
    assert server.ask("model/text", ids=[])["text"] == ""
    for path, body in (
        ("model/text", {"ids": [10**6]}),
        ("model/text", {"ids": [-1]}),
        ("model/ids", {"text": 7}),
        ("model/ids", {"text": "a", "more": 1}),
    ):
        with pytest.raises(urllib.error.HTTPError, match="422") as told:
            server.ask(path, **body)
        assert set(json.load(told.value)["error"]) == {"message", "type", "param"}
