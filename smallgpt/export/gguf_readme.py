"""The README.md of a GGUF export: what runs its files, and a few lines that do."""

from __future__ import annotations

import json
import shlex

import numpy as np

from smallgpt.distribution import VERSION
from smallgpt.engines.trained import TrainedModel
from smallgpt.export.example_rows import example_of, first_id, note_of_pairs
from smallgpt.export.gguf_files import PRECISIONS, Q8_0, file_name, kept_in_f32
from smallgpt.export.llama_server import LlamaServer
from smallgpt.graphs.graph_files import row_rules
from smallgpt.rows.dataset import TokenLabelDataset

ABOUT = "classify.json"  # what a program needs to name labels
_LABELS_SHOWN = 3
_NEW_TOKENS = 20


def readme_of(
    trained: TrainedModel, labels: TokenLabelDataset | None, server: LlamaServer | None
) -> str:
    """The text. Its Python programs run as they stand, and print what is told.

    `server`: of the file in 8 bits; None where nothing can run it, then no answer is told.
    """
    vocabulary = trained.vocabulary
    files = " and ".join(f"`{file_name(precision)}`" for precision in PRECISIONS)
    parts = [_HEAD.format(version=VERSION, model=trained.folder, files=files, small=_SMALL)]
    kept = kept_in_f32(trained)
    if kept:
        parts.append(_KEPT.format(small=_SMALL, count=len(kept)))
    is_text = vocabulary.tokenizer is not None
    start = vocabulary.tokens[first_id(trained)]
    parts.append(_TEXTS if is_text else _TOKENS)
    parts.append(_START.format(small=_SMALL))
    if vocabulary.labels:
        example = example_of(trained, labels)
        rules = row_rules(vocabulary, trained.max_length, by_head=False)
        parts.append(
            _CLASSIFY.format(
                serve=_SERVE,
                longest=rules["longest_body"],
                asks=vocabulary.decode(rules["append"]),
                example=json.dumps(example, ensure_ascii=False),
                shown=min(_LABELS_SHOWN, len(vocabulary.labels)),
            )
            + note_of_pairs(vocabulary)
        )
        if server is not None:
            parts.append(f"prints\n\n```json\n{_answer(trained, server, example)}\n```")
    prompt = f"[{first_id(trained)}]" if is_text else json.dumps(start, ensure_ascii=False)
    parts.append(_GENERATE.format(serve=_SERVE, start=prompt, count=_NEW_TOKENS))
    quoted = "'your text'" if is_text else shlex.quote(start)
    parts.append(_OTHERS.format(small=_SMALL, start=quoted, count=_NEW_TOKENS))
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _answer(trained: TrainedModel, server: LlamaServer, example: str) -> str:
    """What the file says to the example, as the program prints it."""
    vocabulary = trained.vocabulary
    rules = row_rules(vocabulary, trained.max_length, by_head=False)
    tokenizer = vocabulary.tokenizer
    ids = vocabulary.encode(example) if tokenizer is None else tokenizer.encode(example)
    ids = [*ids[: rules["longest_body"]], *rules["append"]]
    (shares_L,) = server.probabilities(np.array(ids), np.array([len(ids)]))
    best = np.argsort(-shares_L, kind="stable")[:_LABELS_SHOWN]
    shown = {trained.label_names[k]: round(float(shares_L[k]), 4) for k in best}
    return json.dumps(shown, ensure_ascii=False)


_SMALL = file_name(Q8_0)

_HEAD = """
# Exported model

Written by smallgpt {version} from `{model}`. How well it agrees with its model:
`export_report.json`. {files} hold the same GPT-2, in fp32 and in 8 bits, with its
tokenizer, for [llama.cpp](https://github.com/ggml-org/llama.cpp) and what is built on it. llama.cpp
computes GELU in its tanh form, whichever form the model was trained with; the report has what that
changes. Labels and the temperature of their calibration stand in the files too (`smallgpt.labels`,
`smallgpt.label_ids`, `smallgpt.temperature`, `smallgpt.row`).
"""

_KEPT = """
In `{small}` {count} matrices are in f32: a row of theirs is no multiple of 32 numbers, which
share a scale.
"""

_TOKENS = """
A prompt is a row as it stands in the training file: tokens parted by spaces. llama.cpp refuses no
unknown token but reads it as `<UNK>` (`<PAD>` where there is none), several in a row as one;
`vocab.json` tells which there are. Instead of text, every server takes the ids of that file. Give
ids where a token has U+2581 or NUL in it, with which llama.cpp writes spaces and ends texts.
"""

_TEXTS = """
A prompt is a text. Special tokens (`<CLS>`, `<EOS>`, the labels) are no text to the model, but
llama.cpp finds them in a prompt: where that is not wanted, ask `/tokenize` for the ids of the text
with `"parse_special": false`, and give these. Letters that training never saw are `<UNK>` where
the model reads characters, several in a row one.
"""

_START = """
## A server

```bash
llama-server -m {small} --port 8080
```

llama.cpp's programs come from its releases or package managers; as part of Python,
`pip install xllamacpp` has the same server. The programs below start it so, and were run so. With a
`llama-server` that runs, leave the server out and write its address. Its log goes to standard
error; what it warns of does no harm here: no key is set, but only this machine can ask, and a row
ends with `<EOS>` though that is not in `special_eog_ids`.
"""

_SERVE = f"""import json
import urllib.request
import xllamacpp

params = xllamacpp.CommonParams()
params.model.path = "{_SMALL}"
server = xllamacpp.Server(params)
address = server.listening_address  # or http://127.0.0.1:8080


def ask(path, **question):
    request = urllib.request.Request(address + path, json.dumps(question).encode())
    request.add_header("Content-Type", "application/json")
    return json.load(urllib.request.urlopen(request))
"""

_CLASSIFY = """
## Name the label of a row

A row has at most {longest:,} tokens, then `{asks}` asks for the label. Only labels are allowed to
follow, so llama.cpp's own probabilities are theirs, and calibrated:

```python
{serve}

about = json.load(open("classify.json", encoding="utf-8"))
row = about["row"]
ids = ask("/tokenize", content={example}, parse_special=False)["tokens"]
surplus = max(0, len(ids) - row["longest_body"])
kept = 1 if ids[0] in row["kept_first"] else 0
answer = ask(
    "/completion",
    prompt=ids[:kept] + ids[kept + surplus:] + row["append"],
    n_predict=1,
    logit_bias=[[label, 100] for label in about["label_ids"]],
    samplers=["temperature"],
    temperature=about["temperature"],
    post_sampling_probs=True,
    n_probs={shown},
)
names = dict(zip(about["label_ids"], about["labels"]))
best = answer["completion_probabilities"][0]["top_probs"]
shares = {{names[each["id"]]: round(each["prob"], 4) for each in best}}
print(json.dumps(shares, ensure_ascii=False))
```
"""

_GENERATE = """
## Predict and generate tokens

The likeliest tokens after a prompt (`temperature` 0):

```python
{serve}

answer = ask("/completion", prompt={start}, n_predict={count}, temperature=0)
print(answer["content"])
```
"""

_OTHERS = """
## Other programs

These commands are from the documentation of the programs and **have not been run**:

```bash
llama-completion -m {small} -p {start} -n {count} --temp 0 -no-cnv  # llama-cli in older releases

echo 'FROM ./{small}' > Modelfile
echo 'TEMPLATE "{{{{ .Prompt }}}}"' >> Modelfile
ollama create mine -f Modelfile
ollama run mine {start}
```
"""
