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
  tidegauge lab causes incident.parquet --start 2026-11-26T10:00:00Z --call 'web>shop' --output causes.csv
  tidegauge lab forecast disks.csv --horizon 90 --output ahead.csv
  tidegauge lab scale fleet.csv --max 40 --output decisions.csv

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
_CAUSES = """Rank the services of an incident, and with --metrics their metrics. Columns are called service/metric.

Rows are abnormal from --start or after the first --normal-rows; or all of FILE are, beside the table --normal. The
output has one row for each service: rank, service, suspicion (orders, has no unit), first_row and first_time (when its
metrics first deviate; empty for none), reason, metrics (what speaks for it, strongest first).
"""
_SCALE = """Decide for each row of each file how many instances there should be, as /v1/scale does with its default
signals: one output row for each row, with the columns file, row, time, desired, recommended, action, reason and
limited_by.

A file has a time and any of the columns cpu, memory (%), response_time (s), queue, error_rate (0 to 1), request_rate
(a second), ready (instances that serve) and target (the number asked for, of the first row). Rows are in order of time.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = "Run the server's detectors and forecaster on files."
    parser.epilog = _EPILOG
    kinds = parser.add_subparsers(dest="kind", metavar="WHAT", title="what to run", required=True)

    def kind(name: str, what: str, description: str) -> argparse.ArgumentParser:
        formatter = argparse.RawDescriptionHelpFormatter
        return kinds.add_parser(name, help=what, description=description, formatter_class=formatter, allow_abbrev=False)

    score = kind("score", "how anomalous is each sample", _SCORE)
    _files(score)
    score.add_argument("--train-rows", type=int, metavar="N", help="judge the columns together; N rows are normal")
    causes = kind("causes", "which service an incident comes from", _CAUSES)
    _files(causes, one=True)
    when = causes.add_mutually_exclusive_group(required=True)
    when.add_argument("--start", metavar="TIME", help="rows from this time on are abnormal (RFC 3339 or epoch)")
    when.add_argument("--normal-rows", type=int, metavar="N", help="the first N rows are normal, the others abnormal")
    when.add_argument("--normal", metavar="FILE", help="a table of normal rows; all of FILE is abnormal")
    causes.add_argument("--entry", metavar="COLUMN", help="the column in which the symptom is seen")
    causes.add_argument("--graph", metavar="FILE", help='JSON: [["caller", "callee"], …]')
    causes.add_argument(
        "--call", action="append", default=[], metavar="CALLER>CALLEE", help="one call; may be repeated"
    )
    causes.add_argument(
        "--change", action="append", default=[], metavar="SERVICE=TIME", help="a service was changed; may be repeated"
    )
    causes.add_argument("--metrics", action="store_true", help="rank columns instead: rank, column")
    ahead = kind("forecast", "what each series will be", _FORECAST)
    _files(ahead)
    ahead.add_argument("--horizon", type=int, required=True, metavar="N", help="steps ahead")
    ahead.add_argument("--season", type=int, metavar="N", help="rows of the short repetition; 1 for none")
    scale = kind("scale", "how many instances there should have been", _SCALE)
    _files(scale)
    scale.add_argument("--min", type=int, metavar="N", help="fewest instances (default 2)")
    scale.add_argument("--max", type=int, metavar="N", help="most instances (default 20)")


def _files(parser: argparse.ArgumentParser, *, one: bool = False) -> None:
    parser.add_argument("files", nargs=1 if one else "+", metavar="FILE", help="Parquet or CSV")
    parser.add_argument("--output", required=True, metavar="FILE", help="where to write; .parquet or .csv")
    parser.add_argument("--time", metavar="COLUMN", help="the column of times (default: time, timestamp or ts)")
    parser.add_argument("--unit", choices=("s", "ms", "us", "ns"), default="ns", help="of times that are numbers")


def run(arguments: argparse.Namespace) -> int:
    kinds = {"score": _score, "causes": _causes, "forecast": _forecast, "scale": _scale}
    return kinds[arguments.kind](arguments)


def _causes(arguments: argparse.Namespace) -> int:
    import polars as pl

    from api.lab import incident, tables
    from engine.errors import BadRequest
    from tidegauge import lab

    if arguments.normal_rows is not None and arguments.normal_rows < 1:
        raise WrongUse(f"cannot use --normal-rows {arguments.normal_rows}: want 1 or more")
    tables.suffix_of(arguments.output)
    given = {"time_name": arguments.time, "unit": arguments.unit}
    table = tables.read(arguments.files[0], **given)
    found = incident.split(
        table,
        normal=None if arguments.normal is None else tables.read(arguments.normal, **given),
        normal_rows=arguments.normal_rows,
        start=arguments.start,
    )
    if arguments.entry is not None and arguments.entry not in table.columns:
        raise BadRequest(f"cannot use --entry {arguments.entry!r}: {table.file} has no such column of numbers")
    ranking = lab.rank_causes(
        found.columns,
        found.normal,
        found.abnormal,
        entry=arguments.entry,
        graph=incident.graph_of(arguments.graph, arguments.call),
        changes=incident.changes_of(arguments.change, found.times),
        step_seconds=found.step_seconds,
    )
    if arguments.metrics:
        frame = pl.DataFrame({"rank": range(1, len(ranking.metrics) + 1), "column": ranking.metrics})
    else:
        causes = ranking.causes
        rows = [None if cause.first_row < 0 else cause.first_row for cause in causes]
        columns: dict[str, object] = {
            "rank": range(1, len(causes) + 1),
            "service": [cause.service for cause in causes],
            "suspicion": [cause.suspicion for cause in causes],
            "first_row": pl.Series(rows, dtype=pl.Int64),
        }
        if found.times is not None:
            times = [None if row is None else int(found.times[row]) for row in rows]
            columns["first_time"] = pl.Series(times, dtype=pl.Int64).cast(pl.Datetime("ns"))
        columns["reason"] = [cause.reason for cause in causes]
        columns["metrics"] = ["; ".join(cause.metrics) for cause in causes]
        frame = pl.DataFrame(columns)
    tables.write(frame, arguments.output)
    print(f"{len(ranking.services)} services, first {ranking.services[0]}: {arguments.output}", file=sys.stderr)
    return 0


def _scale(arguments: argparse.Namespace) -> int:
    import polars as pl

    from api.lab import tables
    from api.lab.replay import decisions

    limits = {"min_instances": arguments.min, "max_instances": arguments.max}
    given = {name: value for name, value in limits.items() if value is not None}
    tables.suffix_of(arguments.output)
    frames = [
        decisions(tables.read(file, time_name=arguments.time, unit=arguments.unit), given) for file in arguments.files
    ]
    frame = pl.concat(frames)
    tables.write(frame, arguments.output)
    changes = int((frame["action"] != "hold").sum())
    print(f"{frame.height} rows, {changes} changes: {arguments.output}", file=sys.stderr)
    return 0


def _forecast(arguments: argparse.Namespace) -> int:
    import polars as pl

    from api.lab import tables
    from engine.forecasting.seasons import usual_season
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
