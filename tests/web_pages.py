"""Pages that --format web wrote, served as files, and a browser for them."""

import functools
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
