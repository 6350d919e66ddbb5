"""Hosts and services that behave unlike themselves: each is judged once a minute by all of its metrics together.

A subject is a value of one of the labels ``detection.subjects``.  Its columns are metrics: the mean over all series of
the metric that carry the label, of counters the increase a second.  Memory is bounded by ``detection.max_subjects``,
work by one row for each a tick and :data:`FITS_A_TICK` fits.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt

from engine.catalog.catalog import Catalog
from engine.catalog.pooled import METRIC_TAG
from engine.clock import NS_PER_DAY, NS_PER_HOUR, NS_PER_SECOND, Clock
from engine.config import Detection
from engine.detection import snapshot
from engine.detection.store import Anomaly, AnomalyStore
from engine.detection.subject import LEAST_COLUMNS, MOST_COLUMNS, Subject, SubjectAlarm
from engine.disk.filesystem import FileSystem
from engine.errors import Damage, NewerFormat
from engine.hot.store import HotStore
from engine.model.rows import Float64Array, Int32Array, Int64Array
from engine.vitals import Vitals

LOG = logging.getLogger("tidegauge.detection")

KIND = "subjects"
SUBJECTS_FILE = "subjects.state"
CAUSE = "subject"
#: The ``series_id`` of an anomaly that is of no one series.
NO_SERIES = -1
SAVE_NS = NS_PER_HOUR
FITS_A_TICK = 8
#: Who has been silent for longer makes room for another.
SILENT_NS = NS_PER_DAY
#: Columns are settled after so many ticks with a subject: not everything is reported at once.
SETTLE_TICKS = 5
#: Of those without room so many of one metric are counted at a time.
MOST_OUTSIDE = 10_000

_Key = tuple[str, str]
_Test = Callable[[str], bool]


class SubjectFinder:
    """Judges the subjects of one engine.  ``path``: where what was learned is kept; ``counters``: globs of metrics."""

    def __init__(
        self,
        *,
        settings: Detection,
        counters: tuple[str, ...],
        catalog: Catalog,
        hot: HotStore,
        store: AnomalyStore,
        vitals: Vitals,
        clock: Clock,
        stale_after_ns: int,
        fs: FileSystem,
        path: str,
    ) -> None:
        self._settings, self._counters = settings, counters
        self._catalog, self._hot, self._store = catalog, hot, store
        self._vitals, self._clock, self._stale_after_ns = vitals, clock, stale_after_ns
        self._fs, self._path = fs, path
        self._lock = threading.Lock()
        self._subjects: dict[_Key, Subject] = {}
        self._met: dict[_Key, int] = {}
        self._readings = _Readings(
            catalog, hot, settings.subjects, self._is_wanted, self._is_counter, most=settings.max_subjects
        )
        self._keeps = True
        self._saved_ns = self._refused_ns = clock.now_ns()
        self.left_out = 0
        if settings.enabled and settings.subjects:
            self._load()

    @property
    def count(self) -> int:
        return len(self._subjects)

    @property
    def nbytes(self) -> int:
        with self._lock:
            return sum(subject.nbytes for subject in self._subjects.values())

    def tick(self) -> int:
        """Judge every subject by its newest values; return how many anomalies were noted."""
        if not self._settings.subjects:
            return 0
        with self._lock:
            now_ns = self._clock.now_ns()
            found: list[Anomaly] = []
            fits = 0
            for key, metrics, values in self._readings.take(now_ns - self._stale_after_ns):
                subject = self._subject(key, metrics, now_ns)
                if subject is None:
                    continue
                if subject.due and fits < FITS_A_TICK:
                    subject.fit()
                    fits += 1
                alarm = subject.advance(now_ns, _row(subject, metrics, values))
                if alarm is not None and alarm.culprits:
                    found.append(_anomaly(key, alarm, now_ns))
            self.left_out = self._readings.left_out
            if self.left_out:
                self._make_room(now_ns)
            self._store.record(found)
            self._vitals.anomalies.inc(len(found))
            if now_ns - self._saved_ns >= SAVE_NS:
                self._save(now_ns)
            return len(found)

    def close(self) -> None:
        """Save what has been learned."""
        with self._lock:
            if self._settings.enabled and self._settings.subjects:
                self._save(self._clock.now_ns())

    def _is_wanted(self, metric: str) -> bool:
        patterns = self._settings.metrics
        return not patterns or any(fnmatchcase(metric, pattern) for pattern in patterns)

    def _is_counter(self, metric: str) -> bool:
        return any(fnmatchcase(metric, pattern) for pattern in self._counters)

    def _subject(self, key: _Key, metrics: list[str], now_ns: int) -> Subject | None:
        """Return the subject of a key, None while it is not known well enough or there is no room."""
        subject = self._subjects.get(key)
        if subject is not None:
            new = [metric for metric in metrics if metric not in subject.columns]
            if new and len(subject.columns) < MOST_COLUMNS:
                subject.extend(tuple(new[: MOST_COLUMNS - len(subject.columns)]))
            return subject
        self._met[key] = self._met.get(key, 0) + 1
        if self._met[key] < SETTLE_TICKS:
            return None
        if len(metrics) < LEAST_COLUMNS:
            self._readings.refuse(key)
            del self._met[key]
            return None
        del self._met[key]
        subject = self._subjects[key] = Subject(tuple(metrics[:MOST_COLUMNS]))
        return subject

    def _make_room(self, now_ns: int) -> None:
        """Forget who has been silent for long; once an hour those that were refused are looked at again."""
        for key in [key for key, known in self._subjects.items() if known.newest_ns < now_ns - SILENT_NS]:
            del self._subjects[key]
            self._readings.release(key)
        if now_ns - self._refused_ns >= NS_PER_HOUR:
            self._refused_ns = now_ns
            self._readings.forget_refusals()

    # --- over a restart

    def _save(self, now_ns: int) -> None:
        self._saved_ns = now_ns
        if not self._keeps or not self._subjects:
            return
        blocks = [subject.to_bytes() for subject in self._subjects.values()]
        arrays: snapshot.Arrays = {
            "keys": np.frombuffer(json.dumps(list(self._subjects)).encode(), np.uint8),
            "ends": np.cumsum([len(block) for block in blocks], dtype=np.int64),
            "subjects": np.frombuffer(b"".join(blocks), np.uint8),
        }
        self._fs.write_atomic(self._path, [snapshot.encode(KIND, arrays)])

    def _load(self) -> None:
        if not self._fs.exists(self._path):
            return
        try:
            self._subjects = read_subjects(self._fs.read(self._path), self._path)
            self._readings.admit(self._subjects)
        except NewerFormat as error:
            LOG.warning("%s; detection of subjects starts over and leaves the file as it is", error)
            self._keeps = False
        except Damage as error:
            self._vitals.detection_lost.inc()
            LOG.warning("%s; detection of subjects starts over", error)


def read_subjects(data: bytes, path: str) -> dict[_Key, Subject]:
    """Return the subjects in a file's bytes; raises Damage or NewerFormat."""
    arrays = snapshot.decode(KIND, data, path)
    try:
        keys = [(str(label), str(value)) for label, value in json.loads(arrays["keys"].tobytes())]
        ends, blocks = arrays["ends"].tolist(), arrays["subjects"]
    except (KeyError, ValueError, TypeError) as error:
        raise Damage(f"cannot read detector state: got subjects without {error}", path=path) from None
    if len(ends) != len(keys) or (ends and ends[-1] != len(blocks)):
        raise Damage("cannot read detector state: its subjects differ in number from its keys", path=path)
    return {
        key: Subject.from_bytes(blocks[start:end].tobytes(), path)
        for key, start, end in zip(keys, [0, *ends[:-1]], ends, strict=True)
    }


