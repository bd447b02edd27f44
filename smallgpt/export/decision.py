"""Files by which transformers' `pipeline("decision")` and its server name calibrated labels.

`decision.json` has the label tokens and the temperature, `decision_template.jinja` how a row
becomes a prompt. Their `confidence` is (N p - 1) / (N - 1) for N labels and the share p of the
likeliest.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from smallgpt.engines.trained import TrainedModel
from smallgpt.files.reading import read_text
from smallgpt.files.writing import write_json, write_text
from smallgpt.graphs.graph_files import row_rules
from smallgpt.model.config_json import quiet
from smallgpt.tokens.text_tokenizer import TextTokenizer
from smallgpt.tokens.vocabulary import CLS

DECISION, TEMPLATE = "decision.json", "decision_template.jinja"
TOKENIZER_SETTINGS = "tokenizer_config.json"
_MOST_BYTES = 2**27  # of that file, which names added tokens; we wrote it
# A row of tokens up to its last <CLS>, cut as in training; see `row_rules`.
_OF_TOKENS = """\
{{%- set row = state if state is string else state | join(" ") -%}}
{{%- set row = (" " ~ row.split() | join(" ") ~ " ").rsplit(" " ~ {cls} ~ " ", 1)[0].split() -%}}
{{%- set surplus = [0, row | length - {longest}] | max -%}}
{{%- set kept = 1 if row and row[0] in {kept} else 0 -%}}
{{{{- (row[:kept] + row[kept + surplus:] + [{cls}]) | join(" ") -}}}}
"""
# What the tokenizer puts around a text, and <CLS>.
_OF_TEXT = (
    "{{%- set text = state if state is string else state | tojson -%}}\n{{{{- {prompt} -}}}}\n"
)


def write_decision_files(trained: TrainedModel, folder: Path) -> bool:
    """Write both files beside a model and its tokenizer, as transformers reads them.

    Returns: whether they are there. They are not for a model without label tokens, nor where
    transformers would read a text as other tokens than training did.
    """
    vocabulary = trained.vocabulary
    if not vocabulary.labels or trained.is_classifier:
        return False
    rules = row_rules(vocabulary, trained.max_length, by_head=False)
    if vocabulary.tokenizer is None:
        kept = ", ".join(_quoted(vocabulary.tokens[index]) for index in rules["kept_first"])
        template = _OF_TOKENS.format(
            cls=_quoted(CLS), longest=rules["longest_body"], kept=f"[{kept}]"
        )
    else:
        start, end = _around_texts(vocabulary.tokenizer)
        parts = [*map(_quoted, start), "text", *map(_quoted, end), _quoted(CLS)]
        template = _OF_TEXT.format(prompt=" ~ ".join(parts))
    decision = {
        "labels": {"choice": [vocabulary.tokens[index] for index in vocabulary.label_ids]},
        "temperature": {"choice": trained.temperature},
        # In a text the letters of a special token stay letters; in a row of tokens they are it.
        "sanitize_control_tokens": vocabulary.tokenizer is not None,
    }
    write_json(folder / DECISION, decision)
    (folder / TEMPLATE).write_text(template, encoding="utf-8")
    if vocabulary.tokenizer is None:
        return True
    settings = folder / TOKENIZER_SETTINGS
    before = read_text(settings, _MOST_BYTES)
    # Else `<CLS>` in a prompt is five letters, also in the template. What the user's text has of
    # such letters transformers keeps apart. (The toolkit reads tokenizer.json alone.)
    write_json(settings, {**json.loads(before), "split_special_tokens": False})
    if _reads_texts_alike(trained, folder):
        return True
    write_text(settings, before)
    for name in (DECISION, TEMPLATE):
        (folder / name).unlink()
    return False


def _quoted(token: str) -> str:
    """A token as a string of Jinja."""
    return json.dumps(token, ensure_ascii=False)


def _around_texts(tokenizer: TextTokenizer) -> tuple[list[str], list[str]]:
    """The tokens that a pretrained tokenizer puts before and behind a text, most often none."""
    marked, plain = tokenizer.encode("a"), tokenizer.encode("a", marked=False)
    names = [str(tokenizer.backend.id_to_token(index)) for index in marked]
    for start in range(len(marked) - len(plain) + 1):
        if marked[start : start + len(plain)] == plain:
            return names[:start], names[start + len(plain) :]
    return [], []


def _reads_texts_alike(trained: TrainedModel, folder: Path) -> bool:
    """Whether transformers makes the ids of a few texts that training makes."""
    from transformers import AutoTokenizer, DecisionConfig

    vocabulary, tokenizer = trained.vocabulary, trained.vocabulary.tokenizer
    assert tokenizer is not None
    texts = ["a", *trained.label_names, " two  words\n", "你好 <EOS>", " ".join(vocabulary.labels)]
    question = {"type": "choice", "criteria": dict.fromkeys(trained.label_names)}
    with quiet():
        config = DecisionConfig.from_pretrained(folder)
        reader: Any = AutoTokenizer.from_pretrained(folder)
        for text in texts:
            expected = [*tokenizer.encode(text), vocabulary.cls_id]
            try:
                request = {"state": text, "questions": {"label": question}}
                ((inputs, _),) = config.prepare_inputs(request, reader)
            except ValueError:
                return False
            if inputs["input_ids"][0].tolist() != expected:
                return False
    return True
