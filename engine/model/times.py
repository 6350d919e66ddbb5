"""Times as text."""

from __future__ import annotations

import datetime
from typing import overload

_SECOND_NS = 1_000_000_000


@overload
def time_text(time_ns: int) -> str: ...


@overload
def time_text(time_ns: None) -> None: ...


def time_text(time_ns: int | None) -> str | None:
    """Return nanoseconds since 1970 as RFC 3339 in UTC with nine decimals; None for None."""
    if time_ns is None:
        return None
    seconds, rest = divmod(time_ns, _SECOND_NS)
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat()[:19]}.{rest:09d}Z"
