"""Opening a damaged directory: it opens, says what was repaired or set aside, and takes writes; or it is refused."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.clock import NS_PER_SECOND, ManualClock
from engine.config import Config, Query, Retention
from engine.config_units import Duration
from engine.errors import TidegaugeError
from engine.runtime import Engine
from tests.engine.test_recovery import NOW_NS, line, values, write

CONFIG = Config(retention=Retention(raw=Duration.parse("30d")), query=Query(in_process=True))
SEALED, SECOND, NEWEST = ("sealed", -9_000), ("second", 0), ("newest", 0)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Killed with one row in a segment and its tiers, and two more in the log, each in a file of its own."""
    data = tmp_path_factory.mktemp("openings") / "data"
    engine = Engine.open(str(data), CONFIG, clock=ManualClock(NOW_NS))
    write(engine, line(*SEALED, 1))
    engine.flush_rollups()
    engine.sealer.seal()
    engine.wal.roll()
    engine.sealer.trim_log()
    engine.sealer.trim_log()
    write(engine, line(*SECOND, 2) + line("second", -1, 2))
    engine.catalog.persist()
    engine.wal.roll()
    write(engine, line(*NEWEST, 3))
    copy = data.with_name("killed")
    shutil.copytree(data, copy)
    engine.close()
    return copy


def one(data: Path, pattern: str, index: int = 0) -> Path:
    return sorted(data.glob(pattern))[index]


def flip(pattern: str, index: int = 0, at: float = 0.5) -> Callable[[Path], None]:
    def damage(data: Path) -> None:
        file = one(data, pattern, index)
        content = bytearray(file.read_bytes())
        content[int(len(content) * at)] ^= 0x10
        file.write_bytes(content)

    return damage


def cut(pattern: str, index: int = 0, keep: float = 0.9) -> Callable[[Path], None]:
    def damage(data: Path) -> None:
        file = one(data, pattern, index)
        file.write_bytes(file.read_bytes()[: int(file.stat().st_size * keep)])

    return damage


def lose(pattern: str) -> Callable[[Path], None]:
    def damage(data: Path) -> None:
        for file in sorted(data.glob(pattern)):
            if file.is_dir():
                shutil.rmtree(file)
            else:
                file.unlink()

    return damage


def put(name: str, content: bytes = b"half of something") -> Callable[[Path], None]:
    return lambda data: (data / name).write_bytes(content) and None


def newer(pattern: str, index: int, at: int) -> Callable[[Path], None]:
    def damage(data: Path) -> None:
        file = one(data, pattern, index)
        content = bytearray(file.read_bytes())
        content[at] = 99
        file.write_bytes(content)

    return damage


def strange_control(data: Path) -> None:
    lose("control.sqlite*")(data)
    put("control.sqlite", b"not a database" * 100)(data)


ALL = {SEALED, SECOND, NEWEST}
#: Damage, what is still there, what readiness says of it (None: nothing).
OPENS: list[tuple[str, Callable[[Path], None], set[tuple[str, int]], str | None]] = [
    ("torn log", cut("wal/*.wal", -1, 0.8), {SEALED, SECOND}, "cut .* unacknowledged bytes"),
    (
        "flipped bit in the newest log file",
        flip("wal/*.wal", -1, 0.9),
        {SEALED, SECOND},
        "checksum .* a copy is kept in",
    ),
    ("flipped bit in an older log file", flip("wal/*.wal", -2, 0.9), {SEALED, NEWEST}, "log frames missing"),
    ("flipped bit in a log header", flip("wal/*.wal", -1, 0.01), ALL, "file header"),
    ("log lost", lose("wal/*.wal"), {SEALED}, None),
    ("half a log file set aside", put("wal/0000000000000001.wal.damaged.tmp"), ALL, None),
    ("torn catalogue", cut("catalog.log", 0, 0.95), ALL, None),
    ("newest manifest damaged", flip("manifest-*.json", -1), ALL, "renamed to .*damaged"),
    ("half a manifest", put("manifest-00000000000000ff.json.tmp"), ALL, "did not finish"),
    ("half a segment", put("segments/t/x.parquet.tmp"), ALL, "did not finish"),
    ("a stranger's file", put("segments/t/stranger.parquet"), ALL, "not named like a segment"),
    ("rollups lost", lose("rollups*"), ALL, None),
    ("rollup database lost", lose("rollups.duckdb*"), ALL, "tiers were recomputed"),
    ("control state lost", lose("control.sqlite*"), ALL, None),
]
REFUSED: list[tuple[str, Callable[[Path], None], str]] = [
    ("both manifests damaged", lambda data: [flip("manifest-*.json", at)(data) for at in (0, 1)] and None, "manifest"),
    ("manifests lost", lose("manifest-*.json"), "cannot open manifest: there is no manifest; 1 segment files exist"),
    ("flipped bit in the catalogue", flip("catalog.log", 0, 0.2), "cannot read catalogue"),
    ("control state of another program", strange_control, "cannot open the control database"),
]


