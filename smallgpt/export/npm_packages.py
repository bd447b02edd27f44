"""Packages of the npm registry: fetched once, checked by their hash, kept in the user's cache.

RUNTIME.copy({"package/dist/ort.wasm.min.mjs": folder / "ort.js"})
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import sys
import tarfile
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from smallgpt.console import plural, print_error, progress_bar
from smallgpt.errors import UserError
from smallgpt.files.writing import atomic_write

_REGISTRY = "https://registry.npmjs.org"
_SECONDS_TO_CONNECT = 20
_MOST_BYTES = 2**27
_PART_BYTES = 2**16


@dataclass(frozen=True)
class NpmPackage:
    """One version of a package, by the hash that the registry publishes for it."""

    name: str
    version: str
    sha512: str  # base64

    @property
    def file(self) -> str:
        """The name that `npm pack` gives it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    def address(self) -> str:
        """Where the registry has it."""
        bare = self.name.split("/")[-1]
        return f"{_registry()}/{self.name}/-/{bare}-{self.version}.tgz"

    def fetch(self) -> Path:
        """The package in the cache, fetched first if it is not there.

        Raises:
            UserError: no network, or another file than its hash says.
        """
        path = cache_folder() / self.file
        if path.is_file():
            if self._is(path.read_bytes()):
                return path
            print_error(f"{path} is damaged: it is fetched again")
        address = self.address()
        content = self._download(address)
        if not self._is(content):
            raise UserError(
                f"{address} is not the file that is expected (its sha512 differs): nothing of it "
                f"is used"
            )
        with atomic_write(path, "wb") as handle:
            handle.write(content)
        return path

    def copy(self, places: Mapping[str, Path]) -> None:
        """Write members of the package to other places.

        Raises:
            UserError: see `fetch`.
        """
        with tarfile.open(self.fetch()) as tar:
            for member, place in places.items():
                content = tar.extractfile(member)
                assert content is not None  # the hash says what is in it
                place.write_bytes(content.read())

    def _is(self, content: bytes) -> bool:
        return base64.b64encode(hashlib.sha512(content).digest()).decode() == self.sha512

    def _download(self, address: str) -> bytes:
        """The file at an address; how far it is goes to standard error."""
        parts: list[bytes] = []
        try:
            with urllib.request.urlopen(address, timeout=_SECONDS_TO_CONNECT) as answer:
                size = int(answer.headers.get("Content-Length") or 0)
                megabytes = f" ({size / 1e6:.0f} MB)" if size else ""
                print(f"fetching {address}{megabytes}, once", file=sys.stderr)
                count = 0
                with progress_bar(f"fetching {self.name}", size, "B") as bar:
                    while part := answer.read(_PART_BYTES):
                        count += len(part)
                        if count > _MOST_BYTES:
                            raise OSError(f"more than {plural(_MOST_BYTES, 'byte')}")
                        parts.append(part)
                        bar.update(len(part))
        except (OSError, ValueError, HTTPException) as error:
            reason = " ".join(str(getattr(error, "reason", error)).split())
            raise UserError(
                f"{address} cannot be fetched ({reason}): fetch it elsewhere (npm pack "
                f"{self.name}@{self.version}) and put {self.file} into {cache_folder()}"
            ) from None
        return b"".join(parts)


RUNTIME = NpmPackage(
    "onnxruntime-web",
    "1.30.0",
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
)
TOKENIZERS = NpmPackage(
    "@huggingface/tokenizers",
    "0.2.0",
    "LidMHe1FpcSYH4vcSjXooda34pC0M8m1gmDOv7SQi6Iv+ib1zX7J3sHBCC9/3FPCkn2k1b55FneVqMRxrr99pg==",
)


def cache_folder() -> Path:
    """Where packages are kept: of the user, not of a checkout."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "smallgpt" / "npm"


def _registry() -> str:
    """The address of the registry, as npm itself finds it: from the environment, or ~/.npmrc."""
    for name, value in os.environ.items():
        if name.lower() == "npm_config_registry" and value:
            return value.rstrip("/")
    try:
        lines = (Path.home() / ".npmrc").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    for line in lines:
        found = re.fullmatch(r"\s*registry\s*=\s*(\S+)\s*", line)
        if found:
            return found[1].strip("\"'").rstrip("/")
    return _REGISTRY
