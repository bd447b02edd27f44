"""Hugging Face hub: files downloaded from it, and its errors as one line.

A name on the hub becomes a folder in the hub's cache, which is checked like any local folder.
"""

from __future__ import annotations

import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smallgpt.errors import UserError

_SECONDS_TO_CONNECT = 5
_NO_SUCH_NAME = "no such name, or a private one: set HF_TOKEN"
# Reasons by the name of an error's class, or by the status of the hub's answer; the first that is
# found in an error or its causes counts.
_MISSING = {
    "GatedRepoError": "access must be granted there, and HF_TOKEN be set",
    "RepositoryNotFoundError": _NO_SUCH_NAME,
    "DatasetNotFoundError": _NO_SUCH_NAME,
    "LocalTokenNotFoundError": "no token: set HF_TOKEN, or log in once with `hf auth login`",
}
_ANSWERS = {
    401: "the token is not valid: correct HF_TOKEN, or log in with `hf auth login`",
    403: "the token (HF_TOKEN, or the stored login) has no right to do that there",
    429: "too many requests: try again later",
}
_UNREACHABLE = {
    "LocalEntryNotFoundError": "no network (or HF_HUB_OFFLINE is set)",
    "OfflineModeIsEnabled": "no network (or HF_HUB_OFFLINE is set)",
    "TransportError": "no network",
}
_REPOSITORY = re.compile(r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)
_OF_RUNS = ("best_model", "final_model")  # the folders of a run's models
# Files taken from a repository: no code, no pickles, no folders.
_TOKENIZER_FILES = (
    "config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
)
_CODEBOOK_FILES = ("codebook.npz", "vocab.json")
_FILES = {
    "tokenizer": _TOKENIZER_FILES,
    "codebook": _CODEBOOK_FILES,
    "model": (
        *_TOKENIZER_FILES,
        "adapter_config.json",
        "generation_config.json",
        "settings.yaml",  # marks a model of ours
        *_CODEBOOK_FILES,
        "model.safetensors",
        "model-*.safetensors",
        "model.safetensors.index.json",
    ),
}


def folder_of(name: str, what: str) -> Path:
    """The folder of a "model", "tokenizer" or "codebook", downloaded if it is on the hub.

    Raises:
        UserError: as `hub_errors`.
    """
    if Path(name).is_dir():
        return Path(name)
    with hub_errors(name, what):
        from huggingface_hub import snapshot_download

        # The documented place; its types lack the name.
        from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

        if not sys.stderr.isatty():
            disable_progress_bars()
        return Path(
            snapshot_download(name, allow_patterns=list(_FILES[what]), ignore_patterns=["*/*"])
        )


def may_be_on_hub(name: str) -> bool:
    """Whether a name could be that of a repository: `gpt2`, `uer/gpt2-chinese`.

    Not where it is or could be a path: one that is here, in a folder that is here, or of a run.
    """
    owner, slash, last = name.rpartition("/")
    is_path = os.path.lexists(name) or (slash and os.path.lexists(owner))
    return not is_path and last not in _OF_RUNS and bool(_REPOSITORY.fullmatch(name))


@contextmanager
def hub_errors(name: str, what: str) -> Iterator[None]:
    """Turn errors of loading a "model", "data set" ... by folder or name into one line.

    Raises:
        UserError: no network, no such name, no right to it, or no such thing there.
    """
    if Path(name).is_dir():
        where = f"{name}: no {what} that transformers can load"
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        kind = "a file, not a folder" if Path(name).is_file() else "no such folder"
        raise UserError(f"{name}: {kind}")
    else:
        where = f"{name}: neither a folder here nor a {what} that the Hugging Face hub gave"
        _go_offline_without_a_network()
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"{where} ({error})") from None
    except Exception as error:  # a dozen kinds, of three libraries
        reason = reason_of(error)
        if reason is not None:
            raise UserError(f"{where}: {reason}") from None
        raise UserError(f"{where} ({first_line(error)})") from None


def reason_of(error: BaseException) -> str | None:
    """Why the hub gave or took nothing, in words; None for an error of another kind."""
    seen: BaseException | None = error
    chain = []
    while seen is not None:
        chain.append(seen)
        seen = seen.__cause__ or seen.__context__
    for reasons in (_MISSING, _ANSWERS, _UNREACHABLE):
        for each in chain:
            status = getattr(getattr(each, "response", None), "status_code", None)
            for sign, reason in reasons.items():
                # Some libraries wrap an error so that only its name is left, in the text.
                if sign == status or (isinstance(sign, str) and _is_named(each, sign)):
                    return reason
            if reasons is _ANSWERS and isinstance(status, int) and status >= 500:
                return f"the hub answered with an error of its own ({status}): try again later"
    return None


def _is_named(error: BaseException, name: str) -> bool:
    return any(kind.__name__ == name for kind in type(error).__mro__) or name in str(error)


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _go_offline_without_a_network() -> None:
    """Use the cache alone without a network: the library tries six times for each file."""
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = not is_reachable()


def is_reachable() -> bool:
    """Whether the hub answers, and may be asked (HF_HUB_OFFLINE)."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=_SECONDS_TO_CONNECT).close()
    except urllib.error.HTTPError:  # it answered
        return True
    except OSError:
        return False
    return True
