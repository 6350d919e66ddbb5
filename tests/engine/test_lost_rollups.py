"""Packs of tiers that cannot be read any more: what is made again, from what, and what is told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from engine.clock import NS_PER_DAY, NS_PER_HOUR, NS_PER_MINUTE, NS_PER_SECOND, ManualClock
from engine.config import Config, Query, Retention
from engine.config_units import Duration
from engine.maintenance.verify.directory import verify
from engine.rollups.tiers import TIERS
from tests.engine.test_durability import QuietEngine

NOW_NS = 1_700_000_000 * NS_PER_SECOND // NS_PER_DAY * NS_PER_DAY + 6 * NS_PER_HOUR
FIRST_NS = NOW_NS // NS_PER_DAY * NS_PER_DAY - 3 * NS_PER_DAY
HOSTS = ("a", "b", "c")


def config(raw: str) -> Config:
    return Config(retention=Retention(raw=Duration.parse(raw)), query=Query(in_process=True))


def lines(since_ns: int, step_ns: int = 7 * NS_PER_MINUTE) -> bytes:
    times = range(FIRST_NS, NOW_NS, step_ns)
    return "".join(
        f"cpu,host={host} x={(time // step_ns * 31 + place) % 97}.5 {time}\n"
        for time in times
        if time >= since_ns
        for place, host in enumerate(HOSTS)
    ).encode()


def tiers_of(engine: QuietEngine) -> dict[str, pa.Table]:
    engine.flush_rollups()
    return {tier.name: engine.link.rollup_rows(tier.name, -(2**62), 2**62) for tier in TIERS}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("lost") / "data"
    with QuietEngine(str(data), config("30d"), clock=ManualClock(NOW_NS)) as engine:
        engine.submit_lines(lines(FIRST_NS)).result(30)
        tiers_of(engine)
    return data


def packs_of(data: Path) -> list[Path]:
    return sorted((data / "rollups").glob("*.pack"))


def spoil(pack: Path) -> None:
    pack.write_bytes(bytes(pack.stat().st_size))


def test_every_tier_is_made_again_from_what_is_below_it(sound: Path, tmp_path: Path) -> None:
    with QuietEngine(str(sound), config("30d"), clock=ManualClock(NOW_NS)) as engine:
        before = tiers_of(engine)
    assert all(len(table) for table in before.values())
    for number in range(len(packs_of(sound))):
        data = tmp_path / str(number)
        shutil.copytree(sound, data)
        pack = packs_of(data)[number]
        spoil(pack)
        with QuietEngine(str(data), config("30d"), clock=ManualClock(NOW_NS)) as engine:
            # The same samples once more: every bucket is to be replaced, so every part is read.
            engine.submit_lines(lines(FIRST_NS)).result(30)
            assert tiers_of(engine) == before, pack.name
            assert engine.lost_rollups.parts > 0
            assert "tidegauge_rollup_parts_lost" in engine.vitals.render().decode()
            assert any(f"{pack.name}.damaged" in each for each in engine.readiness()["storage_findings"])
        assert verify(str(data)).counts == {}
        assert pack.with_name(f"{pack.name}.damaged").exists()


def test_all_packs_at_once(sound: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(sound, data)
    with QuietEngine(str(data), config("30d"), clock=ManualClock(NOW_NS)) as engine:
        before = tiers_of(engine)
    for pack in packs_of(data):
        spoil(pack)
    with QuietEngine(str(data), config("30d"), clock=ManualClock(NOW_NS)) as engine:
        engine.submit_lines(lines(FIRST_NS)).result(30)
        assert tiers_of(engine) == before
    assert verify(str(data)).counts == {}


def test_what_raw_samples_cannot_give_is_lost_in_that_tier_alone(sound: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(sound, data)
    with QuietEngine(str(data), config("30d"), clock=ManualClock(NOW_NS)) as engine:
        before = tiers_of(engine)
        [narrowest] = {part.pack for part in engine.link._database()._writing.store.parts() if part.tier == "rollup_1m"}
    spoil(data / "rollups" / f"{narrowest:012d}.pack")
    with QuietEngine(str(data), config("40h"), clock=ManualClock(NOW_NS)) as engine:
        engine.submit_lines(lines(NOW_NS - NS_PER_HOUR)).result(30)
        after = tiers_of(engine)
    # From the first day on of which all raw samples are kept.
    kept_ns = -(-(NOW_NS - 40 * NS_PER_HOUR) // NS_PER_DAY) * NS_PER_DAY
    narrow = before["rollup_1m"]
    assert after["rollup_1m"] == narrow.filter(pc.greater_equal(narrow.column("time"), kept_ns))
    assert 0 < len(after["rollup_1m"]) < len(narrow)
    for tier in TIERS[1:]:
        assert after[tier.name] == before[tier.name], tier.name


def test_a_crash_before_the_rest_is_flushed_loses_nothing_more(sound: Path, tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    shutil.copytree(sound, data)
    for pack in packs_of(data):
        spoil(pack)
    with QuietEngine(str(data), config("30d"), clock=ManualClock(NOW_NS)) as engine:
        engine.submit_lines(lines(NOW_NS - NS_PER_HOUR)).result(30)
        mark = engine.lost_rollups.mark

        def crash() -> int:
            if engine.lost_rollups.waiting and not copy.exists():
                shutil.copytree(data, copy)
            return mark()

        engine.lost_rollups.mark = crash  # type: ignore[method-assign]
        expected = tiers_of(engine)
    assert copy.exists()
    (copy / "LOCK").unlink()
    with QuietEngine(str(copy), config("30d"), clock=ManualClock(NOW_NS)) as engine:
        assert tiers_of(engine) == expected
