"""The log: a line a request on standard error, as text or as JSON."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from typing import Any

LOG = logging.getLogger("smallgpt.serving")
_REQUEST = "request"  # attribute of a record: the facts of a request


def set_up_log(log_format: str) -> None:
    """Write the log, and what uvicorn tells of its own, to standard error.

    The line that uvicorn has for each request is left out: ours says the same and more.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if log_format == "json" else _TextLines())
    for name in (LOG.name, "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
    LOG.setLevel(logging.INFO)
    of_requests = logging.getLogger("uvicorn.access")
    of_requests.handlers, of_requests.propagate = [], False


def log_request(facts: dict[str, Any]) -> None:
    """Log a request that was answered."""
    LOG.info("request", extra={_REQUEST: facts})


def log_failure(error: BaseException, facts: dict[str, Any], with_message: bool) -> None:
    """Log a bug with its place in the code; its message may quote what a user sent."""
    told = f"{type(error).__name__}: {error}" if with_message else type(error).__name__
    LOG.error("failure: %s", told, exc_info=error, extra={_REQUEST: facts})


class _JsonLines(logging.Formatter):
    """A JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        told = {"time": _time(record), "level": record.levelname.lower()}
        told["event"] = record.getMessage()
        if place := _place(record):
            told["place"] = place
        return json.dumps({**told, **getattr(record, _REQUEST, {})}, ensure_ascii=False)


class _TextLines(logging.Formatter):
    """Lines to read."""

    def format(self, record: logging.LogRecord) -> str:
        # Whatever a user sent is quoted, so that no line can be made to look like another one.
        facts = getattr(record, _REQUEST, {})
        parts = [f"{name}={json.dumps(value)}" for name, value in facts.items()]
        if not facts or record.levelno >= logging.ERROR:
            parts.insert(0, record.getMessage())
        place = _place(record)
        return f"{_time(record)} {' '.join(parts)}" + (f"\n{place}" if place else "")


def _place(record: logging.LogRecord) -> str:
    """Where in the code a failure was, without its message, which may quote what a user sent."""
    if not record.exc_info:
        return ""
    return "".join(traceback.format_tb(record.exc_info[2])).rstrip()


def _time(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"
