"""The page's own JavaScript, by node: it computes what Python does with the same numbers."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.convert_slow_tokenizer import bytes_to_unicode

from smallgpt.decoding.row_rules import End, check_token_prompt, token_rules
from smallgpt.decoding.sampling import Sampling, sampling_probabilities
from smallgpt.errors import UserError
from smallgpt.export.npm_packages import TOKENIZERS
from smallgpt.graphs.graph_files import row_rules
from smallgpt.inputs.labelled_images import ImageOptions
from smallgpt.inputs.like_codebook import converted
from smallgpt.inputs.picture_folder import read_pictures
from smallgpt.rows.bad_rows import RowError
from smallgpt.rows.row import cut_row, parse_row
from smallgpt.tokens.codebook import Codebook
from smallgpt.tokens.familiarity import Familiarity
from smallgpt.tokens.instruction_template import instruction_prompt
from smallgpt.tokens.labels import LabelNames
from smallgpt.tokens.text_tokenizer import TextTokenizer, shown_bytes

TESTS = Path(__file__).with_name("web")
LONGEST = 9
SPECIAL = ["<PAD>", "<UNK>", "<CLS>", "<EOS>"]
TEXTS = [
    "The quick brown fox's jumps\nover the lazy dog. 0123456789 we're",
    "你好 世界,房间很好 Straße naïve café\t\ttabs",
    "text with <CLS_1> and <EOS> inside it",
] * 2
ODD_TEXTS = [
    *TEXTS, " a", "  two  spaces  ", "\n\n\n", "\r\n mixed \t\v\f x", "we're I'LL don\u2019t",
    "İstanbul ǆ", "e\u0301 é", "👩‍👩‍👧‍👦 🇩🇪", "<CLS_1> x <EOS>", "\u0000\u0001", "12345 1,000.5",
    "½ ² ⅷ ٣", "\u00a0\u3000\u2028sep", "ab\u200bzero\ufeffbom", "a" * 300,
    "кириллица العربية हिन्दी", "\u2420\u240a", "\U00020000 𠮷",
]  # fmt: skip


# All bytes, half a letter behind a space, and tokens that are not written in bytes.
BYTE_TOKENS = ["".join(bytes_to_unicode().values()), "Ġð", "ðŁĺ", "abc", "<0xF0>", "好", "\ufffd"]


def codebooks() -> list[dict]:
    random = np.random.default_rng(0)
    made = []
    for name, shape, patch, dtype in (
        ("grey, patches over the edge", (60, 9, 7, 1), 2, np.uint8),
        ("colour", (40, 8, 8, 3), 4, np.uint8),
        ("fractions", (40, 6, 6, 1), 3, np.float32),
    ):
        images = random.integers(0, 17, shape).astype(dtype)
        images = images / np.float32(16) if dtype is np.float32 else images
        codebook = Codebook.fit(images, patch, 20, 0, 100)
        codes = codebook.encode(images)
        familiarity = Familiarity.measured(codebook.error(images, codes), codes, len(codebook))
        unlike = familiarity.unlike(codebook.errors(images, codes), codes)
        assert 0 <= unlike.sum() < len(images)
        inverted = replace(codebook, familiarity=familiarity).looks_inverted(images, codes)
        assert 0 < inverted.sum() < len(images)
        made.append(
            {
                "name": name,
                "facts": facts_of(codebook, familiarity),
                "centers": codebook.centers_KxD.ravel().tolist(),
                "images": [
                    {"pixels": image.ravel().tolist(), "codes": row.tolist(),
                     "decoded": codebook.decode(row[None]).ravel().tolist(), "unlike": bool(odd),
                     "inverted": bool(other)}
                    for image, row, odd, other in zip(images, codes, unlike, inverted, strict=True)
                ],
            }
        )  # fmt: skip
    return made


def facts_of(codebook: Codebook, familiarity: Familiarity | None = None) -> dict:
    names = ("patch_size", "height", "width", "channels", "low", "high", "white")
    facts = {name: getattr(codebook, name) for name in names}
    told = None
    if familiarity is not None:
        surprise = familiarity.surprise_K.tolist()
        told = {**vars(familiarity), "surprise": surprise}
        del told["surprise_K"]
    return {**facts, "familiarity": told, "code_ids": []}


def resized() -> list[dict]:
    random = np.random.default_rng(1)
    sizes = ((28, 28, 8, 8), (5, 7, 28, 28), (300, 200, 28, 28), (28, 20, 28, 28), (9, 9, 9, 9))
    made = []
    for width, height, new_width, new_height in sizes:
        pixels = random.integers(0, 256, (height, width), np.uint8)
        pixels[: height // 2] = 255 * (pixels[: height // 2] > 128)  # which overshoots
        small = Image.fromarray(pixels).resize((new_width, new_height), Image.Resampling.LANCZOS)
        made.append({"width": width, "height": height, "newWidth": new_width,
                     "newHeight": new_height, "pixels": pixels.ravel().tolist(),
                     "expected": np.asarray(small).ravel().tolist()})  # fmt: skip
    return made


def pictures(folder: Path) -> list[dict]:
    """Picture files, read by the command line's own reader."""
    random = np.random.default_rng(2)
    made = []
    for mode, channels, white, size in (
        ("RGB", 1, 16.0, 8), ("RGB", 3, 255.0, 12), ("L", 1, 255.0, 28), ("RGBA", 1, 1.0, 10),
        ("RGBA", 3, 255.0, 16),
    ):  # fmt: skip
        codebook = Codebook(
            np.zeros((1, channels), np.float32), 1, size, size, channels, 0.0, white, white
        )
        bands = len(Image.new(mode, (1, 1)).getbands())
        pixels = random.integers(0, 256, (20, 16, bands), np.uint8)
        picture = Image.fromarray(pixels.squeeze(), mode)
        path = folder / f"{mode}{channels}.png"
        picture.save(path)
        options = ImageOptions(
            size=(size, size), color=codebook.color, names=LabelNames(), keep_unreadable=True
        )
        images = read_pictures(path, options).images_NxHxWxC
        expected = converted(codebook, images, 255.0)[0][0]
        rgba = np.asarray(picture.convert("RGBA"))
        made.append(
            {
                "codebook": facts_of(codebook),
                "picture": {"data": rgba.ravel().tolist(), "width": 16, "height": 20},
                "expected": expected.astype(np.float32).ravel().tolist(),
            }
        )
    return made


