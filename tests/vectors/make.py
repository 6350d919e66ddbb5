"""Adds the frozen files that are missing (README.md).  Never writes over one: what is frozen stays."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np
import pyarrow as pa

from engine.catalog.packing import PACKED_VERSION, pack_definitions
from engine.detection.snapshot import decode
from engine.detection.univariate import UnivariateDetector
from engine.disk.real import RealFileSystem
from engine.model.rows import Rows, absent_matrix
from engine.rollups.packs import Packs
from engine.rollups.store import RollupStore
from engine.segments.deletions import Deletion
from engine.segments.layout import SegmentMeta, SegmentSpec
from engine.segments.manifest_format import Manifest, encode_manifest
from engine.segments.writer import write_segment
from engine.wal.payload import encode_batch
from engine.wal.writer import WalWriter
from native.catalogue import Catalogue
from native.columns import ABSENT_BITS
from native.frames import encode_frame
from native.freezing import freeze
from tests.engine.tier_pieces import piece_of

HERE = Path(__file__).parent
START_NS = 1_700_000_000_000_000_000
MINUTE_NS = 60_000_000_000
Files = dict[str, bytes]


def bits(cells: np.ndarray) -> list[str]:
    return [f"{int(pattern):016x}" for pattern in np.ascontiguousarray(cells).view(np.uint64)]


def described(rows: Rows) -> dict[str, Any]:
    """Return rows as ``expected.json`` has them; absent cells carry their own bits."""
    return {
        "tagsets": rows.tagset_ids.tolist(),
        "times": rows.times.tolist(),
        "fields": {str(field_id): bits(rows.values[place]) for place, field_id in enumerate(rows.field_ids)},
    }


def small_catalogue() -> Catalogue:
    catalogue = Catalogue()
    cpu, mem = catalogue.table(b"cpu"), catalogue.table("speicher µ".encode())
    for name in (b"usage", b"rate", b"steal"):
        catalogue.field(cpu, name)
    catalogue.field(mem, b"used")
    for host in range(5):
        catalogue.tagset(cpu, [(b"host", f"h{host}".encode()), (b"region", b"eu" if host % 2 else b"")])
    catalogue.tagset(mem, [])
    return catalogue


def described_catalogue(catalogue: Catalogue) -> dict[str, Any]:
    tables = range(catalogue.table_count)
    return {
        "tables": [catalogue.table_name(table).decode() for table in tables],
        "fields": [[name.decode() for name in catalogue.fields(table)] for table in tables],
        "tagsets": [
            [int(owner), [[key.decode(), value.decode()] for key, value in catalogue.tags(tagset)]]
            for tagset, owner in enumerate(catalogue.tagset_tables(0, catalogue.tagset_count))
        ],
    }


def batch(rng: np.random.Generator, count: int, times: np.ndarray, columns: list[np.ndarray]) -> Rows:
    values = absent_matrix(len(columns), count)
    for place, column in enumerate(columns):
        values[place] = column
    tagsets = rng.integers(0, 5, count).astype(np.int32)
    return Rows(tagsets, times.astype(np.int64), tuple(range(len(columns))), values)


def sparse(rng: np.random.Generator, column: np.ndarray) -> np.ndarray:
    cells = column.astype(np.float64)
    cells.view(np.uint64)[rng.random(len(cells)) < 0.4] = ABSENT_BITS
    return cells


def make_wal() -> tuple[Files, dict[str, Any]]:
    """Three frames with every mode of both kinds of column."""
    rng, count = np.random.default_rng(1), 21
    catalogue = small_catalogue()
    regular = START_NS + np.arange(count) * 10_000_000_000
    walk = np.cumsum(rng.integers(0, 200, count))
    first = batch(
        rng,
        count,
        regular,
        [
            np.full(count, 7.0),  # constant
            np.arange(count) * 3.0,  # progression
            rng.integers(0, 200, count),  # offsets of 1, 2, 4 bytes
            rng.integers(0, 60_000, count),
            rng.integers(0, 4_000_000_000, count),
            rng.integers(0, 200, count) * 10.0**10,  # multiples of 1, 2, 4 bytes
            rng.integers(0, 60_000, count) * 10.0**10 + 7,
            rng.integers(0, 1_000_000, count) * 9.0 * 10**9,
            walk * 1.0,  # steps of 1, 2, 4 bytes
            np.cumsum(rng.integers(0, 60_000, count)) * 1.0 + np.cumsum(np.full(count, 5_000_011)),
            np.cumsum(rng.integers(0, 4_000_000_000, count)) * 1.0 + np.cumsum(np.full(count, 10**14 + 1)),
            rng.integers(-(2**52), 2**52, count),  # plain
        ],
    )
    jitter = START_NS + np.arange(count) * 10_000_000_000 + rng.integers(0, 250, count)
    second = batch(
        rng,
        count,
        jitter,
        [
            *(np.round(rng.uniform(-9, 9, count), decimals) for decimals in range(1, 7)),
            *(sparse(rng, np.round(rng.uniform(-9, 9, count), decimals)) for decimals in range(7)),
            rng.normal(size=count),
            sparse(rng, rng.normal(size=count)),
            np.full(count, 1 / 3),
            absent_matrix(1, count)[0],
            np.array([0x7FF0000000000002, 0xFFF8000000000000, 0x8000000000000000] * 7, np.uint64).view(np.float64),
        ],
    )
    third = batch(rng, count, rng.integers(-(2**62), 2**62, count), [np.arange(count) * 1.0])
    nothing = batch(rng, 0, np.empty(0), [np.empty(0)])
    definitions = catalogue.definitions((0, 0, 0), catalogue.mark())
    frames = [
        (definitions, [(0, first)]),
        (b"", [(0, second), (1, nothing)]),
        (b"", [(0, third), (0, first)]),
    ]
    with tempfile.TemporaryDirectory() as directory:
        writer = WalWriter(RealFileSystem(), directory, next_sequence=5)
        writer.append([encode_frame(1, 5 + place, encode_batch(*content)) for place, content in enumerate(frames)])
        writer.close()
        name = "0000000000000005.wal"
        body = (Path(directory) / name).read_bytes()
    expected = {
        "first_sequence": 5,
        "definitions": described_catalogue(catalogue),
        "frames": [
            {"sequence": 5 + place, "kind": 1, "tables": [[table, described(rows)] for table, rows in tables]}
            for place, (_, tables) in enumerate(frames)
        ],
    }
    return {name: body}, expected


def make_catalogue() -> tuple[Files, dict[str, Any]]:
    catalogue = small_catalogue()
    first = catalogue.mark()
    catalogue.field(1, b"free")
    catalogue.tagset(0, [(b"host", b"h9")])
    pieces = [catalogue.definitions((0, 0, 0), first), catalogue.definitions(first, catalogue.mark())]
    body = b"".join(encode_frame(2, 1 + place, [piece]) for place, piece in enumerate(pieces))
    return {"catalog.log": body}, described_catalogue(catalogue)


def make_packed_catalogue() -> tuple[Files, dict[str, Any]]:
    """Two frames, the first of them packed."""
    catalogue = small_catalogue()
    for number in range(40):
        catalogue.tagset(0, [(b"host", f"a-long-name-{number}".encode()), (b"region", b"europe-west")])
    first = catalogue.mark()
    catalogue.tagset(0, [])
    pieces = [
        pack_definitions(catalogue.definitions((0, 0, 0), first)),
        pack_definitions(catalogue.definitions(first, catalogue.mark())),
    ]
    assert pieces[0][0] == PACKED_VERSION
    body = b"".join(encode_frame(2, 1 + place, [piece]) for place, piece in enumerate(pieces))
    return {"catalog.log": body}, described_catalogue(catalogue)


def make_tagsets() -> tuple[Files, dict[str, Any]]:
    catalogue = small_catalogue()
    count = catalogue.tagset_count
    name = f"tagsets-{0:010d}-{count:010d}.tgs"
    return {name: bytes(freeze(catalogue, 0, count, 0x123456789ABCDEF))}, described_catalogue(catalogue)


def spec_for(table_id: int, table: str, names: dict[int, str], **changes: Any) -> SegmentSpec:
    options = {"start_ns": START_NS, "end_ns": START_NS + 3_600_000_000_000, "sequence": 11, "sealed_through": 99}
    return SegmentSpec(
        table_id=table_id, table=table, field_names=names, created_ns=START_NS + 5, **(options | changes)
    )


def written(spec: SegmentSpec, rows: Rows, tags_of: Any) -> tuple[Files, SegmentMeta]:
    with tempfile.TemporaryDirectory() as directory:
        meta = write_segment(RealFileSystem(), directory, spec, rows, tags_of)
        return {"segment.parquet": (Path(directory) / meta.file).read_bytes()}, meta


def host_tags(tagset_ids: np.ndarray) -> tuple[list[str], list[list[str | None]]]:
    return ["host", "region"], [
        [f"h{each}" for each in tagset_ids],
        [None if each % 2 else "eu" for each in tagset_ids],
    ]


def expected_segment(meta: SegmentMeta, rows: Rows) -> dict[str, Any]:
    return {"entry": json.loads(msgspec.json.encode(meta)), "rows": described(rows)}


def make_segment() -> tuple[Files, dict[str, Any]]:
    rng, hosts, points = np.random.default_rng(2), 4, 30
    count = hosts * points
    columns = [
        rng.integers(-1000, 100_000, count) * 1.0,
        sparse(rng, np.round(rng.uniform(0, 100, count), 2)),
        sparse(rng, rng.normal(size=count)),
    ]
    columns[2].view(np.uint64)[[3, 5, 8]] = [0x7FF0000000000002, 0x8000000000000000, 0x7FF0000000000000]
    tagsets = np.repeat(np.arange(hosts, dtype=np.int32), points)
    times = np.tile(START_NS + np.arange(points) * 10_000_000_000, hosts)
    rows = Rows(tagsets, times, (0, 1, 2), np.ascontiguousarray(np.vstack(columns)))
    spec = spec_for(0, "cpu", {0: "usage", 1: "Rate", 2: "host"}, row_group_rows=2 * points)
    files, meta = written(spec, rows, host_tags)
    return files, expected_segment(meta, rows)


def make_routed_segment() -> tuple[Files, dict[str, Any]]:
    rng, points = np.random.default_rng(3), 150
    kinds = [
        np.full(points, 1.0),
        np.cumsum(rng.integers(0, 100_000_000, points)) * 1.0,
        np.round(rng.uniform(0, 100, points), 2),
        np.round(rng.uniform(0, 100, points), 9),
        rng.normal(size=points),
        np.cumsum(rng.integers(0, 1_000_000, points)) * 1.0,
    ]
    tagsets = np.repeat(np.arange(len(kinds), dtype=np.int32), points)
    times = np.tile(START_NS + np.arange(points) * 5_000_000_000, len(kinds))
    rows = Rows(tagsets, times, (0,), np.concatenate(kinds)[None, :])
    spec = spec_for(1, "prometheus", {0: "value"}, routed=True)
    files, meta = written(spec, rows, lambda ids: (["__name__"], [[f"metric_{each}" for each in ids]]))
    return files, expected_segment(meta, rows)


def make_manifest() -> tuple[Files, dict[str, Any]]:
    rows = Rows(np.zeros(1, np.int32), np.array([START_NS]), (0,), np.ones((1, 1)))
    metas = []
    for table_id, table, hour in ((0, "cpu", 0), (0, "cpu", 1), (3, "Disk µ", 0)):
        start = START_NS + hour * 3_600_000_000_000
        moved = Rows(rows.tagset_ids, rows.times + hour * 3_600_000_000_000, rows.field_ids, rows.values)
        spec = spec_for(
            table_id, table, {0: "usage"}, start_ns=start, end_ns=start + 3_600_000_000_000, sequence=7 + len(metas)
        )
        metas.append(written(spec, moved, host_tags)[1])
    deletions = (
        Deletion(
            table_id=0,
            tagsets=((0, 3), (7, 7)),
            start_ns=-(2**63),
            end_ns=2**63 - 1,
            through=40,
            before_file=8,
            created_ns=START_NS + 6,
        ),
        Deletion(
            table_id=3,
            tagsets=((5, 5),),
            start_ns=START_NS,
            end_ns=START_NS + 9,
            through=41,
            before_file=10,
            created_ns=START_NS + 7,
            tiers=True,
        ),
    )
    manifest = Manifest(version=0x1A, next_sequence=12, wal_floor=41, segments=tuple(metas), deletions=deletions)
    expected = {
        "version": 0x1A,
        "next_sequence": 12,
        "wal_floor": 41,
        "segments": [json.loads(msgspec.json.encode(meta)) for meta in metas],
        "deletions": json.loads(msgspec.json.encode(deletions)),
    }
    return {"manifest-000000000000001a.json": encode_manifest(manifest)}, expected


def make_rollups() -> tuple[Files, dict[str, Any]]:
    """Two tag sets with three fields over two days and a half, a few minutes an hour."""
    rng = np.random.default_rng(4)
    minutes = (START_NS // 86_400_000_000_000 * 86_400_000_000_000) + np.arange(0, 3600, 7, dtype=np.int64) * MINUTE_NS
    tagsets = np.repeat(np.array([0, 4], np.int32), len(minutes))
    buckets = np.tile(minutes, 2)
    series = np.concatenate([(tagsets.astype(np.int64) << 16) + field for field in range(3)])
    times = np.tile(buckets, 3)
    count = len(times)
    low = rng.integers(0, 100, count) * 1.0
    table = pa.table(
        {
            "series_id": series,
            "time": times,
            "count": np.full(count, 6),
            "sum": low * 6 + 15,
            "min": low,
            "max": low + 5,
            "first": low,
            "last": low + 5,
            "first_time": times + 1_000_000_000,
            "last_time": times + 51_000_000_000,
        }
    )
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/rollups.duckdb"
        connection = duckdb.connect(":memory:")
        connection.execute(f"ATTACH '{path}' AS rollups (STORAGE_VERSION 'v1.5.0')")
        connection.execute("USE rollups")
        packs = Packs(f"{directory}/rollups")
        store = RollupStore(connection, packs)
        store.initialise()
        store.flush([piece_of(table, pa.table({"tagset_id": tagsets, "bucket": buckets}), 0)], 17)
        store.retain({"rollup_1m": int(minutes[100])})
        expected: dict[str, Any] = {"flushed_sequence": 17, "tiers": {}}
        for tier in ("rollup_1m", "rollup_5m", "rollup_15m", "rollup_1h", "rollup_1d"):
            found = store.rows(tier, -(2**62), 2**62)
            expected["tiers"][tier] = {
                "rows": found.num_rows,
                "count": int(np.sum(found["count"].to_numpy())),
                "sum": float(np.sum(found["sum"].to_numpy())),
                "min": float(np.min(found["min"].to_numpy())),
                "max": float(np.max(found["max"].to_numpy())),
                "first": [found[name][0].as_py() for name in found.schema.names],
                "last": [found[name][-1].as_py() for name in found.schema.names],
            }
        store.checkpoint()
        connection.close()
        body = io.BytesIO()
        with zipfile.ZipFile(body, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(Path(directory).rglob("*.*")):
                archive.writestr(
                    zipfile.ZipInfo(str(file.relative_to(directory))), file.read_bytes(), zipfile.ZIP_DEFLATED
                )
    return {"rollups.zip": body.getvalue()}, expected


#: None: only an earlier release could make it.
def detector_samples(first: int, rows: int, *, weeks: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows of four series, one each 20 minutes: a daily shape with noise, a counter, rare spikes, a constant.

    With ``weeks`` the first one has its shape on weekdays only.
    """
    at = np.arange(first, first + rows, dtype=np.int64)
    times = START_NS + 20 * MINUTE_NS * at
    noise = np.round((at * 2654435761 % 2**32) / 2**32 * 64) / 16
    hour = at % 72
    busy = (hour > 24) & (hour < 50)
    if weeks:
        busy &= (times // (1440 * MINUTE_NS) + 3) % 7 < 5
    values = [50 + np.where(busy, 20.0, 0.0) + noise, at * 8.0 + at * at % 7]
    values += [np.where(at % 37 == 0, 90.0 + at % 5, 0.0), np.full(rows, 7.25)]
    return np.tile(np.arange(4), rows), np.repeat(times, 4), np.stack(values, axis=1).ravel()


def make_detectors() -> tuple[Files, dict[str, Any]]:
    """What four series are after four weeks, and what is said of them in the next two days."""
    detector = UnivariateDetector(4)
    detector.advance(*detector_samples(0, 72 * 28, weeks=True))
    state = detector.to_bytes()
    scores = detector.advance(*detector_samples(72 * 28, 72 * 2, weeks=True)).scores
    sums = {name: float(np.sum(array, dtype=np.float64)) for name, array in decode("univariate", state, "").items()}
    return {"four.state": state}, {"rows": 72 * 28, "sums": sums, "scores": np.round(scores, 9).tolist()}


VECTORS: dict[str, Callable[[], tuple[Files, dict[str, Any]]] | None] = {
    "wal/1": make_wal,
    "catalogue/1": make_catalogue,
    "catalogue/2": make_packed_catalogue,
    "tagsets/1": make_tagsets,
    "manifest/1": None,
    "manifest/2": make_manifest,
    "segment/1": make_segment,
    "segment/2": make_routed_segment,
    "rollups/1": None,
    "rollups/2": make_rollups,
    "detectors/1": None,
    "detectors/2": make_detectors,
}


def main() -> None:
    for name, make in VECTORS.items():
        directory = HERE / name
        if directory.exists():
            print(f"{name}: frozen")
            continue
        if make is None:
            print(f"{name}: missing, and cannot be made again")
            continue
        files, expected = make()
        directory.mkdir(parents=True)
        files["expected.json"] = json.dumps(expected, ensure_ascii=False).encode() + b"\n"
        for file, body in files.items():
            with open(directory / file, "xb") as opened:
                opened.write(body)
        print(f"{name}: written, {sum(map(len, files.values()))} bytes")


if __name__ == "__main__":
    main()
