"""Files cut into pieces: nothing lost, nothing twice, right lines, resumable anywhere; and the loader's patience."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.bulk.csvfile import csv_pieces
from api.bulk.journal import Journal
from api.bulk.loader import Loader, start_of
from api.bulk.pieces import BadRow, Piece, Place, format_of
from api.bulk.tables import Columns, arrow_pieces, parquet_pieces
from api.bulk.text import text_pieces
from api.cli import WrongUse
from engine.clock import ManualClock
from engine.errors import BadRequest, QueueFull, Unavailable
from engine.ingest.batch import Refusal, WriteResult

START_NS = 1_700_000_000 * 10**9


def stored(rows: int, refusals: tuple[Refusal, ...] = ()) -> WriteResult:
    refused: dict[str, int] = {}
    for each in refusals:
        refused[each.cause] = refused.get(each.cause, 0) + 1
    return WriteResult(rows, rows, 0, refused, refusals, 1)


# --- text


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2"])
@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"")), max_size=30),
    ended=st.booleans(),
    size=st.integers(1, 64),
    stop=st.integers(0, 40),
)
def test_text_comes_whole_and_goes_on_anywhere(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, lines: list[bytes], ended: bool, size: int, stop: int
) -> None:
    text = b"\n".join(lines) + (b"\n" if ended and lines else b"")
    path = str(tmp_path_factory.getbasetemp() / f"some.lp{suffix}")
    packed = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress}[suffix](text)
    Path(path).write_bytes(packed)
    pieces = list(text_pieces(path, Place(), piece_bytes=size))
    assert b"".join(piece.data for piece in pieces) == text  # type: ignore[misc]
    for piece in pieces:
        assert isinstance(piece.data, bytes)
        expected = text.split(b"\n")[piece.lines[0] - 1 : piece.lines[-1]]
        assert piece.data.removesuffix(b"\n").split(b"\n") == expected
    # The whole again in two loads, the first of which ended after some piece.
    first = pieces[:stop]
    rest = list(text_pieces(path, first[-1].end if first else Place(), piece_bytes=size))
    assert b"".join(piece.data for piece in [*first, *rest]) == text  # type: ignore[misc]
    if rest:
        assert rest[0].lines[0] == (first[-1].lines[-1] + 1 if first else 1)


def test_damaged_compression_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "cut.lp.gz"
    path.write_bytes(gzip.compress(b"cpu v=1\n" * 10_000)[:-20] + b"x" * 12)
    with pytest.raises(BadRequest, match=r"cannot read .*cut\.lp\.gz: it is damaged"):
        list(text_pieces(str(path), Place()))


def test_formats_are_told_by_name() -> None:
    names = {"a.lp": "lp", "b.csv.gz": "csv", "c.PARQUET": "parquet", "d.arrow": "arrow", "e.prom.zst": "prom"}
    assert {name: format_of(f"/x.y/{name}") for name in names} == names
    with pytest.raises(WrongUse, match=r"cannot tell the format of notes\.md: use --format"):
        format_of("notes.md")


# --- CSV, against the csv module and float()

CELLS = st.one_of(
    st.integers(-(10**6), 10**6).map(str), st.floats(-1e6, 1e6).map(repr), st.just(""), st.sampled_from(["x", "1 2"])
)


def twin(text: str) -> tuple[list[tuple[int, str, float | None]], list[int]]:
    """Return (line, host, value) of the rows kept, and the lines of whatever was bad, in the slow and obvious way."""
    kept, bad = [], []
    for line, row in enumerate(csv.reader(io.StringIO(text)), 1):
        if line == 1:
            continue
        if len(row) != 3:
            bad.append(line)
            continue
        time, host, value = row
        if not time.isdigit():
            bad.append(line)
        try:
            number = float(value) if value else None
        except ValueError:
            number = None
            bad.append(line)
        if time.isdigit():
            kept.append((line, host, number))
    return kept, sorted(bad)


@settings(max_examples=80, deadline=None)
@given(
    rows=st.lists(
        st.one_of(
            st.tuples(st.just("1700000000"), st.sampled_from(["a", "b"]), CELLS),
            st.tuples(st.sampled_from(["soon", "1700000001"]), st.just("c"), st.just("5")),
            st.tuples(st.just("1700000000"), st.just("a")),
        ),
        max_size=25,
    ),
    piece_rows=st.integers(1, 7),
)
def test_csv_keeps_what_it_can_and_names_the_lines_of_the_rest(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]], piece_rows: int
) -> None:
    # As many numbers first as make a piece, so that the column is one of numbers.
    text = "time,host,value\n" + "1700000000,a,1\n" * 7 + "".join(",".join(row) + "\n" for row in rows)
    path = tmp_path_factory.getbasetemp() / "some.csv"
    path.write_text(text)
    pieces = list(csv_pieces(str(path), Columns("t", unit="s"), Place(), piece_rows=piece_rows))
    kept, bad = twin(text)
    found = []
    for piece in pieces:
        assert isinstance(piece.data, pa.Table)
        if not len(piece.data):
            continue
        values = piece.data.column("value") if "value" in piece.data.column_names else pa.nulls(len(piece.data))
        found += list(zip(piece.lines, piece.data.column("host").to_pylist(), values.to_pylist(), strict=True))
    assert [(line, host, None if value is None else float(value)) for line, host, value in found] == kept
    assert sorted(each.line for piece in pieces for each in piece.bad) == bad
    ends = [piece.end.offset for piece in pieces]
    assert ends == sorted(ends)


def test_csv_has_names_for_numbers_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "some.csv"
    cells = ["NaN", "+Inf", "-Inf", "nan", "Infinity", "1e999", "-1e400", "1_000", "1.5", ""]
    path.write_text("time,value\n" + "".join(f"17000000{at:02},{cell}\n" for at, cell in enumerate(cells)))
    [piece] = csv_pieces(str(path), Columns("t", unit="s"), Place())
    assert isinstance(piece.data, pa.Table)
    assert piece.data.schema.metadata[b"tidegauge.not_finite"] == b"keep"
    values = piece.data.column("value").to_pylist()
    assert list(map(str, values)) == ["nan", "inf", "-inf", "nan", "inf", "None", "None", "None", "1.5", "None"]
    assert [(each.line, each.cause, each.message) for each in piece.bad] == [
        (7, "not_finite", "cannot read value: got '1e999', want a number within the range of float64"),
        (8, "not_finite", "cannot read value: got '-1e400', want a number within the range of float64"),
        (9, "malformed", "cannot read value: got '1_000', want numbers"),
    ]


def test_csv_goes_on_behind_the_rows_it_had(tmp_path: Path) -> None:
    path = tmp_path / "power.csv"
    rows = [f"{1_700_000_000 + at},m{at % 3},{at}" for at in range(50)]
    rows[7] = "broken"
    rows[40] = "broken,too"
    path.write_text("timestamp,meter,watts\n" + "\n".join(rows) + "\n")
    columns = Columns("power", unit="s")
    pieces = list(csv_pieces(str(path), columns, Place(), piece_rows=10))
    rest = list(csv_pieces(str(path), columns, pieces[1].end, piece_rows=10))

    def watts(parts: list[Piece]) -> list[int]:
        tables = [piece.data for piece in parts if isinstance(piece.data, pa.Table) and len(piece.data)]
        return [value for table in tables for value in table.column("watts").to_pylist()]

    assert watts(pieces) == [at for at in range(50) if at not in (7, 40)]
    assert watts(pieces[:2]) + watts(rest) == watts(pieces)
    assert [bad.line for piece in pieces for bad in piece.bad] == [9, 42]
    assert [bad.line for piece in rest for bad in piece.bad] == [42]
    assert rest[0].lines[0] == pieces[2].lines[0]


def test_csv_columns_become_tags_fields_and_times(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("when;id;ok;load;note\n2026-01-02T03:04:05.5Z;17;true;1.5;\n2026-01-02 03:04:06;18;false;;\n")
    [piece] = csv_pieces(str(path), Columns("t", time="when", tags=("id",), drop=("note",)), Place(), delimiter=";")
    assert isinstance(piece.data, pa.Table)
    assert piece.data.to_pydict() == {
        "time": [1_767_323_045_500_000_000, 1_767_323_046_000_000_000],
        "id": ["17", "18"],
        "ok": [True, False],
        "load": [1.5, None],
    }


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (Columns("t", time="when"), "it has no column 'when', only a, b"),
        (Columns("t"), "no column is the time; say which with --time"),
        (Columns("t", time="a", tags=("c",)), "it has no column 'c'"),
    ],
)
def test_columns_that_are_not_there_are_named(tmp_path: Path, columns: Columns, said: str) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(BadRequest, match=said):
        list(csv_pieces(str(tmp_path / "x.csv"), columns, Place()))


def test_a_file_without_numbers_is_refused_with_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("time,host,usage\n2026-01-01,a,high\n")
    with pytest.raises(BadRequest, match=r"no column of numbers \(host, usage hold text, which makes tags\)"):
        list(csv_pieces(str(tmp_path / "x.csv"), Columns("t"), Place()))


def test_a_header_with_a_name_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("time,b,b\n1,2,3\n")
    with pytest.raises(BadRequest, match="column 'b' twice"):
        list(csv_pieces(str(tmp_path / "x.csv"), Columns("t"), Place()))


# --- Parquet and Arrow


def samples(rows: int) -> pa.Table:
    return pa.table(
        {
            "time": pa.array([START_NS // 1_000 + at for at in range(rows)], pa.timestamp("us")),
            "host": pa.array([f"h{at % 7}" for at in range(rows)]).dictionary_encode(),
            "load": [at / 4 for at in range(rows)],
        }
    )


@pytest.mark.parametrize("form", ["parquet", "arrow", "stream"])
@pytest.mark.parametrize("skipped", [0, 1, 999, 1_000, 2_499, 2_500])
def test_tables_come_whole_and_go_on_anywhere(tmp_path: Path, form: str, skipped: int) -> None:
    table, path = samples(2_500), str(tmp_path / "x")
    if form == "parquet":
        pq.write_table(table, path, row_group_size=700)
        pieces: Iterator[Piece] = parquet_pieces(path, Columns("t"), Place(skipped, skipped), piece_rows=1_000)
    else:
        new = pa.ipc.new_file if form == "arrow" else pa.ipc.new_stream
        with pa.OSFile(path, "wb") as sink, new(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=1_300)
        pieces = arrow_pieces(path, Columns("t"), Place(skipped, skipped), piece_rows=1_000)
    found = list(pieces)
    times = [time for piece in found if isinstance(piece.data, pa.Table) for time in piece.data["time"].to_pylist()]
    assert times == [START_NS + 1_000 * at for at in range(skipped, 2_500)]
    assert [line for piece in found for line in piece.lines] == list(range(skipped + 1, 2_501))
    assert not found or found[-1].end == Place(2_500, 2_500)


@pytest.mark.parametrize("reader", [parquet_pieces, arrow_pieces])
def test_what_is_no_table_is_refused_by_name(tmp_path: Path, reader: Any) -> None:
    (tmp_path / "x").write_bytes(b"this is no table")
    with pytest.raises(BadRequest, match="cannot read "):
        list(reader(str(tmp_path / "x"), Columns("t"), Place()))


def test_cells_that_are_neither_text_nor_number_are_refused_with_a_way_out(tmp_path: Path) -> None:
    pq.write_table(pa.table({"time": [1], "deep": [[1, 2]]}), tmp_path / "x")
    with pytest.raises(BadRequest, match="drop it with --drop deep"):
        list(parquet_pieces(str(tmp_path / "x"), Columns("t"), Place()))


# --- loading


class Sink:
    """A destination that fails as told and remembers what it took."""

    def __init__(self, failures: list[Exception] | None = None) -> None:
        self.failures = failures or []
        self.taken: list[Piece] = []

    def __call__(self, piece: Piece) -> WriteResult:
        if self.failures:
            raise self.failures.pop(0)
        self.taken.append(piece)
        return stored(len(piece.lines))


def loader(sink: Sink, told: list[tuple[str, BadRow]], slept: list[float]) -> Loader:
    clock = ManualClock()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.advance(seconds)

    return Loader(
        sink, tell=lambda file, bad: told.append((file, bad)), progressed=lambda *_: None, clock=clock, sleep=sleep
    )


def text_of(tmp_path: Path, lines: int) -> str:
    path = tmp_path / "x.lp"
    path.write_text("".join(f"cpu v={at} {at}\n" for at in range(lines)))
    return str(path)


def test_an_overloaded_destination_is_waited_for_as_long_as_it_asks(tmp_path: Path) -> None:
    path, slept = text_of(tmp_path, 100), []
    sink = Sink([QueueFull("full", retry_after_seconds=3), Unavailable("away"), Unavailable("away")])
    load = loader(sink, [], slept)
    load.load(path, text_pieces(path, Place(), piece_bytes=100), None)
    assert slept == [3.0, 0.5, 1.0]
    assert load.account.rows == 100
    assert load.account.waited_seconds == 4.5
    assert [line for piece in sink.taken for line in piece.lines] == list(range(1, 101))


def test_patience_ends_and_the_next_load_goes_on_there(tmp_path: Path) -> None:
    path, told = text_of(tmp_path, 1_000), []
    journal = Journal(tmp_path / "state", path, "here", "lp")
    sink = Sink()
    taken = 0

    def failing(piece: Piece) -> WriteResult:
        nonlocal taken
        taken += 1
        if taken > 3:
            raise Unavailable("away")
        return sink(piece)

    clock = ManualClock()
    load = Loader(
        failing, tell=lambda file, bad: told.append(bad), progressed=lambda *_: None, clock=clock, sleep=clock.advance
    )
    with pytest.raises(Unavailable):
        load.load(path, text_pieces(path, Place(), piece_bytes=1_000), journal)
    start = start_of(Journal(tmp_path / "state", path, "here", "lp"), restart=False)
    assert start == sink.taken[-1].end
    assert start_of(Journal(tmp_path / "state", path, "here", "lp"), restart=True) == Place()
    assert start_of(Journal(tmp_path / "state", path, "elsewhere", "lp"), restart=False) == Place()
    assert start_of(Journal(tmp_path / "state", path, "here", "csv"), restart=False) == Place()
    loader(sink, [], []).load(path, text_pieces(path, start, piece_bytes=1_000), journal)
    assert [line for piece in sink.taken for line in piece.lines] == list(range(1, 1_001))
    assert not list((tmp_path / "state").iterdir())


def test_a_file_that_has_changed_is_begun_again(tmp_path: Path) -> None:
    path = text_of(tmp_path, 10)
    Journal(tmp_path / "state", path, "here", "lp").save(Place(20, 2))
    assert Journal(tmp_path / "state", path, "here", "lp").load() == Place(20, 2)
    Path(path).write_text("other v=1\n")
    assert Journal(tmp_path / "state", path, "here", "lp").load() == Place()


@pytest.mark.parametrize("junk", [b"", b"{", b'{"version": 9}', b"\xff\xfe"])
def test_a_journal_that_makes_no_sense_is_no_journal(tmp_path: Path, junk: bytes) -> None:
    path = text_of(tmp_path, 10)
    Journal(tmp_path / "state", path, "here", "lp").save(Place(20, 2))
    [entry] = (tmp_path / "state").iterdir()
    entry.write_bytes(junk)
    assert Journal(tmp_path / "state", path, "here", "lp").load() == Place()


def test_refusals_are_told_by_the_line_of_the_file(tmp_path: Path) -> None:
    path, told = text_of(tmp_path, 100), []

    def offer(piece: Piece) -> WriteResult:
        return stored(len(piece.lines) - 1, (Refusal(2, "malformed", "no"),))

    load = Loader(
        offer,
        tell=lambda file, bad: told.append(bad.line),
        progressed=lambda *_: None,
        clock=ManualClock(),
        sleep=lambda _: None,
    )
    pieces = list(text_pieces(path, Place(), piece_bytes=300))
    load.load(path, iter(pieces), None)
    assert told == [piece.lines[1] for piece in pieces]
    assert load.account.refused == {"malformed": len(pieces)}
