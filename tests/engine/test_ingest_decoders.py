"""JSON batches and Arrow streams against what was put into them."""

from __future__ import annotations

import datetime
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.catalog.catalog import Catalog
from engine.clock import NS_PER_DAY, NS_PER_SECOND, ManualClock
from engine.config import Ingest, Retention, TableRetention
from engine.config_units import Duration
from engine.errors import BadRequest
from engine.ingest.admission import Admission
from engine.ingest.arrow import ArrowDecoder
from engine.ingest.batch import Batch
from engine.ingest.objects import ObjectsDecoder, parse_time_ns
from native.columns import ABSENT_BITS, is_absent

NOW_NS = 1_700_000_000 * NS_PER_SECOND
Samples = dict[tuple[str, tuple[tuple[str, str], ...], int, str], float]


def admission(**limits: int) -> Admission:
    retention = Retention(raw=Duration.parse("7d"), tables=(TableRetention(match="slow*", raw=Duration.parse("30d")),))
    return Admission(Catalog(), Ingest(**limits), retention, ManualClock(NOW_NS))


def samples_of(batch: Batch, catalog: Catalog) -> Samples:
    found: Samples = {}
    for table_id, rows in batch.tables:
        fields = catalog.fields(table_id)
        for index, field_id in enumerate(rows.field_ids):
            column = np.ascontiguousarray(rows.values[index])
            for at in np.flatnonzero(~is_absent(column)).tolist():
                tags = tuple(sorted(catalog.tags(int(rows.tagset_ids[at])).items()))
                key = (catalog.table_name(table_id), tags, int(rows.times[at]), fields[field_id].name)
                found[key] = float(column[at])
    return found


def decode_json(given_admission: Admission, *samples: Any) -> Batch:
    return ObjectsDecoder(given_admission).decode(json.dumps({"samples": list(samples)}).encode())


def sample(**changes: Any) -> dict[str, Any]:
    return {"table": "cpu", "tags": {"host": "a"}, "time": NOW_NS, "fields": {"x": 1}} | changes


class TestObjects:
    def test_every_form_of_value_and_time(self) -> None:
        limits = admission()
        batch = decode_json(
            limits,
            sample(fields={"x": 1, "y": 1.5, "z": True}),
            sample(time="2023-11-14T22:13:20.123456789Z", tags={"host": "b", "empty": ""}),
            sample(table="mem", time=None, tags={}),
        )
        at = NOW_NS
        assert samples_of(batch, limits.catalog) == {
            ("cpu", (("host", "a"),), at, "x"): 1.0,
            ("cpu", (("host", "a"),), at, "y"): 1.5,
            ("cpu", (("host", "a"),), at, "z"): 1.0,
            ("cpu", (("host", "b"),), at + 123_456_789, "x"): 1.0,
            ("mem", (), NOW_NS, "x"): 1.0,
        }
        assert (batch.rows, batch.samples, batch.refused) == (3, 5, {})

    @pytest.mark.parametrize(
        ("bad", "cause"),
        [
            ({"table": 5}, "malformed"),
            ({"table": ""}, "malformed"),
            ({"tags": {"host": 1}}, "malformed"),
            ({"extra": 1}, "malformed"),
            ({"time": "yesterday"}, "malformed"),
            ({"time": NOW_NS + 3_600 * NS_PER_SECOND}, "too_far_in_future"),
            ({"time": NOW_NS - 8 * NS_PER_DAY}, "too_old"),
            ({"time": NOW_NS - 31 * NS_PER_DAY, "table": "slow"}, "too_old"),
            ({"fields": {}}, "no_field"),
        ],
    )
    def test_one_bad_sample_is_refused_by_its_place_and_the_rest_kept(self, bad: dict[str, Any], cause: str) -> None:
        limits = admission()
        batch = decode_json(limits, sample(), sample() | bad, sample(tags={"host": "z"}))
        assert batch.refused == {cause: 1}
        assert [(refusal.position, refusal.cause) for refusal in batch.refusals] == [(2, cause)]
        if "too_" in cause:
            assert ", want nanoseconds from 20" in batch.refusals[0].message
        assert batch.rows == 2

    @pytest.mark.parametrize(
        ("value", "cause"), [("text", "string_field"), ([1], "unsupported_field"), (None, "unsupported_field")]
    )
    def test_a_bad_field_leaves_the_others(self, value: Any, cause: str) -> None:
        limits = admission()
        batch = decode_json(limits, sample(fields={"x": value, "y": 2}))
        assert batch.refused == {cause: 1}
        assert list(samples_of(batch, limits.catalog).values()) == [2.0]

    def test_old_rows_are_kept_by_a_table_with_longer_retention(self) -> None:
        limits = admission()
        assert decode_json(limits, sample(table="slow_orders", time=NOW_NS - 29 * NS_PER_DAY)).rows == 1

    def test_integers_that_float64_cannot_hold_are_rounded_and_counted(self) -> None:
        limits = admission()
        batch = decode_json(limits, sample(fields={"x": 2**53 + 1, "y": 2**53, "z": 2**60}))
        assert batch.rounded == 1
        assert list(samples_of(batch, limits.catalog).values()) == [2.0**53, 2.0**53, 2.0**60]

    def test_limits_refuse_what_is_new_and_keep_what_is_known(self) -> None:
        limits = admission(max_tag_sets=1, max_tables=1, max_fields_per_table=1)
        batch = decode_json(
            limits, sample(), sample(tags={"host": "b"}), sample(table="other"), sample(fields={"x": 2, "new": 3})
        )
        assert batch.refused == {"tag_set_limit": 1, "table_limit": 1, "field_limit": 1}
        assert batch.rows == 2

    def test_refused_rows_define_nothing(self) -> None:
        limits = admission()
        decode_json(limits, sample(table="new", time=0))
        assert limits.catalog.table_names() == []

    @pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"samples": 5}', b'{"samples": [], "more": 1}', b"\xff"])
    def test_what_is_no_batch_is_refused_whole(self, body: bytes) -> None:
        with pytest.raises(BadRequest, match="cannot read JSON batch"):
            ObjectsDecoder(admission()).decode(body)

    def test_only_so_many_refusals_are_told_but_all_are_counted(self) -> None:
        limits = admission(max_reported_lines=2)
        batch = decode_json(limits, *[sample(fields={}) for _ in range(5)])
        assert (batch.refused, len(batch.refusals)) == ({"no_field": 5}, 2)


