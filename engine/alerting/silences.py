"""Silences: for a while, alerts with certain labels send nothing.  They keep their states and their history.

What would have been sent is owed: when the silence is over and the alert still fires, it notifies once; an
alert that was told of before the silence and ended within it has its end told then.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from engine.alerting.alerts import Alert, columns_of
from engine.catalog.callers import EVERYONE, Caller
from engine.catalog.control import ControlDatabase
from engine.errors import BadRequest, NotFound
from engine.model.matchers import Matcher
from engine.model.times import time_text

ACTIVE = "active"
PENDING = "pending"
EXPIRED = "expired"
STATES = (PENDING, ACTIVE, EXPIRED)

# Every notification is compared with every active silence.
MOST_SILENCES = 1_000
MOST_MATCHERS = 50
_STORED = "id, matchers, start_ns, end_ns, author, note, created_ns"
_NOT_OVER = "end_ns > ?"


@dataclass(frozen=True, slots=True)
class Silence:
    """One silence, in force from ``start_ns`` until before ``end_ns``."""

    id: int
    matchers: tuple[Matcher, ...]
    start_ns: int
    end_ns: int
    author: str
    note: str
    created_ns: int

    def state(self, now_ns: int) -> str:
        if now_ns < self.start_ns:
            return PENDING
        return ACTIVE if now_ns < self.end_ns else EXPIRED

    def within(self, caller: Caller) -> bool:
        """Return whether the silence can only cover alerts that exist for the caller: it has all of their matchers."""
        return set(caller.matchers) <= set(self.matchers)

    def covers(self, alert: Alert) -> bool:
        """Return whether every matcher accepts the alert: its labels, and its rule, severity and category."""
        values = {**alert.labels, "rule": alert.rule, "severity": alert.severity, "category": alert.category}
        return all(matcher.accepts(values.get(matcher.label, "")) for matcher in self.matchers)


def active_silences(read: Callable[[str, Sequence[Any]], list[Any]], now_ns: int) -> list[Silence]:
    """Return the silences in force; ``read`` runs a SELECT with its parameters."""
    found = read(f"SELECT {_STORED} FROM silences WHERE start_ns <= ? AND {_NOT_OVER} ORDER BY id", (now_ns, now_ns))
    return [_silence_of_row(row) for row in found]


def _silence_of_row(row: Sequence[Any]) -> Silence:
    matchers = tuple(Matcher.of(*parts) for parts in json.loads(row[1]))
    return Silence(row[0], matchers, *row[2:])


def silences_columns() -> tuple[tuple[str, str], ...]:
    """Return name and SQL type of the columns of the relation ``silences``; a time is ns since 1970."""
    return (
        ("id", "BIGINT"),
        ("state", "VARCHAR"),
        ("matchers", "VARCHAR"),
        ("starts_at", "TIMESTAMP_NS"),
        ("ends_at", "TIMESTAMP_NS"),
        ("author", "VARCHAR"),
        ("note", "VARCHAR"),
        ("created_at", "TIMESTAMP_NS"),
    )


class SilenceStore:
    """The silences of one control database; every call may come from any thread."""

    def __init__(self, control: ControlDatabase) -> None:
        self._control = control

    def add(
        self, matchers: Sequence[Matcher], *, start_ns: int, end_ns: int, author: str, note: str = "", now_ns: int
    ) -> Silence:
        """Store a silence and return it.

        Raises BadRequest without an author, for matchers that accept an alert without labels (it would
        silence everything), for an end that is not after the start and now, and where there are too many.
        """
        if not author.strip():
            raise BadRequest("cannot silence: 'by' is empty, want a name")
        if all(matcher.accepts("") for matcher in matchers):
            raise BadRequest("cannot silence every alert: want at least one matcher that needs a value")
        if len(matchers) > MOST_MATCHERS:
            raise BadRequest(f"cannot silence: got {len(matchers)} matchers, want at most {MOST_MATCHERS}")
        if end_ns <= max(start_ns, now_ns):
            raise BadRequest(
                f"cannot silence: got an end of {time_text(end_ns)}, want a time after the start and after now, "
                f"{time_text(max(start_ns, now_ns))}"
            )
        stored = json.dumps([[each.label, each.operator, each.value] for each in matchers], ensure_ascii=False)
        with self._control.transaction() as connection:
            (count,) = connection.execute(f"SELECT count(*) FROM silences WHERE {_NOT_OVER}", (now_ns,)).fetchone()
            if count >= MOST_SILENCES:
                raise BadRequest(f"cannot silence: there are {count} silences, want fewer than {MOST_SILENCES}")
            cursor = connection.execute(
                "INSERT INTO silences (matchers, start_ns, end_ns, author, note, created_ns) VALUES (?, ?, ?, ?, ?, ?)",
                (stored, start_ns, end_ns, author, note, now_ns),
            )
        return Silence(int(cursor.lastrowid or 0), tuple(matchers), start_ns, end_ns, author, note, now_ns)

    def end(self, silence_id: int, now_ns: int, caller: Caller = EVERYONE) -> Silence:
        """End a silence of the caller now and return it.  Raises NotFound, BadRequest for one that is over."""
        with self._control.transaction() as connection:
            found = connection.execute(f"SELECT {_STORED} FROM silences WHERE id = ?", (silence_id,)).fetchone()
            if found is None or not _silence_of_row(found).within(caller):
                raise NotFound(f"cannot end silence {silence_id}: there is no such silence")
            silence = _silence_of_row(found)
            if silence.end_ns <= now_ns:
                raise BadRequest(f"cannot end silence {silence_id}: it ended at {time_text(silence.end_ns)}")
            # One that has not begun ends where it begins: it never was.
            connection.execute(
                "UPDATE silences SET start_ns = min(start_ns, ?), end_ns = ? WHERE id = ?",
                (now_ns, now_ns, silence_id),
            )
        return self.get(silence_id)

    def get(self, silence_id: int) -> Silence:
        """Return one silence.  Raises NotFound."""
        rows = self._control.rows(f"SELECT {_STORED} FROM silences WHERE id = ?", (silence_id,))
        if not rows:
            raise NotFound(f"cannot show silence {silence_id}: there is no such silence")
        return _silence_of_row(rows[0])

    def find(
        self,
        now_ns: int,
        *,
        states: Collection[str] = (PENDING, ACTIVE),
        limit: int = 1_000,
        caller: Caller = EVERYONE,
    ) -> list[Silence]:
        """Return the caller's silences in any of ``states``, newest first; empty means every state.

        Raises BadRequest.
        """
        unknown = sorted(set(states) - set(STATES))
        if unknown:
            raise BadRequest(f"cannot list silences: got state {unknown[0]!r}, want {', '.join(STATES)}")
        where = {
            PENDING: "start_ns > ?1",
            ACTIVE: "(start_ns <= ?1 AND end_ns > ?1)",
            EXPIRED: "(start_ns <= ?1 AND end_ns <= ?1)",
        }
        wanted = " OR ".join(where[state] for state in states or STATES)
        rows = self._control.rows(
            f"SELECT {_STORED} FROM silences WHERE {wanted} ORDER BY id DESC LIMIT ?2",
            (now_ns, -1 if caller.limited else limit),
        )
        return [silence for silence in map(_silence_of_row, rows) if silence.within(caller)][:limit]

    def table(self, now_ns: int, caller: Caller = EVERYONE) -> dict[str, list[Any]]:
        """Return every silence of the caller as the columns of :func:`silences_columns`, oldest first."""
        silences = reversed(self.find(now_ns, states=STATES, limit=10**9, caller=caller))
        rows = [
            (
                each.id,
                each.state(now_ns),
                ",".join(matcher.text for matcher in each.matchers),
                each.start_ns,
                each.end_ns,
                each.author,
                each.note,
                each.created_ns,
            )
            for each in silences
        ]
        return columns_of(silences_columns(), rows)

    def prune(self, before_ns: int) -> int:
        """Forget silences that ended before ``before_ns``; return how many."""
        with self._control.transaction() as connection:
            return connection.execute("DELETE FROM silences WHERE end_ns < ?", (before_ns,)).rowcount
