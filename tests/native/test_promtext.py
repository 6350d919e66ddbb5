"""native.promtext against its slow twin: expositions as exporters write them, and any text."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from native.catalogue import Catalogue
from native.promtext import PromTextDecoder
from tests.oracles.prometheus import ENOUGH_NS, Refused, Sample, text_line

NOW = 1_700_000_000_000_000_000


class Decoder:
    def __init__(self, **limits: int) -> None:
        self.catalogue = Catalogue()
        self.table_id = self.catalogue.table(b"prometheus")
        limits = {"max_tagsets": 1000, "max_refusals": 10, "max_key_bytes": 1 << 20, **limits}
        self.native = PromTextDecoder(self.catalogue, **limits)
        # Knows every longer raw key by its fingerprint alone.
        lean_catalogue = Catalogue()
        lean_catalogue.table(b"prometheus")
        self.lean = PromTextDecoder(lean_catalogue, **limits, max_key_text=0)

    def raw(self, body: bytes, **options: Any) -> Any:
        options = {
            "default_time_ns": NOW, "min_time_ns": -ENOUGH_NS, "max_time_ns": ENOUGH_NS, **options
        }  # fmt: skip
        found = self.native.decode(body, table_id=self.table_id, **options)
        lean = self.lean.decode(body, table_id=self.table_id, **options)
        for name in ("tagset_ids", "times", "values"):
            assert getattr(lean, name).tobytes() == getattr(found, name).tobytes()
        assert (lean.refusals, lean.dropped) == (found.refusals, found.dropped)
        return found

    def __call__(self, body: bytes, **options: Any) -> tuple[list[Sample], dict[str, int], int]:
        found = self.raw(body, **options)
        bits = found.values.view(np.uint64).tolist()
        rows = zip(found.tagset_ids.tolist(), found.times.tolist(), bits, strict=True)
        return (
            [(tuple(self.catalogue.tags(tagset)), time, value) for tagset, time, value in rows],
            found.refused_by_cause,
            found.dropped,
        )


def of_twin(body: bytes, **options: Any) -> tuple[list[Sample], dict[str, int], int]:
    kept: list[Sample] = []
    refused: dict[str, int] = {}
    dropped = 0
    for line in body.split(b"\n"):
        try:
            found, exemplar = text_line(line, **{"default_time_ns": NOW, **options})
        except Refused as error:
            refused[str(error)] = refused.get(str(error), 0) + 1
            continue
        dropped += exemplar
        if found is not None:
            kept.append(found)
    return kept, refused, dropped


NAMES = st.sampled_from([b"up", b"go_gc_duration_seconds", b"a:b", b"_", b"1x", b"x-y", b"", b"\xff", b'"up"'])
LABELS = st.lists(
    st.sampled_from(
        [b'job="a"', b'le="+Inf"', b'x="a\\"b\\\\c\\nd"', b'"k.k" = "v"', b'"my.name"', b'e=""', b"bad", b'j="a',
         b'u="\xff"', b'b="}{,"', b'job="b"']
    ),
    max_size=3,
)  # fmt: skip
VALUES = st.one_of(
    st.floats().map(lambda value: repr(value).encode()),
    st.integers(-(10**20), 10**20).map(lambda value: b"%d" % value),
    st.sampled_from(b"NaN +Inf -Inf Infinity 1e999 -nan 0x10 1_0 t 1i +1.5 +-1 .5 5. ".split(b" ")),
)  # fmt: skip
TIMES = st.one_of(
    st.just(b""),
    st.integers(-(10**13), 10**13).map(lambda value: b"%d" % value),
    st.sampled_from([b"1.5", b"-0.000000001", b"9" * 30, b"12x", b"-", b"1.1234567899"]),
)
TAILS = st.sampled_from([b"", b" # {trace_id=\"a\"} 1", b" more", b"\r", b"  "])  # fmt: skip


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    blank = st.sampled_from([b" ", b"\t", b"  "])
    labels = draw(LABELS)
    series = draw(NAMES)
    if labels or draw(st.booleans()):
        series += draw(st.sampled_from([b"", b" "])) + b"{" + draw(st.sampled_from([b",", b", "])).join(labels)
        series += draw(st.sampled_from([b"}", b",}", b" }", b""]))
    time = draw(TIMES)
    return series + draw(blank) + draw(VALUES) + (draw(blank) + time if time else b"") + draw(TAILS)


def compare(decode: Decoder, body: bytes, **options: Any) -> None:
    assert decode(body, **options) == of_twin(body, **options)


@given(st.lists(lines(), max_size=5), st.booleans())
@settings(max_examples=300)
def test_lines_mean_what_the_twin_says(body: list[bytes], open_metrics: bool) -> None:
    decode = Decoder()
    for _ in range(2):  # the second time by raw keys that are known
        compare(decode, b"\n".join(body), open_metrics=open_metrics)


@given(st.lists(st.sampled_from([*b'ab{}=",\\ \n\t#1.+-eN', 0xFF]), max_size=30).map(bytes))
@example(b'a{"\\')
@example(b'a{b="c\\"} 1')
@settings(max_examples=500)
def test_any_text_is_read_alike(body: bytes) -> None:
    compare(Decoder(), body)


def test_an_exposition_as_an_exporter_writes_it() -> None:
    decode = Decoder()
    kept, refused, dropped = decode(
        b"# HELP up Whether.\n# TYPE up gauge\nup 1\n"
        b'http_seconds_bucket{le="+Inf",path="/a\\"b"} 3 1700000000123\n'
        b'{"my.metric",job="x"} NaN\n# EOF\n'
    )
    assert (refused, dropped) == ({}, 0)
    assert [(dict(tags), time) for tags, time, _ in kept] == [
        ({b"__name__": b"up"}, NOW),
        ({b"__name__": b"http_seconds_bucket", b"le": b"+Inf", b"path": b'/a"b'}, 1_700_000_000_123_000_000),
        ({b"__name__": b"my.metric", b"job": b"x"}, NOW),
    ]
    assert struct.unpack("<d", struct.pack("<Q", kept[1][2])) == (3.0,)


def test_labels_of_the_request_take_the_place_of_the_lines() -> None:
    decode = Decoder()
    body = b'up{job="theirs",x="1"} 1\n'
    for labels in ((), ((b"job", b"ours"),), ((b"job", b"other"), (b"instance", b"i")), ()):
        kept, _, _ = decode(body, labels=labels)
        assert dict(kept[0][0]) == {b"__name__": b"up", b"job": b"theirs", b"x": b"1", **dict(labels)}


def test_limits_on_time_and_tag_sets() -> None:
    decode = Decoder(max_tagsets=1)
    body = b"a 1 5\na 1 15\na 1 25\nb 1 15\n"
    kept, refused, _ = decode(body, min_time_ns=10_000_000, max_time_ns=20_000_000)
    assert (len(kept), refused) == (1, {"too_old": 1, "too_far_in_future": 1, "tag_set_limit": 1})


def test_refusals_name_the_line() -> None:
    found = Decoder().raw(b"ok 1\n\nnot a metric\n")
    assert found.refusals == [
        (3, "malformed", "cannot keep the sample: got 'not a metric', want name{label=\"value\",...} value [timestamp]")
    ]


def test_raw_keys_are_forgotten_beyond_their_memory() -> None:
    decode = Decoder(max_key_bytes=1 << 12, max_tagsets=10_000)
    for number in range(2_000):
        decode(b"m%d 1" % number)
    assert decode.native.key_bytes < 1 << 14


def test_wrong_use_is_refused() -> None:
    with pytest.raises(ValueError, match="table 7"):
        Decoder().native.decode(b"", table_id=7, default_time_ns=0, min_time_ns=0, max_time_ns=0)
