"""The programs of a model card: they load the model by plain transformers and run as they stand."""

from __future__ import annotations

import json
from pathlib import Path
from string import Template

import numpy as np

from smallgpt.engines.trained import TrainedModel
from smallgpt.errors import UserError
from smallgpt.export.decision import DECISION
from smallgpt.export.example_rows import first_id
from smallgpt.export.formats import Reader
from smallgpt.graphs.graph_files import row_rules
from smallgpt.inference.columns import reads_pairs
from smallgpt.inference.generate import Generated, generate
from smallgpt.model.head import head_name
from smallgpt.rows.bad_rows import RowError
from smallgpt.rows.row import parse_row
from smallgpt.tokens.instruction_template import instruction_prompt
from smallgpt.tokens.text_tokenizer import pair_text

_LABELS_SHOWN = 3
_MOST_TEXT = 300  # letters of the example
_TOKENS_SHOWN = 8  # of the example, and behind it
_NEW_TOKENS = 20
_MOST_TOKENS = 300  # of a generated row, which is to be read
_SEED = 0


def label_program(trained: TrainedModel, folder: Path, reader: Reader, name: str) -> list[str]:
    """The program that names the label of an example, what it prints, and what the example is:
    three blocks of Markdown.

    `name`: of the model on the hub. A real row may be private, so the model generates one, as
    whoever has the published model can; where it cannot, names or tokens stand for a row.
    """
    example, about = _example(trained)
    if trained.is_classifier:
        load = _LOAD_HEAD if trained.settings.classifier_hidden is None else _LOAD_HIDDEN
        program = load + _CLASSIFY_BY_HEAD
    else:
        program = _DECIDE if (folder / DECISION).exists() else _CLASSIFY_BY_TOKEN
    program = Template(program + _SHOW).substitute(
        NAME=_quoted(name),
        EXAMPLE=_quoted(example),
        TEMPERATURE=trained.temperature,
        COUNT=_LABELS_SHOWN,
        HEAD=head_name(trained.model) if trained.is_classifier else "",
        WIDTH=trained.settings.classifier_hidden,
    )
    rules = row_rules(trained.vocabulary, trained.max_length, trained.is_classifier)
    ids = [*_ids(trained, example, marked=True), *rules["append"]]
    (shares_L,) = reader.probabilities(np.array(ids), np.array([len(ids)]))
    best = np.argsort(-shares_L, kind="stable")[:_LABELS_SHOWN]
    answer = {trained.label_names[k]: round(float(shares_L[k]), 3) for k in best}
    told = json.dumps(answer, ensure_ascii=False)
    return [f"```python\n{program}```", f"prints\n\n```json\n{told}\n```", about]


def continue_program(trained: TrainedModel, name: str) -> str:
    """The program that continues a row, a block of Markdown."""
    vocabulary = trained.vocabulary
    if vocabulary.tokenizer is None:
        start, show = vocabulary.tokens[first_id(trained)], _SHOW_TOKENS
    else:
        start, show = _first_text(trained), _SHOW_TEXT
    new = max(1, min(_NEW_TOKENS, trained.max_length - len(_ids(trained, start))))
    program = Template(_CONTINUE + show).substitute(
        NAME=_quoted(name), START=_quoted(start), NEW_TOKENS=new
    )
    return f"```python\n{program}```"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _example(trained: TrainedModel) -> tuple[str, str]:
    """What stands for a row in the program, and a sentence that says what it is."""
    vocabulary = trained.vocabulary
    if vocabulary.tokenizer is not None:
        what = "two texts" if reads_pairs(trained) else "a text"
        return _example_text(
            trained
        ), f"The example is names of labels, which stand for {what} of yours."
    row = _generated_row(trained)
    if row is not None:
        return vocabulary.decode(row), "The example is a row that the model generated."
    left_out = {*vocabulary.special_ids, *vocabulary.label_ids}
    ordinary = [index for index in range(len(vocabulary)) if index not in left_out]
    most = min(_TOKENS_SHOWN, trained.max_length - 4)
    return vocabulary.decode([first_id(trained), *ordinary[: most - 1]]), (
        "The example is a few tokens of the vocabulary, which stand for a row of yours: there may "
        "be no such row, and its label says nothing."
    )


