import numpy as np
import numpy.typing as npt

def split_late(
    tagset_ids: npt.NDArray[np.int32], times: npt.NDArray[np.int64], last_times: npt.NDArray[np.int64]
) -> tuple[int, npt.NDArray[np.bool_] | None]: ...
def newest_rows(
    tagset_ids: npt.NDArray[np.int32], times: npt.NDArray[np.int64], marks: npt.NDArray[np.int32]
) -> npt.NDArray[np.int64]: ...
def touched_rows(
    tagset_ids: npt.NDArray[np.int32], times: npt.NDArray[np.int64], bucket_ns: int, told: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]: ...
def update_latest(
    tagset_ids: npt.NDArray[np.int32],
    times: npt.NDArray[np.int64],
    column: npt.NDArray[np.float64],
    latest_times: npt.NDArray[np.int64],
    latest_values: npt.NDArray[np.float64],
) -> None: ...
def find_places(
    tagset_ids: npt.NDArray[np.int32], directory: npt.NDArray[np.int32], pages: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int32], int]: ...
