"""``tidegauge lab``: the server's detectors and forecaster on files, with its own code and defaults."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from api.cli import WrongUse

if TYPE_CHECKING:
    import polars as pl

    from api.lab.tables import Table

_EPILOG = """example:
  tidegauge lab score cpu.parquet --output scores.parquet
  tidegauge lab score january.csv february.csv --time when --unit s --output scores.csv
  tidegauge lab score machine.parquet --train-rows 20000 --output scores.parquet
  tidegauge lab forecast disks.csv --horizon 90 --output ahead.csv

A file is a table (.parquet or .csv) with a column of times and columns of numbers.
"""
_SCORE = """Score every column of every file as a series of its own: one output row for each sample, with the columns
file, series, time, value and score (0 to 1; the server notes an anomaly from 0.5 on).

With --train-rows the columns of a file are judged together: the first N rows are known to be normal; the output has,
for each row, file, row, time where there is one, score, and what each column contributes.
"""
_FORECAST = """Forecast every column of every file: one output row for each step ahead, with the columns file, series,
step, time where there are times, mean, and the intervals lo80, hi80, lo95, hi95.

Rows are values at equal distances (the most frequent distance of the times; what is missing between is a gap), in
order. Without times a row is a day. --season is the short repetition in rows; by default a day of rows, or a week of
days.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = "Run the server's detectors and forecaster on files."
    parser.epilog = _EPILOG
    kinds = parser.add_subparsers(dest="kind", metavar="WHAT", title="what to run", required=True)
    score = kinds.add_parser(
        "score",
        help="how anomalous is each sample",
        description=_SCORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _files(score)
    score.add_argument("--train-rows", type=int, metavar="N", help="judge the columns together; N rows are normal")
    ahead = kinds.add_parser(
        "forecast",
        help="what each series will be",
        description=_FORECAST,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _files(ahead)
    ahead.add_argument("--horizon", type=int, required=True, metavar="N", help="steps ahead")
    ahead.add_argument("--season", type=int, metavar="N", help="rows of the short repetition; 1 for none")


def _files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="Parquet or CSV")
    parser.add_argument("--output", required=True, metavar="FILE", help="where to write; .parquet or .csv")
    parser.add_argument("--time", metavar="COLUMN", help="the column of times (default: time, timestamp or ts)")
    parser.add_argument("--unit", choices=("s", "ms", "us", "ns"), default="ns", help="of times that are numbers")


def run(arguments: argparse.Namespace) -> int:
    return _forecast(arguments) if arguments.kind == "forecast" else _score(arguments)


def _forecast(arguments: argparse.Namespace) -> int:
    import polars as pl

    from api.lab import tables
    from api.lab.steps import usual_season
    from tidegauge import lab

    tables.suffix_of(arguments.output)
    frames = []
    for file in arguments.files:
        table = tables.read(file, time_name=arguments.time, unit=arguments.unit).at_equal_steps()
        season = usual_season(table.step_seconds) if arguments.season is None else arguments.season
        start = None if table.times is None else int(table.times[0])
        for name, values in table.columns.items():
            found = lab.forecast(values, arguments.horizon, season=season, start=start, step_seconds=table.step_seconds)
            times = found.pop("times", None)
            columns: dict[str, object] = {
                "file": pl.Series([table.file]).new_from_index(0, arguments.horizon),
                "series": pl.Series([name]).new_from_index(0, arguments.horizon),
                "step": pl.int_range(1, arguments.horizon + 1, eager=True),
            }
            if times is not None:
                columns["time"] = pl.Series(times).cast(pl.Datetime("ns"))
            frames.append(pl.DataFrame(columns | found))
    frame = pl.concat(frames, how="diagonal")
    tables.write(frame, arguments.output)
    print(f"{len(frames)} series, {arguments.horizon} steps each: {arguments.output}", file=sys.stderr)
    return 0


def _score(arguments: argparse.Namespace) -> int:
    import polars as pl

    from api.lab import tables

    if arguments.train_rows is not None and arguments.train_rows < 1:
        raise WrongUse(f"cannot use --train-rows {arguments.train_rows}: want 1 or more")
    tables.suffix_of(arguments.output)
    frames = []
    for file in arguments.files:
        table = tables.read(file, time_name=arguments.time, unit=arguments.unit)
        frames.append(_together(table, arguments.train_rows) if arguments.train_rows else _each(table))
    frame = pl.concat(frames, how="diagonal")
    tables.write(frame, arguments.output)
    alarms = int((frame["score"] >= 0.5).sum())
    print(f"{frame.height} rows, {alarms} of them 0.5 or more: {arguments.output}", file=sys.stderr)
    return 0


def _each(table: Table) -> pl.DataFrame:
    import polars as pl

    from engine.errors import BadRequest
    from tidegauge import lab

    if table.times is None:
        raise BadRequest(f"cannot score {table.file}: it has no column of times; name it with --time")
    return pl.concat(
        [
            pl.DataFrame(
                {
                    "file": pl.Series([table.file]).new_from_index(0, len(values)),
                    "series": pl.Series([name]).new_from_index(0, len(values)),
                    "time": pl.Series(table.times).cast(pl.Datetime("ns")),
                    "value": values,
                    "score": lab.score_series(table.times, values),
                }
            )
            for name, values in table.columns.items()
        ]
    )


def _together(table: Table, train_rows: int) -> pl.DataFrame:
    import numpy as np
    import polars as pl

    from tidegauge import lab

    values = np.column_stack(list(table.columns.values()))
    score, contribution = lab.score_matrix(values, train_rows, table.times)
    rows = len(values)
    columns: dict[str, object] = {
        "file": pl.Series([table.file]).new_from_index(0, rows),
        "row": np.arange(rows, dtype=np.int64),
    }
    if table.times is not None:
        columns["time"] = pl.Series(table.times).cast(pl.Datetime("ns"))
    columns["score"] = score
    columns |= {f"contribution_{name}": contribution[:, index] for index, name in enumerate(table.columns)}
    return pl.DataFrame(columns)
