"""`verify`: clean on what the engine writes at any moment, changes nothing, and finds what is wrong with tiers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engine.clock import NS_PER_DAY, ManualClock
from engine.errors import Unavailable
from engine.maintenance.verify.directory import verify
from engine.maintenance.verify.kinds import KINDS
from engine.maintenance.verify.report import KEPT_OF_A_KIND, Report
from engine.runtime import Engine
from tests.engine.test_engine_rollups import CONFIG, NOW_NS, Twin, random_batch
from tests.engine.tier_pieces import altered

TIERS = ("rollup_1m", "rollup_5m", "rollup_15m", "rollup_1h", "rollup_1d")


def bytes_below(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "LOCK"
    }


def checked_as_it_is(directory: Path, **limits: int) -> Report:
    """Verify, and see to it that nothing has been changed."""
    before = bytes_below(directory)
    report = verify(str(directory), **limits)
    assert bytes_below(directory) == before
    return report


@pytest.mark.parametrize("seed", range(3))
def test_clean_at_any_moment_of_an_engine_s_life(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    twin = Twin()
    data = tmp_path / "data"
    engine = Engine.open(str(data), CONFIG, clock=ManualClock(NOW_NS))
    try:
        for step in range(10):
            engine.submit_lines(random_batch(rng, NOW_NS - 3 * NS_PER_DAY, twin)).result(30)
            match int(rng.integers(4)):
                case 0:
                    engine.flush_rollups()
                case 1:
                    engine.sealer.seal()
                case 2:
                    # What a kill -9 would leave behind at this moment.
                    copy = tmp_path / str(step)
                    shutil.copytree(data, copy)
                    for limits in ({}, {"log_bytes": 0, "cells_at_a_time": 100}):
                        report = checked_as_it_is(copy, **limits)
                        assert report.counts == {}, report.findings
                case _:
                    pass
    finally:
        engine.close()
    report = checked_as_it_is(data)
    assert report.counts == {}, report.findings
    assert report.checked["rollup_1m rows"] + report.unchecked["rollup_1m rows"] > 0
    assert all(report.unchecked[f"{tier} rows"] == 0 for tier in TIERS[1:])


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory after an orderly stop: two tables, several segments, every tier filled."""
    rng = np.random.default_rng(11)
    data = tmp_path_factory.mktemp("stopped") / "data"
    twin = Twin()
    with Engine.open(str(data), CONFIG, clock=ManualClock(NOW_NS)) as engine:
        for _ in range(6):
            engine.submit_lines(random_batch(rng, NOW_NS - 3 * NS_PER_DAY, twin)).result(30)
    return data


def one_row(tier: str) -> str:
    """Return a condition that holds for one row of a bucket of which there certainly are raw samples."""
    where = "WHERE time > (SELECT min(time) FROM " + tier + ")" if tier != "rollup_1d" else ""
    return f"rowid = (SELECT rowid FROM {tier} {where} ORDER BY time, series_id LIMIT 1 OFFSET 2)"


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ("sum = sum + 1", "rollup_row_differs", "sum"),
        ("count = count + 1", "rollup_row_differs", "count"),
        ("min = min - 0.5, max = max + 0.5", "rollup_row_differs", "max"),
        ("first = -first - 1", "rollup_row_differs", "first"),
        ("last_time = last_time + INTERVAL 1 SECOND", "rollup_row_differs", "last_time"),
    ],
)
def test_an_altered_row_is_found_in_every_tier(
    stopped: Path, tmp_path: Path, tier: str, change: str, kind: str, words: str
) -> None:
    data = altered(stopped, tmp_path / "data", f"UPDATE {tier} SET {change} WHERE {one_row(tier)}")
    report = checked_as_it_is(data)
    # The tier above is made from the altered row, so it does not fit either.
    assert set(report.counts) == {kind}
    finding = next(each for each in report.findings if each.found.startswith(f"{tier}:"))
    assert words in finding.found
    assert words in finding.expected
    assert finding.series is not None
    assert finding.series.startswith(("cpu_", "disk_"))
    assert finding.time_ns is not None


@pytest.mark.parametrize("tier", TIERS)
def test_a_missing_row_is_found_in_every_tier(stopped: Path, tmp_path: Path, tier: str) -> None:
    data = altered(stopped, tmp_path / "data", f"DELETE FROM {tier} WHERE {one_row(tier)}")
    report = checked_as_it_is(data)
    assert any(each.kind == "rollup_row_missing" and each.found.startswith(tier) for each in report.findings)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(
    "columns",
    [
        "*",  # twice
        "* REPLACE (series_id + 65536000000 AS series_id)",  # of a series that does not exist
        "* REPLACE (time + INTERVAL 400 DAY AS time)",  # where there are no samples
    ],
)
def test_a_row_too_many_is_found_in_every_tier(stopped: Path, tmp_path: Path, tier: str, columns: str) -> None:
    data = altered(stopped, tmp_path / "data", f"INSERT INTO {tier} SELECT {columns} FROM {tier} WHERE {one_row(tier)}")
    report = checked_as_it_is(data)
    assert any(each.kind == "rollup_row_extra" and each.found.startswith(tier) for each in report.findings)


