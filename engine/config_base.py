"""What the settings of every component are made of: the base of their Structs and the types they share."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from engine.config_units import Duration, within

#: Marks a setting whose value no message may show.
SECRET = Meta(extra={"secret": True})
MASK = "***"

Name = Annotated[str, Meta(min_length=1, max_length=200)]
Category = Literal["system", "performance", "security", "integration", "business", "custom"]
Severity = Literal["critical", "warning", "info"]
Operator = Literal[">", "<", ">=", "<="]
Aggregate = Literal["last", "avg", "max", "min", "sum", "increase", "rate"]
Scope = Literal["read", "write", "ack", "admin"]
SignalKind = Literal["cpu", "memory", "response_time", "queue", "error_rate"]
Level = Annotated[float, Meta(ge=0.0)]
Span = Annotated[Duration, within("1s", "1d")]
Wait = Annotated[Duration, within("0s", "7d")]
Keep = Annotated[Duration, within("1h", None, forever=True)]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every component's settings: frozen, keyword-only; unknown keys are refused."""
