from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

VALUE_NAMES: tuple[str, ...]

class WideColumns:
    tagset_ids: npt.NDArray[np.int32]
    times: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    first_times: npt.NDArray[np.int64]
    last_times: npt.NDArray[np.int64]
    sums: npt.NDArray[np.float64]
    mins: npt.NDArray[np.float64]
    maxs: npt.NDArray[np.float64]
    firsts: npt.NDArray[np.float64]
    lasts: npt.NDArray[np.float64]
    increases: npt.NDArray[np.float64]
    def __len__(self) -> int: ...

class _Wide(Protocol):
    @property
    def tagset_ids(self) -> npt.NDArray[np.int32]: ...
    @property
    def times(self) -> npt.NDArray[np.int64]: ...
    @property
    def counts(self) -> npt.NDArray[np.int64]: ...
    @property
    def sums(self) -> npt.NDArray[np.float64]: ...

def aggregate_rows(
    tagset_ids: npt.NDArray[np.int32],
    times: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    width_ns: int,
    counters: Sequence[int] = (),
) -> WideColumns: ...
def aggregate_parts(
    parts: Sequence[tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.float64]]],
    lines: Sequence[Sequence[int]],
    tagset_ids: npt.NDArray[np.int32],
    buckets: npt.NDArray[np.int64],
    width_ns: int,
    counters: Sequence[int] = (),
) -> tuple[WideColumns, npt.NDArray[np.int32]]: ...
def merge_rows(columns: _Wide, width_ns: int, counters: Sequence[int] = ()) -> WideColumns: ...
