"""Options of serve.py, and of `uvicorn serve:app`, which has them from the environment."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from smallgpt.errors import UserError
from smallgpt.files.reading import read_text
from smallgpt.options.common import PRECISIONS
from smallgpt.options.option import option

SHORTEST_TOKEN = 8  # characters; what is shorter is soon guessed
_MOST_BYTES_OF_A_TOKEN_FILE = 4096


@dataclass(frozen=True)
class ServeSettings:
    """Settings of `serve.py`."""

    model_path: str = option(
        "outputs/best_model",
        "Model folder that training wrote, an export of one, or a causal model or classifier of "
        "Hugging Face as it is: a folder, or a name on the hub.",
        group="Model",
    )
    engine: str = option(
        "auto",
        "What computes. auto: onnx or openvino, where such an extra is installed, which compute "
        "each row by itself and start in a second; else torch.",
        choices=("auto", "torch", "onnx", "openvino"),
    )
    precision: str = option(
        "auto",
        "auto = fp32, in which an answer does not depend on what else is computed; of an export in "
        "int8, int8. bf16: faster where the hardware computes in it. int8: faster and less exact, "
        "by the engines onnx and openvino.",
        choices=(*PRECISIONS, "int8"),
    )

    host: str = option(
        "127.0.0.1",
        "Address to listen at: 127.0.0.1 for this machine alone, 0.0.0.0 for every network that "
        "it is in, which needs a token.",
        group="Access",
    )
    port: int = option(8000, "Port to listen at; 0 = a free one.", minimum=0, maximum=65535)
    token: str | None = option(
        None,
        "Who asks has to send this token (Authorization: Bearer TOKEN). Other users of the machine "
        "can read flags: SMALLGPT_TOKEN in the environment, or --token_file, keeps it from them.",
    )
    token_file: str | None = option(None, "A file that holds the token and nothing else.")
    no_token: bool = option(False, "Anyone who reaches the server may ask.")

    max_queue: int = option(
        256, "Requests that wait for their turn; more are answered 429.", group="Limits", minimum=1
    )
    max_body: int = option(
        2**20, "Bytes of the body of a request; larger ones are answered 413.", minimum=1024
    )
    max_rows: int = option(
        10_000, "Rows of one request, or prompts times their continuations.", minimum=1
    )
    max_prompt_tokens: int | None = option(
        None, "Tokens of a prompt. Default: what the model reads.", minimum=1
    )
    max_new_tokens: int | None = option(
        None,
        "Tokens of a continuation. Default: up to the trained length; 256 of a model of Hugging "
        "Face where a request names no number.",
        minimum=1,
    )
    request_seconds: float = option(
        60, "Seconds from a request to the end of its answer; then it is answered 504.", above=0
    )
    client_seconds: float = option(
        20,
        "Seconds in which a client has to send its headers, then its body, and to take something "
        "of an answer; a slower one is let go.",
        above=0,
    )
    grace_seconds: float = option(
        20, "Seconds that running requests have to finish after SIGTERM or Ctrl-C.", minimum=0
    )

    log_format: str = option(
        "text",
        "The log on standard error, a line a request: text to read, or json for machines.",
        group="Log",
        choices=("text", "json"),
    )
    log_prompts: bool = option(
        False, "The log also has what was asked: rows, prompts and texts of users."
    )

    def contradictions(self) -> Iterator[str]:
        if self.token is not None and self.token_file is not None:
            yield "--token and --token_file both give a token: drop one"
        for name in ("token", "token_file"):
            if self.no_token and getattr(self, name) is not None:
                yield f"--no_token lets anyone ask: drop it, or --{name}"
        if self.token is not None and (problem := problem_of_token(self.token)):
            yield f"--token {problem}"
        able = {"torch": PRECISIONS, "onnx": ("auto", "fp32", "int8")}.get(self.engine)
        if able and self.precision not in able:
            yield f"--engine {self.engine} does not compute in --precision {self.precision}"
        elif self.engine == "openvino" and self.precision == "fp16":
            yield "--engine openvino computes in fp32, bf16 or int8, not in --precision fp16"

    def secret(self) -> str | None:
        """The token, None where there is none.

        Raises:
            UserError: a token file that cannot be read, or holds no token.
        """
        if self.token_file is None:
            return self.token
        text = read_text(Path(self.token_file), _MOST_BYTES_OF_A_TOKEN_FILE).strip()
        if problem := problem_of_token(text):
            raise UserError(f"{self.token_file}: the token {problem}")
        return text


@dataclass(frozen=True)
class ListeningSettings(ServeSettings):
    """`ServeSettings` where it is known who can reach the server: serve.py itself listens."""

    def contradictions(self) -> Iterator[str]:
        yield from super().contradictions()
        has_token = self.token is not None or self.token_file is not None
        if not (has_token or self.no_token or is_this_machine(self.host)):
            yield (
                f"--host {self.host} is reached from other machines: give a token "
                f"(SMALLGPT_TOKEN, --token_file or --token), or --no_token to let anyone ask"
            )


def problem_of_token(token: str) -> str:
    """What is wrong with a token, "" for a good one."""
    if len(token) < SHORTEST_TOKEN:
        return f"has fewer than {SHORTEST_TOKEN} characters: it would soon be guessed"
    if not token.isascii() or not token.isprintable() or " " in token:
        return "has characters that no header carries: letters, digits and signs of ASCII do"
    return ""


def is_this_machine(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
