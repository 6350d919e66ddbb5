"""Anybody's DuckDB and polars on the sealed files give what the product's own SQL gives, bit for bit."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pytest

from engine.clock import NS_PER_DAY, NS_PER_HOUR, NS_PER_SECOND, ManualClock
from engine.config import Config, Query, Retention
from engine.config_units import Duration
from engine.runtime import Engine
from tests.oracles.prometheus import series

NOW_NS = 1_700_000_000 * NS_PER_SECOND
CONFIG = Config(retention=Retention(raw=Duration.parse("30d")), query=Query(in_process=True))
FIELDS = ("whole", "cents", "noise", "mixed", "rare")
#: (host, field) -> (samples, their exactly rounded sum): fsum does not depend on the order.
Sums = dict[tuple[str, str], tuple[int, float]]


def lines(rng: np.random.Generator, start_ns: int) -> bytes:
    """Return a day's rows: integers, two decimals, doubles, a field that changes its kind, and absent cells."""
    out = []
    for step in range(300):
        for host in range(4):
            time_ns = start_ns + step * 60 * NS_PER_SECOND
            cells = {
                "whole": str(int(rng.integers(-(2**40), 2**40))),
                "cents": f"{rng.integers(0, 10_000_000) / 100}",
                "noise": repr(float(rng.normal() * 1e9)),
                "mixed": str(int(rng.integers(0, 50))) if start_ns < NOW_NS - 2 * NS_PER_DAY else f"{rng.random():.4f}",
            }
            if rng.random() < 0.1:
                cells["rare"] = f"{rng.integers(0, 100) / 8}"
            chosen = {name: cell for name, cell in cells.items() if name == "whole" or rng.random() < 0.8}
            fields = ",".join(f"{name}={cell}" for name, cell in chosen.items())
            out.append(f"cpu,host=h{host},region=eu {fields} {time_ns}")
    return "\n".join(out).encode()


def sums_of(cells: Iterable[tuple[str, str, float | None]]) -> Sums:
    grouped: dict[tuple[str, str], list[float]] = {}
    for host, field, value in cells:
        if value is not None:
            grouped.setdefault((host, field), []).append(value)
    return {key: (len(values), math.fsum(values)) for key, values in grouped.items()}


def files_that_count(data: Path, table: str) -> list[str]:
    newest = max(data.glob("manifest-*.json"))
    manifest = json.loads(newest.read_text().splitlines()[0])
    return [str(data / segment["file"]) for segment in manifest["segments"] if segment["table"] == table]


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sums]:
    """A stopped data directory, and the sums of its table as the product's SQL gives them."""
    rng, data = np.random.default_rng(9), tmp_path_factory.mktemp("plain") / "data"
    start_ns = (NOW_NS - 4 * NS_PER_DAY) // NS_PER_DAY * NS_PER_DAY
    with Engine.open(str(data), CONFIG, clock=ManualClock(NOW_NS)) as engine:
        for day in range(3):
            engine.submit_lines(lines(rng, start_ns + day * NS_PER_DAY)).result(60)
            engine.sealer.seal()
        # Late corrections: their files are written again.
        engine.submit_lines(lines(rng, start_ns + NS_PER_DAY + NS_PER_HOUR)).result(60)
        rows = engine.sql("SELECT labels['host'] AS host, metric, value FROM samples").table
    metrics = [metric.removeprefix("cpu_") for metric in rows["metric"].to_pylist()]
    return data, sums_of(zip(rows["host"].to_pylist(), metrics, rows["value"].to_pylist(), strict=True))


def test_the_data_has_what_the_comparison_is_about(sealed: tuple[Path, Sums]) -> None:
    data, sums = sealed
    files = files_that_count(data, "cpu")
    assert len(files) >= 3
    kinds = {str(type_) for file in files for type_ in pl.read_parquet_schema(file).values()}
    assert {"Int64", "Float64", "Int32"} <= kinds
    assert any(kind.startswith("Decimal") for kind in kinds)
    assert len(sums) == 4 * len(FIELDS)
    assert any(count < 900 for count, _ in sums.values())  # absent cells


def test_plain_duckdb(sealed: tuple[Path, Sums]) -> None:
    data, sums = sealed
    columns = ", ".join(f"{field}::DOUBLE AS {field}" for field in FIELDS)
    with duckdb.connect() as connection:
        rows = connection.execute(
            f"SELECT host, {columns} FROM read_parquet(?, union_by_name = true)", [files_that_count(data, "cpu")]
        ).fetchall()
    assert sums_of((row[0], field, cell) for row in rows for field, cell in zip(FIELDS, row[1:], strict=True)) == sums


