"""LitServe as its documentation shows it: torch fp32, requests batched by 16.

python tests/serving_peers/litserve_server.py MODEL_FOLDER PORT
"""

import sys

import litserve
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

FOLDER, PORT = sys.argv[1], int(sys.argv[2])


class Labels(litserve.LitAPI):
    """Names the label of a row of tokens."""

    def setup(self, device):
        self.tokenizer = AutoTokenizer.from_pretrained(FOLDER)
        self.model = AutoModelForCausalLM.from_pretrained(FOLDER).to(device).eval()
        vocabulary = self.tokenizer.get_vocab()
        self.cls_id = vocabulary["<CLS>"]
        self.labels = {k: v for k, v in vocabulary.items() if k.startswith("<CLS_")}

    def decode_request(self, request):
        ids = self.tokenizer(request["input_data"], add_special_tokens=False)["input_ids"]
        return torch.tensor([*ids, self.cls_id])

    def batch(self, inputs):
        self.lengths = torch.tensor([len(ids) for ids in inputs])
        return torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True)

    @torch.inference_mode()
    def predict(self, ids):
        logits = self.model(ids).logits[torch.arange(len(ids)), self.lengths - 1]
        return logits[:, list(self.labels.values())].softmax(-1)

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        return {"prediction": dict(zip(self.labels, output.tolist(), strict=True))}


if __name__ == "__main__":
    api = Labels(max_batch_size=16, batch_timeout=0.005)
    litserve.LitServer(api, accelerator="cpu").run(port=PORT, generate_client_file=False)