def _example_text(trained: TrainedModel) -> str:
    """As many names of labels as the model reads, of pairs two."""
    names = trained.label_names
    longest = row_rules(trained.vocabulary, trained.max_length, by_head=False)["longest_body"]
    if reads_pairs(trained):
        texts = [pair_text(names[0], names[-1])]
    else:
        texts = [" ".join(names[:count])[:_MOST_TEXT] for count in range(len(names), 0, -1)]
    fits = (text for text in texts if len(_ids(trained, text, marked=True)) <= longest)
    return next(fits, pair_text("a", "b") if reads_pairs(trained) else "a")


def _generated_row(trained: TrainedModel) -> list[int] | None:
    """The ids of a row without its label, sampled; None of a model that makes none to be read."""
    if trained.is_classifier:
        return None
    try:
        made = generate(trained, seed=_SEED)
        assert isinstance(made, Generated)  # of one prompt
        row = parse_row({"input_ids": made.sequences[0]}, trained.vocabulary)
    except (UserError, RowError):
        return None
    body = row.ids[: row.body_length]
    return body if len(body) <= _MOST_TOKENS else None


def _ids(trained: TrainedModel, row: str, marked: bool = False) -> list[int]:
    """Ids of a row; a text may be `marked` with what a pretrained tokenizer puts around it."""
    tokenizer = trained.vocabulary.tokenizer
    return trained.vocabulary.encode(row) if tokenizer is None else tokenizer.encode(row, marked)


def _first_text(trained: TrainedModel) -> str:
    """What a text to continue begins with."""
    if trained.is_instructed:
        return instruction_prompt("...")
    tokenizer = trained.vocabulary.tokenizer
    assert tokenizer is not None
    return tokenizer.decode([first_id(trained)]).strip() or "a"


_DECIDE = """\
import json
from transformers import pipeline

decide = pipeline("decision", model=$NAME)
labels = decide.model.config.id2label.values()
question = {"type": "choice", "criteria": dict.fromkeys(labels)}  # all labels, in this order
answer = decide({"state": $EXAMPLE, "questions": {"label": question}})
shares = answer["label"]["probabilities"]
"""

_CLASSIFY_BY_TOKEN = """\
import json
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained($NAME)
model = AutoModelForCausalLM.from_pretrained($NAME)
labels = model.config.id2label.values()
ids = tokenizer($EXAMPLE).input_ids
ids += tokenizer.convert_tokens_to_ids(["<CLS>"])  # asks for the label
names = [f"<CLS_{'_'.join(label.split())}>" for label in labels]
with torch.inference_mode():
    logits = model(torch.tensor([ids])).logits[0, -1]
logits = logits[tokenizer.convert_tokens_to_ids(names)]
shares = dict(zip(labels, (logits / $TEMPERATURE).softmax(-1).tolist()))  # calibrated
"""

_LOAD_HEAD = """\
import json
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained($NAME)
model = AutoModelForSequenceClassification.from_pretrained($NAME)
"""

_LOAD_HIDDEN = """\
import json
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import cached_file

tokenizer = AutoTokenizer.from_pretrained($NAME)
model = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained($NAME))
# The head has a hidden layer, which transformers does not know.
entry, labels = model.$HEAD.in_features, model.$HEAD.out_features
model.$HEAD = nn.Sequential(
    nn.Linear(entry, $WIDTH), nn.GELU(), nn.Dropout(), nn.Linear($WIDTH, labels)
)
model.load_state_dict(load_file(cached_file($NAME, "model.safetensors")))
model.eval()
"""

_CLASSIFY_BY_HEAD = """\
inputs = tokenizer($EXAMPLE, return_tensors="pt")
with torch.inference_mode():
    logits = model(**inputs).logits[0]
labels = model.config.id2label.values()
shares = dict(zip(labels, (logits / $TEMPERATURE).softmax(-1).tolist()))  # calibrated
"""

_SHOW = """\
best = sorted(shares, key=shares.get, reverse=True)[:$COUNT]
print(json.dumps({label: round(shares[label], 3) for label in best}, ensure_ascii=False))
"""

_CONTINUE = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained($NAME)
model = AutoModelForCausalLM.from_pretrained($NAME)
inputs = tokenizer($START, return_tensors="pt", add_special_tokens=False)
row = model.generate(**inputs, max_new_tokens=$NEW_TOKENS)[0]  # sampled
"""

_SHOW_TOKENS = "print(*tokenizer.convert_ids_to_tokens(row))\n"
_SHOW_TEXT = "print(tokenizer.decode(row, skip_special_tokens=True))\n"
