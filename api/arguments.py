"""Times and durations as people write them in a query string."""

from __future__ import annotations

import math
import re
from functools import lru_cache
from urllib.parse import unquote_plus

from engine.clock import NS_PER_DAY, NS_PER_HOUR, NS_PER_MINUTE, NS_PER_MS, NS_PER_SECOND
from engine.errors import BadRequest
from engine.ingest.objects import parse_time_ns

_UNITS_NS = {
    "ns": 1, "us": 1_000, "ms": NS_PER_MS, "s": NS_PER_SECOND, "m": NS_PER_MINUTE, "h": NS_PER_HOUR,
    "d": NS_PER_DAY, "w": 7 * NS_PER_DAY, "y": 365 * NS_PER_DAY,
}  # fmt: skip
#: A step as long as the range.
WHOLE_RANGE = "range"
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h|d|w|y)?")
_SECONDS_BELOW, _MILLIS_BELOW, _MICROS_BELOW = 5_000_000_000, 5_000_000_000_000, 5_000_000_000_000_000


def parse_duration_ns(text: str) -> int:
    """Parse ``90``, ``90s``, ``1.5h`` or ``1h30m`` (a bare number is seconds) to nanoseconds; raises BadRequest."""
    at, total = 0, 0.0
    while at < len(text):
        found = _DURATION.match(text, at)
        if found is None or (found[2] is None and (at or found.end() < len(text))):
            break
        total += float(found[1]) * _UNITS_NS[found[2] or "s"]
        at = found.end()
    if not text or at < len(text):
        raise BadRequest(f"cannot read duration {text!r}: want for example 30s, 5m or 1h30m")
    return round(total)


def parse_numbers(text: str, name: str) -> tuple[float, ...]:
    """Parse numbers with commas between; the empty text is none.  Raises BadRequest naming the parameter."""
    found = []
    for part in (part.strip() for part in text.split(",") if part.strip()):
        try:
            number = float(part)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise BadRequest(f"cannot read {name} {part!r}: want numbers with commas between, such as 30,60,90")
        found.append(number)
    return tuple(found)


def parse_start(text: str, now_ns: int, step_ns: int) -> int:
    """Parse a start; one that is relative to now is moved back to a whole step, so that buckets stay where they are."""
    start_ns = parse_time(text, now_ns)
    if text.isdecimal():
        return start_ns
    relative = parse_time(text, now_ns + 1) != start_ns
    return start_ns // step_ns * step_ns if relative and step_ns > 0 else start_ns


def parse_range(start: str, end: str, step: str, now_ns: int) -> tuple[int, int, int]:
    """Return (start, end, step) of aligned series; the step ``range`` makes one bucket of all.  Raises BadRequest."""
    if step == WHOLE_RANGE:
        start_ns, end_ns = parse_time(start, now_ns), parse_time(end, now_ns)
        return start_ns, end_ns, max(1, end_ns - start_ns)
    step_ns = parse_duration_ns(step)
    return parse_start(start, now_ns, step_ns), parse_time(end, now_ns), step_ns


def parse_time(text: str, now_ns: int) -> int:
    """Parse ``now``, ``-1h``, RFC 3339, or an epoch number (s, ms, us or ns by its size) to nanoseconds."""
    cleaned = text.strip()
    if cleaned == "now":
        return now_ns
    if cleaned.startswith("now-"):
        return now_ns - parse_duration_ns(cleaned[4:])
    if cleaned.startswith("-") and not cleaned[1:].isdigit():
        return now_ns - parse_duration_ns(cleaned[1:])
    try:
        whole, _, fraction = cleaned.partition(".")
        number = int(whole)
    except ValueError:
        try:
            return parse_time_ns(cleaned.replace(" ", "+") if cleaned.count(" ") == 1 and "T" in cleaned else cleaned)
        except ValueError:
            raise BadRequest(
                f"cannot read time {text!r}: want RFC 3339, epoch seconds, milliseconds or nanoseconds, now or -1h"
            ) from None
    size = abs(number)
    if size < _SECONDS_BELOW:
        return number * NS_PER_SECOND + (int(fraction.ljust(9, "0")[:9]) if fraction.isdigit() else 0)
    if size < _MILLIS_BELOW:
        return number * NS_PER_MS
    if size < _MICROS_BELOW:
        return number * 1_000
    return number


def unquoted(text: str) -> str:
    """Return a parameter's value as it was before it was quoted; raises UnicodeError for what was no text."""
    return _unquoted(text) if "%" in text or "+" in text else text


@lru_cache(4_096)
def _unquoted(text: str) -> str:
    return unquote_plus(text, errors="strict")
