"""Serve a trained model over HTTP: labels, continuations and scores for many clients at once.

    python serve.py                                     # outputs/best_model, this machine alone
    python serve.py --model_path outputs/export/onnx-int8 --port 9000
    SMALLGPT_TOKEN=... python serve.py --host 0.0.0.0   # the network, for who has the token
    uvicorn serve:app                                   # the same, all settings from SMALLGPT_...

    curl localhost:8000/predict -H 'content-type: application/json' -d '{"input_data": "..."}'

docs/serving.md has every endpoint; so has the running server, at /docs. It needs an extra (--help).
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any

from smallgpt.command import run_command
from smallgpt.console import print_error, printable_lines
from smallgpt.distribution import install_extra
from smallgpt.errors import UserError
from smallgpt.model.place import find_model_folder
from smallgpt.options.reader import read_settings
from smallgpt.options.serve import ListeningSettings, ServeSettings, is_this_machine

if TYPE_CHECKING:
    from fastapi import FastAPI

_LIBRARIES = ("fastapi", "uvicorn", "prometheus_client")
_DESCRIPTION = "Serve a trained model over HTTP."
# uvicorn has flags of its own for these.
_OF_UVICORN = ("SMALLGPT_HOST", "SMALLGPT_PORT")


def __getattr__(name: str) -> Any:
    """`app`, for `uvicorn serve:app`: built when it is asked for, so that --help is not."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    given = {key: value for key, value in os.environ.items() if key not in _OF_UVICORN}
    try:
        settings = read_settings(
            ServeSettings, [], prog="serve.py", description=_DESCRIPTION, environment=given
        )
        return build_app(settings)
    except UserError as error:
        print_error(str(error))
        sys.exit(error.exit_code)


def main(argv: list[str]) -> int:
    """The command; returns its exit code."""
    settings = read_settings(
        ListeningSettings,
        argv,
        prog="serve.py",
        description=_DESCRIPTION,
        epilog="Each flag can also come from the environment: --max_body as SMALLGPT_MAX_BODY. "
        f"What the server needs beside the toolkit: {install_extra('serve')}",
        environment=os.environ,
    )
    check_libraries()
    from smallgpt.serving.server import listening, port_of, run

    with listening(settings.host, settings.port) as sockets:  # a taken port is told at once
        app = build_app(settings)
        address = f"[{settings.host}]" if ":" in settings.host else settings.host
        served = app.state.service.served
        told = f"{settings.model_path} ({served.engine}) at http://{address}:{port_of(sockets)}"
        print(printable_lines(f"serving {told}"), flush=True)
        if settings.no_token and not is_this_machine(settings.host):
            print("--no_token: anyone who reaches this machine may ask", file=sys.stderr)
        run(app, sockets, settings.client_seconds, settings.grace_seconds)
    return 0


def build_app(settings: ServeSettings) -> FastAPI:
    """The app, its model loaded.

    Raises:
        UserError: a model that cannot be loaded, or the token file cannot be read.
    """
    check_libraries()
    # A wrong name need not wait for what is slow to import.
    folder = find_model_folder(settings.model_path)
    token = settings.secret()
    from smallgpt.engines.trained import is_export, load_trained_model
    from smallgpt.serving.app import create_app, model_name
    from smallgpt.serving.logs import set_up_log
    from smallgpt.serving.served import ServedModel

    precision = settings.precision
    if precision == "auto" and not is_export(folder):
        precision = "fp32"
    trained = load_trained_model(settings.model_path, precision=precision, engine=settings.engine)
    set_up_log(settings.log_format)
    served = ServedModel(trained, settings.max_queue)
    return create_app(served, settings, model_name(trained), token)


def check_libraries() -> None:
    """Refuse to start without the extra.

    Raises:
        UserError
    """
    missing = [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        lacks = ", ".join(missing)
        raise UserError(f"the server needs {lacks}, which is not here: {install_extra('serve')}")


if __name__ == "__main__":
    run_command(main)
