"""Functions that statements see and higher rows compute: this row imports none, so their modules are named to it.

Such a module has ``register(connection)``, which defines its functions; it may use the parts in
:mod:`engine.query.macros`.  What the functions are called stands in :mod:`engine.query.functions` all the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

import duckdb


def register_all(connection: duckdb.DuckDBPyConnection, modules: Iterable[str]) -> None:
    """Let each module define its functions."""
    for name in modules:
        import_module(name).register(connection)
