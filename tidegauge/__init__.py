"""Tidegauge's public names.

``open(path)`` gives an embedded engine, ``connect(url)`` a client of a server; both write and query.  Errors are the
tree of ``engine.errors``.  Heavy parts are imported when one of the two is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from api.exposition import PrometheusText
from engine.errors import (
    BadConfig,
    BadInput,
    BadQuery,
    BadRequest,
    Cancelled,
    Damage,
    DiskFull,
    NotFound,
    Overload,
    QueryLimit,
    QueueFull,
    Recovering,
    TidegaugeError,
    Unavailable,
)

if TYPE_CHECKING:
    from api.client import Client
    from api.embedded import Embedded

__all__ = [
    "BadConfig",
    "BadInput",
    "BadQuery",
    "BadRequest",
    "Cancelled",
    "Damage",
    "DiskFull",
    "NotFound",
    "Overload",
    "PrometheusText",
    "QueryLimit",
    "QueueFull",
    "Recovering",
    "TidegaugeError",
    "Unavailable",
    "connect",
    "open",
]


def open(path: str, *, config: str | None = None, read_only: bool = False) -> Embedded:
    """Open a data directory in this process, creating it where there is none; a context manager.

    ``config``: path of a configuration file.  ``read_only``: show the directory as it is now, whether or not a server
    is using it; nothing is written to it (docs/python.md).  Raises Unavailable when another process has the directory
    open, BadConfig for a configuration that cannot be used, Damage for data that cannot be read, NotFound when there is
    nothing to be read.
    """
    from api.embedded import Embedded

    return Embedded(path, config, read_only=read_only)


def connect(url: str, *, token: str | None = None, **options: Any) -> Client:
    """Return a client of the server at ``url``; a context manager.  ``options`` are those of ``api.client.connect``."""
    from api.client import connect as connect_to

    return connect_to(url, token=token, **options)
