"""What every detector can do: judge first, learn after (held by ``tests/engine/detection/test_contract.py``)."""

from __future__ import annotations

from typing import Any, Protocol, Self

from engine.model.rows import Float64Array, Int64Array

#: From here on a score is worth a person's look.
ALARM_SCORE = 0.5


class Detector(Protocol):
    """Judges samples of what it watches, in [0, 1]; higher is stranger, always.

    The score of a sample depends on samples learned before and on itself, never on a later one.  Missing, infinite
    and absurd values are answered, not raised.  No randomness: the same samples give the same scores.
    """

    def score(self, subjects: Int64Array, times: Int64Array, values: Float64Array) -> Float64Array:
        """Return a score for each sample, given what has been learned; learns nothing.

        ``subjects`` int64[n] says what each sample is of; ``times`` int64[n] is ns since 1970.
        """

    def learn(self, subjects: Int64Array, times: Int64Array, values: Float64Array) -> None:
        """Learn the samples, in this order."""

    def clone(self) -> Self:
        """Return an independent detector that knows the same."""

    def to_bytes(self) -> bytes:
        """Return all that it knows (docs/formats/detectors.md)."""

    @classmethod
    def from_bytes(cls, data: Any, path: str = "bytes") -> Self:
        """Return the detector that was saved; raises Damage, naming ``path``, for anything else."""
