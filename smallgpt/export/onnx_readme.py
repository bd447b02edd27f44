"""The README.md of an export: a few lines of Python, JavaScript and C# that use its files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from smallgpt.distribution import VERSION
from smallgpt.engines.graph_engine import GraphEngine, read_facts
from smallgpt.engines.trained import TrainedModel
from smallgpt.export.example_rows import example_of, first_id, note_of_pairs
from smallgpt.graphs.graph_files import CLASSIFY, DECODE, row_rules
from smallgpt.rows.dataset import TokenLabelDataset

ABOUT = "classify.json"  # what JavaScript cannot read in the metadata of classify.onnx
_LABELS_SHOWN = 3


def readme_of(trained: TrainedModel, folder: Path, labels: TokenLabelDataset | None) -> str:
    """The text. Its programs run as they stand: they classify an example and print what is told.

    The example is the shortest row of `labels`; of texts, which may be private, the names of the
    labels.
    """
    is_text = trained.vocabulary.tokenizer is not None
    parts = [_HEAD.format(version=VERSION, model=trained.folder)]
    if (folder / CLASSIFY).exists():
        example = example_of(trained, labels)
        quoted = json.dumps(example, ensure_ascii=False)
        parts.append("## Name the label of a row\n\n" + _describe_rows(trained))
        ids = _TEXT_IDS if is_text else _TOKEN_IDS
        parts.append(_PYTHON_CLASSIFY.format(ids=ids.format(example=quoted)))
        parts.append(f"prints\n\n```json\n{_answer(trained, folder, example)}\n```")
        ids = _JAVASCRIPT_TEXT_IDS if is_text else _JAVASCRIPT_TOKEN_IDS
        parts.append(_JAVASCRIPT_CLASSIFY.replace("IDS", ids.format(example=quoted)))
        parts.append(_CSHARP_CLASSIFY)
    if (folder / DECODE).exists():
        shape = trained.model.config
        heads = shape.num_attention_heads
        parts.append(
            _PYTHON_DECODE.format(
                layers=shape.num_hidden_layers,
                heads=heads,
                size=shape.hidden_size // heads,
                start=first_id(trained),
                show=_SHOW_TEXT if is_text else _SHOW_TOKENS,
            )
        )
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _describe_rows(trained: TrainedModel) -> str:
    """How a row becomes the input of classify.onnx, in words."""
    rules = row_rules(trained.vocabulary, trained.max_length, trained.is_classifier)
    tokens = trained.vocabulary.tokens
    cut = f"A row has at most {rules['longest_body']:,} tokens; a longer one loses its first"
    if rules["kept_first"]:
        kept = " or ".join(f"`{tokens[index]}`" for index in rules["kept_first"])
        cut += f" (but {kept} at the start stays)"
    if rules["append"]:
        cut += f". Then `{tokens[rules['append'][0]]}` follows, which asks for the label"
    count = len(trained.vocabulary.labels)
    return "\n".join(
        [
            f"`{CLASSIFY}` reads `input_ids` (int64, rows x length, padded on the right with "
            f"{rules['pad']})",
            f"and `lengths` (int64, rows), and gives `probabilities` (float32, rows x {count} "
            f"labels), which are calibrated.",
            f"{cut}.",
            f"These rules and the labels, in the order of the probabilities, stand in `{ABOUT}`, "
            f"and with the",
            "vocabulary in the metadata of the file (`smallgpt.labels`, `smallgpt.row` ...).",
        ]
    ) + note_of_pairs(trained.vocabulary)


def _answer(trained: TrainedModel, folder: Path, example: str) -> str:
    """What the exported file says to the example, as the programs print it."""
    vocabulary = trained.vocabulary
    rules = row_rules(vocabulary, trained.max_length, trained.is_classifier)
    tokenizer = vocabulary.tokenizer
    ids = vocabulary.encode(example) if tokenizer is None else tokenizer.encode(example)
    ids = [*ids[: rules["longest_body"]], *rules["append"]]
    engine = GraphEngine("onnx", folder, read_facts(folder)["precision"], vocabulary)
    (shares_L,) = engine.probabilities(np.array(ids), np.array([len(ids)]))
    best = np.argsort(-shares_L, kind="stable")[:_LABELS_SHOWN]
    shown = {trained.label_names[k]: round(float(shares_L[k]), 4) for k in best}
    return json.dumps(shown, ensure_ascii=False)


_HEAD = """
# Exported model

Written by smallgpt {version} from `{model}`. How well it agrees with its model:
`export_report.json`. The files hold operators of the ONNX standard alone (opset 20), and run on
ONNX Runtime and OpenVINO.
"""

_TOKEN_IDS = """tokens = {example}.split()
vocabulary = json.load(open("vocab.json", encoding="utf-8"))
ids = [vocabulary[token] for token in tokens]"""

_TEXT_IDS = """from tokenizers import Tokenizer  # pip install tokenizers

