"""Who may do what: bearer tokens, compared by their hash.

Without any token everything is open, which the configuration allows on loopback only.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from litestar import Request

from api.access import rule_of
from api.asgi import Scope, header, query_of
from api.errors import Unauthorized
from engine.catalog.callers import EVERYONE, Caller, caller_of_token, token_problems
from engine.catalog.tokens import digest_of
from engine.config import Token
from engine.errors import BadConfig, BadRequest, Forbidden

_WRITE_PATHS = (
    "/write",
    "/api/v2/write",
    "/api/v3/write_lp",
    "/v1/ingest",
    "/api/v1/write",
    "/v1/import/prometheus",
)
_OPEN_PATHS = ("/health/live", "/health/ready", "/ping")
#: Where a request's caller is found in its ASGI scope.
CALLER_KEY = "tidegauge.caller"


@dataclass(frozen=True, slots=True)
class _Known:
    scopes: frozenset[str]
    caller: Caller


class Gate:
    """Checks the token of every request."""

    def __init__(
        self,
        tokens: Sequence[Token],
        stored: Callable[[], tuple[Token, ...]] = tuple,
        required: Callable[[], bool] = lambda: False,
    ) -> None:
        """``stored``: the tokens that come and go, the same tuple until they change; ``required``: whether a token is
        wanted even where there is none.

        Raises BadConfig for configured tokens whose limit cannot be kept to.
        """
        self._configured = tuple(tokens)
        if problems := token_problems(self._configured):
            raise BadConfig(f"cannot use the configuration: {'; '.join(problems)}", problems)
        self._stored, self._required = stored, required
        self._seen: tuple[Token, ...] | None = None
        self._known: dict[str, _Known] = {}

    def check(self, scope: Scope) -> Caller:
        """Return who asks; raise Unauthorized or Forbidden unless their token has the scope that the path needs."""
        action = f"{scope['method']} {scope['path']}"
        known = self._tokens()
        if scope["path"] in _OPEN_PATHS or not (known or self._required()):
            return EVERYONE
        presented = _presented(scope)
        if not presented:
            raise Unauthorized(f"cannot {action}: want a token in the Authorization header")
        return self.caller(presented, needed_scope(scope["method"], scope["path"]), action, scope)

    def caller(self, secret: str, needed: str, action: str, scope: Scope | None = None) -> Caller:
        """Return who has a token; raises as :meth:`check`.  ``scope``: of the HTTP request, if it is one."""
        token = self._tokens().get(digest_of(secret))
        if token is None:
            raise Unauthorized(f"cannot {action}: the token is not known")
        if needed not in token.scopes and "admin" not in token.scopes:
            raise Forbidden(f"cannot {action}: the token lacks the scope {needed!r}")
        if token.caller.limited and scope is not None and rule_of(scope["method"], scope["path"]) == "refused":
            token.caller.require_unlimited(action)
        return token.caller

    @property
    def open(self) -> bool:
        """Whether everything is open to everyone."""
        return not (self._tokens() or self._required())

    def _tokens(self) -> dict[str, _Known]:
        stored = self._stored()
        if stored is not self._seen:
            known = {}
            for token in (*stored, *self._configured):
                try:
                    known[token.sha256] = _Known(frozenset(token.scopes), caller_of_token(token))
                except BadRequest:
                    # Checked when it was made; whatever has become of it, it opens nothing.
                    continue
            self._known, self._seen = known, stored
        return self._known


def caller_of(request: Request[Any, Any, Any]) -> Caller:
    """Return the caller of a request that the gate has let through."""
    # The type of the scope knows only what the specification names.
    found = dict(request.scope)[CALLER_KEY]
    assert isinstance(found, Caller)
    return found


def needed_scope(method: str, path: str) -> str:
    """Return the scope that a path needs."""
    if path in _WRITE_PATHS:
        return "write"
    if path.endswith("/ack") or (path.startswith("/v1/alerts/") and path.endswith("/close")):
        return "ack"
    if path == "/v1/tokens" or path.startswith("/v1/tokens/"):
        return "admin"
    if path == "/v1/deploys" and method == "POST":
        # Whoever deploys pushes metrics too; a record ends nothing and silences nobody.
        return "write"
    if method in ("GET", "HEAD") or path in ("/v1/sql", "/v1/bottlenecks"):
        return "read"
    if path == "/v1/silences" or path.startswith("/v1/silences/"):
        return "ack"
    return "admin"


def _presented(scope: Scope) -> str:
    """Return the token in the forms that Influx clients and ours send it, or the empty string."""
    scheme, _, value = header(scope, b"authorization").partition(" ")
    if scheme.lower() in ("bearer", "token"):
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    key = header(scope, b"x-api-key")
    return key or (query_of(scope).get("p", "") if scope["path"] == "/write" else "")
