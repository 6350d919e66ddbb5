import numpy as np
import numpy.typing as npt

HOWS: dict[str, int]

def locate_cells(
    tagset_ids: npt.NDArray[np.int32],
    times: npt.NDArray[np.int64],
    places: npt.NDArray[np.int32],
    lowest: int,
    ranges: npt.NDArray[np.int64],
    origin_ns: int,
    step_ns: int,
    steps: int,
) -> npt.NDArray[np.int32]: ...
def locate_in_order(
    tagset_ids: npt.NDArray[np.int32],
    times: npt.NDArray[np.int64],
    places: npt.NDArray[np.int32],
    lowest: int,
    start_ns: int,
    end_ns: int,
    origin_ns: int,
    step_ns: int,
    steps: int,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]: ...
def fold_rows(
    cells: npt.NDArray[np.int32],
    times: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    how: str,
    counts: npt.NDArray[np.int64],
    folded: npt.NDArray[np.float64],
) -> tuple[int, int]: ...
def fold_buckets(
    cells: npt.NDArray[np.int32],
    row_counts: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    how: str,
    counts: npt.NDArray[np.int64],
    folded: npt.NDArray[np.float64],
    last_times: npt.NDArray[np.int64] | None = None,
) -> int: ...