@pytest.mark.parametrize(("damage", "kept", "said"), [each[1:] for each in OPENS], ids=[each[0] for each in OPENS])
def test_it_opens_and_says_what_was_found(
    directory: Path, tmp_path: Path, damage: Callable[[Path], None], kept: set[tuple[str, int]], said: str | None
) -> None:
    data = tmp_path / "data"
    shutil.copytree(directory, data)
    damage(data)
    with Engine.open(str(data), CONFIG, clock=ManualClock(NOW_NS)) as engine:
        found = values(engine)
        assert {key for key in ALL if key in found} == kept
        state = engine.readiness()
        findings = state["log_findings"] + state["storage_findings"]
        if said is None:
            assert not [each for each in findings if "damaged" in each]
        else:
            assert any(re.search(said, each) for each in findings), findings
        write(engine, line("after", 0, 9))
        engine.flush_rollups()
        tier = engine.sql("SELECT sum(count) AS n FROM rollup_1d").table["n"].to_pylist()
        assert tier == [len(values(engine))]
        assert state["ready"]
    with Engine.open(str(data), CONFIG, clock=ManualClock(NOW_NS)) as engine:
        assert values(engine).keys() == found.keys() | {("after", 0)}


@pytest.mark.parametrize(("damage", "said"), [each[1:] for each in REFUSED], ids=[each[0] for each in REFUSED])
def test_it_is_refused_with_a_sentence_and_left_as_it_is(
    directory: Path, tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    data = tmp_path / "data"
    shutil.copytree(directory, data)
    damage(data)
    before = {
        file: file.read_bytes() for file in data.rglob("*") if file.is_file() and file.suffix in (".wal", ".parquet")
    }
    for _ in range(2):
        with pytest.raises(TidegaugeError, match=said) as raised:
            Engine.open(str(data), CONFIG, clock=ManualClock(NOW_NS))
        assert str(data) in raised.value.message
    assert {file: file.read_bytes() for file in before} == before


@pytest.mark.parametrize(
    "damage", [lose("segments/t/*.parquet"), flip("segments/t/*.parquet", 0, 0.3)], ids=["lost", "flipped"]
)
def test_a_segment_that_cannot_be_read_refuses_its_queries_by_name_and_nothing_else(
    directory: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(directory, data)
    damage(data)
    with Engine.open(str(data), CONFIG, clock=ManualClock(NOW_NS)) as engine:
        with pytest.raises(TidegaugeError, match="parquet"):
            values(engine)
        rows = engine.samples.collect(0, NOW_NS - 10 * NS_PER_SECOND, NOW_NS + 1)
        assert len(rows) == 3
        write(engine, line("after", 0, 9))
        assert len(engine.samples.collect(0, NOW_NS - 10 * NS_PER_SECOND, NOW_NS + 1)) == 4
