"""The names under which damaged files are kept: nothing looks for them, and none is given twice."""

from __future__ import annotations

from collections.abc import Callable

DAMAGED_SUFFIX = ".damaged"


def name_aside(path: str, exists: Callable[[str], bool]) -> str:
    """Return ``PATH.damaged``, or ``PATH.damaged.2`` and so on where ``exists`` says that there is such a file."""
    number, name = 1, path + DAMAGED_SUFFIX
    while exists(name):
        number += 1
        name = f"{path}{DAMAGED_SUFFIX}.{number}"
    return name


def is_aside(name: str) -> bool:
    """Return whether a file's name is one that :func:`name_aside` gives."""
    _, suffix, number = name.rpartition(DAMAGED_SUFFIX)
    return bool(suffix) and (not number or (number[0] == "." and number[1:].isdecimal()))
