"""Reads GGUF files back by llama.cpp's own server, which runs within this process.

    server = LlamaServer(path, label_ids, temperature)
    server.token_logits(ids_T)

What is asked and answered goes over HTTP, as it does with a `llama-server` elsewhere.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smallgpt.errors import UserError

_CERTAIN = 100  # added to the logits of labels: no other token has a share then
_JSON = {"Content-Type": "application/json"}


class LlamaServer:
    """`smallgpt.export.formats.Reader` of a GGUF file of GPT-2.

    Attributes:
        address: of the server, such as http://127.0.0.1:40123.
    """

    def __init__(self, path: Path, label_ids: Sequence[int] = (), temperature: float = 1.0):
        """Load the file and serve it on a free port of this machine.

        `temperature`: of the calibration.

        Raises:
            UserError: llama.cpp cannot read the file.
        """
        import xllamacpp
        from gguf import GGUFReader

        self._label_ids, self._temperature = list(label_ids), temperature
        try:
            reader = GGUFReader(path)
        except (ValueError, IndexError, KeyError) as error:
            raise UserError(f"{path}: not a whole GGUF file ({error})") from None
        positions = reader.get_field("gpt2.context_length")
        assert positions is not None
        self.n_positions = int(positions.contents())
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        self._head = tensors.get("output.weight", tensors["token_embd.weight"])
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        # Embeddings of a row are computed in one piece.
        params.n_ctx = params.n_batch = params.n_ubatch = self.n_positions
        params.n_parallel = 1
        params.cpuparams.n_threads = torch.get_num_threads()
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_NONE
        params.warmup = params.fit_params = False
        params.verbosity = 0
        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError as error:
            raise UserError(f"{path}: llama.cpp cannot read it ({error})") from None
        self.address: str = self._server.listening_address
        # A server that is taken down before its loop runs never ends: wait for a first answer.
        self.ask("/completion", prompt=[0], n_predict=1)

    def probabilities(self, ids_M: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
        """Calibrated probabilities of the labels after each row, B x L."""
        rows = np.split(ids_M, np.cumsum(lengths_B)[:-1])
        return np.array([self._shares(row) for row in rows], np.float32)

    def _shares(self, ids_T: np.ndarray) -> list[float]:
        """Probabilities of the labels alone, as llama.cpp computes them."""
        answer = self.ask(
            "/completion",
            prompt=ids_T.tolist(),
            n_predict=1,
            logit_bias=[[index, _CERTAIN] for index in self._label_ids],
            samplers=["temperature"],
            temperature=self._temperature,
            post_sampling_probs=True,
            n_probs=len(self._label_ids),
        )
        (token,) = answer["completion_probabilities"]
        found = {each["id"]: each["prob"] for each in token["top_probs"]}
        return [found.get(index, 0.0) for index in self._label_ids]

    def token_logits(self, ids_T: np.ndarray) -> np.ndarray:
        """Logits of the token that follows each token of one row, T x V.

        llama.cpp gives the vectors before the output head, and the head is computed here, with
        the numbers that it would use: as text, the logits of a large vocabulary take a second.
        """
        from gguf import GGMLQuantizationType, quants

        answer = self.ask("/embedding", content=ids_T.tolist(), embd_normalize=-1)
        hidden_TxE = np.array(answer[0]["embedding"], np.float32)
        kind = self._head.tensor_type
        if kind != GGMLQuantizationType.F32:
            hidden_TxE = quants.dequantize(quants.quantize(hidden_TxE, kind), kind)
        weight_VxE = quants.dequantize(self._head.data, kind)
        logits_TxV: np.ndarray = hidden_TxE @ weight_VxE.T
        return logits_TxV

    def token_seconds(self, first_id: int, tokens: int) -> list[float]:
        """Seconds a token of the likeliest row, as llama.cpp counts them: their mean."""
        answer = self.ask(
            "/completion", prompt=[first_id], n_predict=tokens, temperature=0, ignore_eos=True,
            cache_prompt=False,
        )  # fmt: skip
        return [answer["timings"]["predicted_per_token_ms"] / 1000]

    def ask(self, path: str, **question: Any) -> Any:
        """The answer of the server to one question."""
        connection = http.client.HTTPConnection(self.address.removeprefix("http://"))
        connection.request("POST", path, json.dumps(question), _JSON)
        response = connection.getresponse()
        answer = json.loads(response.read())
        if response.status != 200:
            raise RuntimeError(f"llama.cpp: {answer}")
        return answer
