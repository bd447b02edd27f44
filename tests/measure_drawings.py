"""How well a model reads drawings: test images drawn anew, anywhere on the page, in other sizes.

    python tests/measure_drawings.py EXPORT MODEL IMAGES.npz [COUNT]

EXPORT is what --format web wrote of MODEL; IMAGES.npz has `images` and `labels`, of which the last
COUNT (300) are taken. The page's own JavaScript brings the drawings to size, by node.
docs/web.md has what came of it.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from inference import classify, load_trained_model  # noqa: E402

SIDE = 448  # pixels of the page's drawing surface, about
SIZES = (0.6, 1.0)  # of the frame of an image, as a share of the surface
INK = 110  # from here on, of 255, a pixel is drawn
PROGRAM = """
import { readFileSync, writeFileSync } from "node:fs";
const [pixels, folder, facts] = process.argv.slice(2);
const { frameOf, imageOfDrawing } = await import(pixels);
const { codebook, drawing } = JSON.parse(readFileSync(facts, "utf8"));
const side = Number(process.argv[5]);
const ink = readFileSync(`${folder}/drawings.bin`);
const made = { "moved and scaled": [], "as placed": [] };
for (let start = 0; start < ink.length; start += side * side) {
  const data = new Uint8ClampedArray(4 * side * side).fill(255);
  for (let i = 0; i < side * side; i++) data.fill(ink[start + i], 4 * i, 4 * i + 3);
  const picture = { data, width: side, height: side };
  const whole = { left: 0, top: 0, width: side, height: side };
  for (const [name, box] of [["moved and scaled", drawing.box], ["as placed", null]]) {
    const frame = frameOf(picture, drawing.paper, box) ?? whole;
    made[name].push([...imageOfDrawing(picture, frame, drawing.paper, codebook)]);
  }
}
writeFileSync(`${folder}/images.json`, JSON.stringify(made));
"""


def drawn(images_NxHxW: np.ndarray, white: float) -> np.ndarray:
    """Each image as black and white strokes somewhere on a large surface (uint8 NxSIDExSIDE)."""
    random = np.random.default_rng(0)
    drawings = np.zeros((len(images_NxHxW), SIDE, SIDE), np.uint8)
    for drawing, image in zip(drawings, images_NxHxW, strict=True):
        size = int(SIDE * random.uniform(*SIZES))
        grey = Image.fromarray((255 * image.astype(float) / white).clip(0, 255).astype(np.uint8))
        large = np.asarray(grey.resize((size, size), Image.Resampling.BICUBIC))
        x, y = random.integers(0, SIDE - size + 1, 2)
        drawing[y : y + size, x : x + size] = np.where(large > INK, 255, 0)
    return drawings


def main(export: Path, model: str, data: str, count: int = 300) -> None:
    """Print the share of right labels of the images, and of both readings of their drawings."""
    trained = load_trained_model(model, "cpu", "fp32")
    with np.load(data) as arrays:
        images, labels = arrays["images"][-count:], arrays["labels"][-count:]
    facts = export / "model" / "page.json"
    white = json.loads(facts.read_text())["codebook"]["white"]
    pixels = ROOT / "smallgpt" / "export" / "web" / "page" / "pixels.js"
    with tempfile.TemporaryDirectory() as folder:
        drawn(images, white).tofile(Path(folder, "drawings.bin"))
        program = Path(folder, "program.mjs")
        program.write_text(PROGRAM)
        words = ["node", program, pixels, folder, facts, SIDE]
        subprocess.run([*map(str, words)], check=True)
        made = json.loads(Path(folder, "images.json").read_text())
    shape = (*images.shape, 1)
    readings = {"the images as they are": images.reshape(shape).astype(np.float32)}
    readings |= {name: np.array(each, np.float32).reshape(shape) for name, each in made.items()}
    for name, images_NxHxWx1 in readings.items():
        answers = [answer for answer, _ in classify(trained, list(images_NxHxWx1))]
        right = np.mean(
            [answer == str(label) for answer, label in zip(answers, labels, strict=True)]
        )
        print(f"{name:24}{right:.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], *map(int, sys.argv[4:]))
