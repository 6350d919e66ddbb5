"""Slow readers of every file format, each written from its page in docs/formats alone.

They share nothing with the product: `struct`, one item after the other, and for Parquet and DuckDB the plain readers
that anyone has.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from tests.oracles import columns, tierpack
from tests.oracles.checksum import crc32c
from tests.oracles.columns import ABSENT_BITS, Source

Catalogue = dict[str, Any]


def frames_of(data: bytes, offset: int) -> list[tuple[int, int, bytes]]:
    """wal.md, "Frame": (kind, sequence, payload) of each frame up to the end, every one whole."""
    frames = []
    while offset < len(data):
        length, checksum, kind, sequence = struct.unpack_from("<IIBQ", data, offset)
        assert length <= 256 << 20
        assert crc32c(data[offset + 8 : offset + 17 + length]) == checksum
        payload = data[offset + 17 : offset + 17 + length]
        assert len(payload) == length
        frames.append((kind, sequence, payload))
        offset += 17 + length
    return frames


def read_definitions(data: bytes, catalogue: Catalogue) -> None:
    """catalogue.md, "Layout" and "Applying"."""
    if not data:
        return
    source = Source(data)
    assert source.number(1) == 1
    first, count = source.number(4), source.number(4)
    for number in range(first, first + count):
        name = source.take(source.number(2)).decode()
        assert number <= len(catalogue["tables"])
        catalogue["tables"][number:] = [name, *catalogue["tables"][number + 1 :]]
        if number == len(catalogue["fields"]):
            catalogue["fields"].append([])
    source.number(4)
    for _ in range(source.number(4)):
        table, number = source.number(4), source.number(2)
        name = source.take(source.number(2)).decode()
        known = catalogue["fields"][table]
        assert number <= len(known)
        known[number:] = [name, *known[number + 1 :]]
    first, count = source.number(4), source.number(4)
    for number in range(first, first + count):
        key = Source(source.take(source.number(4)))
        table = key.number(4)
        tags = []
        while key.offset < len(key.data):
            tag = key.take(key.number(2)).decode()
            tags.append([tag, key.take(key.number(4)).decode()])
        assert tags == sorted(tags, key=lambda pair: pair[0].encode())
        assert number <= len(catalogue["tagsets"])
        catalogue["tagsets"][number:] = [[table, tags], *catalogue["tagsets"][number + 1 :]]
    assert source.offset == len(data)


def empty_catalogue() -> Catalogue:
    return {"tables": [], "fields": [], "tagsets": []}


def read_catalogue(data: bytes) -> Catalogue:
    """catalogue.md: `catalog.log` is frames of kind 2."""
    catalogue = empty_catalogue()
    for kind, _, payload in frames_of(data, 0):
        assert kind == 2
        if payload[0] == 2:  # "Packed, version 2"
            length, payload = int.from_bytes(payload[1:5], "little"), zlib.decompress(payload[5:])
            assert len(payload) == length
        read_definitions(payload, catalogue)
    return catalogue


def read_tagsets(data: bytes) -> tuple[int, list[Any]]:
    """catalogue.md, "Tag-set files": number of the first tag set, and [table, [[key, value], ...]] of each."""
    magic, version, first, count, texts, tags, slots, text_bytes, _, body_crc, header_crc = struct.unpack_from(
        "<8sIIIIQQQQII", data
    )
    assert (magic, version) == (b"TGTAGSET", 1)
    assert crc32c(data[:60]) == header_crc
    assert crc32c(data[64:]) == body_crc

    def section(at: int, form: str, items: int) -> tuple[tuple[int, ...], int]:
        found = struct.unpack_from(f"<{items}{form}", data, at)
        return found, -(-(at + struct.calcsize(f"<{items}{form}")) // 8) * 8

    at = 64 + 8 * slots
    owners, at = section(at, "I", count)
    starts, at = section(at, "I", count + 1)
    keys, at = section(at, "I", tags)
    values, at = section(at, "I", tags)
    ends, at = section(at, "I", texts + 1)
    words = [data[at + ends[text] : at + ends[text + 1]].decode() for text in range(texts)]
    assert ends[-1] == text_bytes
    return first, [
        [owners[place], [[words[keys[tag]], words[values[tag]]] for tag in range(starts[place], starts[place + 1])]]
        for place in range(count)
    ]


def read_wal(data: bytes) -> dict[str, Any]:
    """wal.md, "File", "Batch payload", "Columns"."""
    assert data[:7] == b"TGWAL\x00\x00"
    version, first, checksum = struct.unpack_from("<BQI", data, 7)
    assert version == 1
    assert crc32c(data[:16]) == checksum
    catalogue = empty_catalogue()
    frames = []
    for place, (kind, sequence, payload) in enumerate(frames_of(data, 20)):
        assert sequence == first + place
        source = Source(payload)
        read_definitions(source.take(source.number(4)), catalogue)
        tables = [_table(source) for _ in range(source.number(4))]
        assert source.offset == len(payload)
        frames.append({"sequence": sequence, "kind": kind, "tables": tables})
    return {"first_sequence": first, "definitions": catalogue, "frames": frames}


def _table(source: Source) -> list[Any]:
    table, count, width = source.number(4), source.number(4), source.number(4)
    numbers = [source.number(2) for _ in range(width)]
    assert numbers == sorted(set(numbers))
    tagsets = columns.unpack_integers(source, count)
    times = columns.unpack_integers(source, count)
    fields = {str(number): [f"{cell:016x}" for cell in columns.unpack_floats(source, count)] for number in numbers}
    return [table, {"tagsets": tagsets, "times": times, "fields": fields}]


def read_manifest(data: bytes) -> dict[str, Any]:
    """manifest.md, "File": two lines, JSON and the checksum of the first with its line feed."""
    first, second = data.split(b"\n")[:2]
    assert len(data) == len(first) + 1 + 16
    assert second == b"crc32c %08x" % crc32c(first + b"\n")
    body: dict[str, Any] = json.loads(first)
    assert body.pop("format") == (2 if "deletions" in body else 1)
    return body


def segment_checks(data: bytes, entry: dict[str, Any]) -> dict[str, Any]:
    """segment.md, "Checks" and "Footer metadata": compare checksums with the entry, return the file's own account."""
    assert (data[:4], data[-4:]) == (b"PAR1", b"PAR1")
    assert (len(data), crc32c(data)) == (entry["bytes"], entry["crc32c"])
    footer = data[-8 - int.from_bytes(data[-8:-4], "little") :]
    assert (len(footer), crc32c(footer)) == (entry["footer_bytes"], entry["footer_crc32c"])
    start = footer.index(b'{"format":')
    account: dict[str, Any] = json.JSONDecoder().raw_decode(footer[start:].decode("utf-8", "replace"))[0]
    for name in ("table", "table_id", "start_ns", "end_ns", "rows", "sequence", "created_ns"):
        assert account[name] == entry[name]
    assert account["fields"] == entry["columns"]
    return account


