"""The engine put together; the only part that knows all the others."""

from engine.runtime.engine import FINDINGS, Engine, SqlResult

__all__ = ["FINDINGS", "Engine", "SqlResult"]
