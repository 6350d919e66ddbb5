"""One detector for many series: each is judged against its own past.

Holds the state of all series as arrays, one row a series, and takes samples of any of them in any mixture.  A sample
costs about a twentieth of a microsecond, a series 392 bytes, and 1,056 more for its daily and weekly profiles.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from engine.detection import snapshot
from engine.detection.univariate_format import SHAPES, restored, saved
from engine.errors import Bug
from engine.model.rows import Float64Array, Int64Array
from native.kernels import univariate_state as layout

KIND = "univariate"
#: From so many samples on two threads share the work; below that, starting one would cost more than it saves.
SHARED_SAMPLES = 16_384
#: So many samples are handed to the kernel at a time; of these all may be alarms.
CHUNK = 16_384
#: Bytes that a tick reads and writes of a series, and bytes of its daily and weekly profiles.
STATE_BYTES = sum(width * np.dtype(dtype).itemsize for width, dtype in list(SHAPES.values())[:3])
PROFILE_BYTES = sum(width * np.dtype(dtype).itemsize for width, dtype in list(SHAPES.values())[3:])


@dataclass(frozen=True, slots=True)
class Judged:
    """Scores of n samples, and why m of them are alarms.

    ``scores`` float64[n]; ``alarms`` int64[m]: which samples, in order; ``causes`` int64[m], each one of
    ``native.kernels.univariate_state.CAUSE_*``; ``seen``, ``low`` and ``high`` float64[m]: what was measured and what
    would have been ordinary, in the unit that the cause implies, where there is one.
    """

    scores: Float64Array
    alarms: Int64Array
    causes: Int64Array
    seen: Float64Array
    low: Float64Array
    high: Float64Array


class UnivariateDetector:
    """Knows ``series`` series, numbered from 0; :meth:`grow` adds more."""

    def __init__(self, series: int = 0) -> None:
        self._state = {name: np.zeros((series, width), dtype) for name, (width, dtype) in SHAPES.items()}

    @property
    def series(self) -> int:
        return len(self._state["numbers"])

    def grow(self, series: int) -> None:
        """Make room for at least ``series`` series; those that are new know nothing."""
        more = series - self.series
        if more > 0:
            self._state = {
                name: np.concatenate([array, np.zeros((more, array.shape[1]), array.dtype)])
                for name, array in self._state.items()
            }

    def forget(self, subjects: Int64Array) -> None:
        """Forget what is known of these series, so that their numbers can be given to others."""
        for array in self._state.values():
            array[subjects] = 0

    def advance(self, subjects: Int64Array, times: Int64Array, values: Float64Array) -> Judged:
        """Judge each sample, then learn it, in this order: what a tick does."""
        return _advance(self._state, subjects, times, values)

    def score(self, subjects: Int64Array, times: Int64Array, values: Float64Array) -> Float64Array:
        """Return what :meth:`advance` would, for one sample of each series, without learning."""
        self._check(subjects)
        copies = {name: array[subjects] for name, array in self._state.items()}
        return _advance(copies, np.arange(len(subjects), dtype=np.int64), times, values).scores

    def learn(self, subjects: Int64Array, times: Int64Array, values: Float64Array) -> None:
        self.advance(subjects, times, values)

    def clone(self) -> Self:
        other = type(self)()
        other._state = {name: array.copy() for name, array in self._state.items()}
        return other

    def to_bytes(self) -> bytes:
        return snapshot.encode(KIND, saved(self._state))

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, path: str = "bytes") -> Self:
        detector = cls()
        detector._state = restored(snapshot.decode(KIND, data, path), path)
        return detector

    def _check(self, subjects: Int64Array) -> None:
        if len(subjects) and not (subjects.min() >= 0 and subjects.max() < self.series):
            raise Bug(f"series {subjects.min()}..{subjects.max()} judged, {self.series} are known")


def _advance(state: dict[str, npt.NDArray[Any]], subjects: Any, times: Any, values: Any) -> Judged:
    # Imported here: numba is loaded when the first sample is judged, or before that by engine.detection.warmup.
    from native.kernels.univariate import advance

    subjects = np.ascontiguousarray(subjects, np.int64)
    times = np.ascontiguousarray(times, np.int64)
    values = np.ascontiguousarray(values, np.float64)
    count = len(subjects)
    if not (len(times) == len(values) == count):
        raise Bug(f"{count} subjects, {len(times)} times and {len(values)} values judged")
    if count and not (subjects.min() >= 0 and subjects.max() < len(state["numbers"])):
        raise Bug(f"series {subjects.min()}..{subjects.max()} judged, {len(state['numbers'])} are known")
    scores = np.empty(count, np.float64)

    def judge(share: _Share) -> Float64Array:
        alarms = np.empty((min(share.end - share.start, CHUNK), layout.ALARM_COLUMNS), np.float64)
        found, scratch = np.zeros(1, np.int64), np.empty(layout.LANES, np.float64)
        parts = []
        for start in range(share.start, share.end, CHUNK):
            chunk = slice(start, min(start + CHUNK, share.end))
            advance(
                subjects[chunk],
                times[chunk],
                values[chunk],
                share.lowest,
                share.beyond,
                state["numbers"],
                state["exact"],
                state["times"],
                state["profile"],
                state["visits"],
                state["week"],
                scores[chunk],
                alarms,
                found,
                scratch,
            )
            told = alarms[: found[0]].copy()
            told[:, 0] += start
            parts.append(told)
        return np.concatenate(parts) if parts else alarms

    shares = _shares(subjects, len(state["numbers"]))
    if len(shares) == 1:
        why = judge(shares[0])
    else:
        # The kernel holds no lock of the interpreter.  Of a series all samples go to one of the two, in their order.
        with ThreadPoolExecutor(1) as other:
            rest = other.submit(judge, shares[1])
            why = np.concatenate([judge(shares[0]), rest.result()])
        why = why[np.argsort(why[:, 0])]
    at, causes = why[:, :2].astype(np.int64).T
    return Judged(scores, at, causes, why[:, 2], why[:, 3], why[:, 4])


@dataclass(frozen=True, slots=True)
class _Share:
    """What one thread judges: of the samples from ``start`` to ``end`` those of series ``lowest`` to ``beyond``."""

    start: int
    end: int
    lowest: int
    beyond: int


def _shares(subjects: Int64Array, series: int) -> list[_Share]:
    """Return what each of two threads judges, no series in both; one share for few samples, one core or one series."""
    count = len(subjects)
    whole = [_Share(0, count, 0, series)]
    if count < SHARED_SAMPLES or _cores() < 2:
        return whole
    # About as many samples on either side, judged by every hundredth.
    middle = int(np.sort(subjects[::97])[len(subjects) // 97 // 2])
    upper = subjects >= middle
    first, last = int(np.argmax(upper)), count - int(np.argmin(upper[::-1]))
    if upper.all() or not upper[first]:
        return whole
    # Of samples in order of their series each thread sees its own alone.
    return [_Share(0, last, 0, middle), _Share(first, count, middle, series)]


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
