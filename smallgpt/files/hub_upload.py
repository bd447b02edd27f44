"""Upload of a folder to the Hugging Face hub: checked early, one commit, every error in one line.

check_upload("me/digits", public=False)                   # before the work that makes the folder
address = upload_folder(folder, "me/digits", public=False, overwrite=False)
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

# The documented place; its types lack the name.
from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

from smallgpt.errors import UserError
from smallgpt.files.hub import first_line, is_reachable, reason_of

_MADE_BY_THE_HUB, _WEIGHTS = ".gitattributes", "model.safetensors"


def check_upload(repo_id: str, public: bool) -> None:
    """Check that the hub takes the token and has no repository that is public against the wish.

    Raises:
        UserError: no network, no token, one that is not valid or may only read, or a public
            repository without `public`.
    """
    with _one_line(repo_id):
        if not is_reachable():
            raise UserError(f"{repo_id}: no network (or HF_HUB_OFFLINE is set)")
        api = HfApi()
        who = api.whoami()
        role = who.get("auth", {}).get("accessToken", {}).get("role")
        if role == "read":
            raise UserError(
                f"{repo_id}: the token may only read: make one that may write, and set HF_TOKEN"
            )
        _refuse_unwanted_public(_repository(api, repo_id), repo_id, public)


def upload_folder(folder: Path, repo_id: str, public: bool, overwrite: bool, message: str) -> str:
    """Upload the files of a folder as one commit; returns the address of the repository.

    A repository is made where there is none. One with the same weights gets a new commit;
    so does one with anything else by `overwrite`, and loses its other files then (its history keeps
    them).

    Raises:
        UserError: as `check_upload`, or the repository holds something else.
    """
    if not sys.stderr.isatty():
        disable_progress_bars()
    with _one_line(repo_id):
        api = HfApi()
        found = _repository(api, repo_id)
        _refuse_unwanted_public(found, repo_id, public)
        if found is None:
            _make_repository(api, repo_id, public)
        elif not overwrite and not _may_be_replaced(found, folder / _WEIGHTS):
            raise UserError(
                f"{repo_id} is there and holds something else: give another --repo_id, or replace "
                f"it with --overwrite (its history keeps what was there)"
            )
        api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=message,
            # With other weights, what belongs to the old ones: their calibration, an adapter.
            delete_patterns="*" if overwrite else None,
        )
        if public and found is not None and found.private:
            api.update_repo_settings(repo_id, private=False)
    return f"{constants.ENDPOINT}/{repo_id}"


def _repository(api: HfApi, repo_id: str) -> Any:
    """What the hub knows of a repository and its files; None where there is none."""
    try:
        return api.model_info(repo_id, files_metadata=True)
    except RepositoryNotFoundError:
        return None


def _make_repository(api: HfApi, repo_id: str, public: bool) -> None:
    try:
        api.create_repo(repo_id, private=not public)
    except HfHubHTTPError as error:
        if error.response.status_code != 409:
            raise
        raise UserError(
            f"{repo_id} is there, and the token has no right to it: give another --repo_id"
        ) from None


def _refuse_unwanted_public(found: Any, repo_id: str, public: bool) -> None:
    if found is not None and not found.private and not public:
        raise UserError(
            f"{repo_id} is there and public: anyone could read the model. Give --public if that is "
            f"meant, else another --repo_id"
        )


def _may_be_replaced(found: Any, weights: Path) -> bool:
    """Whether a repository is empty, or holds these very weights."""
    files = {each.rfilename: each for each in found.siblings or ()}
    files.pop(_MADE_BY_THE_HUB, None)
    if not files:
        return True
    stored = getattr(files.get(weights.name), "lfs", None)
    with open(weights, "rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    return stored is not None and stored.sha256 == digest


@contextmanager
def _one_line(repo_id: str) -> Iterator[None]:
    """Turn errors of the hub into one line, by UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of the library, of its transport
        reason = reason_of(error) or f"the hub refused: {first_line(error)}"
        raise UserError(f"{repo_id}: {reason}") from None