class _Readings:
    """Newest values by subject and metric, of ``most`` values of the labels: others cost a few array operations."""

    def __init__(
        self,
        catalog: Catalog,
        hot: HotStore,
        labels: tuple[str, ...],
        wanted: _Test,
        is_counter: _Test,
        *,
        most: int,
    ) -> None:
        self._catalog, self._hot, self._labels, self._most = catalog, hot, labels, most
        self._wanted, self._is_counter = wanted, is_counter
        self._codes: dict[str, Int32Array] = {label: np.empty(0, np.int32) for label in (*labels, METRIC_TAG)}
        self._texts: dict[str, dict[str, int]] = {label: {"": 0} for label in (*labels, METRIC_TAG)}
        #: By code of a label's value: 0 unknown, 1 read, 2 refused.
        self._standing: dict[str, npt.NDArray[np.uint8]] = {label: np.zeros(1, np.uint8) for label in labels}
        self._before: dict[tuple[int, int], tuple[Int32Array, Int64Array, Float64Array]] = {}
        self._outside: set[tuple[str, int]] = set()

    @property
    def left_out(self) -> int:
        """How many values of labels were not read at the last time for want of room."""
        return len(self._outside)

    def admit(self, keys: Iterable[_Key]) -> None:
        """Read these from now on, as far as there is room."""
        for label, value in keys:
            if label in self._standing:
                self._stand(label, self._texts[label].setdefault(value, len(self._texts[label])), 1)

    def refuse(self, key: _Key) -> None:
        """Read this one no more, until refusals are forgotten."""
        self._stand(key[0], self._texts[key[0]][key[1]], 2)

    def release(self, key: _Key) -> None:
        if key[0] in self._standing:
            self._stand(key[0], self._texts[key[0]][key[1]], 0)

    def forget_refusals(self) -> None:
        for standing in self._standing.values():
            standing[standing == 2] = 0

    def _stand(self, label: str, code: int, how: int) -> None:
        self._grow(label)
        self._standing[label][code] = how

    def _grow(self, label: str) -> None:
        more = len(self._texts[label]) - len(self._standing[label])
        if more > 0:
            self._standing[label] = np.concatenate([self._standing[label], np.zeros(more, np.uint8)])

    def take(self, oldest_ns: int) -> Iterator[tuple[_Key, list[str], Float64Array]]:
        """Yield (label and value, metrics in order, their values) for each subject that reports."""
        self._learn_labels()
        self._outside.clear()
        sums: dict[_Key, dict[str, list[float]]] = {}
        texts = {label: list(known) for label, known in self._texts.items()}
        for metric, tagset_ids, values in self._metrics(oldest_ns):
            for label in self._labels:
                codes = self._codes[label][tagset_ids]
                counts = np.bincount(codes)
                totals = np.bincount(codes, values)
                for code in np.flatnonzero(counts * (self._standing[label][: len(counts)] == 1)).tolist():
                    part = sums.setdefault((label, texts[label][code]), {}).setdefault(metric, [0.0, 0.0])
                    part[0] += float(totals[code])
                    part[1] += float(counts[code])
        for key, metrics in sums.items():
            names = sorted(metrics)
            yield key, names, np.array([metrics[name][0] / metrics[name][1] for name in names])

    def _room(self, label: str) -> int:
        """Return how many more values of a label may be read: a quarter or so is left to others."""
        used = {each: int((standing == 1).sum()) for each, standing in self._standing.items()}
        count = len(self._labels)
        share = self._most - self._most * (count - 1) // (2 * count)
        return max(0, min(self._most - sum(used.values()), share - used[label]))

    def _read(self, tagset_ids: Int32Array) -> npt.NDArray[np.bool_]:
        """Return which tag sets belong to a subject that is read, taking up new ones while there is room."""
        mine = np.zeros(len(tagset_ids), np.bool_)
        for label in self._labels:
            codes = self._codes[label][tagset_ids]
            standing = self._standing[label]
            new = np.unique(codes[(standing[codes] == 0) & (codes > 0)])
            if len(new):
                room = self._room(label)
                standing[new[:room]] = 1
                self._outside.update((label, code) for code in new[room : room + MOST_OUTSIDE].tolist())
            mine |= standing[codes] == 1
        return mine

    def _learn_labels(self) -> None:
        count = self._catalog.native.tagset_count
        for label, known in self._codes.items():
            if len(known) < count:
                new = np.arange(len(known), count, dtype=np.int32)
                codes, texts = self._catalog.label_column(new, label)
                ours = self._texts[label]
                numbers = np.array([ours.setdefault(text, len(ours)) for text in texts], np.int32)
                self._codes[label] = np.concatenate([known, numbers[codes] if len(numbers) else codes.astype(np.int32)])
                if label in self._standing:
                    self._grow(label)

    def _metrics(self, oldest_ns: int) -> Iterator[tuple[str, Int32Array, Float64Array]]:
        """Yield fresh, finite values by metric; of counters what they gained a second since the last time."""
        for table in self._catalog.table_names():
            table_id = self._catalog.table_id(table)
            if table_id is None:
                continue
            pooled = self._catalog.is_pooled(table_id)
            for field in self._catalog.fields(table_id):
                latest = self._hot.latest(table_id, field.field_id)
                if latest is None or not len(latest.tagset_ids) or (not pooled and not self._wanted(field.metric)):
                    continue
                fresh = latest.times >= oldest_ns
                fresh[fresh] = self._read(latest.tagset_ids[fresh])
                if not fresh.any():
                    continue
                ids, times, values = latest.tagset_ids[fresh], latest.times[fresh], latest.values[fresh]
                rates = values
                if pooled or self._is_counter(field.metric):
                    rates = self._rates((table_id, field.field_id), ids, times, values)
                for metric, mine in self._by_metric(ids, field.metric, pooled):
                    seen = rates if self._is_counter(metric) else values
                    usable = mine & np.isfinite(seen)
                    if usable.any():
                        yield metric, ids[usable], seen[usable]

    def _by_metric(self, ids: Int32Array, metric: str, pooled: bool) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
        if not pooled:
            yield metric, np.ones(len(ids), np.bool_)
            return
        codes = self._codes[METRIC_TAG][ids]
        names = list(self._texts[METRIC_TAG])
        for code in np.unique(codes).tolist():
            name = names[code] or metric
            if self._wanted(name):
                yield name, codes == code

    def _rates(self, key: tuple[int, int], ids: Int32Array, times: Int64Array, values: Float64Array) -> Float64Array:
        """Return what was gained a second since the last call; NaN where nothing came or a counter began anew."""
        order = np.argsort(ids)
        before = self._before.get(key)
        self._before[key] = (ids[order], times[order], values[order])
        rates = np.full(len(ids), np.nan)
        if before is None or not len(before[0]):
            return rates
        places = np.minimum(np.searchsorted(before[0], ids), len(before[0]) - 1)
        spent = times - before[1][places]
        gained = values - before[2][places]
        usable = (before[0][places] == ids) & (spent > 0) & (gained >= 0)
        rates[usable] = gained[usable] / (spent[usable] / NS_PER_SECOND)
        return rates


def _row(subject: Subject, metrics: list[str], values: Float64Array) -> Float64Array:
    known = dict(zip(metrics, values.tolist(), strict=True))
    return np.array([known.get(column, np.nan) for column in subject.columns])


def _anomaly(key: _Key, alarm: SubjectAlarm, time_ns: int) -> Anomaly:
    first = alarm.culprits[0]
    return Anomaly(
        time_ns=time_ns,
        series_id=NO_SERIES,
        metric=first.column,
        labels={key[0]: key[1]},
        value=first.value,
        score=alarm.score,
        cause=CAUSE,
        expected_low=first.low,
        expected_high=first.high,
        reason=alarm.reason,
    )
