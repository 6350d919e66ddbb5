import numpy as np
import numpy.typing as npt

from native.catalogue import Catalogue

#: Every cause that ``refused_by_cause`` may hold.
CAUSES: tuple[str, ...]

class DecodedSamples:
    tagset_ids: npt.NDArray[np.int32]
    times: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    refused_by_cause: dict[str, int]
    refusals: list[tuple[int, str, str]]
    dropped: int

class PooledRows:
    def __init__(
        self, catalogue: Catalogue, *, max_tagsets: int, max_refusals: int, max_key_bytes: int, max_key_text: int = ...
    ) -> None: ...
    @property
    def key_bytes(self) -> int: ...
