"""Durations and sizes as a configuration writes them: a text with a unit; to the program, a plain int."""

from __future__ import annotations

import re

from msgspec import Meta

_NS_PER_UNIT = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60 * 1_000_000_000,
    "h": 3_600 * 1_000_000_000,
    "d": 86_400 * 1_000_000_000,
    "w": 7 * 86_400 * 1_000_000_000,
    "y": 365 * 86_400 * 1_000_000_000,
}
_BYTES_PER_UNIT = {
    "": 1,
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
}
_DURATION_PART = re.compile(r"([0-9]+)(ns|us|ms|s|m|h|d|w|y)")
_SIZE = re.compile(r"([0-9]+) ?([A-Za-z]*)")
_INT64_MAX = (1 << 63) - 1


class Duration(int):
    """A length of time in nanoseconds, written ``"30s"``, ``"1h30m"``, ``"7d"``, ``"2y"`` (y is 365 d)."""

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Return the duration that ``text`` names; ``"forever"`` is 0.  Raises ValueError."""
        if text == "forever":
            return cls(0)
        parts = _DURATION_PART.findall(text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            raise ValueError(f'cannot read a duration: got {text!r}, want for example "30s", "5m" or "7d"')
        total = sum(int(number) * _NS_PER_UNIT[unit] for number, unit in parts)
        if total > _INT64_MAX:
            raise ValueError(f"cannot read a duration: got {text!r}, want less than 292 years")
        return cls(total)

    @property
    def seconds(self) -> float:
        return self / 1_000_000_000

    @property
    def text(self) -> str:
        """The duration in the largest unit that gives a whole number; ``"0s"`` for none."""
        for unit in ("y", "d", "h", "m", "s", "ms", "us", "ns"):
            if self and self % _NS_PER_UNIT[unit] == 0:
                return f"{self // _NS_PER_UNIT[unit]}{unit}"
        return "0s"

    def __repr__(self) -> str:
        return f"Duration({self.text!r})"

    __str__ = int.__repr__


class ByteSize(int):
    """A number of bytes, written ``"64MiB"``, ``"1GB"`` or as a plain number."""

    @classmethod
    def parse(cls, text: str) -> ByteSize:
        """Return the size that ``text`` names.  Raises ValueError."""
        match = _SIZE.fullmatch(text)
        if match is None or match[2] not in _BYTES_PER_UNIT:
            raise ValueError(f'cannot read a size: got {text!r}, want for example "64MiB", "1GB" or 1048576')
        return cls(int(match[1]) * _BYTES_PER_UNIT[match[2]])

    @property
    def text(self) -> str:
        """The size in the largest binary unit that gives a whole number."""
        for unit in ("TiB", "GiB", "MiB", "KiB"):
            if self and self % _BYTES_PER_UNIT[unit] == 0:
                return f"{self // _BYTES_PER_UNIT[unit]}{unit}"
        return f"{int(self)}B"

    def __repr__(self) -> str:
        return f"ByteSize({self.text!r})"

    __str__ = int.__repr__


def within(least: str, most: str | None = None, *, forever: bool = False) -> Meta:
    """Return inclusive bounds of a duration or a size; ``forever`` allows that word, which is the value 0."""
    return Meta(extra={"min": least, "max": most, "forever": forever})
