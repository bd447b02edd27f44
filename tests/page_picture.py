"""Make the picture of the page in the README again.

    ./quick_start.sh && python export_model.py --format web
    python tests/page_picture.py outputs/export/web docs/images/page.png

It needs a Chromium on the machine and the extra `browser`.
"""

import functools
import math
import shutil
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

# A three, in shares of the drawing surface.
ARCS = (((0.5, 0.31), 0.19, 0.17, -150, 90), ((0.5, 0.68), 0.21, 0.2, -90, 150))
WIDTH, HEIGHT = 1080, 1010
COLORS = 128  # of the file, which is to be small


def draw(page: Page) -> None:
    box = page.locator("canvas.pad").bounding_box()
    assert box is not None
    points = []
    for (x, y), wide, high, start, end in ARCS:
        for degrees in range(start, end + 1, 6):
            angle = math.radians(degrees)
            points.append((x + wide * math.cos(angle), y + high * math.sin(angle)))
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place)
    page.mouse.up()


def main(folder: Path, target: Path) -> None:
    """Draw on the page of `folder`, and save what it shows."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as play:
        found = shutil.which("chromium") or shutil.which("google-chrome")
        browser = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, locale="en-US")
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.locator("html[data-ready=true]").wait_for()
        draw(page)
        page.get_by_role("button", name="Make up images").click()
        page.locator("figure[data-codes]").nth(11).wait_for()
        page.evaluate("document.activeElement.blur()")
        page.wait_for_timeout(500)
        target.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=target, full_page=True)
        browser.close()
    Image.open(target).convert("RGB").quantize(COLORS).save(target, optimize=True)
    server.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
