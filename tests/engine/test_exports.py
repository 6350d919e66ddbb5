"""Hot rows as files: each row once, whatever has grown, was frozen, sorted or came late between two readers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.hot.store import HotStore
from engine.model.rows import FOREVER_NS, NEVER_NS, Rows
from engine.query import exports
from engine.query.exports import Exports
from engine.query.samples import SampleStore
from engine.query.sources import NeededTable
from tests.filesystems import MemoryFileSystem

TABLE = NeededTable(table_id=0, name="t")


def rows_of(paths: tuple[str, ...]) -> list[tuple[int, int, float]]:
    found = []
    for path in paths:
        with pa.memory_map(path) as mapped:
            table = pa.ipc.open_file(mapped).read_all()
        times = table.column("time").cast(pa.int64()).to_pylist()
        found += list(zip(table.column("tagset_id").to_pylist(), times, table.column("f0").to_pylist(), strict=True))
    return sorted(found)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), min_size=1, max_size=9)),
        st.just(("read",)),
        st.just(("freeze",)),
        st.just(("arrange",)),
    ),
    max_size=25,
)


@given(steps)
@settings(max_examples=150, deadline=None)
def test_every_row_is_exported_once(commands: list[tuple[object, ...]]) -> None:
    hot = HotStore()
    samples = SampleStore(MemoryFileSystem(), "", hot, ())
    exported = Exports(samples, "")
    try:
        for sequence, command in enumerate([*commands, ("read",)], 1):
            match command:
                case ("write", list(keys)):
                    ids, times = (np.array(column) for column in zip(*keys, strict=True))
                    values = np.arange(len(keys), dtype=np.float64)[None, :] + sequence * 100
                    hot.append(0, Rows(ids.astype(np.int32), times.astype(np.int64), (0,), values), sequence)
                case ("freeze",):
                    for block in hot.freeze(0):
                        block.searched = True
                case ("arrange",):
                    hot.arrange()
                case _:
                    whole = samples.collect(0, NEVER_NS, FOREVER_NS)
                    values = whole.values[0].tolist() if len(whole) else []
                    keys = zip(whole.tagset_ids.tolist(), whole.times.tolist(), values, strict=True)
                    with exported.sources([TABLE]) as (source,):
                        assert rows_of(source.arrow) == sorted(keys)
    finally:
        exported.close()


def test_only_what_is_new_of_an_open_block_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "MAX_PIECES", 3)
    hot = HotStore()
    exported = Exports(SampleStore(MemoryFileSystem(), "", hot, ()), "")
    try:
        before: set[str] = set()
        new_rows = []
        for second in range(7):
            ids = np.arange(5, dtype=np.int32)
            hot.append(0, Rows(ids, np.full(5, second, np.int64), (0,), np.zeros((1, 5))), second + 1)
            for _ in range(2):
                with exported.sources([TABLE]) as (source,):
                    written = [path for path in source.arrow if path not in before]
                    new_rows.append(len(rows_of(tuple(written))))
                    before = set(source.arrow)
            assert {str(path) for path in Path(exported.directory).iterdir()} == before
        assert new_rows == [5, 0, 5, 0, 5, 0, 20, 0, 5, 0, 5, 0, 35, 0]
    finally:
        exported.close()
