import numpy as np
import numpy.typing as npt

from native.rollup import RollupColumns

def merge_buckets(
    series_ids: npt.NDArray[np.int64],
    times: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
    sums: npt.NDArray[np.float64],
    mins: npt.NDArray[np.float64],
    maxs: npt.NDArray[np.float64],
    firsts: npt.NDArray[np.float64],
    lasts: npt.NDArray[np.float64],
    first_times: npt.NDArray[np.int64],
    last_times: npt.NDArray[np.int64],
    width_ns: int,
) -> RollupColumns: ...
