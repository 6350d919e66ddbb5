"""A replay over what is stored: what the rules of a configuration would have said between two times."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.alerting.alerts import Alert
from engine.config import Config
from engine.maintenance.replay.history import History
from engine.maintenance.replay.rehearsal import Rehearsal, look_back_ns

#: ``progress(done, total)`` in nanoseconds of replayed time.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of a replay from ``start_ns`` to ``end_ns``; detection had learned since ``learned_from_ns``.

    ``alerts`` that fired or were pending, ``anomalies`` and ``decisions`` as rows by column, ``notifications`` as
    (channel, event, how many).
    """

    start_ns: int
    end_ns: int
    learned_from_ns: int
    ticks: int
    rows: int
    alerts: list[Alert]
    anomalies: list[dict[str, Any]]
    decisions: list[dict[str, Any]]
    notifications: list[tuple[str, str, int]]


def replay(
    history: History,
    config: Config,
    *,
    start_ns: int,
    end_ns: int,
    learn_ns: int,
    progress: Progress = lambda _done, _total: None,
) -> Replayed:
    """Let the rules, detection and scaling targets of ``config`` judge ``(start_ns, end_ns]`` of ``history``.

    Samples are taken to have arrived at their own times.  Detection first learns from up to ``learn_ns`` before.
    """
    extent = history.extent()
    oldest_ns = start_ns if extent is None else min(start_ns, extent[0])
    # Rules need what they look back to, and the newest value of whoever reports seldom.
    before_ns = look_back_ns(config, with_past=True) + int(config.watch.stale_after)
    from_ns = max(oldest_ns, start_ns - max(before_ns, learn_ns if config.detection.enabled else 0))
    rows = 0
    with (
        tempfile.TemporaryDirectory(prefix="tidegauge-replay-") as directory,
        Rehearsal(config, history.catalog, directory, start_ns=from_ns, past=history.collect) as rehearsal,
    ):
        for first_ns, last_ns, judging in ((from_ns, start_ns, False), (start_ns, end_ns, True)):
            if judging:
                rehearsal.begin(start_ns)
            for piece_end_ns, tables in history.pieces(first_ns + 1, last_ns + 1):
                for table_id, part in tables:
                    rehearsal.give(table_id, part)
                    rows += len(part) if judging else 0
                rehearsal.advance(piece_end_ns - 1, judging=judging)
                progress(piece_end_ns - from_ns, end_ns - from_ns)
        return Replayed(
            start_ns=start_ns,
            end_ns=end_ns,
            learned_from_ns=from_ns,
            ticks=rehearsal.ticks,
            rows=rows,
            alerts=rehearsal.alerts(),
            anomalies=rehearsal.anomalies(start_ns),
            decisions=rehearsal.decisions(),
            notifications=rehearsal.notifications(),
        )
