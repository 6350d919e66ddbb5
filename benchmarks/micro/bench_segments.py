"""engine.segments: writing and reading a segment, planning a seal, and the manifest.

Rows: 200 tag sets x 720 points (2 h at 10 s) x 10 fields, 1.44 M samples.  Best case: one-step random walks of whole
numbers.  Ordinary: the same with two decimals.  Worst: full-precision noise, a tenth of the cells absent.  Reading: all
of a segment, one series of it, one hour of it.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from engine.clock import NS_PER_DAY, NS_PER_HOUR, NS_PER_SECOND
from engine.disk.real import RealFileSystem
from engine.model.rows import Float64Array, Int32Array, Rows
from engine.segments.footer import FooterCache
from engine.segments.layout import SegmentMeta, SegmentSpec
from engine.segments.manifest_format import Manifest, decode_manifest, encode_manifest
from engine.segments.plan import plan_seal
from engine.segments.reader import read_segment, verify_segment
from engine.segments.writer import encode_segment, write_segment
from native.columns import ABSENT

TAGSETS = 200
POINTS = 720
FIELDS = 10
START_NS = 1_700_000_000 * NS_PER_SECOND // (2 * NS_PER_HOUR) * (2 * NS_PER_HOUR)

Case = tuple[str, float, str, Callable[[], object]]


def _tags_of(tagset_ids: Int32Array) -> tuple[list[str], list[list[str | None]]]:
    return ["host", "region"], [
        [f"host_{number}" for number in tagset_ids.tolist()],
        [f"region_{number % 9}" for number in tagset_ids.tolist()],
    ]


def _rows(values: Float64Array) -> Rows:
    return Rows(
        np.repeat(np.arange(TAGSETS, dtype=np.int32), POINTS),
        np.tile(START_NS + np.arange(POINTS, dtype=np.int64) * 10 * NS_PER_SECOND, TAGSETS),
        tuple(range(FIELDS)),
        values.reshape(FIELDS, TAGSETS * POINTS),
    )


def _inputs() -> dict[str, Rows]:
    random = np.random.default_rng(1)
    walk = np.clip(50 + np.cumsum(random.normal(size=(FIELDS, TAGSETS, POINTS)), axis=2), 0, 100)
    noise = random.normal(size=walk.shape)
    noise[random.random(walk.shape) < 0.1] = ABSENT
    return {
        "whole numbers": _rows(np.trunc(walk)),
        "two decimals": _rows(np.round(walk, 2)),
        "noise with gaps": _rows(noise),
    }


def _spec() -> SegmentSpec:
    return SegmentSpec(
        table_id=0,
        table="cpu",
        start_ns=START_NS,
        end_ns=START_NS + 2 * NS_PER_HOUR,
        field_names={field_id: f"usage_{field_id}" for field_id in range(FIELDS)},
        sequence=1,
        sealed_through=1,
        created_ns=START_NS,
    )


def _listed(number: int) -> SegmentMeta:
    start_ns = START_NS + number * 2 * NS_PER_HOUR
    return SegmentMeta(
        table_id=0,
        table="cpu",
        file=f"segments/cpu/{number}.parquet",
        start_ns=start_ns,
        end_ns=start_ns + 2 * NS_PER_HOUR,
        min_time_ns=start_ns,
        max_time_ns=start_ns,
        rows=TAGSETS * POINTS,
        samples=TAGSETS * POINTS * FIELDS,
        bytes=600_000,
        crc32c=number,
        footer_bytes=12_000,
        footer_crc32c=number,
        group_crc32c=(number, number),
        sealed_through=number,
        created_ns=start_ns,
        sequence=number,
        columns=(),
    )


def cases() -> list[Case]:
    directory = tempfile.mkdtemp(prefix="tidegauge-bench-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    found: list[Case] = []
    for name, rows in _inputs().items():
        found += _cases_of(directory, name, rows)
    return [*found, *_plan_cases(), *_manifest_cases()]


def _cases_of(directory: str, name: str, rows: Rows) -> list[Case]:
    fs, cache, spec = RealFileSystem(), FooterCache(), _spec()
    meta = write_segment(fs, f"{directory}/{name}", spec, rows, _tags_of)
    verify_segment(fs, f"{directory}/{name}", meta)

    def read(**limits: Any) -> Rows:
        return read_segment(fs, f"{directory}/{name}", meta, cache=cache, **limits)

    if (read().values.view(np.uint64) != rows.values.view(np.uint64)).any():
        raise AssertionError(f"{name}: reading gives other bits than were written")
    hour_ns = START_NS + NS_PER_HOUR
    if len(read(tagset_ids=[77], field_ids=[3])) != POINTS or 2 * len(read(end_ns=hour_ns)) != len(rows):
        raise AssertionError(f"{name}: narrowed reading gives another number of rows")
    samples = meta.samples
    return [
        (f"encode {name}", samples, "samples", lambda: encode_segment(spec, rows, _tags_of)),
        (f"read all, {name}", samples, "samples", read),
        (f"read the first hour, {name}", samples / 2, "samples", lambda: read(end_ns=hour_ns)),
        (f"read one series, {name}", 1, "series", lambda: read(tagset_ids=[77], field_ids=[3])),
    ]


def _plan_cases() -> list[Case]:
    week = [_listed(number) for number in range(7 * 12)]
    times = np.tile(week[-1].end_ns + np.arange(POINTS, dtype=np.int64) * 10 * NS_PER_SECOND, TAGSETS)
    late = np.arange(START_NS, START_NS + 7 * NS_PER_DAY, 60 * NS_PER_SECOND, dtype=np.int64)
    if len(plan_seal(week, times)) != 1 or sum(task.new_rows for task in plan_seal(week, late)) != len(late):
        raise AssertionError("plans do not hold all rows")
    return [
        ("plan a live window after a week", len(times), "rows", lambda: plan_seal(week, times)),
        ("plan late rows all over a week", len(late), "rows", lambda: plan_seal(week, late)),
    ]


def _manifest_cases() -> list[Case]:
    manifest = Manifest(1, 10_001, 7, tuple(_listed(number) for number in range(10_000)))
    data = encode_manifest(manifest)
    if decode_manifest(data, "") != manifest:
        raise AssertionError("a manifest does not come back")
    return [
        ("encode a manifest", len(manifest.segments), "segments", lambda: encode_manifest(manifest)),
        ("decode a manifest", len(manifest.segments), "segments", lambda: decode_manifest(data, "")),
    ]
