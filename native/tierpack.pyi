import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

def pack_integers(values: npt.NDArray[np.int64], starts: npt.NDArray[np.uint8] | None = None) -> bytes: ...
def unpack_integers(
    data: Buffer, offset: int, out: npt.NDArray[np.int64], starts: npt.NDArray[np.uint8] | None = None
) -> int: ...
def pack_values(
    counts: npt.NDArray[np.int64],
    sums: npt.NDArray[np.float64],
    mins: npt.NDArray[np.float64],
    maxs: npt.NDArray[np.float64],
    firsts: npt.NDArray[np.float64],
    lasts: npt.NDArray[np.float64],
    starts: npt.NDArray[np.uint8],
) -> bytes: ...
def unpack_values(
    data: Buffer,
    offset: int,
    counts: npt.NDArray[np.int64],
    starts: npt.NDArray[np.uint8],
    sums: npt.NDArray[np.float64],
    mins: npt.NDArray[np.float64],
    maxs: npt.NDArray[np.float64],
    firsts: npt.NDArray[np.float64],
    lasts: npt.NDArray[np.float64],
) -> int: ...
