"""How far the loads of this user have come, so that an interrupted one goes on where it stopped.

One small JSON file a load (destination and file), rewritten every few seconds and removed when the load is complete.
It may lag behind: what is then sent twice changes nothing, since a sample that arrives again replaces itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

import msgspec

from api.bulk.pieces import Place

JOURNAL_VERSION = 1


class _Entry(msgspec.Struct, kw_only=True):
    version: int
    file: str
    size: int
    modified_ns: int
    destination: str
    options: str
    offset: int
    line: int


class Journal:
    """The entry of one file on its way to one destination.

    ``options`` is whatever changes how the file is cut or read; an entry made with others does not count, nor does one
    of a file that has changed since.
    """

    def __init__(self, directory: Path, file: str, destination: str, options: str) -> None:
        path = os.path.abspath(file)
        state = os.stat(path)
        self._entry = _Entry(
            version=JOURNAL_VERSION,
            file=path,
            size=state.st_size,
            modified_ns=state.st_mtime_ns,
            destination=destination,
            options=options,
            offset=0,
            line=0,
        )
        name = hashlib.sha256(f"{path}\0{destination}".encode()).hexdigest()[:24]
        self._path = directory / f"{name}.json"

    def load(self) -> Place:
        """Return the place to go on from: the start where nothing usable is remembered."""
        try:
            found = msgspec.json.decode(self._path.read_bytes(), type=_Entry)
        except (OSError, msgspec.MsgspecError):
            return Place()
        place = Place(found.offset, found.line)
        found.offset, found.line = self._entry.offset, self._entry.line
        return place if found == self._entry else Place()

    def save(self, place: Place) -> None:
        """Remember that everything before ``place`` is stored; what cannot be remembered is only sent again."""
        self._entry.offset, self._entry.line = place.offset, place.line
        temporary = self._path.with_suffix(".tmp")
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(msgspec.json.encode(self._entry))
            os.replace(temporary, self._path)

    def forget(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def default_directory() -> Path:
    """Return where loads are remembered: ``$XDG_STATE_HOME/tidegauge/imports``, by default below ``~/.local/state``."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return Path(state) / "tidegauge" / "imports"
