"""BentoML as its documentation shows it: torch fp32, adaptive batching of at most 16.

MODEL_FOLDER=... bentoml serve bentoml_service:Labels --port PORT --working-dir tests/serving_peers
"""

import os

import bentoml
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

FOLDER = os.environ["MODEL_FOLDER"]


@bentoml.service(workers=1)
class Labels:
    """Names the label of rows of tokens."""

    def __init__(self):
        self.tokenizer = AutoTokenizer.from_pretrained(FOLDER)
        self.model = AutoModelForCausalLM.from_pretrained(FOLDER).eval()
        vocabulary = self.tokenizer.get_vocab()
        self.cls_id = vocabulary["<CLS>"]
        self.labels = {k: v for k, v in vocabulary.items() if k.startswith("<CLS_")}

    @bentoml.api(batchable=True, max_batch_size=16, max_latency_ms=1000)
    def predict(self, input_data: list[str]) -> list[dict[str, float]]:
        rows = self.tokenizer(input_data, add_special_tokens=False)["input_ids"]
        rows = [torch.tensor([*ids, self.cls_id]) for ids in rows]
        lengths = torch.tensor([len(ids) for ids in rows])
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        with torch.inference_mode():
            logits = self.model(ids).logits[torch.arange(len(ids)), lengths - 1]
        shares = logits[:, list(self.labels.values())].softmax(-1).tolist()
        return [dict(zip(self.labels, row, strict=True)) for row in shares]
