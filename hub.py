"""What to say when a name on the Hugging Face hub cannot be had.

with hub_errors("gpt2", "tokenizer"):
    AutoTokenizer.from_pretrained("gpt2")
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from console import UserError

_SECONDS_TO_CONNECT = 5


@contextmanager
def hub_errors(name: str, what: str) -> Iterator[None]:
    """Turn the errors of loading `name` into one line.

    Args:
        name: a folder, or OWNER/NAME on the hub.
        what: that is loaded, for the message: "model", "tokenizer", "data set".

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
    """Where the hub cannot be reached, have only its cache on this machine asked.

    The library itself tries six times, with pauses, for each of several files.
    """
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
