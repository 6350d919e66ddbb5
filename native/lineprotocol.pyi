import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

from native.catalogue import Catalogue

#: Every cause that ``refused_by_cause`` may hold.
CAUSES: tuple[str, ...]

class DecodedTable:
    table_id: int
    tagset_ids: npt.NDArray[np.int32]
    times: npt.NDArray[np.int64]
    line_numbers: npt.NDArray[np.int32]
    field_ids: tuple[int, ...]
    values: npt.NDArray[np.float64]

class DecodedLines:
    tables: list[DecodedTable]
    lines: int
    samples: int
    rounded: int
    refused_by_cause: dict[str, int]
    refusals: list[tuple[int, str, str, bytes]]

class LineDecoder:
    def __init__(
        self,
        catalogue: Catalogue,
        *,
        max_tagsets: int,
        max_tables: int,
        max_fields: int,
        max_refusals: int,
        max_key_text: int = ...,
    ) -> None: ...
    @property
    def key_bytes(self) -> int: ...
    def decode(
        self,
        body: Buffer,
        *,
        precision_ns: int,
        default_time_ns: int,
        min_time_ns: int,
        max_time_ns: int,
    ) -> DecodedLines: ...
