import numpy as np
import numpy.typing as npt

COLUMN_DTYPES: dict[str, type[np.int64] | type[np.float64]]

class RollupColumns:
    series_ids: npt.NDArray[np.int64]
    times: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    sums: npt.NDArray[np.float64]
    mins: npt.NDArray[np.float64]
    maxs: npt.NDArray[np.float64]
    firsts: npt.NDArray[np.float64]
    lasts: npt.NDArray[np.float64]
    first_times: npt.NDArray[np.int64]
    last_times: npt.NDArray[np.int64]
    def __len__(self) -> int: ...

class BucketColumns(RollupColumns):
    increases: npt.NDArray[np.float64]

def aggregate(
    tagset_ids: npt.NDArray[np.int32],
    times: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    field_ids: npt.NDArray[np.int32],
    width_ns: int,
    origin_ns: int = 0,
) -> BucketColumns: ...
def touched_buckets(
    tagset_ids: npt.NDArray[np.int32], times: npt.NDArray[np.int64], width_ns: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]: ...
def select_buckets(
    row_tagset_ids: npt.NDArray[np.int32],
    row_times: npt.NDArray[np.int64],
    width_ns: int,
    tagset_ids: npt.NDArray[np.int32],
    buckets: npt.NDArray[np.int64],
) -> npt.NDArray[np.bool_]: ...
