"""Decisions on disk: each one that differs from the last, and what the next one must know after a restart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from engine.catalog.control import ControlDatabase
from engine.scaling.policy import Decision, ScaleHistory, SignalInput

DEFAULT_LIST_LIMIT = 1_000

_VALUES = "target, decided_ns, valid_until_ns, action, current, desired, recommended, reason, limited_by, inputs"
_STORED = f"id, {_VALUES}"


class ScaleStore:
    """The scaling histories and decisions of one control database."""

    def __init__(self, control: ControlDatabase) -> None:
        self._control = control

    def history(self, target: str) -> ScaleHistory:
        """Return what is known of ``target``: an empty history before its first decision."""
        rows = self._control.rows(
            "SELECT desired, up_ns, down_ns, recommendations FROM scale_histories WHERE target = ?", (target,)
        )
        if not rows:
            return ScaleHistory()
        desired, up_ns, down_ns, recommendations = rows[0]
        window = tuple((int(time_ns), int(instances)) for time_ns, instances in json.loads(recommendations))
        return ScaleHistory(desired, up_ns, down_ns, window)

    def record(self, made: Sequence[tuple[Decision, ScaleHistory]]) -> list[Decision]:
        """Store the decisions of one tick with the history after each, in one transaction.

        The history is always kept; a decision is kept, and returned, when its desired number, its action or
        what limits it differs from those of the target's last one that was.
        """
        if not made:
            return []
        news: list[Decision] = []
        with self._control.transaction() as connection:
            for decision, history in made:
                connection.execute(
                    "INSERT OR REPLACE INTO scale_histories "
                    "(target, desired, up_ns, down_ns, recommendations) VALUES (?, ?, ?, ?, ?)",
                    (
                        decision.target,
                        history.desired,
                        history.up_ns,
                        history.down_ns,
                        json.dumps(history.recommendations),
                    ),
                )
                last = connection.execute(
                    "SELECT desired, action, limited_by FROM decisions WHERE target = ? ORDER BY id DESC LIMIT 1",
                    (decision.target,),
                ).fetchone()
                limited_by = json.dumps(decision.limited_by)
                if last == (decision.desired, decision.action, limited_by):
                    continue
                news.append(decision)
                connection.execute(
                    f"INSERT INTO decisions ({_VALUES}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        decision.target,
                        decision.decided_ns,
                        decision.valid_until_ns,
                        decision.action,
                        decision.current,
                        decision.desired,
                        decision.recommended,
                        decision.reason,
                        limited_by,
                        json.dumps([input_json(found) for found in decision.inputs]),
                    ),
                )
        return news

    def decisions(
        self, target: str | None = None, *, before_id: int | None = None, limit: int = DEFAULT_LIST_LIMIT
    ) -> dict[str, list[Any]]:
        """Return stored decisions, newest first, as the columns of :func:`decisions_columns`."""
        conditions = ["1"]
        parameters: list[Any] = []
        if target is not None:
            conditions.append("target = ?")
            parameters.append(target)
        if before_id is not None:
            conditions.append("id < ?")
            parameters.append(before_id)
        where = f"WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT ?"
        return self._columns(where, (*parameters, limit))

    def decisions_table(self) -> dict[str, list[Any]]:
        """Return every stored decision, oldest first, as the columns of :func:`decisions_columns`."""
        return self._columns("ORDER BY id", ())

    def _columns(self, where: str, parameters: Sequence[Any]) -> dict[str, list[Any]]:
        rows = self._control.rows(f"SELECT {_STORED} FROM decisions {where}", parameters)
        return {name: [row[index] for row in rows] for index, (name, _) in enumerate(decisions_columns())}

    def prune(self, before_ns: int) -> int:
        """Forget decisions older than ``before_ns``, but not each target's last; return how many."""
        with self._control.transaction() as connection:
            return connection.execute(
                "DELETE FROM decisions WHERE decided_ns < ? "
                "AND id NOT IN (SELECT max(id) FROM decisions GROUP BY target)",
                (before_ns,),
            ).rowcount


def input_json(found: SignalInput) -> dict[str, Any]:
    """Return what a decision says about one signal."""
    return asdict(found)


def decisions_columns() -> tuple[tuple[str, str], ...]:
    """Return name and SQL type of the columns of the relation ``decisions``; a time is ns since 1970.

    ``limited_by`` and ``inputs`` are JSON.
    """
    return (
        ("id", "BIGINT"),
        ("target", "VARCHAR"),
        ("decided_at", "TIMESTAMP_NS"),
        ("valid_until", "TIMESTAMP_NS"),
        ("action", "VARCHAR"),
        ("current", "BIGINT"),
        ("desired", "BIGINT"),
        ("recommended", "BIGINT"),
        ("reason", "VARCHAR"),
        ("limited_by", "VARCHAR"),
        ("inputs", "VARCHAR"),
    )
