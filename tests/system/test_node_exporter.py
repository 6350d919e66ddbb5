"""Scrapes of a real node exporter, stored, sealed, read back to the last bit; skipped where there is no exporter."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pytest

from engine.clock import ManualClock
from engine.config import Config, Query
from engine.runtime import Engine
from engine.segments.reader import column_names, segment_path
from tests.oracles.prometheus import text_line

NAMES = ("prometheus-node-exporter", "node_exporter")
SCRAPES = 5
READY_SECONDS = 20.0
INTERVAL_SECONDS = 15.0


@pytest.fixture(scope="module")
def scrapes() -> Iterator[list[bytes]]:
    """Return a few expositions as the exporter of this machine gives them."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no node exporter is installed here ({' or '.join(NAMES)})")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [program, f"--web.listen-address=127.0.0.1:{port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + READY_SECONDS
        found: list[bytes] = []
        while len(found) < SCRAPES and time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=READY_SECONDS) as answer:
                    found.append(answer.read())
            except urllib.error.URLError:
                continue  # it is still starting
        if len(found) < SCRAPES:
            pytest.skip(f"the node exporter did not answer within {READY_SECONDS:g} s")
        yield found
    finally:
        process.kill()
        process.wait()


def test_every_sample_of_every_scrape_comes_back_with_its_bits(scrapes: list[bytes], tmp_path: Path) -> None:
    clock = ManualClock()
    expected: dict[tuple[tuple[tuple[bytes, bytes], ...], int], int] = {}
    root = str(tmp_path / "data")
    with Engine.open(root, Config(query=Query(in_process=True)), clock=clock) as engine:
        for number, body in enumerate(scrapes):
            # A scraper's timer is late by some milliseconds, for all series alike.
            clock.advance(INTERVAL_SECONDS + 0.001 * (number * 7 % 11))
            result = engine.submit_prometheus_text(body, labels={"job": "node"}).result()
            assert not result.refused
            stamp = clock.now_ns() // 1_000_000 * 1_000_000
            for line in body.split(b"\n"):
                sample, _ = text_line(line, default_time_ns=stamp, labels=[(b"job", b"node")])
                if sample is not None:
                    tags, time_ns, bits = sample
                    expected[tags, time_ns] = bits
        assert result.samples > 100, "an exporter without metrics tests nothing"
        engine.sealer.seal()
        table_id = engine.catalog.table_id("prometheus")
        assert table_id is not None
        segments = engine.samples.segments(table_id)
        rows = engine.samples.collect(table_id, 0, 2**63 - 1)
        tagsets = {tagset: tuple(engine.catalog.native.tags(tagset)) for tagset in np.unique(rows.tagset_ids).tolist()}
        found = {
            (tagsets[tagset], time_ns): bits
            for tagset, time_ns, bits in zip(
                rows.tagset_ids.tolist(), rows.times.tolist(), rows.values.view(np.uint64)[0].tolist(), strict=True
            )
        }
        assert found == expected
        assert len(engine.catalog.metric_names()) > 50

    # The same from the files alone, as somebody else's DuckDB reads them.
    plain: dict[tuple[int, int], float] = {}
    for meta in segments:
        (columns,) = column_names(meta).values()
        value = ", ".join(f'"{column}"::DOUBLE' for column in columns)
        plain |= {
            (tagset, time_ns): sample
            for tagset, time_ns, sample in duckdb.sql(
                f"SELECT tagset_id, epoch_ns(time), coalesce({value}, NULL) FROM '{segment_path(root, meta)}'"
            ).fetchall()
        }
    assert len(plain) == len(expected)
    of_tags = {tags: tagset for tagset, tags in tagsets.items()}
    for (tags, time_ns), bits in expected.items():
        assert np.float64(plain[of_tags[tags], time_ns]).view(np.uint64) == bits
