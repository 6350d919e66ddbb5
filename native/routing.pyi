import numpy as np
import numpy.typing as npt

def classify_runs(
    values: npt.NDArray[np.float64], starts: npt.NDArray[np.int64], max_decimals: int, max_levels: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int32], npt.NDArray[np.float64]]: ...
