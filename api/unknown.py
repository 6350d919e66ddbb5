"""What a request says that its path does not know: refused and told, never ignored.

A misspelt parameter that is ignored gives the answer to another question.  On our own paths it is refused with the
nearest one that there is; on the paths of peers' protocols, whose clients send parameters of their own, it is ignored
as the peers do.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast
from urllib.parse import parse_qsl

import msgspec
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.params import QueryParameter

from api.asgi import Scope
from engine.errors import BadRequest
from engine.spelling import no_such, unknown_field

_OWN_PREFIXES = ("/v1/", "/health/")
_OWN_PATHS = ("/metrics",)


def is_own(path: str) -> bool:
    """Say whether a path is ours alone; ``/health`` is the probe of Influx clients."""
    return path in _OWN_PATHS or path.startswith(_OWN_PREFIXES)


def refuse_unknown(scope: Scope, known: Collection[str]) -> None:
    """Raise BadRequest for parameters of the query string that are not ``known``."""
    if not scope["query_string"] or not is_own(scope["path"]):
        return
    given = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    unknown = list(dict.fromkeys(name for name, _ in given if name not in known))
    if unknown:
        told = no_such("parameter", unknown[0], known)
        more = f"; nor {', '.join(repr(name) for name in unknown[1:5])}" if len(unknown) > 1 else ""
        raise BadRequest(
            f"cannot serve {scope['method']} {scope['path']}: {told}{more}",
            details={"unknown": unknown[:100], "known": sorted(known)},
        )


def parameters_of(handler: BaseRouteHandler) -> frozenset[str]:
    """Return the names of the query parameters of a typed route."""
    signature = handler.parsed_fn_signature.parameters
    kinds = {name: field.kwarg_definition for name, field in signature.items()}
    return frozenset(kind.name or name for name, kind in kinds.items() if isinstance(kind, QueryParameter))


async def refuse_unknown_here(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """The guard of all typed routes."""
    scope = cast("Scope", connection.scope)
    if scope["query_string"] and scope["type"] == "http" and scope["method"] != "OPTIONS":
        refuse_unknown(scope, parameters_of(handler))


def told_of_body(handler: BaseRouteHandler, place: str, text: str) -> str:
    """Return what is wrong at a place of a typed route's body (``data``, ``changes[0]``), with the keys it may have."""
    body = handler.parsed_fn_signature.parameters.get("data")
    kind = None if body is None else _at(msgspec.inspect.type_info(body.annotation), place)
    return text if kind is None else unknown_field(text, [field.encode_name for field in kind.fields])


def _at(kind: msgspec.inspect.Type, place: str) -> msgspec.inspect.StructType | None:
    """Return the type of the objects at a place such as ``changes[0]`` of a value of type ``kind``."""
    for name in () if place == "data" else place.split("."):
        fields = kind.fields if isinstance(kind, msgspec.inspect.StructType) else ()
        kind = next(
            (each.type for each in fields if each.encode_name == name.partition("[")[0]), msgspec.inspect.AnyType()
        )
        if isinstance(kind, msgspec.inspect.VarTupleType | msgspec.inspect.ListType):
            kind = kind.item_type
    return kind if isinstance(kind, msgspec.inspect.StructType) else None