def ranges() -> list[dict]:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    made = []
    for low, white in ((0.0, 255.0), (0.0, 16.0), (0.0, 1.0), (-1.0, 1.0), (0.0, 12.5)):
        codebook = Codebook(np.zeros((1, 1), np.float32), 1, 16, 16, 1, low, white, white)
        images = converted(codebook, pixels, 255.0)[0].astype(np.float32)
        made.append({"low": low, "white": white, "expected": images.ravel().tolist()})
    return made


def sampling() -> list[dict]:
    random = np.random.default_rng(3)
    made = []
    cases = [
        (random.normal(0, 5, 20).round(1), temperature, top_k)
        for temperature, top_k in ((1.0, 0), (0.3, 5), (2.0, 1), (1e-6, 0), (0.7, 100))
    ]
    # Those equal to the k-th stay: of few values, of one, of those as good as forbidden; but not
    # those that are only equal once they are shifted to the largest.
    ties = random.integers(0, 4, 20).astype(float)
    cases += [(ties, 0.7, top_k) for top_k in range(1, 21)]
    cases += [(np.zeros(20), 1.0, 3), (np.where(ties > 2, ties, -1e30), 1.0, 15)]
    cases.append((np.array([1e8, 1.0, 1.0 + 1e-9, 1.0, 0.0]), 1e9, 2))
    for logits, temperature, top_k in cases:
        shares = sampling_probabilities(
            torch.tensor(logits)[None], Sampling(temperature=temperature, top_k=top_k)
        )
        made.append({"logits": logits.tolist(), "temperature": temperature, "topK": top_k,
                     "expected": shares[0].tolist()})  # fmt: skip
    return made


def surprise() -> list[dict]:
    logits = np.random.default_rng(4).normal(0, 40, (5, 30))
    nats = -torch.tensor(logits).log_softmax(-1)
    return [
        {"logits": row.tolist(), "expected": each.tolist()}
        for row, each in zip(logits, nats, strict=True)
    ]


def token_facts(vocabulary, end: End | None = None) -> dict:
    ids = vocabulary
    special = {"pad": ids.pad_id, "unk": ids.unk_id, "cls": ids.cls_id, "eos": ids.eos_id}
    return {
        "kind": "tokens",
        "vocabulary": len(vocabulary),
        "label_ids": vocabulary.label_ids,
        "special": special,
        "row": row_rules(vocabulary, LONGEST, by_head=False),
        "end": "label" if end is None else end.name.lower().replace("_", " "),
        "max_length": LONGEST,
    }