text = {example}
ids = Tokenizer.from_file("tokenizer.json").encode(text).ids"""

_PYTHON_CLASSIFY = """
Python (`pip install onnxruntime numpy`), in this folder:

```python
import json
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("classify.onnx")
about = json.load(open("classify.json", encoding="utf-8"))
row = about["row"]
{ids}
surplus = max(0, len(ids) - row["longest_body"])
kept = 1 if ids[0] in row["kept_first"] else 0
ids = np.array([ids[:kept] + ids[kept + surplus:] + row["append"]])
shares = session.run(None, {{"input_ids": ids, "lengths": np.array([ids.shape[1]])}})[0][0]
best = sorted(range(len(shares)), key=lambda label: -shares[label])[:3]
answer = {{about["labels"][k]: round(float(shares[k]), 4) for k in best}}
print(json.dumps(answer, ensure_ascii=False))
```
"""

_JAVASCRIPT_TOKEN_IDS = """const vocabulary = require("./vocab.json");
const ids = {example}.split(" ").map((token) => vocabulary[token]);"""

_JAVASCRIPT_TEXT_IDS = """// npm install @huggingface/tokenizers
const {{ Tokenizer }} = require("@huggingface/tokenizers");
const tokenizer = new Tokenizer(require("./tokenizer.json"), {{}});
const ids = tokenizer.encode({example}).ids;"""

_JAVASCRIPT_CLASSIFY = """
JavaScript (`npm install onnxruntime-node`; in a browser `onnxruntime-web`), in this folder:

```js
const ort = require("onnxruntime-node");
const about = require("./classify.json");
IDS
const surplus = Math.max(0, ids.length - about.row.longest_body);
const kept = about.row.kept_first.includes(ids[0]) ? 1 : 0;
const row = [...ids.slice(0, kept), ...ids.slice(kept + surplus), ...about.row.append];
const int64 = (numbers, shape) =>
  new ort.Tensor("int64", BigInt64Array.from(numbers.map(BigInt)), shape);

ort.InferenceSession.create("classify.onnx").then(async (session) => {
  const inputs = { input_ids: int64(row, [1, row.length]), lengths: int64([row.length], [1]) };
  const shares = (await session.run(inputs)).probabilities.data;
  const best = [...shares.keys()].sort((a, b) => shares[b] - shares[a]).slice(0, 3);
  for (const label of best) console.log(about.labels[label], shares[label].toFixed(4));
});
```
"""

_CSHARP_CLASSIFY = """
C# (`dotnet add package Microsoft.ML.OnnxRuntime`; these lines have not been run):

```csharp
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

using var session = new InferenceSession("classify.onnx");
Console.WriteLine(session.ModelMetadata.CustomMetadataMap["smallgpt.labels"]);
long[] ids = { /* the ids of the row, then what classify.json says to append */ };
var row = new DenseTensor<long>(ids, new[] { 1, ids.Length });
var lengths = new DenseTensor<long>(new[] { (long)ids.Length }, new[] { 1 });
var inputs = new[] {
    NamedOnnxValue.CreateFromTensor("input_ids", row),
    NamedOnnxValue.CreateFromTensor("lengths", lengths),
};
using var results = session.Run(inputs);
Console.WriteLine(string.Join(" ", results[0].AsEnumerable<float>()));
```
"""

_SHOW_TOKENS = """tokens = list(json.load(open("vocab.json", encoding="utf-8")))
print(*(tokens[k] for k in row))"""

_SHOW_TEXT = """from tokenizers import Tokenizer  # pip install tokenizers

print(Tokenizer.from_file("tokenizer.json").decode(row))"""

_PYTHON_DECODE = """
## Predict and generate tokens

`decode.onnx` reads `input_ids` and `position_ids` (int64, rows x length), `attention_mask` (int64,
rows x columns of the cache with the new tokens, 0 for padding) and the cache, which has no columns
at first: `past_key_values.0.key` .... It gives the `logits` after each new token and the longer
cache, `present.0.key` .... The likeliest row after a token that training rows begin with:

```python
import json
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("decode.onnx")
cache = {{
    f"past_key_values.{{layer}}.{{kind}}": np.zeros((1, {heads}, 0, {size}), np.float32)
    for layer in range({layers})
    for kind in ("key", "value")
}}
row, new = [], [{start}]
for _ in range(20):
    places = np.arange(len(row), len(row) + len(new))
    row += new
    logits, *present = session.run(None, {{
        "input_ids": np.array([new]),
        "position_ids": places[None],
        "attention_mask": np.ones((1, len(row)), np.int64),
        **cache,
    }})
    cache = dict(zip(cache, present))
    new = [int(logits[0, -1].argmax())]
{show}
```
"""
