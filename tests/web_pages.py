"""Pages that --format web wrote, served as files; a browser, and what people do in it."""

import functools
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from smallgpt.errors import UserError
from smallgpt.export.npm_packages import RUNTIME, TOKENIZERS

# A program for a page: asks its engine several questions.
ASK = """async ({ method, questions }) => {
    const { Engine } = await import("./page/engine.js");
    window.tested ??= new Engine();
    await window.tested.ask("load");
    const answers = [];
    for (const question of questions) {
        if (question.image) question.image = Float32Array.from(question.image);
        const answer = await window.tested.ask(method, question);
        if (answer.labels instanceof Float32Array) answer.labels = [...answer.labels];
        answers.push(answer);
    }
    return answers;
}"""
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def runtime() -> None:
    """What a page computes with is in the cache; where it cannot be fetched, tests are skipped."""
    try:
        for package in (RUNTIME, TOKENIZERS):
            package.fetch()
    except UserError as error:
        pytest.skip(str(error))


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def served() -> Iterator[Callable[[Path], str]]:
    """A function: the address of a folder, as a plain file server serves it."""
    servers: dict[Path, ThreadingHTTPServer] = {}

    def address(folder: Path) -> str:
        if folder not in servers:
            handler = functools.partial(_Quiet, directory=folder)
            servers[folder] = ThreadingHTTPServer(("127.0.0.1", 0), handler)
            threading.Thread(target=servers[folder].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[folder].server_port}/"

    yield address
    for server in servers.values():
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def browser():
    """A Chromium of this machine; without one, tests are skipped."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: the extra `browser`"
    )
    found = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium on this machine (Debian, Ubuntu: apt install chromium)")
    with playwright.sync_playwright() as play:
        # Containers forbid the sandbox to root.
        browser = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


def draw(page, *points: tuple[float, float]) -> None:
    """A stroke with the mouse, in shares of the drawing surface."""
    surface = page.locator("canvas.pad")
    surface.scroll_into_view_if_needed()
    box = surface.bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=4)
    page.mouse.up()


def expect_label(page, label: str) -> None:
    page.locator(".bar.strong .name", has_text=re.compile(f"^{label}$")).wait_for()


def codes_of(figures) -> list[list[int]]:
    """The codes of the images in a gallery, once they are whole."""
    from playwright.sync_api import expect

    expect(figures.last).to_have_attribute("data-codes", re.compile(r"\d"))
    return [
        [int(code) for code in figure.get_attribute("data-codes").split()]
        for figure in figures.all()
    ]