def test_very_many_findings_are_counted_and_the_first_of_them_kept(stopped: Path, tmp_path: Path) -> None:
    data = altered(stopped, tmp_path / "data", "UPDATE rollup_1m SET sum = sum + 1")
    report = checked_as_it_is(data)
    assert report.counts["rollup_row_differs"] > KEPT_OF_A_KIND
    assert len(report.findings) == KEPT_OF_A_KIND


def test_rows_older_than_raw_samples_are_compared_among_tiers_only(stopped: Path, tmp_path: Path) -> None:
    earlier = "* REPLACE (time - INTERVAL 400 DAY AS time, first_time - INTERVAL 400 DAY AS first_time,"
    earlier += " last_time - INTERVAL 400 DAY AS last_time)"
    data = altered(stopped, tmp_path / "data", *(f"INSERT INTO {tier} SELECT {earlier} FROM {tier}" for tier in TIERS))
    report = checked_as_it_is(data)
    assert report.counts == {}, report.findings
    assert report.unchecked["rollup_1m rows"] >= report.checked["rollup_1m rows"] > 0
    again = altered(data, tmp_path / "again", "UPDATE rollup_1h SET max = max + 1 WHERE time < '2023-01-01'")
    assert set(verify(str(again)).counts) == {"rollup_row_differs"}


@pytest.mark.parametrize(
    ("statements", "kind"),
    [
        (("UPDATE rollup_store SET flushed_sequence = 0",), "rollups_behind"),
        (("UPDATE rollup_store SET flushed_sequence = 1000",), "rollups_ahead"),
        (("UPDATE rollup_store SET layout_version = 99",), "rollups_newer"),
        (("DELETE FROM rollup_store",), "rollups_layout"),
        (("DROP TABLE rollup_parts",), "rollups_layout"),
        (("DELETE FROM rollup_kept WHERE tier = 'rollup_1h'",), "rollups_layout"),
    ],
)
def test_a_rollup_database_that_does_not_fit(
    stopped: Path, tmp_path: Path, statements: tuple[str, ...], kind: str
) -> None:
    report = checked_as_it_is(altered(stopped, tmp_path / "data", *statements))
    assert set(report.counts) == {kind}


def test_a_directory_in_use_is_left_alone(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    with (
        Engine.open(data, CONFIG, clock=ManualClock(NOW_NS)),
        pytest.raises(Unavailable, match=r"cannot open data directory .* it is in use by process \d+"),
    ):
        verify(data)
    assert verify(data).counts == {}


def test_kinds_are_named_once_and_say_what_happens() -> None:
    for name, kind in KINDS.items():
        assert name == kind.name
        assert kind.severity in ("damage", "notice")
        assert not kind.meaning.endswith(".")
        assert kind.next_start.endswith(".")


def test_progress_is_told(stopped: Path) -> None:
    told: list[tuple[str, int, int]] = []
    record: Callable[[str, int, int], None] = lambda *step: told.append(step)  # noqa: E731
    verify(str(stopped), progress=record)
    assert {"segments", *TIERS} <= {what for what, _, _ in told}
    assert all(0 <= done <= total for _, done, total in told)


def test_rows_of_the_log_that_a_segment_lacks_are_found(tmp_path: Path) -> None:
    """A segment and its manifest entry that are sound in themselves, but have another value than the log."""
    data = tmp_path / "data"
    copy = tmp_path / "copy"
    lines = b"cpu,host=a x=%di %d"
    with Engine.open(str(data), CONFIG, clock=ManualClock(NOW_NS)) as engine:
        engine.submit_lines(lines % (1, NOW_NS)).result(30)
        engine.sealer.seal()
        shutil.copytree(data, copy)
    other = tmp_path / "other"
    with Engine.open(str(other), CONFIG, clock=ManualClock(NOW_NS)) as engine:
        engine.submit_lines(lines % (2, NOW_NS)).result(30)
        engine.sealer.seal()
        shutil.rmtree(copy / "segments")
        shutil.copytree(other / "segments", copy / "segments")
        manifest = max(other.glob("manifest-*.json"))
        for old in copy.glob("manifest-*.json"):
            old.unlink()
        shutil.copyfile(manifest, copy / manifest.name)
    for with_tiers in (True, False):
        if not with_tiers:
            for file in copy.glob("rollups.duckdb*"):
                file.unlink()
        report = checked_as_it_is(copy)
        assert set(report.counts) == {"log_and_segment_differ"}
        (finding,) = report.findings
        assert finding.series == "cpu{host=a}"
        assert finding.time_ns == NOW_NS
        assert (finding.found, finding.expected) == ("2.0 in field 0", "1.0 of the log")