def read_segment(path: Path, entry: dict[str, Any]) -> dict[str, Any]:
    """segment.md, "Rows and columns": with polars; a field's columns put together, nulls as absent cells."""
    account = segment_checks(path.read_bytes(), entry)
    frame = pl.read_parquet(path)
    names: dict[int, list[str]] = {}
    for column, number, _ in account["fields"]:
        names.setdefault(number, []).append(column)
    fields = {
        str(number): frame.select(pl.coalesce(pl.col(found).cast(pl.Float64)).alias("cell"))["cell"]
        for number, found in sorted(names.items())
    }
    return {
        "tagsets": frame["tagset_id"].to_list(),
        "times": frame["time"].cast(pl.Int64).to_list(),
        "fields": {
            number: [f"{ABSENT_BITS if cell is None else columns.bits_of(cell):016x}" for cell in cells.to_list()]
            for number, cells in fields.items()
        },
    }


TIER_WIDTHS_NS = {
    "rollup_1m": 60 * 10**9,
    "rollup_5m": 300 * 10**9,
    "rollup_15m": 900 * 10**9,
    "rollup_1h": 3600 * 10**9,
    "rollup_1d": 86400 * 10**9,
}


def read_rollups(path: Path) -> dict[str, Any]:
    """rollups.md: with plain DuckDB, layout 2 with the slow reader of packs."""
    with duckdb.connect(str(path), read_only=True) as connection:

        def rows(sql: str) -> list[tuple[Any, ...]]:
            return connection.execute(sql).fetchall()

        ((layout, flushed),) = rows("SELECT layout_version, flushed_sequence FROM rollup_store")
        names = (
            "series_id, epoch_ns(time), count, sum, min, max, first, last, epoch_ns(first_time), epoch_ns(last_time)"
        )
        tiers: dict[str, Any] = {}
        for tier, width_ns in TIER_WIDTHS_NS.items():
            if layout == 1:
                found = rows(f"SELECT {names} FROM {tier} ORDER BY series_id, time")
            else:
                ((kept_from,),) = rows(f"SELECT kept_from_ns FROM rollup_kept WHERE tier = '{tier}'")
                found = []
                for pack, start, head_bytes, size, count, runs in rows(
                    f"SELECT pack, start, head_bytes, bytes, rows, runs FROM rollup_parts WHERE tier = '{tier}'"
                ):
                    body = (path.with_suffix("") / f"{pack:012d}.pack").read_bytes()
                    assert body[:8] == b"TGTP\x02\0\0\0"
                    found += tierpack.read_part(body[start : start + size], head_bytes, count, runs, width_ns)
                found = sorted(row for row in found if row[1] >= kept_from)
            tiers[tier] = {
                "rows": len(found),
                "count": sum(row[2] for row in found),
                "sum": sum(row[3] for row in found),
                "min": min(row[4] for row in found),
                "max": max(row[5] for row in found),
                "first": list(found[0]),
                "last": list(found[-1]),
            }
    return {"flushed_sequence": flushed, "tiers": tiers}


def read_detector_state(data: bytes) -> tuple[str, dict[str, tuple[list[int], list[float]]]]:
    """detectors.md: the kind, and shape and numbers of each array."""
    version, length, checksum = struct.unpack_from("<BII", data, 7)
    assert data[:7] == b"TGDET\x00\x00"
    assert version in (1, 2)
    assert crc32c(data[16:]) == checksum
    description = json.loads(data[16 : 16 + length])
    arrays = {}
    at = 16 + length
    for name, dtype, shape in description["arrays"]:
        count = math.prod(shape)
        form = f"<{count}{ {'<f4': 'f', '<f8': 'd', '<i8': 'q', '<u2': 'H', '|u1': 'B'}[dtype] }"
        arrays[name] = (shape, list(struct.unpack_from(form, data, at)))
        at += struct.calcsize(form)
    assert at == len(data)
    return description["kind"], arrays
