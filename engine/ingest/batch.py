"""What a decoder hands to the committer, and what the writer is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.catalog.catalog import Mark
from engine.model.rows import Rows

#: Cause of a refusal -> what it means; the keys are the ``cause`` label of the refusal counter in /metrics.
CAUSES: Mapping[str, str] = {
    "malformed": "the line, object or column cannot be read",
    "not_utf8": "a name or a tag is not UTF-8",
    "not_finite": "a value is NaN or infinite where the protocol does not allow it",
    "reserved_nan": "the value is the one NaN bit pattern that stands for 'no sample' here",
    "histogram": "a native histogram; only float samples are stored",
    "string_field": "a field holds text; fields are numbers, text belongs in tags",
    "unsupported_field": "a field holds something that is neither a number nor a boolean",
    "duplicate_tag": "a tag key occurs twice",
    "no_field": "nothing is left to store in this row",
    "too_old": "the time is before the raw retention of its table",
    "too_far_in_future": "the time is further ahead of this server's clock than is allowed",
    "tag_set_limit": "as many tag sets are in use as may be, and this one is new",
    "table_tag_set_limit": "as many tag sets of this table are in use as may be, and this one is new",
    "tag_set_rate_limit": "as many tag sets have become known within an hour as may, and this one is new",
    "table_limit": "the limit on tables is reached, and this one is new",
    "field_limit": "the limit on fields of a table is reached, and this one is new",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refused line, row or field.  ``position`` counts from 1: a line, or an element of a batch."""

    position: int
    cause: str
    message: str
    original: str = ""


@dataclass(slots=True)
class Batch:
    """Admitted rows by table, in order of arrival, with everything that was not admitted."""

    tables: list[tuple[int, Rows]]
    rows: int = 0
    samples: int = 0
    rounded: int = 0
    dropped: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    until: Mark = (0, 0, 0)

    def refuse(self, refusal: Refusal, *, keep: int, times: int = 1) -> None:
        """Count a refusal and remember it while fewer than ``keep`` are remembered."""
        self.refused[refusal.cause] = self.refused.get(refusal.cause, 0) + times
        if len(self.refusals) < keep:
            self.refusals.append(refusal)


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What became of one write.  When it is handed out, the accepted rows are on disk and visible to every query.

    ``sequence`` is the log record's number, 0 when nothing was accepted; ``rounded`` counts integers that float64
    cannot hold exactly and that were stored as the nearest value; ``dropped`` counts exemplars and metadata that came
    along and are not stored.
    """

    rows: int
    samples: int
    rounded: int
    refused: Mapping[str, int]
    refusals: tuple[Refusal, ...]
    sequence: int
    dropped: int = 0

    @property
    def refused_count(self) -> int:
        return sum(self.refused.values())
