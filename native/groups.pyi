import numpy as np
import numpy.typing as npt

HOWS: dict[str, int]

def aggregate_groups(
    values: npt.NDArray[np.float64],
    times: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int32],
    group_count: int,
    how: str,
    oldest_ns: int,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]: ...
