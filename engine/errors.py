"""Every error the engine raises on purpose, in one tree.

    TidegaugeError
    ├── BadInput            the caller's mistake; nothing was changed by the part that is refused
    │   ├── BadRequest        a malformed request, query or parameter
    │   ├── BadConfig         a configuration that cannot be used; carries every problem at once
    │   ├── BadQuery          SQL or a native query that is refused or does not run
    │   ├── Forbidden         what the caller may not do
    │   └── NotFound          a named thing that does not exist
    ├── Overload            try again later; carries ``retry_after_seconds``
    │   ├── QueueFull         the ingest queue or the query queue is full
    │   ├── DiskFull          the disk guard or the operating system refuses to store more
    │   ├── Recovering        the log is still being replayed: not all samples can be seen yet
    │   └── QueryLimit        a query exceeded its time, rows, bytes or memory
    ├── Damage              bytes on disk are not what was written; carries ``path`` and ``offset``
    │   ├── LostRollups       parts of the tiers that had to be given up; says which, to be made again from raw samples
    │   └── NewerFormat       a file that a newer version of the program has written; never a reason to use an older one
    ├── Unavailable         a part is not ready or has been closed
    ├── Cancelled           whoever asked no longer wants an answer
    └── Bug                 an invariant of our own does not hold

Messages read "cannot <action> <object>: got X, want Y (where)".  ``api/errors.py`` maps the classes to HTTP
status codes; nothing else looks at message texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class TidegaugeError(Exception):
    """Base of every error below.  ``code`` is the stable machine-readable name, ``details`` any JSON value."""

    code = "error"

    def __init__(self, message: str, *, details: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class BadInput(TidegaugeError):
    code = "bad_input"


class BadRequest(BadInput):
    code = "bad_request"


class BadConfig(BadInput):
    """A configuration that cannot be used; ``problems`` holds one sentence for each thing that is wrong."""

    code = "bad_config"

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message, details=list(problems))
        self.problems = tuple(problems)


class BadQuery(BadInput):
    code = "bad_query"


class Forbidden(BadInput):
    """What this caller may not do; it was understood."""

    code = "forbidden"


class NotFound(BadInput):
    code = "not_found"


class Overload(TidegaugeError):
    """The request was fine but cannot be served now; nothing of it was kept."""

    code = "overload"

    def __init__(self, message: str, *, retry_after_seconds: int = 1, details: Any = None) -> None:
        super().__init__(message, details=details)
        self.retry_after_seconds = retry_after_seconds


class QueueFull(Overload):
    code = "queue_full"


class DiskFull(Overload):
    code = "disk_full"


class Recovering(Overload):
    code = "recovering"


class QueryLimit(Overload):
    code = "query_limit"


class Damage(TidegaugeError):
    """Bytes on disk that are not what was written, with the file and the offset at which that was noticed."""

    code = "damage"

    def __init__(self, message: str, *, path: str, offset: int | None = None) -> None:
        where = path if offset is None else f"{path}, offset {offset}"
        super().__init__(f"{message} ({where})", details={"path": path, "offset": offset})
        self.path = path
        self.offset = offset


class NewerFormat(Damage):
    """A file that only a newer version of the program can read; it is left alone, and nothing takes its place."""

    code = "newer_format"


class LostRollups(Damage):
    """Parts of the tiers that could not be read any more and have been taken out of them.

    ``lost``: [table_id, first tag set, last tag set, first bucket's start (ns), end (ns)] of each whose buckets only
    raw samples can give; a table_id below 0 stands for all tables.
    """

    code = "lost_rollups"

    def __init__(self, message: str, *, path: str, offset: int | None, lost: Sequence[Sequence[int]]) -> None:
        super().__init__(message, path=path, offset=offset)
        self.details["lost"] = [list(each) for each in lost]

    @property
    def lost(self) -> list[list[int]]:
        found: list[list[int]] = self.details["lost"]
        return found


class Unavailable(TidegaugeError):
    code = "unavailable"


class Cancelled(TidegaugeError):
    code = "cancelled"


class Bug(TidegaugeError):
    code = "bug"
