from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

AGGREGATES: dict[str, int]
MERGED: frozenset[str]
TOO_MANY: int
GUARDED: int

class BucketGrid:
    samples: int
    newest_ns: int
    def __init__(
        self,
        aggregate: str,
        tagset_ids: npt.NDArray[np.int32],
        slots: npt.NDArray[np.int32],
        slot_count: int,
        fields: int,
        start_ns: int,
        end_ns: int,
        width_ns: int,
    ) -> None: ...
    @staticmethod
    def size(fields: int, slot_count: int, start_ns: int, end_ns: int, width_ns: int) -> int: ...
    def use(self, columns: Sequence[npt.NDArray[np.float64] | None]) -> None: ...
    def use_matrix(self, values: npt.NDArray[np.float64], places: Sequence[int]) -> None: ...
    def guard(self, tagset_ids: npt.NDArray[np.int32], times: npt.NDArray[np.int64]) -> None: ...
    def take(
        self,
        tagset_ids: npt.NDArray[np.int32],
        times: npt.NDArray[np.int64],
        first: int,
        start_ns: int,
        end_ns: int,
        in_order: bool,
        most: int,
    ) -> int: ...
    def take_indexed(
        self,
        sorted_ids: npt.NDArray[np.int32],
        order: npt.NDArray[np.int32],
        times: npt.NDArray[np.int64],
        start_ns: int,
        end_ns: int,
        most: int,
    ) -> int: ...
    def present(self) -> list[bool]: ...
    def lines(
        self,
    ) -> tuple[
        list[tuple[int, int, int, int]],
        npt.NDArray[np.int64],
        npt.NDArray[np.float64],
        npt.NDArray[np.int64] | None,
    ]: ...
