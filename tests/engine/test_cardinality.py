"""Limits on tag sets, who is named for them, and a catalogue whose names change every hour."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from engine.catalog.cardinality import Counted, count
from engine.catalog.catalog import Catalog
from engine.clock import NS_PER_HOUR, NS_PER_MINUTE, NS_PER_SECOND, ManualClock
from engine.config import Duration, Ingest, Retention
from engine.hot.store import HotStore
from engine.ingest.admission import Admission
from engine.ingest.batch import Batch
from engine.ingest.lines import LinesDecoder
from engine.ingest.objects import ObjectsDecoder
from engine.ingest.prometheus import TextBodies
from engine.maintenance.catalogue import CatalogueKeeper
from engine.model.matchers import parse_matchers
from engine.vitals import Vitals
from tests.filesystems import MemoryFileSystem

START_NS = 1_700_000_000 * NS_PER_SECOND


class Rig:
    """Decoders, hot store and keeper of one catalogue, without threads or files."""

    def __init__(self, fs: MemoryFileSystem | None = None, **limits: int) -> None:
        self.clock = ManualClock(START_NS)
        self.catalog = Catalog(fs, "data/catalog.log" if fs else None, seed=lambda: 7)
        self.hot = HotStore()
        ingest = Ingest(**limits)  # type: ignore[arg-type]
        self.admission = Admission(self.catalog, ingest, Retention(raw=Duration.parse("30d")), self.clock)
        self.vitals = Vitals()
        self.keeper = CatalogueKeeper(
            catalog=self.catalog, hot=self.hot, ingest=ingest, vitals=self.vitals, clock=self.clock
        )
        self.lines = LinesDecoder(self.admission)
        self.sequence = 0

    def write(self, lines: Sequence[str]) -> Batch:
        return self.store(self.lines.decode("\n".join(lines).encode(), 1))

    def store(self, batch: Batch) -> Batch:
        self.sequence += 1
        for table_id, rows in batch.tables:
            self.hot.append(table_id, rows, self.sequence)
        return batch

    def later(self, minutes: int) -> None:
        for _ in range(minutes):
            self.clock.advance(60)
            self.keeper.run()


def hosts(first: int, last: int, table: str = "cpu") -> list[str]:
    return [f"{table},host=h{number},zone=z{number % 3} v=1" for number in range(first, last)]


def test_a_limit_of_one_table_names_the_table_and_its_widest_label() -> None:
    rig = Rig(max_tag_sets_per_table=5)
    batch = rig.write([*hosts(0, 7), "mem,host=h1 v=2", *hosts(0, 2)])
    assert batch.refused == {"table_tag_set_limit": 2}
    assert batch.rows == 8
    assert [refusal.position for refusal in batch.refusals] == [6, 7]
    message = batch.refusals[0].message
    assert "5 are in use, which is the limit" in message
    assert "table 'cpu' has 5 tag sets, and its label 'host' has the most values (5 among the newest)" in message


def test_the_limit_of_an_hour_moves_on() -> None:
    rig = Rig(max_new_tag_sets_per_hour=4)
    assert rig.write(hosts(0, 6)).refused == {"tag_set_rate_limit": 2}
    rig.later(30)
    assert rig.write(hosts(4, 6)).refused == {"tag_set_rate_limit": 2}
    rig.later(40)
    assert rig.write(hosts(4, 6)).refused == {}
    assert rig.keeper.new_within_the_hour == 2


def test_what_is_idle_makes_room_and_may_come_back() -> None:
    rig = Rig(max_tag_sets=4)
    assert rig.write(hosts(0, 5)).refused == {"tag_set_limit": 1}
    rig.later(60)
    assert rig.write(hosts(3, 5)).refused == {"tag_set_limit": 1}
    rig.later(70)  # 0, 1 and 2 have had no sample for two hours
    assert rig.catalog.native.in_use_count == 1
    assert rig.write(hosts(4, 7)).refused == {}
    # Known ones come back whatever the limit says: they were let in once.
    assert rig.write(hosts(0, 7)).refused == {}
    assert rig.catalog.native.tagset_count == 7


def test_every_decoder_keeps_to_the_limits() -> None:
    rig = Rig(max_tag_sets_per_table=1)
    elements = [{"table": "t", "tags": {"pod": pod}, "fields": {"x": 1}} for pod in "aba"]
    batch = ObjectsDecoder(rig.admission).decode(json.dumps({"samples": elements}).encode())
    assert (batch.refused, batch.rows) == ({"table_tag_set_limit": 1}, 2)
    assert "(ingest.max_tag_sets_per_table) and this one is new; table 't' has 1 tag sets" in batch.refusals[0].message
    assert "its label 'pod' has the most values (1 among the newest)" in batch.refusals[0].message
    batch = TextBodies(rig.admission).decode(b'up{pod="a"} 1\nup{pod="b"} 1\n', open_metrics=False, labels={})
    assert (batch.refused, batch.rows) == ({"table_tag_set_limit": 1}, 1)
    assert "table 'prometheus' has 1 tag sets" in batch.refusals[0].message


def test_cardinality_counts_what_a_scan_counts() -> None:
    rig = Rig()
    rig.write([*hosts(0, 40), *hosts(0, 7, "mem"), "bare v=1"])
    ids = np.arange(0, 48, 2, dtype=np.int32)
    tags = [(rig.catalog.native.tagset_tables(i, i + 1)[0], rig.catalog.tags(i)) for i in ids.tolist()]
    tables = Counter(rig.catalog.table_name(int(table_id)) for table_id, _ in tags)
    pairs = Counter((key, value) for _, each in tags for key, value in each.items())
    labels = {key: len({value for k, value in pairs if k == key}) for key, _ in pairs}
    found = count(rig.catalog, ids, 100)
    assert dict(found.tables) == tables
    assert dict(found.labels) == labels
    assert {(label, value): number for label, value, number in found.pairs} == pairs
    assert [number for *_, number in found.pairs] == sorted(pairs.values(), reverse=True)
    assert len(count(rig.catalog, ids, 2).pairs) == 2
    assert count(rig.catalog, ids[:0], 5) == Counted()


def test_the_answer_tells_totals_limits_and_growth() -> None:
    rig = Rig(max_tag_sets=100)
    rig.write(hosts(0, 10))
    rig.later(61)
    rig.write([*hosts(0, 5), *hosts(0, 3, "mem")])
    rig.later(60)
    answer = rig.keeper.cardinality(2)
    assert answer["tag_sets"] | {"new_since_ns": 0} == {
        "known": 13, "in_use": 8, "idle": 5, "in_files": 0, "new": 3, "new_since_ns": 0,
    }  # fmt: skip
    assert answer["tables"] == 2
    assert answer["headroom"]["tag_sets"] == 92
    assert answer["used"]["max_tag_sets"] == 0.08
    assert answer["top"]["tables"] == [{"table": "cpu", "tag_sets": 5}, {"table": "mem", "tag_sets": 3}]
    assert answer["top"]["labels"] == [{"label": "host", "values": 5}, {"label": "zone", "values": 3}]
    assert answer["growth"]["tables"] == [{"table": "mem", "tag_sets": 3}]


def test_a_limit_that_is_nearly_reached_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(max_tag_sets=10)
    rig.write(hosts(0, 8))
    with caplog.at_level(logging.WARNING, "tidegauge.catalogue"):
        rig.later(2)
        assert caplog.messages == []
        rig.write(hosts(8, 9))
        rig.later(3)
    assert caplog.messages == ["90 % of ingest.max_tag_sets is used; GET /v1/cardinality shows by what"]


def test_a_week_in_which_every_name_changes_hourly_takes_no_more_memory_than_its_first_hours() -> None:
    """500 series, renamed each hour: 84,000 names; what is held follows the 500 that are in use."""
    fs = MemoryFileSystem()
    fs.makedirs("data")
    rig = Rig(fs)
    held = []
    names = 500
    for hour in range(168):
        lines = [f"app,pod=p{hour}-{number},zone=z{number % 5} v={hour}" for number in range(names)]
        assert rig.write(lines).refused == {}
        rig.catalog.freeze(at_least=4 * names)
        rig.clock.advance(3_600)
        rig.keeper.run()
        held.append(rig.catalog.native.memory_bytes + rig.hot.series_nbytes)
    assert rig.catalog.native.tagset_count == 168 * names
    assert rig.catalog.native.in_use_count == 2 * names
    assert max(held[20:]) <= 1.1 * max(held[:20])
    # Old names are still found, under the numbers they had.
    assert rig.catalog.tagset_ids(0, parse_matchers('pod="p3-7"')).tolist() == [3 * names + 7]
    assert len(rig.catalog.tagset_ids(0, parse_matchers('pod=~"p3-.*",zone="z1"'))) == names // 5
    again = rig.write([f"app,pod=p3-7,zone=z2 v=5 {rig.clock.now_ns()}"])
    assert again.tables[0][1].tagset_ids.tolist() == [3 * names + 7]
    rig.catalog.persist()
    reopened = Catalog(fs, "data/catalog.log")
    reopened.load()
    assert reopened.native.mark() == rig.catalog.native.mark()
    assert reopened.tags(3 * names + 7) == {"pod": "p3-7", "zone": "z2"}


def test_the_hour_is_counted_by_the_clock() -> None:
    rig = Rig()
    rig.write(hosts(0, 3))
    rig.later(59)
    assert rig.keeper.new_within_the_hour == 3
    rig.later(2)
    assert rig.keeper.new_within_the_hour == 0
    assert rig.clock.now_ns() == START_NS + 61 * NS_PER_MINUTE
    assert NS_PER_HOUR == 60 * NS_PER_MINUTE
