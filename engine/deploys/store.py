"""Deployments on disk: who put which version of what service where, and when."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.catalog.callers import EVERYONE, Caller
from engine.catalog.control import ControlDatabase
from engine.clock import NS_PER_MINUTE
from engine.errors import BadRequest, NotFound
from engine.model.matchers import Matcher, parse_matchers
from engine.model.times import time_text

DEFAULT_LIST_LIMIT = 100
#: So many are kept: SQL reads them all.
MOST = 100_000
MOST_LABELS = 50
LONGEST_NAME = 200
LONGEST_NOTE = 2_000
#: Clocks of those who record deployments may be ahead by this.
AHEAD_NS = NS_PER_MINUTE

_COLUMNS: tuple[tuple[str, str], ...] = (
    ("id", "BIGINT"),
    ("time", "TIMESTAMP_NS"),
    ("service", "VARCHAR"),
    ("version", "VARCHAR"),
    ("baseline", "VARCHAR"),
    ("canary", "VARCHAR"),
    ("labels", "VARCHAR"),
    ("author", "VARCHAR"),
    ("note", "VARCHAR"),
    ("recorded_at", "TIMESTAMP_NS"),
)
_STORED = "id, time_ns, service, version, baseline, canary, labels, author, note, recorded_ns"


@dataclass(frozen=True, slots=True)
class Deploy:
    """One deployment: ``version`` of ``service``, at ``time_ns``.

    ``baseline``, ``canary``: matchers of the series of the old and of the new version, empty where they follow from the
    versions.  ``recorded_ns``: when the server was told.
    """

    id: int
    time_ns: int
    service: str
    version: str
    baseline: str
    canary: str
    labels: dict[str, str]
    author: str
    note: str
    recorded_ns: int

    def seen_by(self, caller: Caller) -> bool:
        """Return whether the deployment exists for the caller: its labels, service and version satisfy the matchers."""
        return caller.sees({**self.labels, "service": self.service, "version": self.version})


class DeployStore:
    """The deployments of one control database; every call may come from any thread."""

    def __init__(self, control: ControlDatabase) -> None:
        self._control = control

    def record(
        self,
        service: str,
        version: str,
        *,
        time_ns: int,
        now_ns: int,
        baseline: str = "",
        canary: str = "",
        labels: Mapping[str, str] | None = None,
        author: str = "",
        note: str = "",
    ) -> tuple[Deploy, bool]:
        """Store a deployment durably; return it, and whether it is new.

        The same version of the same service at the same time is the same deployment, so that it may be told again when
        an answer has been lost; what was stored first stands.  Raises BadRequest with every problem.
        """
        given = dict(labels or {})
        problems = [
            *_name_problems("service", service),
            *_name_problems("version", version),
            *_matcher_problems("baseline", baseline),
            *_matcher_problems("canary", canary),
            *_label_problems(given),
        ]
        if baseline and not problems and baseline == canary:
            problems.append("baseline and canary are the same, want the old and the new version's series")
        if len(author) > LONGEST_NAME:
            problems.append(f"by has {len(author)} characters, want at most {LONGEST_NAME}")
        if len(note) > LONGEST_NOTE:
            problems.append(f"note has {len(note)} characters, want at most {LONGEST_NOTE}")
        if not 0 <= time_ns <= now_ns + AHEAD_NS:
            problems.append(f"got the time {time_text(time_ns)}, want one that is not after now, {time_text(now_ns)}")
        if problems:
            raise BadRequest(f"cannot record the deployment: {'; '.join(problems)}", details=problems)
        same = f"SELECT {_STORED} FROM deploys WHERE service = ? AND version = ? AND time_ns = ?"
        key = (service, version, time_ns)
        with self._control.transaction() as connection:
            known = connection.execute(same, key).fetchone()
            if known is not None:
                return _deploy_of(known), False
            connection.execute(
                "INSERT INTO deploys (service, version, time_ns, baseline, canary, labels, author, note, recorded_ns)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*key, baseline, canary, json.dumps(given, sort_keys=True), author, note, now_ns),
            )
            made = connection.execute(same, key).fetchone()
        return _deploy_of(made), True

    def get(self, deploy_id: int, caller: Caller = EVERYONE) -> Deploy:
        """Return one deployment of the caller.  Raises NotFound."""
        rows = self._rows("WHERE id = ?", (deploy_id,))
        if not rows or not rows[0].seen_by(caller):
            raise NotFound(f"cannot show deployment {deploy_id}: there is no such deployment")
        return rows[0]

    def before(self, deploy: Deploy) -> Deploy | None:
        """Return the newest earlier deployment of another version of the same service, None without one."""
        found = self._rows(
            "WHERE service = ? AND version <> ? AND (time_ns, id) < (?, ?) ORDER BY time_ns DESC, id DESC LIMIT 1",
            (deploy.service, deploy.version, deploy.time_ns, deploy.id),
        )
        return found[0] if found else None

    def find(
        self,
        *,
        service: str | None = None,
        version: str | None = None,
        since_ns: int | None = None,
        until_ns: int | None = None,
        matchers: Sequence[Matcher] = (),
        before_id: int | None = None,
        limit: int = DEFAULT_LIST_LIMIT,
        caller: Caller = EVERYONE,
    ) -> list[Deploy]:
        """Return deployments of the caller, last recorded first.  ``since_ns <= time < until_ns``; ``matchers``: of
        their labels, ``service`` and ``version`` among these."""
        conditions, parameters = ["TRUE"], list[Any]()
        for condition, value in (
            ("service = ?", service),
            ("version = ?", version),
            ("time_ns >= ?", since_ns),
            ("time_ns < ?", until_ns),
            ("id < ?", before_id),
        ):
            if value is not None:
                conditions.append(condition)
                parameters.append(value)
        wanted = Caller(caller.name, (*caller.matchers, *matchers))
        found = self._rows(
            f"WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT ?", (*parameters, -1 if wanted.limited else limit)
        )
        return [deploy for deploy in found if deploy.seen_by(wanted)][:limit]

    def changes(self, start_ns: int, end_ns: int) -> list[tuple[str, int]]:
        """Return (service, time) of the deployments with ``start_ns <= time < end_ns``, first to last."""
        return self._control.rows(
            "SELECT service, time_ns FROM deploys WHERE time_ns >= ? AND time_ns < ? ORDER BY time_ns, id",
            (start_ns, end_ns),
        )

    def table(self, caller: Caller = EVERYONE) -> dict[str, list[Any]]:
        """Return every deployment of the caller, oldest first, as the columns of :func:`deploys_columns`."""
        rows = [
            (each.id, each.time_ns, each.service, each.version, each.baseline, each.canary,
             json.dumps(each.labels, sort_keys=True), each.author, each.note, each.recorded_ns)
            for each in self._rows("ORDER BY id", ())
            if each.seen_by(caller)
        ]  # fmt: skip
        return {name: [row[index] for row in rows] for index, (name, _) in enumerate(_COLUMNS)}

    def prune(self, before_ns: int) -> int:
        """Forget deployments before ``before_ns`` and all but the last :data:`MOST`; return how many."""
        with self._control.transaction() as connection:
            return connection.execute(
                "DELETE FROM deploys WHERE time_ns < ? OR id <= (SELECT max(id) FROM deploys) - ?", (before_ns, MOST)
            ).rowcount

    def _rows(self, where: str, parameters: Sequence[Any]) -> list[Deploy]:
        return [_deploy_of(row) for row in self._control.rows(f"SELECT {_STORED} FROM deploys {where}", parameters)]


def deploys_columns() -> tuple[tuple[str, str], ...]:
    """Return name and SQL type of the columns of ``deploys``; a time is ns since 1970, labels are JSON."""
    return _COLUMNS


def _deploy_of(row: Sequence[Any]) -> Deploy:
    deploy_id, time_ns, service, version, baseline, canary, labels, author, note, recorded_ns = row
    return Deploy(deploy_id, time_ns, service, version, baseline, canary, json.loads(labels), author, note, recorded_ns)


def _name_problems(name: str, value: str) -> list[str]:
    if not value.strip():
        return [f"{name} is empty, want a name"]
    if len(value) > LONGEST_NAME:
        return [f"{name} has {len(value)} characters, want at most {LONGEST_NAME}"]
    return []


def _matcher_problems(name: str, text: str) -> list[str]:
    try:
        matchers = parse_matchers(text)
    except BadRequest as error:
        return [f"{name}: {error.message}"]
    if text and all(matcher.accepts("") for matcher in matchers):
        return [f"{name} {text!r} selects every series, want at least one matcher that needs a value"]
    return []


def _label_problems(labels: Mapping[str, str]) -> list[str]:
    problems = [f"got the label {name!r}, which deployments have" for name in ("service", "version") if name in labels]
    if len(labels) > MOST_LABELS:
        problems.append(f"got {len(labels)} labels, want at most {MOST_LABELS}")
    long = next((name for name, value in labels.items() if not name or len(name) + len(value) > LONGEST_NAME), None)
    if long is not None:
        problems.append(f"label {long[:50]!r}: want a name, and at most {LONGEST_NAME} characters with its value")
    return problems
