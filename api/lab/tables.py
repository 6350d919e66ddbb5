"""Tables in files, as the calls of ``tidegauge.lab`` want them: a time column and columns of numbers."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import polars as pl

from engine.errors import BadRequest
from engine.forecasting.grid import places
from engine.forecasting.seasons import DAY_SECONDS
from engine.model.rows import Float64Array, Int64Array

TIME_NAMES = ("time", "timestamp", "ts")
SUFFIXES = (".parquet", ".csv")
UNITS_NS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of one file: ``time_name`` None where there is no time; ``times`` int64[n] (ns); columns float64[n]."""

    file: str
    time_name: str | None
    times: Int64Array | None
    columns: dict[str, Float64Array]

    def at_equal_steps(self) -> EvenTable:
        """Return the rows as values at equal distances, NaN where one is missing; without times a row is a day.

        Raises BadRequest for times that do not rise, or do not lie on one grid.
        """
        if self.times is None:
            return EvenTable(self.file, None, DAY_SECONDS, self.columns)
        step_ns, rows = places(self.times, self.file)
        columns = {}
        for name, values in self.columns.items():
            columns[name] = np.full(int(rows[-1]) + 1, np.nan)
            columns[name][rows] = values
        times = self.times[0] + step_ns * np.arange(int(rows[-1]) + 1, dtype=np.int64)
        return EvenTable(self.file, times, step_ns / 1e9, columns)


@dataclass(frozen=True, slots=True)
class EvenTable:
    """Rows ``step_seconds`` apart: ``times`` int64[n] (ns) or None; columns float64[n], NaN where one is missing."""

    file: str
    times: Int64Array | None
    step_seconds: float
    columns: dict[str, Float64Array]


def read(file: str, *, time_name: str | None = None, unit: str = "ns") -> Table:
    """Read a Parquet or CSV file; raises BadRequest where that cannot be.

    ``time_name``: the column that holds the time, by default the first of :data:`TIME_NAMES` that is there.  Times may
    be timestamps, text that reads as such, or numbers of ``unit``.  Columns that hold neither numbers nor truth values
    are left out; a missing value is NaN.
    """
    suffix = suffix_of(file)
    try:
        frame = pl.read_parquet(file) if suffix == ".parquet" else pl.read_csv(file, infer_schema_length=None)
    except FileNotFoundError:
        raise BadRequest(f"cannot read {file}: there is no such file") from None
    except (OSError, pl.exceptions.PolarsError) as error:
        raise BadRequest(f"cannot read {file}: {str(error).splitlines()[0]}") from None
    if time_name is not None and time_name not in frame.columns:
        raise BadRequest(f"cannot read {file}: it has no column {time_name!r}; it has {', '.join(frame.columns)}")
    name = time_name or next((name for name in TIME_NAMES if name in frame.columns), None)
    times = None if name is None else _times(frame[name], file, unit)
    columns = {
        column.name: column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
        for column in frame.iter_columns()
        if column.name != name and (column.dtype.is_numeric() or column.dtype == pl.Boolean)
    }
    if not columns:
        raise BadRequest(f"cannot read {file}: it has no column of numbers")
    return Table(file, name, times, columns)


def write(frame: pl.DataFrame, file: str) -> None:
    """Write a table by the suffix of ``file``; the file appears whole or not at all."""
    suffix = suffix_of(file)
    partial = f"{file}.partial"
    try:
        if suffix == ".parquet":
            frame.write_parquet(partial)
        else:
            frame.write_csv(partial)
        os.replace(partial, file)
    except OSError as error:
        raise BadRequest(f"cannot write {file}: {error.strerror or error}") from None


def suffix_of(file: str) -> str:
    suffix = os.path.splitext(file)[1].lower()
    if suffix not in SUFFIXES:
        raise BadRequest(f"cannot use {file}: want a name that ends in {' or '.join(SUFFIXES)}")
    return suffix


def _times(column: pl.Series, file: str, unit: str) -> Int64Array:
    if column.dtype == pl.String:
        column = column.str.to_datetime(time_unit="ns", strict=False, time_zone="UTC")
    if column.null_count():
        row = int(column.is_null().arg_max() or 0)
        raise BadRequest(f"cannot read {file}: no time in row {row + 1} of column {column.name!r}")
    if column.dtype.is_temporal():
        return column.cast(pl.Datetime("ns")).to_physical().to_numpy().astype(np.int64)
    if not column.dtype.is_numeric():
        raise BadRequest(f"cannot read {file}: column {column.name!r} holds no times")
    return (column.to_numpy() * UNITS_NS[unit]).astype(np.int64)
