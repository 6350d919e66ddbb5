"""API tokens over HTTP: list, make, revoke; for who has the scope admin."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from litestar import delete, get, post
from litestar.handlers import BaseRouteHandler
from litestar.params import FromPath, JSONBody

from engine.catalog.tokens import StoredToken, token_of
from engine.config import Token
from engine.model.times import time_text
from engine.runtime import Engine

_UNSET = "0" * 64


class TokenBody(msgspec.Struct, forbid_unknown_fields=True):
    """What a token is to be good for."""

    name: str
    scopes: list[str]
    match: str = ""
    weight: int = 1
    concurrency: int | None = None
    queue: int | None = None
    timeout: str | None = None


def settings_of(body: TokenBody) -> Token:
    """Return the settings of a new token; raises BadRequest for those it cannot have."""
    given = {name: value for name, value in msgspec.structs.asdict(body).items() if value is not None}
    return token_of(given | {"sha256": _UNSET})


def shown_token(stored: StoredToken) -> dict[str, Any]:
    """Return a token as the API shows it: never what it is known by."""
    return {
        "name": stored.token.name,
        "scopes": stored.token.scopes,
        "match": stored.token.match,
        "weight": stored.token.weight,
        "concurrency": stored.token.concurrency,
        "queue": stored.token.queue,
        "timeout": None if stored.token.timeout is None else stored.token.timeout.text,
        "created_at": time_text(stored.created_ns),
        "revoked_at": time_text(stored.revoked_ns),
    }


def token_routes(engine: Engine) -> list[BaseRouteHandler]:
    """Return the routes of one engine."""

    @get("/v1/tokens", summary="The stored API tokens, without their secrets; scope admin")
    async def get_tokens() -> dict[str, Any]:
        return {"tokens": [shown_token(each) for each in await asyncio.to_thread(engine.tokens.list)]}

    @post("/v1/tokens", status_code=201, summary="Make an API token; its secret is shown this once; scope admin")
    async def post_token(data: JSONBody[TokenBody]) -> dict[str, Any]:
        secret = await asyncio.to_thread(engine.tokens.create, settings_of(data), engine.clock.now_ns())
        return {"name": data.name, "token": secret}

    @delete("/v1/tokens/{name:str}", status_code=200, summary="Revoke an API token; scope admin")
    async def delete_token(name: FromPath[str]) -> dict[str, Any]:
        return shown_token(await asyncio.to_thread(engine.tokens.revoke, name, engine.clock.now_ns()))

    return [get_tokens, post_token, delete_token]
