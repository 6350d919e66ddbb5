"""Scaling decisions: read a target's signals, decide, remember.

An instance is counted while it reports: a distinct value of the target's instance label among the fresh samples of its
signals, unless a metric gives the number.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from engine.catalog.catalog import Catalog
from engine.clock import NS_PER_DAY, NS_PER_SECOND, Clock
from engine.config import ScaleTarget, Signal
from engine.config_units import Duration
from engine.errors import NotFound, TidegaugeError
from engine.maintenance.loads import loads_so_far
from engine.model.matchers import equality_matchers
from engine.model.rows import Int32Array
from engine.query.observe import Observed as SeriesValues
from engine.query.observe import Observer
from engine.query.range import RangeAnswer, RangeQuery
from engine.scaling.demand import DemandModel
from engine.scaling.policy import Decision, Observed, SignalReading, decide, history_after, measures_load
from engine.scaling.store import ScaleStore
from engine.vitals import Vitals

LOG = logging.getLogger("tidegauge.scaling")
#: An instance that has not reported for longer than this is gone for good, whatever became of it.
REMEMBERED_NS = NS_PER_DAY
REQUESTS_OVER_NS = 60 * NS_PER_SECOND
RECOVERING = "samples are still being recovered from the log"


class Decider:
    """Decides for the configured targets of one engine; callable from any thread."""

    def __init__(
        self,
        *,
        targets: Sequence[ScaleTarget],
        catalog: Catalog,
        observer: Observer,
        store: ScaleStore,
        vitals: Vitals,
        clock: Clock,
        keep: Duration,
        complete: Callable[[], bool] = lambda: True,
        read: Callable[[RangeQuery], RangeAnswer] | None = None,
    ) -> None:
        """``keep``: how long a decision is answered before asking makes a new one.

        ``complete``: whether all samples are there; without that nothing is read and every signal counts as missing.
        ``read`` answers range queries: models of the load start with what is stored.
        """
        self._targets = {target.target: target for target in targets}
        self._catalog, self._observer = catalog, observer
        self._store, self._vitals, self._clock = store, vitals, clock
        self._keep_ns = int(keep)
        self._complete = complete
        self._read = read
        self._lock = threading.Lock()
        self._latest: dict[str, Decision] = {}
        self._models: dict[str, DemandModel] = {}
        self._histories = {target.target: store.history(target.target) for target in targets}

    @property
    def targets(self) -> list[str]:
        return list(self._targets)

    def latest(self, name: str) -> Decision:
        """Return the decision of the last tick, making one where there is none that still counts.

        Raises NotFound for a target that is not configured.
        """
        if name not in self._targets:
            raise NotFound(f"cannot decide for target {name!r}: it is not configured ([[scale]])")
        decision = self._latest.get(name)
        if decision is None or self._clock.now_ns() - decision.decided_ns > self._keep_ns:
            self.tick([name])
            decision = self._latest[name]
        self._vitals.decisions.labels(decision.action).inc()
        return decision

    def tick(self, names: Sequence[str] | None = None) -> int:
        """Decide for the named targets, or all; return how many decisions were news."""
        with self._lock:
            now_ns = self._clock.now_ns()
            made = []
            for name in self._targets if names is None else names:
                target = self._targets[name]
                complete = self._complete()
                observed = (
                    self._expecting(target, self.observe(target, now_ns), now_ns)
                    if complete
                    else _nothing_known(target)
                )
                decision = decide(target, observed, self._histories[name], now_ns)
                if not complete:
                    decision = replace(decision, reason=f"{decision.reason}; {RECOVERING}")
                made.append((decision, history_after(target, self._histories[name], decision)))
            # On disk first, so that a restart never forgets a cooldown that has been acted on.
            news = self._store.record(made)
            for decision, history in made:
                self._histories[decision.target] = history
                self._latest[decision.target] = decision
        return len(news)

    def observe(self, target: ScaleTarget, now_ns: int) -> Observed:
        """Return what is known of a target: its instances and the value of each signal over the fresh ones."""
        oldest_ns = now_ns - int(target.stale_after)
        reporting: set[str] = set()
        remembered: set[str] = set()
        readings = []
        for signal in target.signals:
            values = self._values(signal, target, now_ns)
            fresh = (values.times >= oldest_ns) & np.isfinite(values.values)
            reporting |= self._instances(target, values.tagset_ids[fresh])
            recent = (values.times >= now_ns - REMEMBERED_NS) & ~fresh
            remembered |= self._instances(target, values.tagset_ids[recent])
            readings.append(_reading(signal, values, fresh))
        current = self._current(target, len(reporting), oldest_ns, now_ns)
        return Observed(current, tuple(readings), len(remembered - reporting))

    def _expecting(self, target: ScaleTarget, observed: Observed, now_ns: int) -> Observed:
        """Return what is known with the demand, which is learned from it."""
        index = next((index for index, signal in enumerate(target.signals) if measures_load(signal)), None)
        if not target.predict or index is None or not observed.current:
            return observed
        cpu = observed.readings[index]
        if cpu.value is None or cpu.stale:
            return observed
        waiting = any(reading.kind == "queue" and (reading.value or 0.0) > 0.0 for reading in observed.readings)
        model = self._model(target, now_ns)
        load = model.load_of(observed.current, cpu.value, self._requests(target, now_ns), waiting)
        return replace(observed, demand=model.observe(now_ns, load))

    def _model(self, target: ScaleTarget, now_ns: int) -> DemandModel:
        """Return the model of a target, when it is asked for first with what is stored of its load."""
        if target.target not in self._models:
            model = self._models[target.target] = DemandModel()
            try:
                for time_ns, load in () if self._read is None else loads_so_far(target, now_ns, self._read):
                    model.observe(time_ns, load)
            except TidegaugeError as error:
                LOG.warning("the load of target %s is learned anew: %s", target.target, error.message)
        return self._models[target.target]

    def _requests(self, target: ScaleTarget, now_ns: int) -> float | None:
        if target.requests is None:
            return None
        matchers = equality_matchers(target.match)
        values = self._observer.values(target.requests, matchers, now_ns, aggregate="rate", over_ns=REQUESTS_OVER_NS)
        fresh = (values.times >= now_ns - int(target.stale_after)) & np.isfinite(values.values)
        return float(values.values[fresh].sum()) if fresh.any() else None

    def _instances(self, target: ScaleTarget, tagset_ids: Int32Array) -> set[str]:
        found = (self._catalog.tags(tagset_id).get(target.instance_label) for tagset_id in tagset_ids.tolist())
        return {instance for instance in found if instance is not None}

    def _values(self, signal: Signal, target: ScaleTarget, now_ns: int) -> SeriesValues:
        return self._observer.values(
            signal.metric,
            equality_matchers(target.match),
            now_ns,
            aggregate=signal.aggregate,
            over_ns=int(signal.over),
            divide_by=signal.divide_by,
            scale=signal.scale,
        )

    def _current(self, target: ScaleTarget, counted: int, oldest_ns: int, now_ns: int) -> int | None:
        if target.instances is None:
            return counted
        values = self._observer.values(target.instances, equality_matchers(target.match), now_ns)
        fresh = (values.times >= oldest_ns) & np.isfinite(values.values)
        if not fresh.any():
            return None
        return round(float(values.values[fresh].max()))


def _nothing_known(target: ScaleTarget) -> Observed:
    return Observed(None, tuple(SignalReading(signal.kind, None, None, stale=True) for signal in target.signals))


def _reading(signal: Signal, values: SeriesValues, fresh: npt.NDArray[np.bool_]) -> SignalReading:
    if not fresh.any():
        newest = int(values.times.max()) if len(values.times) else None
        return SignalReading(signal.kind, None, newest, stale=True)
    chosen = values.values[fresh]
    if signal.across == "avg":
        value = float(chosen.mean())
    else:
        value = float(chosen.max() if signal.across == "max" else chosen.sum())
    # The oldest of the samples behind the value tells its age: none of them is older than that.
    return SignalReading(signal.kind, value, int(values.times[fresh].min()))
