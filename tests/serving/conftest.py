"""Trained models of every kind, and servers of them that several tests ask."""

from collections.abc import Callable, Iterator

import pytest
from exported_models import exported, model_of  # noqa: F401  (fixtures)
from running_server import RunningServer


@pytest.fixture(scope="session")
def server_of(model_of) -> Iterator[Callable[..., RunningServer]]:  # noqa: F811
    """A function: a running server of a kind of model with some flags, one for all tests."""
    running: dict[tuple, RunningServer] = {}

    def server(kind: str, *flags: object) -> RunningServer:
        key = (kind, *flags)
        if key not in running:
            running[key] = RunningServer(model_of(kind), *flags)
        return running[key]

    yield server
    for each in running.values():
        each.process.terminate()
    for each in running.values():
        assert each.ended() == 0


@pytest.fixture
def own_server(model_of) -> Iterator[Callable[..., RunningServer]]:  # noqa: F811
    """A function: a server as `server_of`, of this test alone."""
    running = []

    def server(kind: str, *flags: object, **more) -> RunningServer:
        running.append(RunningServer(model_of(kind), *flags, **more))
        return running[-1]

    yield server
    for each in running:
        each.process.kill()
        each.ended()


@pytest.fixture(scope="session")
def bars_server(server_of) -> RunningServer:
    """A server of images of bars."""
    return server_of("bars")
