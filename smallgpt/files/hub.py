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
_FILES = {
    "tokenizer": _TOKENIZER_FILES,
    "model": (
        *_TOKENIZER_FILES,
        "adapter_config.json",
        "generation_config.json",
        "settings.yaml",  # marks a model of ours
        "codebook.npz",
        "model.safetensors",
        "model-*.safetensors",
        "model.safetensors.index.json",
    ),
}


def folder_of(name: str, what: str) -> Path:
    """The folder of a "model" (with its tokenizer) or "tokenizer", downloaded if it is on the hub.

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
    """Turn errors of loading a "model", "tokenizer" or "data set" by folder or name into one line.

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
        reasons = {
            "GatedRepoError": "access must be granted: set HF_TOKEN",
            "RepositoryNotFoundError": "no such name, or a private one: set HF_TOKEN",
            "LocalEntryNotFoundError": "no network (or HF_HUB_OFFLINE is set)",
            "OfflineModeIsEnabled": "no network (or HF_HUB_OFFLINE is set)",
        }
        seen: BaseException | None = error
        while seen is not None:
            for name_of_error, reason in reasons.items():
                # Some libraries wrap an error so that only its name is left, in the text.
                if type(seen).__name__ == name_of_error or name_of_error in str(seen):
                    raise UserError(f"{where}: {reason}") from None
            seen = seen.__cause__ or seen.__context__
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{where} ({first})") from None


def _go_offline_without_a_network() -> None:
    """Use the cache alone without a network: the library tries six times for each file."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=_SECONDS_TO_CONNECT).close()
    except urllib.error.HTTPError:  # it answered
        pass
    except OSError:
        constants.HF_HUB_OFFLINE = True
