"""One host or service that is judged by all of its metrics together: what it was lately, and a detector fitted on that.

The detector is that of ``lab.score_matrix``.  There nobody says which rows are normal, so it is fitted on the newest
day or two, without the rows that were alarms, and fitted anew every day.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Self

import numpy as np

from engine.detection import snapshot
from engine.detection.multivariate import MultivariateDetector
from engine.detection.reasons import number
from engine.errors import Damage
from engine.model.rows import Float64Array

KIND = "subject"
#: So many rows are remembered; with these it is fitted for the first time; and anew after so many.
REMEMBERED, LEAST, REFIT = 2_880, 1_440, 1_440
#: Fewer columns are what the univariate detector is for; more would make a subject too large.
LEAST_COLUMNS, MOST_COLUMNS = 3, 48
#: An alarm takes so many rows in a row from this score on; it is over after so many below half of the strength.
ALARM_SCORE, ALARM_ROWS = 0.5, 3
QUIET_SCORE, QUIET_ROWS = 0.45, 30
CULPRITS = 3
#: The ordinary range of a column that is told: all but this share of the rows on either side.
BEYOND = 0.01


@dataclass(frozen=True, slots=True)
class Culprit:
    """A column that is to blame: its value, and what it was in all but one of a hundred rows on either side."""

    column: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class SubjectAlarm:
    """A subject behaves unlike itself; ``culprits``, the likeliest first."""

    score: float
    culprits: tuple[Culprit, ...]

    @property
    def reason(self) -> str:
        parts = [
            f"{each.column} {number(each.value)} (ordinarily {number(each.low)}..{number(each.high)})"
            for each in self.culprits
        ]
        return f"its metrics together are unlike what they were: {', '.join(parts)}"


class Subject:
    """Knows its ``columns``, which may only get more."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        self.columns = columns
        self._times = np.zeros(REMEMBERED, np.int64)
        self._rows = np.full((REMEMBERED, len(columns)), np.nan, np.float32)
        self._odd = np.zeros(REMEMBERED, np.bool_)
        self._count = 0
        self._detector: MultivariateDetector | None = None
        self._fitted_at, self._fitted_columns = 0, 0
        self._low = self._high = np.empty(0)
        self._loud, self._quiet, self._alarming = 0, 0, False

    @property
    def newest_ns(self) -> int:
        return int(self._times[(self._count - 1) % REMEMBERED]) if self._count else 0

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""
        fitted = 0 if self._detector is None else (8 * self._fitted_columns + 1_200) * self._fitted_columns
        return self._rows.nbytes + self._times.nbytes + self._odd.nbytes + fitted

    def extend(self, columns: tuple[str, ...]) -> None:
        """Add columns that have never been reported before; they are judged once it is fitted anew."""
        more = np.full((REMEMBERED, len(columns)), np.nan, np.float32)
        self.columns, self._rows = (*self.columns, *columns), np.hstack([self._rows, more])

    @property
    def due(self) -> bool:
        """Whether it should be fitted."""
        return self._count >= (LEAST if self._detector is None else self._fitted_at + REFIT)

    def fit(self) -> None:
        """Take the remembered rows, without those that were alarms, for normal."""
        self._fitted_at = self._count
        kept = min(self._count, REMEMBERED)
        places = np.arange(self._count - kept, self._count) % REMEMBERED
        places = places[~self._odd[places]]
        if 2 * len(places) < kept:
            # What has been odd for most of the time is what it is like now.
            places = np.arange(self._count - kept, self._count) % REMEMBERED
        rows = self._rows[places].astype(np.float64)
        self._detector = MultivariateDetector.fit(rows, self._times[places])
        self._fitted_columns = rows.shape[1]
        finite = np.isfinite(rows).any(axis=0)
        self._low, self._high = np.full((2, rows.shape[1]), np.nan)
        self._low[finite], self._high[finite] = np.nanquantile(rows[:, finite], [BEYOND, 1 - BEYOND], axis=0)

    def advance(self, time_ns: int, row: Float64Array) -> SubjectAlarm | None:
        """Judge a row float64[k], then remember it; return an alarm where one begins."""
        alarm, odd = None, False
        if self._detector is not None:
            known = np.ascontiguousarray(row[None, : self._fitted_columns])
            judged = self._detector.advance(np.array([time_ns], np.int64), known)
            score = float(judged.scores[0])
            odd = score >= ALARM_SCORE
            if self._begins(score):
                alarm = SubjectAlarm(score, self._culprits(known[0], judged.contributions[0]))
        place = self._count % REMEMBERED
        self._times[place], self._rows[place], self._odd[place] = time_ns, row, odd or self._alarming
        self._count += 1
        return alarm

    def _begins(self, score: float) -> bool:
        """Return whether an alarm begins: one is told once, however long it lasts."""
        self._loud = self._loud + 1 if score >= ALARM_SCORE else 0
        self._quiet = self._quiet + 1 if score < QUIET_SCORE else 0
        if self._alarming:
            self._alarming = self._quiet < QUIET_ROWS
            return False
        self._alarming = self._loud >= ALARM_ROWS
        return self._alarming

    def _culprits(self, row: Float64Array, contributions: Float64Array) -> tuple[Culprit, ...]:
        order = np.argsort(-np.nan_to_num(contributions), kind="stable")[:CULPRITS]
        return tuple(
            Culprit(self.columns[index], float(row[index]), float(self._low[index]), float(self._high[index]))
            for index in order.tolist()
            if np.isfinite(row[index])
        )

    # --- over a restart

    def to_bytes(self) -> bytes:
        kept = min(self._count, REMEMBERED)
        places = np.arange(self._count - kept, self._count) % REMEMBERED
        detector = b"" if self._detector is None else self._detector.to_bytes()
        counts = [self._count, self._fitted_at, self._fitted_columns, self._loud, self._quiet, int(self._alarming)]
        return snapshot.encode(
            KIND,
            {
                "columns": np.frombuffer(json.dumps(self.columns).encode(), np.uint8),
                "times": self._times[places],
                "rows": self._rows[places],
                "odd": self._odd[places].astype(np.uint8),
                "counts": np.array(counts, np.int64),
                "low": self._low,
                "high": self._high,
                "detector": np.frombuffer(detector, np.uint8),
            },
        )

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, path: str = "bytes") -> Self:
        arrays = snapshot.decode(KIND, data, path)
        try:
            subject = cls(tuple(json.loads(arrays["columns"].tobytes())))
            count, fitted_at, fitted_columns, loud, quiet, alarming = arrays["counts"].tolist()
            kept = min(count, REMEMBERED)
            places = np.arange(count - kept, count) % REMEMBERED
            subject._times[places], subject._odd[places] = arrays["times"], arrays["odd"]
            subject._rows[places] = arrays["rows"]
            subject._low, subject._high = arrays["low"], arrays["high"]
            detector = arrays["detector"].tobytes()
        except (KeyError, ValueError, TypeError) as error:
            raise Damage(f"cannot read detector state: got a subject without {error}", path=path) from None
        subject._count, subject._fitted_at, subject._fitted_columns = count, fitted_at, fitted_columns
        subject._loud, subject._quiet, subject._alarming = loud, quiet, bool(alarming)
        if detector:
            try:
                subject._detector = MultivariateDetector.from_bytes(detector, path)
            except Damage:
                # Of an earlier version, for the file's checksum was right: the rows are here, it is fitted anew.
                subject._fitted_columns = 0
        return subject
