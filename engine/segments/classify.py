"""How a field is stored: its kind, width and encoding, from its cells (docs/formats/segment.md, "Encodings").

Kinds are exact: every cell is looked at.  Encodings are chosen by a sample.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.model.rows import Float64Array, Int64Array
from engine.segments.layout import DECIMAL_PREFIX, DOUBLE, INTEGER, MAX_DECIMALS
from native.columns import decimals_of, is_absent, scale_to_int64

DELTA = "DELTA_BINARY_PACKED"
SPLIT = "BYTE_STREAM_SPLIT"
PLAIN = "PLAIN"
DICTIONARY = "dictionary"

# A column is sampled in a few contiguous pieces: delta and LZ coding depend on neighbours, so single cells
# say nothing.
SAMPLE_PIECES = 8
SAMPLE_PIECE_ROWS = 1_024
# A dictionary is only considered when each of its values occurs about four times in the sample or more often.
MAX_SAMPLED_DISTINCT = SAMPLE_PIECES * SAMPLE_PIECE_ROWS // 4
DICTIONARY_PAGE_BYTES = 4 << 20  # past this pyarrow goes on without a dictionary
MAX_EXACT = 2**53
#: Of a field that comes in many parts, samples of every second one are dropped once there are more than this.
MAX_SAMPLED_PARTS = 64
MINIBLOCK = {
    32: 32,
    64: 64,
}  # values that share a bit width in pyarrow's DELTA_BINARY_PACKED, by physical type


@dataclass(frozen=True, slots=True)
class ColumnPlan:
    """How one field is stored: ``kind`` as in FieldColumn, physical ``bits`` (32 or 64), Parquet
    ``encoding``.
    """

    kind: str
    decimals: int
    bits: int
    encoding: str

    def holds(self, values: Float64Array) -> npt.NDArray[np.bool_]:
        """Return which cells the column can hold bit for bit."""
        if self.kind == DOUBLE:
            return np.ones(len(values), np.bool_)
        largest = MAX_EXACT if self.bits == 64 else 10**9 - 1 if self.decimals else 2**31 - 1
        with np.errstate(invalid="ignore", over="ignore"):
            scaled = np.rint(values * 10.0**self.decimals)
            back = np.ascontiguousarray(scaled / 10.0**self.decimals)
        # Adding 0.0 turns the -0.0 that rounding makes of small numbers into what an integer column gives back.
        fits: npt.NDArray[np.bool_] = (np.abs(scaled) <= largest) & (
            (back + 0.0).view(np.uint64) == np.ascontiguousarray(values).view(np.uint64)
        )
        return fits

    @property
    def arrow_type(self) -> pa.DataType:
        if self.kind == DOUBLE:
            return pa.float64()
        if self.kind == INTEGER:
            return pa.int32() if self.bits == 32 else pa.int64()
        return pa.decimal32(9, self.decimals) if self.bits == 32 else pa.decimal64(18, self.decimals)


def plan_column(values: Float64Array) -> ColumnPlan | None:
    """Return how a field is stored, or None when every cell is absent.

    Integers and decimals are 32 bits wide where all of them fit: pyarrow's delta encoding then takes smaller
    blocks.
    """
    survey = ColumnSurvey()
    survey.add(values)
    return survey.plan()


@dataclass(slots=True)
class ColumnSurvey:
    """What must be known of a field before its first cell is written; its cells may come in parts.

    A short decimal of few places is one of more places too, unless it then passes 2^53; so the longest of the parts
    fits all of them.
    """

    decimals: int = 0
    low: float = np.inf
    high: float = -np.inf
    parts: list[Float64Array] = field(default_factory=list)

    def add(self, values: Float64Array) -> None:
        """Take in the next cells."""
        low, high = np.fmin.reduce(values), np.fmax.reduce(values)
        decimals = decimals_of(values, MAX_DECIMALS)
        if decimals < 0 or self.decimals < 0:
            self.decimals = -1
        elif np.isnan(low):
            return
        else:
            self.decimals = max(self.decimals, decimals)
        self.low, self.high = float(np.fmin(self.low, low)), float(np.fmax(self.high, high))
        self.parts.append(_sample(values))
        if len(self.parts) > MAX_SAMPLED_PARTS:
            self.parts = self.parts[::2]

    def plan(self) -> ColumnPlan | None:
        """Return how the field is stored, or None when every cell was absent."""
        if not self.parts:
            return None
        sample = self.parts[0] if len(self.parts) == 1 else _sample(np.concatenate(self.parts))
        scale = 10.0 ** max(0, self.decimals)
        largest = np.rint(max(abs(self.low), abs(self.high)) * scale)
        if self.decimals < 0 or not largest <= MAX_EXACT:
            return ColumnPlan(DOUBLE, 0, 64, _double_encoding(sample))
        decimals = self.decimals
        narrow = largest < 10**9 if decimals else self.low >= -(2**31) and self.high < 2**31
        bits = 32 if narrow else 64
        scaled, valid = np.empty(len(sample), np.int64), np.empty(len(sample), np.uint8)
        scale_to_int64(sample, decimals, scaled, valid)
        kind = f"{DECIMAL_PREFIX}{decimals}" if decimals else INTEGER
        return ColumnPlan(kind, decimals, bits, _integer_encoding(scaled[valid.view(np.bool_)], bits))


def _integer_encoding(sample: Int64Array, bits: int) -> str:
    """Choose between deltas and a dictionary by the bits a value each would take."""
    block = MINIBLOCK[bits]
    if len(sample) <= block:
        return DELTA
    deltas = np.diff(sample)[: (len(sample) - 1) // block * block].reshape(-1, block)
    spread = (deltas.max(axis=1) - deltas.min(axis=1)).astype(np.float64)
    delta_bits = float(np.ceil(np.log2(spread + 1)).mean())
    if delta_bits < 1.0:  # almost constant, or evenly rising: nothing beats deltas of no width
        return DELTA
    return DICTIONARY if _dictionary_bits(sample) + 0.5 < delta_bits else DELTA


def _double_encoding(sample: Float64Array) -> str:
    """Choose for values that are no short decimals: by compressing the sample, since no rule of thumb holds.

    Split bytes win on measured noise, plain ones on decimals that a NaN or a negative zero keeps from being
    stored as such, a dictionary on a few repeated levels.
    """
    cells = sample[~is_absent(sample)]
    if not len(cells):
        return SPLIT
    codec = pa.Codec("zstd", compression_level=1)
    as_bytes = np.ascontiguousarray(cells).view(np.uint8)
    sizes = {
        SPLIT: 8.0 * codec.compress(np.ascontiguousarray(as_bytes.reshape(-1, 8).T), asbytes=False).size / len(cells),
        PLAIN: 8.0 * codec.compress(as_bytes, asbytes=False).size / len(cells),
        DICTIONARY: _dictionary_bits(cells.view(np.int64)) + 0.5,
    }
    return min(sizes, key=lambda encoding: (sizes[encoding], encoding != SPLIT))


def _dictionary_bits(sample: Int64Array) -> float:
    """Return about how many bits a value takes with a dictionary: the entropy, or infinity for too many
    values.
    """
    _, counts = np.unique(sample, return_counts=True)
    if len(counts) > MAX_SAMPLED_DISTINCT:
        return float("inf")
    share = counts / len(sample)
    return float(-(share * np.log2(share)).sum())


def _sample(values: Float64Array) -> Float64Array:
    """Return the column, or some contiguous pieces that are spread over it."""
    if len(values) <= SAMPLE_PIECES * SAMPLE_PIECE_ROWS:
        return values
    begins = np.linspace(0, len(values) - SAMPLE_PIECE_ROWS, SAMPLE_PIECES).astype(np.int64)
    return np.concatenate([values[begin : begin + SAMPLE_PIECE_ROWS] for begin in begins.tolist()])
