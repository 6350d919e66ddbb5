"""What a rule remembers between two ticks: one row for each series that is not simply quiet.

A :class:`RuleState` is an immutable structure of arrays, in ascending order of tag set.  A series without a
row is inactive and may notify at once; so a rule over a million healthy series remembers nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Int8Array = npt.NDArray[np.int8]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

INACTIVE = 0
PENDING = 1
FIRING = 2
# Still firing: the condition has cleared, but for less than the rule's keep_firing.
CLEARING = 3

_DTYPES: dict[str, Any] = {
    "tagset_ids": np.int32,
    "states": np.int8,
    "since_ns": np.int64,
    "seen_ns": np.int64,
    "values": np.float64,
    "cleared_ns": np.int64,
    "quiet_until_ns": np.int64,
    "notified": np.bool_,
    "stale": np.bool_,
}


@dataclass(frozen=True, slots=True)
class RuleState:
    """n series that are pending, firing or in the cooldown after their last alert.

    ``tagset_ids`` int32[n], ascending and distinct.  ``states`` int8[n]: INACTIVE (in cooldown), PENDING,
    FIRING or CLEARING.  ``since_ns`` int64[n]: time of the first sample of the present breach.  ``seen_ns``
    int64[n]: time of the newest sample with a value.  ``values`` float64[n]: that value.  ``cleared_ns``
    int64[n]: while CLEARING, time of the first sample that no longer held the condition.  ``quiet_until_ns``
    int64[n]: a firing before this time does not notify.  ``notified`` bool[n]: the present firing has been
    notified.  ``stale`` bool[n]: firing, but without data for too long.
    """

    tagset_ids: Int32Array
    states: Int8Array
    since_ns: Int64Array
    seen_ns: Int64Array
    values: Float64Array
    cleared_ns: Int64Array
    quiet_until_ns: Int64Array
    notified: BoolArray
    stale: BoolArray

    def __len__(self) -> int:
        return len(self.tagset_ids)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RuleState):
            return NotImplemented
        return all(
            np.array_equal(getattr(self, field.name), getattr(other, field.name), equal_nan=field.name == "values")
            for field in fields(self)
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def open_count(self) -> int:
        """How many series have an open alert, pending or firing."""
        return int(np.count_nonzero(self.states))

    def closed(self, tagset_id: int, quiet_until_ns: int) -> RuleState:
        """Return the state in which this series has no open alert, and at least this cooldown."""
        row = self.tagset_ids == tagset_id
        return replace(
            self,
            states=np.where(row, np.int8(INACTIVE), self.states),
            quiet_until_ns=np.where(row, np.maximum(quiet_until_ns, self.quiet_until_ns), self.quiet_until_ns),
            notified=self.notified & ~row,
            stale=self.stale & ~row,
        )

    def unquieted(self, tagset_ids: Sequence[int]) -> RuleState:
        """Return the state in which these series are in no cooldown."""
        quiet_until_ns = np.where(np.isin(self.tagset_ids, tagset_ids), np.int64(0), self.quiet_until_ns)
        return replace(self, quiet_until_ns=quiet_until_ns)

    def where(self, kept: BoolArray) -> RuleState:
        """Return the rows that ``kept``, bool[n], marks."""
        return RuleState(*(getattr(self, name)[kept] for name in _DTYPES))

    def spread(self, places: Int64Array, tagset_ids: Int32Array) -> RuleState:
        """Return a state of ``tagset_ids``: these rows at ``places``, int64[n], inactive ones between."""
        columns: list[Any] = [tagset_ids]
        for name, dtype in list(_DTYPES.items())[1:]:
            column = np.zeros(len(tagset_ids), dtype=dtype)
            column[places] = getattr(self, name)
            columns.append(column)
        return RuleState(*columns)


def state_of_rows(rows: Sequence[dict[str, Any]]) -> RuleState:
    """Return the state with these rows, in any order; a row has the singular or plural key of each array."""
    ordered = sorted(rows, key=lambda row: int(row["tagset_ids"]))
    return RuleState(*(np.array([row[name] for row in ordered], dtype=dtype) for name, dtype in _DTYPES.items()))


def row_of_state(tagset_id: int, seen_ns: int, **columns: Any) -> dict[str, Any]:
    """Return a row for :func:`state_of_rows`: ``columns``, and what an inactive series has in the others."""
    return {
        "tagset_ids": tagset_id,
        "states": INACTIVE,
        "since_ns": 0,
        "seen_ns": seen_ns,
        "values": math.nan,
        "cleared_ns": 0,
        "quiet_until_ns": 0,
        "notified": False,
        "stale": False,
    } | columns


EMPTY_STATE = state_of_rows(())
