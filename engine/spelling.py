"""What somebody may have meant who wrote a name that there is not."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

#: Names beyond these are not searched for one that looks alike, and longer ones are cut where they are told.
_MOST_NAMES, _MOST_CHARACTERS = 5_000, 100
_UNKNOWN_FIELD = re.compile(r"[Oo]bject contains unknown field `(.*?)`", re.DOTALL)


def meant(name: str, known: Collection[str], otherwise: str, *, cutoff: float = 0.6) -> str:
    """Return ``did you mean 'x'?`` with the known name nearest to ``name``, or ``otherwise`` where none is near."""
    near = difflib.get_close_matches(name[:_MOST_CHARACTERS], list(known)[:_MOST_NAMES], n=1, cutoff=cutoff)
    return f"did you mean {near[0]!r}?" if near else otherwise


def no_such(what: str, name: str, known: Collection[str]) -> str:
    """Return a sentence: there is no such ``what`` (parameter, key), what may have been meant, what there is."""
    shown = name if len(name) <= _MOST_CHARACTERS else f"{name[:_MOST_CHARACTERS]}…"
    told = f"known here: {', '.join(sorted(known))}" if known else f"no {what} is known here"
    hint = meant(name, known, "")
    return f"there is no {what} {shown!r}; {hint} ({told})" if hint else f"there is no {what} {shown!r}; {told}"


def unknown_field(text: str, known: Collection[str]) -> str:
    """Return msgspec's message of a key that an object must not have, with what it may have; others as they are."""
    found = _UNKNOWN_FIELD.search(text)
    if found is None:
        return text
    return text[: found.start()] + no_such("key", found[1], known) + text[found.end() :]
