"""What every endpoint needs: the model, the settings, and what is counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request

from smallgpt.options.serve import ServeSettings
from smallgpt.serving.errors import ApiError
from smallgpt.serving.life import Life
from smallgpt.serving.metrics import Metrics
from smallgpt.serving.served import RowsRead, ServedModel

_LARGE = 2**14  # bytes of a body from which reading its rows would keep others waiting
_NAMELESS = (None, "", "dummy")  # huggingface_hub's client calls a model at an address "dummy"
T = TypeVar("T")


@dataclass(frozen=True)
class Service:
    """One served model.

    Attributes:
        name: of the model, as requests may name it.
    """

    served: ServedModel
    settings: ServeSettings
    life: Life
    metrics: Metrics
    name: str
    created: int = field(default_factory=lambda: int(time.time()))

    def check_model(self, name: str | None) -> None:
        """Refuse a request that names another model.

        Raises:
            ApiError
        """
        if name not in _NAMELESS and name != self.name:
            raise ApiError(404, f"the model {name!r} is not here: this is {self.name!r}", "model")

    def check_labels(self) -> None:
        """Refuse a question for a label where there are none.

        Raises:
            ApiError
        """
        if not self.served.names_labels:
            raise ApiError(422, "this model has no labels: it continues prompts")

    def check_goes_on(self) -> None:
        """Refuse a prompt where no tokens are predicted.

        Raises:
            ApiError
        """
        if not self.served.goes_on:
            raise ApiError(422, "this model only names labels: it does not continue prompts")

    def check_rows(self, rows: RowsRead) -> None:
        """Refuse more rows than one request may have.

        Raises:
            ApiError
        """
        self.check_count(len(rows.dataset))

    def check_count(self, rows: int) -> None:
        """As `check_rows`, of continuations."""
        if rows > self.settings.max_rows:
            most = f"at most {self.settings.max_rows:,} at once"
            raise ApiError(422, f"{rows:,} rows: this server takes {most}")

    def check_continuations(self, prompts: int, of_each: int) -> None:
        """As `check_count`, of `of_each` continuations of so many prompts.

        Raises:
            ApiError
        """
        self.check_count(prompts * of_each)
        if of_each > self.settings.max_queue:
            text = f"the queue of this server holds at most {self.settings.max_queue:,}"
            raise ApiError(422, f"{of_each:,} continuations: {text}", "n")

    def read_prompt(self, prompt: str | Sequence[int] | Mapping[str, Any]) -> list[int] | None:
        """The ids of a prompt.

        Raises:
            ApiError: it is too long.
            UserError: as `ServedModel.prompt`.
        """
        ids = self.served.prompt(prompt)
        most = self.settings.max_prompt_tokens
        if ids is not None and most is not None and len(ids) > most:
            text = f"the prompt has {len(ids):,} tokens: this server takes at most {most:,}"
            raise ApiError(422, text)
        return ids


def service_of(request: Request) -> Service:
    """The service that a request is for."""
    service: Service = request.app.state.service
    return service


async def aside(request: Request, function: Callable[..., T], *values: object) -> T:
    """Call a function of what a request holds: a large one in a thread, beside other requests."""
    if len(await request.body()) > _LARGE:
        return await asyncio.to_thread(function, *values)
    return function(*values)
