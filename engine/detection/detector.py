"""What every detector can do: judge first, learn after (held by ``tests/engine/detection/test_contract.py``)."""

from __future__ import annotations

from typing import Any, Protocol, Self

from engine.model.rows import Float64Array

#: From here on a score is worth a person's look.
ALARM_SCORE = 0.5


class Detector(Protocol):
    """Judges samples of what it watches, in [0, 1]; higher is stranger, always.

    ``samples`` are the detector's own: subjects int64[n], times int64[n] (ns) and values float64[n] of the univariate
    one, times int64[n] and rows float64[n, k] of the multivariate one.  The score of a sample depends on samples
    learned before and on itself, never on a later one.  Missing, infinite and absurd values are answered, not raised.
    Nothing is random: the same samples give the same scores.
    """

    def score(self, *samples: Any) -> Float64Array:
        """Return a score for each sample, given what has been learned; learns nothing."""

    def learn(self, *samples: Any) -> None:
        """Learn the samples, in this order."""

    def clone(self) -> Self:
        """Return an independent detector that knows the same."""

    def to_bytes(self) -> bytes:
        """Return all that it knows (docs/formats/detectors.md)."""

    @classmethod
    def from_bytes(cls, data: Any, path: str = "bytes") -> Self:
        """Return the detector that was saved; raises Damage, naming ``path``, for anything else."""
