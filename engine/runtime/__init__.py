"""The engine put together; the only part that knows all the others."""

from engine.runtime.engine import Engine, SqlResult
from engine.runtime.findings import FINDINGS

__all__ = ["FINDINGS", "Engine", "SqlResult"]
