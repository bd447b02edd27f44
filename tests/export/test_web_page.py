"""The page of --format web in a real browser: it is used as people do, and answers as commands."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from trained_models import image_of
from web_pages import ASK, PHONE, codes_of, draw, expect_label

from inference import classify, generate, load_trained_model, next_tokens
from smallgpt.tokens.codebook import Codebook

expect = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: the extra `browser`"
).expect
pytestmark = pytest.mark.usefixtures("runtime")


@pytest.fixture(scope="module")
def pages():
    """Pages that are open, by kind and options: loading one takes a second."""
    opened = {}
    yield opened
    for page in opened.values():
        page.context.close()


@pytest.fixture
def open_page(browser, served, exported, pages):
    """A function: the page of a kind of model, ready, nothing drawn or written in it.

    There is no error in its console, and it asks no other host.
    """
    used = []

    def open_it(kind: str, **options):
        name = f"{kind} {options}"
        if name not in pages:
            address = served(exported(kind, "web"))
            context = browser.new_context(**{"locale": "en-US", **options})
            context.set_default_timeout(10_000)
            page = pages[name] = context.new_page()
            page.told = []
            page.on("console", lambda line: page.told.append(line.text))
            page.on("pageerror", lambda error: page.told.append(str(error)))
            page.on(
                "request",
                lambda each: each.url.startswith(address) or page.told.append(f"asked {each.url}"),
            )
            page.goto(address)
            page.locator("html[data-ready=true]").wait_for()
        page = pages[name]
        used.append(page)
        page.get_by_role("button", name=re.compile("Clear|清除")).click()
        return page

    yield open_it
    assert [page.told for page in used if page.told] == []


# ------------------------------------------------------------------------------- images


def test_a_drawing_is_labelled_undone_and_cleared(open_page):
    page = open_page("bars")
    draw(page, (0, 0.12), (1, 0.12))
    expect_label(page, "0")
    page.get_by_role("button", name="Undo").click()
    page.get_by_text("Draw something").wait_for()
    draw(page, (0, 0.88), (1, 0.88))
    expect_label(page, "1")
    page.get_by_role("button", name="Clear").click()
    page.get_by_text("Draw something").wait_for()
    assert page.locator(".seen canvas.empty").count() == 1


def test_a_finger_draws_on_a_phone(open_page):
    page = open_page("bars", **PHONE)
    box = page.locator("canvas.pad").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 10)
    page.locator(".bar.strong").wait_for()


def test_images_are_made_up_and_named(open_page):
    page = open_page("bars")
    page.get_by_role("button", name="Make up images").click()
    figures = page.locator(".gallery:not(.four) figure")
    made = codes_of(figures)
    assert len(made) == 8 and all(len(codes) == 16 for codes in made)
    assert len({tuple(codes) for codes in made}) > 1
    canvases = page.get_by_role(
        "img", name=re.compile("Made-up image . read as|Made-up image ., read")
    )
    assert canvases.count() == 8


def test_a_half_drawn_image_is_completed_below_what_is_drawn(open_page, exported):
    page = open_page("bars")
    draw(page, (0, 0.12), (1, 0.12))
    figures = page.locator(".gallery.four figure")
    facts = json.loads((exported("bars", "web") / "model" / "page.json").read_text())
    paper = round(facts["drawing"]["paper"][0] / 85)  # of the codes 0 to 3
    for codes in codes_of(figures):
        assert len(codes) == 16 and codes[:8] == [3] * 4 + [paper] * 4
    page.get_by_role("slider", name="Upper part that stays").press("End")
    page.locator(".value", has_text="3 of 4 rows").wait_for()


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
    # The pen is shown where it drew last: at the right, near the top.
    pen, box = page.locator(".pen").bounding_box(), surface.bounding_box()
    assert pen["x"] + pen["width"] / 2 == pytest.approx(box["x"] + box["width"], abs=3)
    assert pen["y"] + pen["height"] / 2 == pytest.approx(box["y"] + 0.1 * box["height"], abs=3)
    maker = page.get_by_role("button", name="Make up images")
    while not maker.evaluate("button => button === document.activeElement"):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    codes_of(page.locator(".gallery:not(.four) figure"))
    surface.focus()
    page.keyboard.press("Delete")
    page.get_by_text("Draw something").wait_for()


def test_a_picture_is_read_as_the_command_line_reads_it(open_page, exported, tmp_path):
    page = open_page("bars")
    pixels = 85 * image_of(1, np.random.default_rng(7)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "bar.png")
    page.locator("input[type=file]").set_input_files(tmp_path / "bar.png")
    expect_label(page, "1")
    seen = page.locator(".seen canvas").evaluate(
        "c => [...c.getContext('2d').getImageData(0, 0, 4, 4).data].filter((_, i) => i % 4 === 0)"
    )
    assert np.array_equal(np.array(seen).reshape(4, 4), pixels)
    (tmp_path / "words.png").write_text("no picture")
    page.locator("input[type=file]").set_input_files(tmp_path / "words.png")
    page.get_by_role("alert").filter(has_text="words.png is no image").wait_for()


# ------------------------------------------------------------------------------- rows


def test_known_tokens_are_offered_and_unknown_ones_told(open_page):
    page = open_page("letters")
    row = page.get_by_role("textbox")
    row.press_sequentially("a b <cls_")
    expect(page.get_by_role("option")).to_have_text(["<CLS_down>", "<CLS_up>"])
    row.press("Escape")
    page.get_by_text("Not in the vocabulary: <cls_").wait_for()
    row.fill("a b ")
    row.press_sequentially("<E")
    expect(page.get_by_role("option")).to_have_text(["<EOS>"])
    row.press("ArrowDown")
    assert row.get_attribute("aria-activedescendant") == page.get_by_role("option").get_attribute(
        "id"
    )
    row.press("Enter")
    assert row.input_value() == "a b <EOS> "
    page.locator(".chip").nth(2).wait_for()
    assert page.get_by_role("status").count() == 0


def test_keys_pressed_before_the_list_of_what_is_typed_is_there_wait_for_it(open_page):
    page = open_page("letters")
    page.evaluate("""async () => {
        const { Suggestions } = await import("./page/suggestions.js");
        const input = document.createElement("textarea");
        input.id = "typed";
        window.asked = [];  // answered when the test says so
        const find = (start) => new Promise((resolve) => window.asked.push({ start, resolve }));
        const { list } = new Suggestions(input, find, () => undefined);
        document.body.prepend(input, list);
    }""")
    try:
        row, options = page.locator("#typed"), page.locator("#typed + ul [role=option]")

        def answer(number: int, *tokens: str) -> None:
            page.evaluate("([n, found]) => window.asked[n].resolve(found)", [number, [*tokens]])

        row.press_sequentially("a")
        answer(0, "a0", "a1")
        expect(options).to_have_text(["a0", "a1"])
        row.press("ArrowDown")  # in the list of `a`, which `ab` leaves
        row.press_sequentially("b")
        row.press("ArrowDown")
        row.press("ArrowDown")
        row.press("Enter")
        assert row.input_value() == "ab"
        answer(1, "ab0", "ab1")
        expect(row).to_have_value("ab1 ")
        expect(options).to_have_count(0)
        row.press_sequentially("c")
        row.press("Enter")  # nothing chosen: a line break, as ever
        assert row.input_value() == "ab1 c\n"
        row.press_sequentially("d")
        row.press("ArrowDown")
        row.press("Escape")  # what was looked for comes too late
        answer(3, "d0")
        row.press("Enter")
        assert row.input_value() == "ab1 c\nd\n" and options.count() == 0
        row.press_sequentially("e")
        row.press("ArrowDown")
        row.press("Enter")
        row.press_sequentially("f")  # other letters, for which nothing was pressed
        answer(4, "e0")
        answer(5, "ef0")
        expect(options).to_have_text(["ef0"])
        assert row.input_value() == "ab1 c\nd\nef"
    finally:
        page.evaluate("document.querySelectorAll('#typed, #typed + ul').forEach((e) => e.remove())")


def test_a_next_token_is_chosen_and_the_row_goes_on_to_its_end(open_page):
    page = open_page("letters")
    row = page.get_by_role("textbox")
    row.fill("a b c")
    letter = page.locator("button.bar").filter(has_text=re.compile("^[a-f]")).first
    token = letter.locator(".name").inner_text()
    letter.click()
    expect(row).to_have_value(f"a b c {token}")
    page.get_by_role("slider", name="Temperature").press("Home")
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_role("textbox")).to_have_value(re.compile("<EOS>$"))
    assert re.search(r"<CLS> <CLS_(up|down)> <EOS>$", row.input_value())
    count = len(row.input_value().split())
    page.locator(".chip").nth(count - 1).wait_for()
    chips = page.locator(".chip").all_inner_texts()
    assert re.search(r": \d+\.\d\d nats", chips[1]) and "not predicted" in chips[0]
    page.get_by_role("region", name="What comes next").get_by_text("The row is whole").wait_for()
    assert page.locator("button.bar").count() == 0
    page.get_by_role("button", name="Go on").click()
    page.get_by_role("status").filter(has_text="The row is whole").wait_for()


def test_an_empty_page_begins_as_a_training_row_did(open_page):
    page = open_page("letters")
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_role("textbox")).to_have_value(re.compile("<EOS>$"))


@pytest.mark.parametrize("kind", ["head", "letters"])
def test_the_label_of_a_row_is_shown(kind, open_page):
    page = open_page(kind)
    page.get_by_role("textbox").fill("a b c d")
    page.locator(".bar.strong").first.wait_for()
    assert page.get_by_role("heading", name="What comes next").count() == (kind != "head")


def test_texts_are_written_on_and_their_letters_are_never_labels(open_page):
    page = open_page("texts")
    text = page.get_by_role("textbox")
    text.fill("the cat <CLS_yes> sat\n")
    page.locator(".chip").nth(5).wait_for()
    assert page.get_by_role("status").count() == 0
    assert {"yes", "no"} == set(page.locator("div.bar .name").all_inner_texts()[:2])
    assert not page.locator("button.bar").filter(has_text="<CLS_").count()
    text.fill("the cat")
    page.get_by_role("button", name="Go on").click()
    expect(text).to_have_value(re.compile(r"^the cat[\s\S]"))
    assert "Type, or let the model begin." not in page.locator("main").inner_text()
    start = "\n" * 20 + "the cat"
    text.fill(start)
    text.evaluate("area => area.scrollTo(0, 0)")
    page.get_by_role("slider", name="Temperature").press("Home")  # the same row each time
    page.get_by_role("button", name="Go on").click()
    expect(text).not_to_have_value(start)
    expect(page.get_by_role("button", name="Go on")).to_be_visible()
    page.wait_for_function(
        "area => area.scrollTop + area.clientHeight >= area.scrollHeight - 1",
        arg=text.element_handle(),
    )


def test_an_instruction_is_answered(open_page):
    page = open_page("instructions")
    page.get_by_role("textbox").fill("say 3")
    page.get_by_role("slider", name="Temperature").press("Home")
    page.get_by_role("button", name="Answer").click()
    expect(page.locator(".answer")).to_have_text(re.compile("..."))
    assert page.get_by_role("textbox").input_value() == "say 3"


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


def test_a_row_longer_than_those_of_training_is_told(open_page):
    page = open_page("letters")
    page.get_by_role("textbox").fill("a b c d e f " * 10)
    page.get_by_text(
        "The row has 60 tokens, and the model was trained on rows of at most"
    ).wait_for()
    assert page.locator(".bar.strong").count()  # its label is that of its end, and it says so
    page.get_by_text("this is the label of it cut to").wait_for()
    live = page.locator("main > div [aria-live=polite]").last
    expect(live).to_have_text(re.compile("%"))
    page.get_by_role("textbox").fill("a b nonsense")
    expect(live).to_have_text("")


# ------------------------------------------------------------------------------- the page itself


@pytest.mark.parametrize("kind", ["bars", "letters"])
def test_a_phone_shows_all_without_scrolling_sideways(kind, open_page):
    page = open_page(kind, **PHONE)
    if kind == "letters":
        page.get_by_role("textbox").fill("a b " + "<CLS_down>" * 9)
        page.get_by_role("status").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_it_speaks_chinese_and_remembers_another_choice(open_page):
    page = open_page("bars", locale="zh-CN")
    assert page.evaluate("document.documentElement.lang") == "zh-Hans"
    draw(page, (0, 0.12), (1, 0.12))
    expect_label(page, "0")
    english = re.compile("[A-Za-z]{4,}")
    visible = page.locator("main").inner_text().replace("Delete", "")
    assert not english.search(visible)
    page.get_by_role("button", name="English").click()
    page.get_by_role("heading", name="What the model sees").wait_for()
    expect_label(page, "0")  # what was drawn stays
    page.reload()
    page.locator("html[data-ready=true]").wait_for()
    assert page.get_by_role("heading", level=1).inner_text() == "Draw for a small GPT"


@pytest.mark.parametrize("kind", ["bars", "letters", "instructions"])
def test_every_control_has_a_name_and_every_part_a_heading(kind, open_page):
    page = open_page(kind)
    assert page.get_by_role("heading", level=1).count() == 1
    expect(page.locator("button.bar")).to_have_count(0)
    for role in ("button", "slider", "textbox", "img", "checkbox", "region"):
        for each in page.get_by_role(role).all():
            snapshot = each.aria_snapshot()
            assert re.match(rf"- {role} \"\S", snapshot) or role == "textbox", snapshot
    for area in page.get_by_role("textbox").all():
        assert area.evaluate("area => area.labels.length") == 1


def test_by_keyboard_the_pen_is_seen_from_the_start_and_undo_waits_for_a_stroke(open_page):
    page = open_page("bars")
    pen, undo = page.locator(".pen"), page.get_by_role("button", name="Undo")
    expect(undo).to_be_disabled()
    page.locator("canvas.pad").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    expect(pen).to_be_visible()
    page.keyboard.press("Space")
    expect(undo).to_be_enabled()
    page.keyboard.press("u")
    expect(undo).to_be_disabled()


def test_nothing_moves_where_that_is_not_wanted(open_page):
    page = open_page("bars", reduced_motion="reduce")
    draw(page, (0, 0.12), (1, 0.12))
    expect_label(page, "0")
    fill = page.locator(".fill").first
    assert fill.evaluate("bar => getComputedStyle(bar).transitionDuration") == "0s"


def test_opened_as_a_file_or_incomplete_the_page_says_why(browser, served, exported, tmp_path):
    page = browser.new_page(locale="en-US")
    page.goto((exported("bars", "web") / "index.html").as_uri())
    page.get_by_text("python -m http.server").wait_for()
    shutil.copytree(exported("bars", "web"), tmp_path / "page")
    (tmp_path / "page" / "model" / "decode.onnx").unlink()
    page.goto(served(tmp_path / "page"))
    page.get_by_text("The page could not load its model: Error: model/decode.onnx: 404").wait_for()
    page.close()


# ------------------------------------------------------------------------------- equal answers


def test_images_have_the_labels_codes_and_completions_of_the_command_line(
    open_page, exported
):  # fmt: skip
    page = open_page("bars")
    trained = load_trained_model(exported("bars", "onnx-int8"))
    codebook = Codebook.load(trained.codebook)
    random = np.random.default_rng(8)
    images = np.stack([image_of(n % 2, random) for n in range(24)]).astype(np.float32)[..., None]
    questions = [{"image": image.ravel().tolist()} for image in images]
    looks = page.evaluate(ASK, {"method": "look", "questions": questions})
    assert [look["codes"] for look in looks] == codebook.encode(images).tolist()
    for look, (label, shares) in zip(looks, classify(trained, list(images)), strict=True):
        assert trained.label_names[int(np.argmax(look["labels"]))] == label
        told = dict(zip(trained.label_names, look["labels"], strict=True))
        assert told == pytest.approx(shares, abs=2e-3)
    greedy = {"kept": 2, "count": 1, "temperature": 0}
    asked = {"method": "draw", "questions": [{**each, **greedy} for each in questions]}
    made = [each["codes"][0] for each in page.evaluate(ASK, asked)]
    expected = generate(trained, list(images), greedy=True, keep=0.5)
    tokens = [[trained.vocabulary.tokens[i] for i in row.sequences[0]] for row in expected]
    assert made == [codebook.codes_from_tokens(row) for row in tokens]


@pytest.mark.parametrize("kind", ["letters", "no labels", "texts", "instructions"])
def test_rows_have_the_next_tokens_and_continuations_of_the_command_line(
    kind, open_page, exported
):  # fmt: skip
    page = open_page(kind)
    trained = load_trained_model(exported(kind, "onnx-int8"))
    if kind in ("letters", "no labels"):
        rows = [" ".join("abcdefabcdef"[start : start + n]) for start in range(6) for n in (1, 4)]
    else:
        rows = ["the cat", "a dog ran", "x <EOS> 好\n", "  the house", "don't 12"]
    questions = [{"text": row, "added": []} for row in rows]
    answers = page.evaluate(ASK, {"method": "read", "questions": questions})
    for answer, expected in zip(answers, next_tokens(trained, rows, 5), strict=True):
        found = {each["piece"]: each["share"] for each in answer["next"]}
        assert [found[piece] for piece, _ in expected] == pytest.approx(
            [share for _, share in expected], abs=2e-3
        )
    if trained.vocabulary.labels and kind != "instructions":
        for answer, (_, shares) in zip(answers, classify(trained, rows), strict=True):
            told = dict(zip(trained.label_names, answer["labels"], strict=True))
            assert told == pytest.approx(shares, abs=2e-3)
    asked = [{**question, "temperature": 0} for question in questions]
    made = page.evaluate(ASK, {"method": "goOn", "questions": asked})
    ends = {trained.vocabulary.eos_id}
    if trained.vocabulary.tokenizer is not None:
        ends.add(trained.vocabulary.cls_id)  # a text ends where its label tail begins
    for answer, continued, reading in zip(
        made, generate(trained, rows, greedy=True), answers, strict=True
    ):
        row = continued.sequences[0]
        expected = row if kind == "instructions" else row[len(reading["ids"]) :]
        if trained.vocabulary.tokenizer is not None:
            expected = [index for index in expected if index not in ends]
        assert answer["added"] == expected


def test_the_surprise_of_tokens_is_that_of_an_evaluation(open_page, exported, tmp_path):
    from inference import evaluate_file

    page = open_page("letters")
    trained = load_trained_model(exported("letters", "onnx-int8"))
    rows = [f"{' '.join('abcdef'[:n])} <CLS> <CLS_up> <EOS>" for n in range(2, 7)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"tokens": row}) + "\n" for row in rows))
    evaluate_file(trained, path, tmp_path / "evaluation")
    lines = (tmp_path / "evaluation" / "predictions.jsonl").read_text().splitlines()
    questions = [{"text": row, "added": []} for row in rows]
    answers = page.evaluate(ASK, {"method": "read", "questions": questions})
    for answer, line in zip(answers, lines, strict=True):
        nats = [token["surprise"] for token in answer["tokens"][1:]]
        assert sum(nats) == pytest.approx(json.loads(line)["nll_sum"], rel=2e-3)
