"""The README.md of a web export: how it is served, what it shows, what leaves the machine."""

from __future__ import annotations

from smallgpt.engines.trained import TrainedModel
from smallgpt.export.npm_packages import RUNTIME, TOKENIZERS
from smallgpt.inference.columns import reads_pairs
from smallgpt.tokens.text_tokenizer import SEP


def web_readme(trained: TrainedModel, of_images: bool, version: str) -> str:
    """The text. `version`: of the toolkit."""
    by_head = trained.is_classifier
    if of_images:
        shown = _IMAGES_OF_HEAD if by_head else _IMAGES
    elif trained.is_instructed:
        shown = _INSTRUCTIONS
    else:
        shown = _ROWS_OF_HEAD if by_head else _ROWS
    if not trained.vocabulary.labels:
        shown = "\n".join(line for line in shown.splitlines() if "label" not in line)
    if reads_pairs(trained):
        shown = f"{shown.rstrip()}\n\nThe model reads pairs: write ` {SEP} ` between the two texts."
    of_text = trained.vocabulary.tokenizer is not None
    tokenizers = f", {TOKENIZERS.name} {TOKENIZERS.version} (Apache 2.0)" if of_text else ""
    return _TEXT.format(
        version=version,
        model=trained.folder,
        shown=shown.strip(),
        runtime=f"{RUNTIME.name} {RUNTIME.version} (MIT){tokenizers}",
    )


_TEXT = """# A model as a page

Written by smallgpt {version} from `{model}`. Serve this folder with any file server, for example

```bash
python -m http.server -d .
```

and open <http://localhost:8000>. It needs no special headers and no network; opened as a file it
does not load, since browsers forbid that. Any static host serves it as well.

It shows, in English and Chinese:

{shown}

**What leaves the machine: nothing.** All is computed in the browser. The page asks no other site,
and its content security policy forbids it to.

`model/` holds the model (ONNX, int8), `runtime/` what computes it: {runtime},
with their licences; `page/` the page itself. `export_report.json` tells how well the files agree
with their model. It and this README name files of the machine that wrote them; the page needs
neither, so leave both out where that matters.
"""

_IMAGES = """
- the probability of each label while you draw, calibrated;
- what the model sees: the picture rebuilt from its codes;
- your drawing completed: the model keeps the upper part and makes the rest;
- images that the model makes up.
"""
_IMAGES_OF_HEAD = """
- the probability of each label while you draw, calibrated;
- what the model sees: the picture rebuilt from its codes.
"""
_ROWS = """
- what comes next while you type: choose a token to go on with it, or let the model go on;
- how surprised the model was by each token, in nats;
- the probability of each label of the row, calibrated.
"""
_ROWS_OF_HEAD = """
- the probability of each label of the row, calibrated.
"""
_INSTRUCTIONS = """
- the answer to an instruction;
- what comes next: choose a token to go on with it;
- how surprised the model was by each token, in nats.
"""
