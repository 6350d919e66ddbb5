"""The server's judgement on a clock of its own: rules, detection and scaling decisions, tick by tick.

These are the very parts that a server runs (:mod:`engine.runtime`), fed with rows in the order in which they arrive,
on a control database of their own.  Nothing is delivered: notifications stay in the outbox and can be counted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine.alerting.alerts import Alert
from engine.alerting.notifying import Notifying
from engine.alerting.store import AlertStore
from engine.alerting.watch import RuleWatch
from engine.catalog.catalog import Catalog
from engine.catalog.control import ControlDatabase
from engine.clock import NS_PER_HOUR, NS_PER_MINUTE, ManualClock
from engine.config import Config
from engine.config_units import Duration
from engine.detection.store import AnomalyStore
from engine.disk.real import RealFileSystem
from engine.hot.store import HotStore
from engine.maintenance.detect import STATE_FILE, AnomalyFinder
from engine.maintenance.inputs import RuleInputs, past_ns
from engine.maintenance.replay.history import Reader
from engine.maintenance.scale import Decider
from engine.maintenance.subjects import SUBJECTS_FILE, SubjectFinder
from engine.maintenance.watch import Watcher
from engine.model.rows import NEVER_NS, Int32Array, Int64Array, Rows, concat, sort_merge
from engine.model.selection import select
from engine.query.observe import Observer
from engine.query.pasts import Pasts
from engine.query.range import LOOKBACK_NS, RangeReader
from engine.query.samples import SampleStore
from engine.scaling.store import ScaleStore
from engine.vitals import Vitals

DROP_EVERY_NS = NS_PER_HOUR


class ReplayedSamples(SampleStore):
    """What has arrived by now: the newest of it from memory, the rest from ``past`` where there is one."""

    def __init__(self, hot: HotStore, clock: ManualClock, past: Reader | None) -> None:
        super().__init__(RealFileSystem(), "", hot, ())
        self._clock, self._past = clock, past
        #: Memory holds everything from here on.
        self.held_from_ns = clock.now_ns()

    def gather(
        self,
        table_id: int,
        start_ns: int,
        end_ns: int,
        tagset_ids: Int32Array | None = None,
        field_ids: tuple[int, ...] | None = None,
    ) -> Rows:
        held = super().gather(table_id, max(start_ns, self.held_from_ns), end_ns, tagset_ids, field_ids)
        if self._past is None or start_ns >= self.held_from_ns:
            return held
        older = self._past(table_id, start_ns, min(end_ns, self.held_from_ns, self._clock.now_ns() + 1))
        return sort_merge(concat([select(older, tagset_ids=tagset_ids, field_ids=field_ids), held]))


@dataclass(slots=True)
class _Waiting:
    rows: Rows
    arrivals: Int64Array
    given: int = 0


class Rehearsal:
    """One run; a context manager.  ``directory`` is an empty one for the files that the parts keep.

    ``past`` reads rows of a table from before what is held in memory, which is what the rules look back; without it
    everything is held.
    """

    def __init__(
        self, config: Config, catalog: Catalog, directory: str, *, start_ns: int, past: Reader | None = None
    ) -> None:
        self.config, self.catalog, self._past = config, catalog, past
        self.clock = clock = ManualClock(start_ns)
        self.hot = HotStore()
        self.samples = ReplayedSamples(self.hot, clock, past)
        self._vitals = vitals = Vitals()
        self._control = ControlDatabase(os.path.join(directory, "control.sqlite"))
        # Nobody waits for a sign of life.
        notifying = replace(Notifying.configured(config), heartbeats_ns={})
        self._alerts = AlertStore(self._control, notifying, service_labels=config.bottlenecks.service_labels)
        observer = Observer(catalog, self.samples)
        rules = RuleWatch(
            config.effective_rules,
            self._alerts,
            stale_after_ns=int(config.watch.stale_after),
        )
        inputs = RuleInputs(
            catalog,
            observer,
            Pasts(catalog, RangeReader(catalog, self.samples, None), lambda _: NEVER_NS),
            stale_after_ns=int(config.watch.stale_after),
            began_ns=start_ns,
        )
        self._watcher = Watcher(rules=rules, inputs=inputs, vitals=vitals, clock=clock)
        self._anomalies = AnomalyStore(self._control)
        self._finder = AnomalyFinder(
            settings=config.detection,
            catalog=catalog,
            hot=self.hot,
            store=self._anomalies,
            vitals=vitals,
            clock=clock,
            fs=RealFileSystem(),
            path=os.path.join(directory, STATE_FILE),
        )
        self._subjects = SubjectFinder(
            settings=config.detection,
            counters=config.rollups.counters,
            catalog=catalog,
            hot=self.hot,
            store=self._anomalies,
            vitals=vitals,
            clock=clock,
            stale_after_ns=int(config.watch.stale_after),
            fs=RealFileSystem(),
            path=os.path.join(directory, SUBJECTS_FILE),
        )
        self._decisions = ScaleStore(self._control)
        tick_ns = int(config.watch.tick)
        self._decider = Decider(
            targets=config.scale,
            catalog=catalog,
            observer=observer,
            store=self._decisions,
            vitals=vitals,
            clock=clock,
            keep=Duration(3 * tick_ns),
        )
        self._tick_ns, self._interval_ns = tick_ns, int(config.detection.interval)
        self._watched_ns = self._detected_ns = self._dropped_ns = self._forgot_ns = start_ns
        self._kept_ns = look_back_ns(config, with_past=past is not None)
        self._idle_ns = max(int(config.ingest.idle_after), int(config.watch.stale_after))
        self._waiting: dict[int, list[_Waiting]] = {}
        self._sequence = 0
        self.ticks = 0

    def __enter__(self) -> Rehearsal:
        return self

    def __exit__(self, *_: object) -> None:
        self._control.close()

    # --- what comes in

    def give(self, table_id: int, rows: Rows, arrivals: Int64Array | None = None) -> None:
        """Let rows arrive at ``arrivals`` int64[n] (ns), ascending; by default at the times that they carry."""
        if len(rows):
            arrivals = rows.times if arrivals is None else arrivals
            self._waiting.setdefault(table_id, []).append(_Waiting(rows, arrivals))

    def advance(self, until_ns: int, *, judging: bool = True, told: Callable[[int], None] = lambda _: None) -> None:
        """Turn the clock to ``until_ns``; ``told`` is called with the time after each tick.

        Without ``judging`` only detection runs, so that it learns; rules and decisions are not judged.
        """
        step_ns = self._tick_ns if judging else self._interval_ns
        while self._watched_ns + step_ns <= until_ns:
            now_ns = self._watched_ns = self._watched_ns + step_ns
            self.clock.set_ns(now_ns)
            self._arrive(now_ns)
            if judging:
                self._watcher.tick()
                self._decider.tick()
            if self.config.detection.enabled and now_ns - self._detected_ns >= self._interval_ns:
                self._detected_ns = now_ns
                self._finder.tick()
                self._subjects.tick()
            self._tidy(now_ns)
            self.ticks += 1
            told(now_ns)

    def begin(self, now_ns: int) -> None:
        """Set the clock to ``now_ns``, from which ticks are counted: the next one comes an interval later."""
        self.clock.set_ns(now_ns)
        self._arrive(now_ns)
        self._watched_ns = now_ns
        self.ticks = 0

    def _arrive(self, now_ns: int) -> None:
        for table_id, waiting in self._waiting.items():
            while waiting:
                first = waiting[0]
                end = int(np.searchsorted(first.arrivals, now_ns, "right"))
                if end > first.given:
                    self._sequence += 1
                    self.hot.append(table_id, first.rows.take(slice(first.given, end)), self._sequence)
                    first.given = end
                if end < len(first.rows):
                    break
                del waiting[0]

    def _tidy(self, now_ns: int) -> None:
        if now_ns - self._forgot_ns >= NS_PER_MINUTE:
            self._forgot_ns = now_ns
            self.hot.forget_idle(now_ns - self._idle_ns)
        if self._past is not None and now_ns - self._dropped_ns >= DROP_EVERY_NS:
            self._dropped_ns = now_ns
            self.samples.held_from_ns = max(self.samples.held_from_ns, now_ns - self._kept_ns)
            for table_id in self.hot.table_ids():
                self.hot.drop(table_id, self.samples.held_from_ns)

    # --- what came of it

    def alerts(self) -> list[Alert]:
        """Return every alert there has been, oldest first."""
        found: list[Alert] = []
        before_id: int | None = None
        while page := self._alerts.find(states=(), before_id=before_id):
            found += page
            before_id = page[-1].id
        return found[::-1]

    def anomalies(self, since_ns: int) -> list[dict[str, Any]]:
        """Return the anomalies noted of samples at or after ``since_ns``, oldest first."""
        return [row for row in _rows(self._anomalies.anomalies_table()) if row["time"] >= since_ns]

    def decisions(self) -> list[dict[str, Any]]:
        """Return the scaling decisions that asked for another number of instances than the one before, oldest first."""
        return [row for row in _rows(self._decisions.decisions_table()) if row["action"] != "hold"]

    def notifications(self) -> list[tuple[str, str, int]]:
        """Return (channel, event, how many) of the notifications that would have left."""
        counted = "SELECT channel, event, count(*) FROM notifications GROUP BY channel, event ORDER BY channel, event"
        return [(str(channel), str(event), int(number)) for channel, event, number in self._control.rows(counted)]


def look_back_ns(config: Config, *, with_past: bool) -> int:
    """Return how much of the newest samples rules and decisions look at.

    ``with_past``: what a rule compares with is read from elsewhere, and rarely.
    """
    windows = [int(rule.over) for rule in config.effective_rules]
    windows += [int(signal.over) for target in config.scale for signal in target.signals]
    if not with_past:
        windows += [past_ns(rule) for rule in config.effective_rules]
    return max(windows, default=0) + LOOKBACK_NS + NS_PER_HOUR


def _rows(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