def some_rows(vocabulary) -> list[list[int]]:
    """Rows of all kinds of tokens, some of them whole or cut in the tail."""
    random = np.random.default_rng(5)
    rows = [random.integers(0, len(vocabulary), random.integers(1, 13)).tolist() for _ in range(80)]
    body, tail = vocabulary.encode("A B C"), vocabulary.encode("<CLS> <CLS_cat> <EOS>")
    rows += [body + tail[:count] for count in range(4)] + [body * 5 + tail, body + tail[:1] * 2]
    rows += [[vocabulary.img_id, *body * 5], [tail[0]], [*body, *tail, 0, 0], [*body, tail[2]]]
    return rows


def rows_of_tokens(vocabulary) -> dict[str, list[dict]]:
    """Which tokens may follow, which starts are refused, what labels are asked after."""
    follows, starts, asked = [], [], []
    for end in (End.LABEL, End.NO_LABEL, End.EITHER):
        facts, rules = token_facts(vocabulary, end), token_rules(vocabulary, LONGEST, end)
        for row in some_rows(vocabulary):
            refused = False
            try:
                check_token_prompt(row, vocabulary, LONGEST, end)
            except ValueError:
                refused = True
            starts.append({"facts": facts, "row": row, "refused": refused})
            if not refused:
                state = rules.start([row])
                logits = rules.mask(np.zeros((1, len(vocabulary))), state)[0]
                allowed = np.flatnonzero(logits == 0).tolist()
                follows.append({"facts": facts, "row": row, "expected": allowed})
    facts = token_facts(vocabulary)
    for row in some_rows(vocabulary):
        try:
            parsed = parse_row({"input_ids": row}, vocabulary, for_label=True)
            body = parsed.ids[: parsed.body_length]
            whole = replace(parsed, ids=[*body, *vocabulary.encode("<CLS> <CLS_cat> <EOS>")])
            cut = cut_row(whole, LONGEST, vocabulary)
            expected = [*cut.ids[: cut.body_length], vocabulary.cls_id]
        except (RowError, UserError):
            expected = None
        asked.append({"facts": facts, "row": row, "expected": expected})
    assert {case["refused"] for case in starts} == {True, False}
    assert {case["expected"] is None for case in asked} == {True, False}
    return {"follows": follows, "starts": starts, "asked": asked}


def tokenizers() -> list[dict]:
    special = ["<CLS_1>", "<CLS_2>"]
    made = []
    for name, tokenizer in (
        ("characters", TextTokenizer.learn_characters(TEXTS, SPECIAL).with_special(special)),
        ("byte pairs", TextTokenizer.learn_bpe(TEXTS, SPECIAL, 330).with_special(special)),
    ):
        texts = []
        for text in ODD_TEXTS:
            ids = tokenizer.encode(text)
            if text.strip():
                texts.append({"text": text, "ids": ids, "decoded": tokenizer.decode(ids)})
        made.append({"name": name, "json": tokenizer.to_json(), "tokens": tokenizer.tokens,
                     "texts": texts})  # fmt: skip
    return made


def test_the_modules_of_the_page_compute_what_python_does(vocabulary, tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < (20, 19):
        pytest.skip(
            f"node {version.strip()} is older than 20.19, which reads modules by themselves"
        )
    cases = {
        "codebooks": codebooks(),
        "resized": resized(),
        "pictures": pictures(tmp_path),
        "ranges": ranges(),
        "sampling": sampling(),
        "surprise": surprise(),
        "tokenizers": tokenizers(),
        "bytes": [{"token": token, "shown": shown_bytes(token)} for token in BYTE_TOKENS],
        "instruction": {"text": " Name it. ", "prompt": instruction_prompt(" Name it. ")},
        **rows_of_tokens(vocabulary),
    }
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    environment = {**os.environ, "SMALLGPT_CASES": str(tmp_path / "cases.json")}
    try:
        TOKENIZERS.copy({"package/dist/tokenizers.min.mjs": tmp_path / "tokenizers.mjs"})
        environment["SMALLGPT_TOKENIZERS"] = str(tmp_path / "tokenizers.mjs")
    except UserError as error:
        print(f"texts are not read in this test: {error}")
    files = sorted(map(str, TESTS.glob("*.test.js")))
    done = subprocess.run(
        [node, "--test", "--test-reporter=spec", *files],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
