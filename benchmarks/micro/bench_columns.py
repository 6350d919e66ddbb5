"""native.columns: packing and unpacking one column of 10,000 rows, one of 10, and a whole table.

Best case: a constant or regular column.  Ordinary: integers below 100, two decimals.  Worst: a column of integers
whose last cell is none, so that everything is looked at twice; half the cells absent; times that need dividing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from native.columns import (
    ABSENT,
    pack_float64,
    pack_int64,
    pack_rows,
    unpack_float64,
    unpack_int64,
    unpack_rows,
)

Case = tuple[str, float, str, Callable[[], object]]

ROWS = 10_000
FEW_ROWS = 10
FEW_ROWS_CALLS = 1_000
FIELDS = 10
START_NS = 1_700_000_000_000_000_000
STEP_NS = 10_000_000_000


def _float_columns() -> dict[str, npt.NDArray[np.float64]]:
    random = np.random.default_rng(1)
    integers = random.integers(0, 101, ROWS).astype(np.float64)
    half_absent = integers.copy()
    half_absent[random.random(ROWS) < 0.5] = ABSENT
    late = integers.copy()
    late[-1] = 1 / 3
    return {
        "constant": np.full(ROWS, 3.0),
        "integers": integers,
        "two decimals": random.integers(0, 10_001, ROWS) / 100,
        "full doubles": random.random(ROWS),
        "half absent": half_absent,
        "last cell no decimal": late,
    }


def _int_columns() -> dict[str, npt.NDArray[np.int64]]:
    random = np.random.default_rng(2)
    return {
        "regular times": START_NS + STEP_NS * np.arange(ROWS, dtype=np.int64),
        "times of 100 hosts": START_NS + STEP_NS * np.repeat(np.arange(ROWS // 100, dtype=np.int64), 100),
        "times in no order": START_NS + random.integers(0, 10**13, ROWS),
    }


def _float_cases(name: str, column: npt.NDArray[np.float64], calls: int = 1) -> list[Case]:
    packed = pack_float64(column)
    out = np.empty_like(column)
    if unpack_float64(packed, 0, out) != len(packed) or out.tobytes() != column.tobytes():
        raise AssertionError(f"unpack_float64 does not give back the column of {name}")
    return [
        (f"pack {name}", len(column) * calls, "values", _repeat(lambda: pack_float64(column), calls)),
        (f"unpack {name}", len(column) * calls, "values", _repeat(lambda: unpack_float64(packed, 0, out), calls)),
    ]


def _int_cases(name: str, column: npt.NDArray[np.int64]) -> list[Case]:
    packed = pack_int64(column)
    out = np.empty_like(column)
    if unpack_int64(packed, 0, out) != len(packed) or not np.array_equal(out, column):
        raise AssertionError(f"unpack_int64 does not give back the column of {name}")
    return [
        (f"pack {name}", len(column), "values", lambda: pack_int64(column)),
        (f"unpack {name}", len(column), "values", lambda: unpack_int64(packed, 0, out)),
    ]


def _table_cases() -> list[Case]:
    """A batch as hosts send it: every tag set once a step, ten fields of integers."""
    tagset_ids = np.arange(ROWS, dtype=np.int32) % 1_000
    times = START_NS + STEP_NS * (np.arange(ROWS, dtype=np.int64) // 1_000)
    values = np.random.default_rng(3).integers(0, 101, (FIELDS, ROWS)).astype(np.float64)
    packed = pack_rows(tagset_ids, times, values)
    outputs = np.empty_like(tagset_ids), np.empty_like(times), np.empty_like(values)
    unpack_rows(packed, 0, *outputs)
    given = tagset_ids.tobytes() + times.tobytes() + values.tobytes()
    if outputs[0].tobytes() + outputs[1].tobytes() + outputs[2].tobytes() != given:
        raise AssertionError("unpack_rows does not give back the rows")
    samples = ROWS * FIELDS
    return [
        ("pack table", samples, "samples", lambda: pack_rows(tagset_ids, times, values)),
        ("unpack table", samples, "samples", lambda: unpack_rows(packed, 0, *outputs)),
    ]


def _repeat(action: Callable[[], object], calls: int) -> Callable[[], object]:
    if calls == 1:
        return action

    def many() -> None:
        for _ in range(calls):
            action()

    return many


def cases() -> list[Case]:
    """Return packing and unpacking of each kind of column, after checking that it comes back."""
    floats = _float_columns()
    found = [case for name, column in floats.items() for case in _float_cases(name, column)]
    found += [case for name, column in _int_columns().items() for case in _int_cases(name, column)]
    found += _float_cases(f"{FEW_ROWS} rows", floats["two decimals"][:FEW_ROWS], FEW_ROWS_CALLS)
    return found + _table_cases()
