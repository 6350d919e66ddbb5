"""API tokens that were made while the server ran or beside it: in the control database, hashed.

A token is shown once, when it is made.  Stored is its SHA-256; tokens have 256 random bits, so that a slow hash would
protect nothing.  Revoked ones are kept, so that a server that once wanted tokens goes on wanting them.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from engine.catalog.callers import caller_of_token
from engine.catalog.control import ControlDatabase
from engine.config import Token
from engine.config_units import Duration
from engine.errors import BadRequest, NotFound

#: What a token begins with, so that one that has leaked is recognised for what it is.
PREFIX = "tg_"
SECRET_BYTES = 32
MOST_TOKENS = 10_000


@dataclass(frozen=True, slots=True)
class StoredToken:
    """A token as it is stored; ``revoked_ns`` is None while it is valid."""

    token: Token
    created_ns: int
    revoked_ns: int | None = None


def digest_of(secret: str) -> str:
    """Return what is stored of a token."""
    return hashlib.sha256(secret.encode()).hexdigest()


class TokenStore:
    """The tokens of one control database; every call may come from any thread."""

    def __init__(self, control: ControlDatabase, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._control, self._random_bytes = control, random_bytes
        self._valid: tuple[Token, ...] = ()
        self._any = False
        self.refresh()

    def refresh(self) -> None:
        """Take note of what another process has changed."""
        found = self.list()
        self._any = bool(found)
        valid = tuple(each.token for each in found if each.revoked_ns is None)
        if valid != self._valid:
            self._valid = valid

    def valid(self) -> tuple[Token, ...]:
        """Return the tokens that may be used, as of the last look; the same object until they change."""
        return self._valid

    @property
    def used(self) -> bool:
        """Whether there is or has ever been a token."""
        return self._any

    def create(self, settings: Token, now_ns: int) -> str:
        """Store a token with these settings, whatever their ``sha256``, and return its secret, which is kept nowhere.

        Raises BadRequest for a name that is in use and for a limit that cannot be kept to.
        """
        try:
            caller_of_token(settings)
        except BadRequest as error:
            raise BadRequest(f"cannot create token {settings.name!r}: {error.message}") from None
        secret = PREFIX + self._random_bytes(SECRET_BYTES).hex()
        token = msgspec.structs.replace(settings, sha256=digest_of(secret))
        with self._control.transaction() as connection:
            (count,) = connection.execute("SELECT count(*) FROM tokens WHERE revoked_ns IS NULL").fetchone()
            if count >= MOST_TOKENS:
                raise BadRequest(f"cannot create a token: there are {count}, want fewer than {MOST_TOKENS}")
            try:
                connection.execute(
                    "INSERT INTO tokens (name, sha256, settings, created_ns) VALUES (?, ?, ?, ?)",
                    (token.name, token.sha256, _settings_text(token), now_ns),
                )
            except sqlite3.IntegrityError:
                raise BadRequest(f"cannot create token {token.name!r}: there is one of that name") from None
        self.refresh()
        return secret

    def revoke(self, name: str, now_ns: int) -> StoredToken:
        """Make a token invalid for good.  Raises NotFound when no valid one has the name."""
        with self._control.transaction() as connection:
            done = connection.execute(
                "UPDATE tokens SET revoked_ns = ? WHERE name = ? AND revoked_ns IS NULL", (now_ns, name)
            ).rowcount
        if not done:
            raise NotFound(f"cannot revoke token {name!r}: there is no valid token of that name")
        self.refresh()
        return next(each for each in reversed(self.list()) if each.token.name == name)

    def list(self) -> list[StoredToken]:
        """Return all tokens, the revoked ones too, oldest first."""
        rows = self._control.rows("SELECT name, sha256, settings, created_ns, revoked_ns FROM tokens ORDER BY id")
        return [StoredToken(_token_of(row), row[3], row[4]) for row in rows]


def _settings_text(token: Token) -> str:
    fields = {name: value for name, value in msgspec.structs.asdict(token).items() if value is not None}
    del fields["name"], fields["sha256"]
    if token.timeout is not None:
        fields["timeout"] = token.timeout.text
    return msgspec.json.encode(fields).decode()


def token_of(settings: Mapping[str, object]) -> Token:
    """Return a token with settings as a file or a request has them; raises BadRequest for what it cannot have."""
    try:
        return msgspec.convert(dict(settings), Token, dec_hook=_parsed)
    except (msgspec.ValidationError, ValueError) as error:
        raise BadRequest(f"cannot create token {settings.get('name')!r}: {error}") from None


def _parsed(kind: type[object], value: object) -> object:
    assert issubclass(kind, Duration)
    return kind.parse(str(value))


def _token_of(row: Sequence[object]) -> Token:
    return token_of({"name": row[0], "sha256": row[1], **msgspec.json.decode(str(row[2]))})
