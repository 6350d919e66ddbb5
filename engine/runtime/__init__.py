"""The engine put together; the only part that knows all the others."""

from engine.runtime.engine import Engine
from engine.runtime.findings import FINDINGS
from engine.runtime.result import SqlResult

__all__ = ["FINDINGS", "Engine", "SqlResult"]
