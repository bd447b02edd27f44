"""Who may ask: who sends the token, anyone, or this machine alone."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from collections.abc import Collection
from functools import lru_cache

from starlette.types import ASGIApp, Receive, Scope, Send

from smallgpt.serving.errors import ApiError

HEALTH = ("/healthz", "/readyz")  # what probes ask, without a token
_OF_PROXIES = {b"forwarded", b"x-forwarded-for", b"x-real-ip"}
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="smallgpt"'}
# A browser that opens these asks for the token by itself, as for a password. (The page at / has a
# field for it, and needs no window of the browser's beside.)
_TYPED = {"WWW-Authenticate": 'Basic realm="smallgpt: the token as the password"'}
_IN_BROWSERS = ("/docs", "/openapi.json")


class Access:
    """Middleware that refuses who may not ask."""

    def __init__(
        self, app: ASGIApp, token: str | None, anyone: bool, open_paths: Collection[str] = ()
    ):
        """Hold who may ask.

        Args:
            token: opens the server; None with `anyone` False: only this machine may ask.
            open_paths: may be read without the token.
        """
        self._app, self._anyone, self._open_paths = app, anyone, frozenset(open_paths)
        self._token = token.encode() if token is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http" and not self._anyone and scope["path"] not in HEALTH:
            refusal = self._refusal(scope) if self._token is None else self._wrong_token(scope)
            if refusal is not None:
                await refusal.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _wrong_token(self, scope: Scope) -> ApiError | None:
        assert self._token is not None
        if scope["path"] in self._open_paths and scope["method"] in ("GET", "HEAD"):
            return None
        challenge = _TYPED if scope["path"] in _IN_BROWSERS else _CHALLENGE
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if not given:
            text = "this server wants a token: send the header Authorization: Bearer TOKEN"
            return ApiError(401, text, headers=challenge)
        if hmac.compare_digest(_token_of(given[0]), self._token) and len(given) == 1:
            return None
        return ApiError(401, "this is not the token of this server", headers=challenge)

    def _refusal(self, scope: Scope) -> ApiError | None:
        """Why a request is not one of this machine.

        A proxy on this machine passes on what others ask. A page of the web can make a browser of
        this machine ask under a name that its owner lets point here; only the name tells.
        """
        client, headers = scope.get("client"), scope["headers"]
        is_local = client is not None and _is_loopback(client[0])
        if not is_local or any(name in _OF_PROXIES for name, _ in headers):
            text = (
                "without a token this server answers its own machine alone: start it with "
                "SMALLGPT_TOKEN, or with --no_token to let anyone ask"
            )
            return ApiError(403, text)
        hosts = [value for name, value in headers if name == b"host"]
        if not all(_names_this_machine(host.decode("latin-1")) for host in hosts):
            text = "without a token this server is asked as localhost or 127.0.0.1 alone"
            return ApiError(403, text)
        return None


def _token_of(header: bytes) -> bytes:
    """The token in a header; browsers send what was typed as a password, for the pages."""
    scheme, _, value = header.partition(b" ")
    value = value.strip()
    if scheme.lower() == b"bearer":
        return value
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""


@lru_cache(maxsize=256)
def _is_loopback(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


@lru_cache(maxsize=256)
def _names_this_machine(host: str) -> bool:
    """Whether the header Host, with its port, names this machine."""
    of_version_6 = host.startswith("[")
    name = host[1:].partition("]")[0] if of_version_6 else host.partition(":")[0]
    return name.lower() == "localhost" or _is_loopback(name)