def test_plain_duckdb_adds_by_itself(sealed: tuple[Path, Sums]) -> None:
    data, sums = sealed
    with duckdb.connect() as connection:
        found = connection.execute(
            "SELECT host, count(whole), sum(whole::DOUBLE), count(cents), sum(cents::DOUBLE)"
            " FROM read_parquet(?, union_by_name = true) GROUP BY host",
            [files_that_count(data, "cpu")],
        ).fetchall()
    for host, wholes, whole, cents, cent in found:
        # Whole numbers add exactly in any order; of decimals the last digits depend on it.
        assert (wholes, whole) == sums[host, "whole"]
        assert cents == sums[host, "cents"][0]
        assert cent == pytest.approx(sums[host, "cents"][1], rel=1e-12)


def test_plain_polars(sealed: tuple[Path, Sums]) -> None:
    data, sums = sealed
    cells: list[tuple[str, str, float | None]] = []
    for file in files_that_count(data, "cpu"):
        frame = pl.read_parquet(file)
        for field in (name for name in FIELDS if name in frame.columns):
            cells += ((host, field, cell) for host, cell in frame.select("host", pl.col(field).cast(pl.Float64)).rows())
    assert sums_of(cells) == sums


def test_a_pattern_finds_these_files_too(sealed: tuple[Path, Sums]) -> None:
    data, _ = sealed
    with duckdb.connect() as connection:
        files = {path for (path,) in connection.execute("FROM glob(?)", [f"{data}/segments/cpu/*.parquet"]).fetchall()}
    assert set(files_that_count(data, "cpu")) <= files


#: A stale marker, other NaN, negative zero, infinity.
BITS = (0x7FF0000000000002, 0x7FF8000000000001, 0xFFF8000000000000, 0x8000000000000000, 0x7FF0000000000000)


def test_every_bit_of_odd_values_is_kept(tmp_path: Path) -> None:
    data, since_ms = tmp_path / "data", (NOW_NS - NS_PER_HOUR) // 1_000_000
    samples = [(bits, since_ms + place * 1000) for place, bits in enumerate(BITS)]
    body = series([(b"__name__", b"odd"), (b"host", b"a")], samples)
    with Engine.open(str(data), CONFIG, clock=ManualClock(NOW_NS)) as engine:
        engine.submit_remote_write(body).result(30)
        # Not by SQL: an expression may make a signalling NaN, such as the stale marker, a quiet one.
        ours = engine.samples.collect(0, NOW_NS - NS_PER_DAY, NOW_NS)
    assert bits_of(ours.values[0]) == list(BITS)
    (file,) = files_that_count(data, "prometheus")
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE found AS SELECT time, value FROM read_parquet(?)", [file])
        found = connection.execute("SELECT value FROM found ORDER BY time").fetchnumpy()["value"]
    assert bits_of(found) == list(BITS)
    assert bits_of(pl.read_parquet(file).sort("time")["value"].to_numpy()) == list(BITS)


def bits_of(values: np.ndarray) -> list[int]:
    return [int(bits) for bits in np.asarray(values, np.float64).view(np.uint64)]


def test_a_pooled_table_with_its_columns_put_together(tmp_path: Path) -> None:
    rng, data = np.random.default_rng(10), tmp_path / "data"
    text = []
    for step in range(60):
        time_ms = (NOW_NS - NS_PER_HOUR) // 1_000_000 + step * 15_000
        for host in range(3):
            text.append(f'requests_total{{host="h{host}"}} {step * 1000 + host} {time_ms}')
            text.append(f'up{{host="h{host}"}} 1 {time_ms}')
            text.append(f'seconds{{host="h{host}"}} {rng.integers(0, 10_000_000) / 1000} {time_ms}')
            text.append(f'noise{{host="h{host}"}} {float(rng.normal())!r} {time_ms}')
    with Engine.open(str(data), CONFIG, clock=ManualClock(NOW_NS)) as engine:
        engine.submit_prometheus_text("\n".join(text).encode() + b"\n").result(30)
        rows = engine.sql("SELECT labels['host'] AS host, metric, value FROM samples").table
    sums = sums_of(zip(*(rows[name].to_pylist() for name in ("host", "metric", "value")), strict=True))
    assert len(sums) == 12
    files = files_that_count(data, "prometheus")
    for file in files:
        columns = [name for name in pl.read_parquet_schema(file) if name == "value" or name.startswith("value_")]
        assert len(columns) > 1
        together = ", ".join(f"{name}::DOUBLE" for name in columns)
        with duckdb.connect() as connection:
            found = connection.execute(
                f"SELECT host, \"__name__\", coalesce({together}) FROM read_parquet('{file}')"
            ).fetchall()
        value = pl.coalesce(pl.col(columns).cast(pl.Float64))
        polars = pl.read_parquet(file).select("host", "__name__", value).rows()
        assert sorted(found) == sorted(polars)
        if len(files) == 1:
            assert sums_of(found) == sums