@given(
    st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2200, 1, 1)),
    st.integers(0, 999_999_999),
    st.sampled_from(["Z", "+00:00", "+05:30", "-08:00"]),
)
@settings(max_examples=200, deadline=None)
def test_rfc3339_keeps_nine_decimals(moment: datetime.datetime, fraction: int, zone: str) -> None:
    whole = moment.replace(microsecond=0)
    offset = {"Z": 0, "+00:00": 0, "+05:30": 19_800, "-08:00": -28_800}[zone]
    seconds = (whole - datetime.datetime(1970, 1, 1)) // datetime.timedelta(seconds=1) - offset
    text = f"{whole:%Y-%m-%dT%H:%M:%S}".rjust(19, "0") + f".{fraction:09d}{zone}"
    assert parse_time_ns(text) == seconds * NS_PER_SECOND + fraction


def stream(table: pa.Table, name: str | None = "cpu") -> bytes:
    if name is not None:
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), "tidegauge.table": name})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    return sink.getvalue().to_pybytes()


def times(*offsets_s: int) -> pa.Array:
    return pa.array([NOW_NS + offset * NS_PER_SECOND for offset in offsets_s]).cast(pa.timestamp("ns"))


class TestArrow:
    def test_text_columns_are_tags_and_numbers_fields(self) -> None:
        limits = admission()
        table = pa.table(
            {
                "time": times(0, 1, 2, 3).cast(pa.timestamp("us")),
                "host": pa.array(["a", "b", "a", None]).dictionary_encode(),
                "region": ["eu", "us", "eu", ""],
                "x": pa.array([1, 2, None, 4], pa.int32()),
                "y": [True, False, True, None],
                "z": pa.array([1.5, 2.5, 3.5, 4.5], pa.float32()),
            }
        )
        batch = ArrowDecoder(limits).decode(stream(table))
        a, b = (("host", "a"), ("region", "eu")), (("host", "b"), ("region", "us"))
        second = NS_PER_SECOND
        assert samples_of(batch, limits.catalog) == {
            ("cpu", a, NOW_NS, "x"): 1.0, ("cpu", a, NOW_NS, "y"): 1.0, ("cpu", a, NOW_NS, "z"): 1.5,
            ("cpu", b, NOW_NS + second, "x"): 2.0, ("cpu", b, NOW_NS + second, "y"): 0.0,
            ("cpu", b, NOW_NS + second, "z"): 2.5,
            ("cpu", a, NOW_NS + 2 * second, "y"): 1.0, ("cpu", a, NOW_NS + 2 * second, "z"): 3.5,
            ("cpu", (), NOW_NS + 3 * second, "x"): 4.0, ("cpu", (), NOW_NS + 3 * second, "z"): 4.5,
        }  # fmt: skip
        assert (batch.rows, batch.samples, batch.refused) == (4, 10, {})

    def test_what_cannot_be_stored_is_refused_by_row_and_the_rest_kept(self) -> None:
        limits = admission()
        table = pa.table({"time": times(0, -30 * 86_400, 3_600, 1), "x": [1.0, 2.0, 3.0, float("nan")]})
        batch = ArrowDecoder(limits).decode(stream(table))
        assert batch.refused == {"too_old": 1, "too_far_in_future": 1, "not_finite": 1}
        assert samples_of(batch, limits.catalog) == {("cpu", (), NOW_NS, "x"): 1.0}

    def test_limits(self) -> None:
        limits = admission(max_tag_sets=1, max_tables=1, max_fields_per_table=1)
        table = pa.table({"time": times(0, 1), "host": ["a", "b"], "x": [1, 2], "y": [3, 4]})
        batch = ArrowDecoder(limits).decode(stream(table))
        assert batch.refused == {"field_limit": 2, "tag_set_limit": 1}
        assert samples_of(batch, limits.catalog) == {("cpu", (("host", "a"),), NOW_NS, "x"): 1.0}
        assert ArrowDecoder(limits).decode(stream(table, "other")).refused == {"table_limit": 2}

    def test_wide_integers_are_counted(self) -> None:
        limits = admission()
        table = pa.table({"time": times(0, 1, 2, 3), "x": pa.array([2**53 + 1, 2**62, 2**64 - 1, 5], pa.uint64())})
        assert ArrowDecoder(limits).decode(stream(table)).rounded == 2

    @pytest.mark.parametrize(
        ("table", "complaint"),
        [
            (pa.table({"x": [1]}), "names no table"),
            (pa.table({"time": times(0), "host": ["a"]}), "no numeric column"),
            (pa.table({"time": ["now"], "x": [1]}), "column 'time' is string"),
            (pa.table({"time": times(0), "x": [[1]]}), "column 'x' is list"),
            (pa.table({"time": pa.array([None], pa.timestamp("s")), "x": [1]}), "1 nulls"),
            (pa.table({"time": pa.array([2**60], pa.timestamp("s")), "x": [1]}), "does not fit"),
        ],
    )
    def test_streams_that_cannot_be_a_table(self, table: pa.Table, complaint: str) -> None:
        name = None if complaint == "names no table" else "cpu"
        with pytest.raises(BadRequest, match=complaint):
            ArrowDecoder(admission()).decode(stream(table, name))

    @given(st.binary(max_size=200))
    @settings(max_examples=100, deadline=None)
    def test_garbage_is_refused(self, body: bytes) -> None:
        with pytest.raises(BadRequest):
            ArrowDecoder(admission()).decode(body)

    @given(
        st.lists(
            st.lists(
                st.tuples(st.sampled_from("ab"), st.sampled_from(["x", "y", "", None]), st.integers(0, 50)), max_size=9
            ),
            min_size=1,
            max_size=4,
        ),
        st.booleans(),
    )
    @settings(max_examples=80, deadline=None)
    def test_agrees_with_the_same_rows_as_json(
        self, requests: list[list[tuple[str, str | None, int]]], fixed_dictionaries: bool
    ) -> None:
        """Over several requests, so that combinations are met again; with the same dictionaries or others each time."""
        by_arrow, by_json = admission(), admission()
        decoder = ArrowDecoder(by_arrow)

        def text(values: list[str | None], known: list[str]) -> pa.Array:
            if not fixed_dictionaries:
                return pa.array(values, pa.string())
            indices = pa.array([None if value is None else known.index(value) for value in values], pa.int32())
            return pa.DictionaryArray.from_arrays(indices, pa.array(known))

        for rows in requests:
            table = pa.table(
                {
                    "time": times(*[offset for *_, offset in rows]),
                    "host": text([host for host, *_ in rows], ["b", "a"]),
                    "zone": text([zone for _, zone, _ in rows], ["", "y", "x"]),
                    "v": pa.array(range(len(rows)), pa.int64()),
                }
            )
            objects = [
                sample(
                    tags={"host": host} | ({} if zone is None else {"zone": zone}),
                    time=NOW_NS + offset * NS_PER_SECOND,
                    fields={"v": at},
                )
                for at, (host, zone, offset) in enumerate(rows)
            ]
            expected = samples_of(decode_json(by_json, *objects), by_json.catalog)
            assert samples_of(decoder.decode(stream(table)), by_arrow.catalog) == expected

    @pytest.mark.parametrize("kinds", ["dd", "d", "di", "fd", "d0d", "dNd", "d:d"])
    @pytest.mark.parametrize("shift", [0, 4])
    def test_numbers_are_the_same_wherever_they_lie(self, kinds: str, shift: int) -> None:
        """Doubles side by side are used in place; other kinds, nulls, NaN, other columns between, odd addresses not."""
        types = {"d": pa.float64(), "i": pa.int64(), "f": pa.float32(), "0": pa.float64(), "N": pa.float64()}
        table = pa.table({"time": times(0, 1, 2)})
        want: dict[tuple[str, int], float] = {}
        for at, kind in enumerate(kinds):
            if kind == ":":
                table = table.append_column("host", pa.array(["a", "a", "a"]))
                continue
            cells: list[float | None] = [at * 10.0, at * 10.0 + 1, at * 10.0 + 2]
            if kind == "0":
                cells[1] = None
            if kind == "N":
                cells[1] = float("nan")
            table = table.append_column(f"f{at}", pa.array(cells, types[kind], from_pandas=False))
            for row, cell in enumerate(cells):
                if cell is not None and cell == cell:
                    want[f"f{at}", NOW_NS + row * NS_PER_SECOND] = cell
        limits = admission()
        memory = memoryview(bytearray(shift) + stream(table))[shift:]
        batch = ArrowDecoder(limits).decode(memory)
        got = {(field, time): value for (_, _, time, field), value in samples_of(batch, limits.catalog).items()}
        assert got == want
        assert batch.samples == len(want)
        assert batch.refused == ({"not_finite": 1} if "N" in kinds else {})

    def test_what_is_no_number_is_refused_row_by_row(self) -> None:
        """Positions are those of the request, also where rows before were refused for their time."""
        nan, inf = float("nan"), float("inf")
        table = pa.table({"time": times(0, -(10**8), 1, 2), "x": [1.0, 2.0, nan, inf], "y": [1.0, 1.0, 1.0, nan]})
        batch = ArrowDecoder(admission()).decode(stream(table))
        assert batch.refused == {"too_old": 1, "not_finite": 3}
        told = [(each.position, each.message) for each in batch.refusals if each.cause == "not_finite"]
        assert told == [
            (3, "cannot store field 'x' of row 3: it is not a finite number"),
            (4, "cannot store field 'x' of row 4: it is not a finite number"),
            (4, "cannot store field 'y' of row 4: it is not a finite number"),
        ]
        assert batch.samples == 3

    def test_what_is_no_number_is_kept_where_the_sender_says_so(self) -> None:
        patterns = [0x7FF0000000000002, 0x7FF8000000000000, 0xFFF0000000000000, ABSENT_BITS, None]
        values = pa.array(patterns, pa.uint64()).view(pa.float64())
        table = pa.table({"time": times(0, 1, 2, 3, 4), "x": values, "one": [1.0] * 5})
        batch = ArrowDecoder(admission()).decode(
            stream(table.replace_schema_metadata({"tidegauge.not_finite": "keep"}))
        )
        stored = np.concatenate([rows.values.view(np.uint64) for _, rows in batch.tables], axis=1).tolist()
        assert [*patterns[:3], ABSENT_BITS, ABSENT_BITS] in stored
        assert batch.refused == {"reserved_nan": 1}
        assert batch.samples == 8
        assert "field 'x' of row 4: it is the NaN 7ff8544944454741, which stands for" in batch.refusals[0].message

    def test_what_becomes_of_it_is_one_of_two(self) -> None:
        table = pa.table({"time": times(0), "x": [1.0]}).replace_schema_metadata({"tidegauge.not_finite": "maybe"})
        with pytest.raises(BadRequest, match="got 'maybe', want 'keep' or 'refuse'"):
            ArrowDecoder(admission()).decode(stream(table))

    @pytest.mark.parametrize("index", [1, 2, -1, 2**31 - 1])
    def test_an_index_beyond_its_dictionary_is_refused(self, index: int) -> None:
        hosts = pa.DictionaryArray.from_arrays(pa.array([0, index], pa.int32()), pa.array(["a"]), safe=False)
        table = pa.table({"time": times(0, 1), "host": hosts, "x": [1.0, 2.0]})
        with pytest.raises(BadRequest, match="indices beyond its dictionary"):
            ArrowDecoder(admission()).decode(stream(table))
