"""Fields of requests that say how tokens are sampled, as OpenAI's clients send them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from smallgpt.options.common import LARGEST_SEED
from smallgpt.serving.errors import ApiError
from smallgpt.serving.json_route import Body
from smallgpt.serving.served import Wish
from smallgpt.serving.service import Service

MOST_SHARES = 20
_Zero = Annotated[float, Field(ge=0, le=0)]
_Stop = Annotated[str, Field(min_length=1, max_length=256)]


class StreamOptions(BaseModel):
    """What a stream tells beside the tokens."""

    include_usage: bool = False


class Sampled(Body):
    """How tokens are sampled."""

    model: str | None = Field(None, description="The name that /v1/models tells; may be missing.")
    n: int = Field(1, ge=1, le=128, description="Continuations of each prompt.")
    temperature: float = Field(
        1.0, ge=0, le=2, allow_inf_nan=False, description="0 always takes the likeliest token."
    )
    top_p: float = Field(1.0, gt=0, le=1, allow_inf_nan=False)
    top_k: int = Field(
        50, ge=0, le=10**9, description="Not OpenAI's: among the k likeliest; 0 = all."
    )
    seed: int | None = Field(
        None, ge=0, le=LARGEST_SEED, description="The same seed gives the same tokens."
    )
    stop: _Stop | Annotated[list[_Stop], Field(max_length=16)] | None = Field(
        None, description="Texts before which a continuation ends."
    )
    stream: bool = Field(False, description="Answer by server-sent events, as tokens come.")
    stream_options: StreamOptions | None = None
    frequency_penalty: _Zero | None = Field(None, description="There is none.")
    presence_penalty: _Zero | None = Field(None, description="There is none.")
    user: str | None = Field(None, description="Not used.")

    def wish(
        self,
        service: Service,
        prompt: list[int] | None,
        index: int,
        max_tokens: int | None,
        shares: int | None,
    ) -> Wish:
        """What is asked for after the prompt `index` of several.

        Raises:
            ApiError: more tokens than the server generates.
        """
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Wish(
            prompt,
            count=self.n,
            max_new_tokens=new_tokens(service, max_tokens),
            greedy=self.temperature == 0,
            temperature=self.temperature or 1.0,
            top_k=self.top_k,
            top_p=self.top_p,
            seed=None if self.seed is None else (self.seed + index) % (LARGEST_SEED + 1),
            stop=tuple(stop),
            shares=shares,
        )

    @property
    def tells_usage(self) -> bool:
        """Whether a stream ends with the counts of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


class Usage(BaseModel):
    """Counts of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


def usage(prompt_tokens: int, new: int) -> dict[str, Any]:
    """`Usage` as an object."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": new,
        "total_tokens": prompt_tokens + new,
    }


def new_tokens(service: Service, asked: int | None) -> int | None:
    """Most tokens of a continuation.

    Raises:
        ApiError: more are asked for than the server generates.
    """
    most = service.settings.max_new_tokens
    if asked is None or most is None:
        return asked or most
    if asked > most:
        raise ApiError(422, f"this server generates at most {most:,} tokens", "max_tokens")
    return asked
