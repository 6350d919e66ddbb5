"""The detection tick: the newest sample of every series is judged against its own past, alarms are stored with reasons.

Knows what has been learned over a restart (docs/formats/detectors.md): it is saved every quarter of an hour and at an
orderly stop.  After a crash what was learned since the last save is missing; nothing else is.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from fnmatch import fnmatchcase

import numpy as np

from engine.catalog.catalog import Catalog
from engine.catalog.pooled import METRIC_TAG
from engine.clock import NS_PER_DAY, Clock
from engine.config import Detection
from engine.detection import snapshot
from engine.detection.reasons import CAUSES, reason_of
from engine.detection.roster import Roster
from engine.detection.store import Anomaly, AnomalyStore
from engine.detection.univariate import Judged, UnivariateDetector
from engine.disk.filesystem import FileSystem
from engine.errors import Damage, NewerFormat
from engine.hot.store import HotStore
from engine.model.rows import FIELD_ID_BITS, MAX_FIELDS, Float64Array, Int64Array
from engine.vitals import Vitals

LOG = logging.getLogger("tidegauge.detection")

KIND = "detection"
STATE_FILE = "detectors.state"
SAVE_NS = 15 * 60 * 1_000_000_000
#: When everything is anomalous at once, the strangest are noted and the others counted.
MOST_A_TICK = 1_000
#: A series that has been silent for longer gives its row to a new one when there is no other.
SILENT_NS = NS_PER_DAY


class AnomalyFinder:
    """Judges the series of one engine."""

    def __init__(
        self,
        *,
        settings: Detection,
        catalog: Catalog,
        hot: HotStore,
        store: AnomalyStore,
        vitals: Vitals,
        clock: Clock,
        fs: FileSystem,
        path: str,
    ) -> None:
        """``path``: where what was learned is kept."""
        self._settings, self._catalog, self._hot = settings, catalog, hot
        self._store, self._vitals, self._clock = store, vitals, clock
        self._fs, self._path = fs, path
        self._lock = threading.Lock()
        self._detector = UnivariateDetector()
        self._roster = Roster(settings.max_series)
        self._judged_until = np.empty(0, np.int64)
        self._keeps = True
        self._saved_ns = clock.now_ns()
        self.left_out = 0
        if settings.enabled:
            self._load()

    @property
    def series(self) -> int:
        """How many series are judged."""
        return int((self._roster.series_ids >= 0).sum())

    def tick(self) -> int:
        """Judge what is new of every series; return how many anomalies were noted."""
        with self._lock:
            started = self._clock.monotonic()
            now_ns = self._clock.now_ns()
            parts = list(self._newest())
            noted = 0
            if parts:
                series_ids, times, values = (np.concatenate(columns) for columns in zip(*parts, strict=True))
                noted = self._judge(series_ids, times, values, now_ns)
            self._vitals.detection_tick_seconds.observe(self._clock.monotonic() - started)
            if now_ns - self._saved_ns >= SAVE_NS:
                self._save(now_ns)
            return noted

    def close(self) -> None:
        """Save what has been learned."""
        with self._lock:
            if self._settings.enabled:
                self._save(self._clock.now_ns())

    def _newest(self) -> Iterator[tuple[Int64Array, Int64Array, Float64Array]]:
        for name in self._catalog.table_names():
            table_id = self._catalog.table_id(name)
            if table_id is None:
                continue
            pooled = self._catalog.is_pooled(table_id)
            for field in self._catalog.fields(table_id):
                if not pooled and not self._wanted(field.metric):
                    continue
                latest = self._hot.latest(table_id, field.field_id)
                if latest is not None and len(latest.tagset_ids):
                    series_ids = (latest.tagset_ids.astype(np.int64) << FIELD_ID_BITS) | field.field_id
                    yield series_ids, latest.times, latest.values

    def _wanted(self, metric: str) -> bool:
        patterns = self._settings.metrics
        return not patterns or any(fnmatchcase(metric, pattern) for pattern in patterns)

    def _judge(self, series_ids: Int64Array, times: Int64Array, values: Float64Array, now_ns: int) -> int:
        rows = self._roster.rows_of(series_ids)
        new = rows < 0
        if new.any():
            self._admit(series_ids[new], now_ns)
            rows = self._roster.rows_of(series_ids)
        known = rows >= 0
        self.left_out = int((~known).sum())
        rows, series_ids, times, values = rows[known], series_ids[known], times[known], values[known]
        fresh = times > self._judged_until[rows]
        rows, series_ids, times, values = rows[fresh], series_ids[fresh], times[fresh], values[fresh]
        judged = self._detector.advance(rows, times, values)
        self._judged_until[rows] = times
        self._vitals.detection_samples.inc(len(rows))
        alarms = np.arange(len(judged.alarms))
        if len(alarms) > MOST_A_TICK:
            self._vitals.anomalies_dropped.inc(len(alarms) - MOST_A_TICK)
            alarms = np.argsort(-judged.scores[judged.alarms], kind="stable")[:MOST_A_TICK]
        found = [self._anomaly(judged, number, series_ids, times, values) for number in alarms.tolist()]
        noted = [anomaly for anomaly in found if self._wanted(anomaly.metric)]
        self._store.record(noted)
        self._vitals.anomalies.inc(len(noted))
        return len(noted)

    def _admit(self, series_ids: Int64Array, now_ns: int) -> None:
        given = self._roster.admit(series_ids)
        if len(given) < len(series_ids):
            taken = self._roster.series_ids[: len(self._judged_until)] >= 0
            self._roster.release(np.flatnonzero(taken & (self._judged_until < now_ns - SILENT_NS)))
            given = np.concatenate([given, self._roster.admit(series_ids[len(given) :])])
        count = len(self._roster.series_ids)
        self._detector.grow(count)
        self._detector.forget(given)
        grown = np.full(count, np.iinfo(np.int64).min)
        grown[: len(self._judged_until)] = self._judged_until
        grown[given] = np.iinfo(np.int64).min
        self._judged_until = grown

    def _anomaly(
        self, judged: Judged, number: int, series_ids: Int64Array, times: Int64Array, values: Float64Array
    ) -> Anomaly:
        index = int(judged.alarms[number])
        series_id = int(series_ids[index])
        tagset_id, field_id = series_id >> FIELD_ID_BITS, series_id & (MAX_FIELDS - 1)
        labels = dict(self._catalog.labels(tagset_id))
        metric = self._metric(tagset_id, field_id, labels)
        cause, value = int(judged.causes[number]), float(values[index])
        seen, low, high = float(judged.seen[number]), float(judged.low[number]), float(judged.high[number])
        return Anomaly(
            time_ns=int(times[index]),
            series_id=series_id,
            metric=metric,
            labels=labels,
            value=value,
            score=float(judged.scores[index]),
            cause=CAUSES[cause],
            expected_low=low,
            expected_high=high,
            reason=reason_of(cause, value, seen, low, high),
        )

    def _metric(self, tagset_id: int, field_id: int, labels: dict[str, str]) -> str:
        table_id = int(self._catalog.native.tagset_tables(tagset_id, tagset_id + 1)[0])
        field = self._catalog.fields(table_id)[field_id]
        named = self._catalog.tags(tagset_id).get(METRIC_TAG) if self._catalog.is_pooled(table_id) else None
        labels.pop(METRIC_TAG, None)
        return named or field.metric

    # --- over a restart

    def _save(self, now_ns: int) -> None:
        self._saved_ns = now_ns
        if not self._keeps or not len(self._roster.series_ids):
            return
        detector = np.frombuffer(self._detector.to_bytes(), np.uint8)
        arrays: snapshot.Arrays = {
            "series_ids": self._roster.series_ids,
            "judged_until": self._judged_until,
            "univariate": detector,
        }
        self._fs.write_atomic(self._path, [snapshot.encode(KIND, arrays)])

    def _load(self) -> None:
        if not self._fs.exists(self._path):
            return
        try:
            detector, series_ids, judged_until = read_state(self._fs.read(self._path), self._path)
        except NewerFormat as error:
            LOG.warning("%s; detection starts over and leaves the file as it is", error)
            self._keeps = False
        except Damage as error:
            self._vitals.detection_lost.inc()
            LOG.warning("%s; detection starts over", error)
        else:
            self._detector, self._judged_until = detector, judged_until
            self._roster = Roster(self._settings.max_series, series_ids)


def read_state(data: bytes, path: str) -> tuple[UnivariateDetector, Int64Array, Int64Array]:
    """Return what is in a file's bytes: the detector, the series of its rows, and until when they were judged.

    Raises Damage or NewerFormat.
    """
    arrays = snapshot.decode(KIND, data, path)
    try:
        detector = UnivariateDetector.from_bytes(arrays["univariate"].tobytes(), path)
        series_ids, judged_until = arrays["series_ids"], arrays["judged_until"]
    except KeyError as error:
        raise Damage(f"cannot read detector state: array {error} is missing", path=path) from None
    if not len(series_ids) == len(judged_until) == detector.series:
        raise Damage("cannot read detector state: its arrays differ in length", path=path)
    return detector, series_ids, judged_until
