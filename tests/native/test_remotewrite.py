"""native.remotewrite against its slow twin, on requests, on damaged requests and on any bytes."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native.catalogue import Catalogue
from native.remotewrite import RemoteWriteDecoder
from tests.oracles import prometheus as twin
from tests.oracles.prometheus import ABSENT_BITS, ENOUGH_NS, NotProtobuf, label, message, sample, series, varint

STALE = 0x7FF0000000000002
Decoded = tuple[list[twin.Sample], dict[str, int], int]


class Decoder:
    """A decoder with its own catalogue, whose answers read like the twin's."""

    def __init__(self, **limits: int) -> None:
        self.catalogue = Catalogue()
        self.table_id = self.catalogue.table(b"prometheus")
        limits = {"max_tagsets": 1000, "max_refusals": 10, "max_key_bytes": 1 << 20, **limits}
        self.native = RemoteWriteDecoder(self.catalogue, **limits)
        # Knows every longer raw key by its fingerprint alone.
        lean_catalogue = Catalogue()
        lean_catalogue.table(b"prometheus")
        self.lean = RemoteWriteDecoder(lean_catalogue, **limits, max_key_text=0)

    def raw(self, body: bytes, min_time_ns: int = -ENOUGH_NS, max_time_ns: int = ENOUGH_NS, version: int = 1) -> Any:
        times = {"min_time_ns": min_time_ns, "max_time_ns": max_time_ns}
        found = self.native.decode(body, table_id=self.table_id, **times, version=version)
        lean = self.lean.decode(body, table_id=self.table_id, **times, version=version)
        for name in ("tagset_ids", "times", "values"):
            assert getattr(lean, name).tobytes() == getattr(found, name).tobytes()
        assert (lean.refusals, lean.dropped) == (found.refusals, found.dropped)
        return found

    def __call__(
        self, body: bytes, min_time_ns: int = -ENOUGH_NS, max_time_ns: int = ENOUGH_NS, version: int = 1
    ) -> Decoded:
        found = self.raw(body, min_time_ns, max_time_ns, version)
        bits = found.values.view(np.uint64).tolist()
        rows = zip(found.tagset_ids.tolist(), found.times.tolist(), bits, strict=True)
        kept = [(tuple(self.catalogue.tags(tagset)), time, value) for tagset, time, value in rows]
        return kept, found.refused_by_cause, found.dropped


def bits_of(value: float) -> int:
    return int(struct.unpack("<Q", struct.pack("<d", value))[0])


NAMES = st.sampled_from([b"__name__", b"job", b"instance", b"le", b"", b"\xff", "日".encode()])
TEXTS = st.sampled_from([b"", b"up", b"a", b"node:9100", b"\xfe", "Ü".encode(), b"x" * 300])
LABELS = st.lists(st.tuples(NAMES, TEXTS), max_size=4) | st.just([(b"__name__", b"up"), (b"job", b"a")])
BITS = st.floats(width=64).map(bits_of) | st.sampled_from([STALE, ABSENT_BITS, 0])
TIMES = st.integers(-(10**6), 10**6) | st.integers(-(2**63), 2**63 - 1)
UNKNOWN = st.sampled_from(
    [message(9, b"abc"), varint(7 << 3) + b"\x05", varint(6 << 3 | 1) + bytes(8), varint(5 << 3 | 5) + bytes(4), b""]
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    body = b""
    for _ in range(draw(st.integers(0, 4))):
        labels = [label(*pair) for pair in draw(LABELS)]
        samples = [sample(draw(BITS), draw(TIMES)) for _ in range(draw(st.integers(0, 3)))]
        others = [message(field, draw(st.binary(max_size=3))) for field in draw(st.lists(st.sampled_from([3, 4, 8])))]
        parts = [*labels, *samples, *others, draw(UNKNOWN)]
        if draw(st.booleans()):
            parts = draw(st.permutations(parts))
        body += message(1, b"".join(parts)) + draw(UNKNOWN)
        if draw(st.booleans()):
            body += message(3, b"metadata")
    return body


def compare(decode: Decoder, body: bytes, low: int, high: int, version: int = 1) -> None:
    read = twin.remote_write if version == 1 else twin.remote_write_2
    try:
        expected = read(body, min_time_ns=low, max_time_ns=high)
    except NotProtobuf:
        with pytest.raises(ValueError, match="no protobuf at offset"):
            decode(body, low, high, version)
        return
    assert decode(body, low, high, version) == expected


@st.composite
def requests_of_version_2(draw: st.DrawFn) -> bytes:
    symbols = [b"", *draw(st.lists(NAMES | TEXTS, max_size=8))]
    body = b"".join(message(4, symbol) for symbol in symbols)
    for _ in range(draw(st.integers(0, 4))):
        references = draw(st.lists(st.integers(0, len(symbols)) | st.just(2**40), max_size=6))
        numbers = [varint(reference) for reference in references]
        packed = draw(st.booleans())
        parts = [message(1, b"".join(numbers))] if packed else [varint(1 << 3) + number for number in numbers]
        parts += [sample(draw(BITS), draw(TIMES)) for _ in range(draw(st.integers(0, 3)))]
        parts += [
            message(field, draw(st.binary(max_size=3))) for field in draw(st.lists(st.sampled_from([3, 4, 5, 8])))
        ]
        body += message(5, b"".join(parts)) + draw(UNKNOWN)
    return draw(st.sampled_from([body, body + message(4, b"up")]))


@given(requests_of_version_2(), st.data())
def test_requests_of_version_2_mean_what_the_twin_says(body: bytes, data: st.DataObject) -> None:
    decode = Decoder()
    for _ in range(2):  # the second time by raw keys that are known
        compare(decode, body, -500, ENOUGH_NS, version=2)
    if body:
        at = data.draw(st.integers(0, len(body) - 1))
        changed = bytearray(body)
        changed[at] ^= 1 << data.draw(st.integers(0, 7))
        compare(decode, bytes(changed), -500, ENOUGH_NS, version=2)
        compare(decode, body[:at], -500, ENOUGH_NS, version=2)


@given(st.binary(max_size=40))
def test_any_bytes_of_version_2_are_read_alike(body: bytes) -> None:
    compare(Decoder(), body, -ENOUGH_NS, ENOUGH_NS, version=2)


def test_both_versions_find_the_same_tag_set() -> None:
    decode = Decoder()
    decode(series([(b"__name__", b"up"), (b"job", b"a")], [(0, 1)]))
    symbols = [b"", b"__name__", b"up", b"job", b"a"]
    for packed in (True, False):
        body = twin.symbols_request(symbols, [([1, 2, 3, 4], [(7, 2)]), ([3, 4, 1, 2], [(8, 3)])], packed=packed)
        kept, refused, _ = decode(body, version=2)
        assert [(bits, time) for _, time, bits in kept] == [(7, 2_000_000), (8, 3_000_000)]
        assert not refused
    assert decode.catalogue.tagset_count == 1
    with pytest.raises(ValueError, match="version 3"):
        decode(b"", version=3)


@given(st.lists(requests(), min_size=1, max_size=3), st.sampled_from([(-ENOUGH_NS, ENOUGH_NS), (-500, 10**9 + 1)]))
def test_requests_mean_what_the_twin_says(bodies: list[bytes], limits: tuple[int, int]) -> None:
    decode = Decoder()
    for body in bodies:
        compare(decode, body, *limits)


@given(requests(), st.data())
def test_damaged_requests_are_refused_or_read_alike(body: bytes, data: st.DataObject) -> None:
    decode = Decoder()
    compare(decode, body, -ENOUGH_NS, ENOUGH_NS)
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(1, 3))):
        if damaged:
            at = data.draw(st.integers(0, len(damaged) - 1))
            match data.draw(st.sampled_from(["cut", "flip", "insert"])):
                case "cut":
                    del damaged[at:]
                case "flip":
                    damaged[at] ^= 1 << data.draw(st.integers(0, 7))
                case _:
                    damaged.insert(at, data.draw(st.integers(0, 255)))
    compare(decode, bytes(damaged), -ENOUGH_NS, ENOUGH_NS)


@given(st.binary(max_size=40))
@settings(max_examples=300)
def test_any_bytes_are_read_alike(body: bytes) -> None:
    compare(Decoder(), body, -ENOUGH_NS, ENOUGH_NS)


def test_stale_markers_keep_their_bits_and_the_absent_pattern_is_refused() -> None:
    decode = Decoder()
    body = series([(b"__name__", b"up")], [(STALE, 1), (ABSENT_BITS, 2), (bits_of(-0.0), 3)])
    kept, refused, _ = decode(body)
    assert [bits for _, _, bits in kept] == [STALE, bits_of(-0.0)]
    assert refused == {"reserved_nan": 1}


def test_labels_in_any_order_are_one_tag_set() -> None:
    decode = Decoder()
    pairs = [(b"__name__", b"up"), (b"job", b"a"), (b"zone", b"")]
    decode(series(pairs, [(0, 1)]) + series(pairs[::-1], [(0, 1)]) + series(pairs[:2], [(0, 1)]))
    assert decode.catalogue.tagset_count == 1


def test_the_limit_on_tag_sets_refuses_new_ones_only() -> None:
    decode = Decoder(max_tagsets=1)
    known, new = [(b"__name__", b"up")], [(b"__name__", b"down")]
    assert decode(series(known, [(0, 1)]))[1] == {}
    kept, refused, _ = decode(series(new, [(0, 1), (0, 2)]) + series(known, [(0, 3)]))
    assert (len(kept), refused) == (1, {"tag_set_limit": 2})


def test_what_is_refused_for_its_time_defines_nothing() -> None:
    decode = Decoder()
    decode(series([(b"__name__", b"up")], [(0, 1)]), min_time_ns=10**9)
    assert decode.catalogue.tagset_count == 0


def test_refusals_say_which_series_and_why() -> None:
    found = Decoder(max_refusals=2).raw(
        series([(b"__name__", b"up")], [(0, 1)]) + series([(b"a", b"1"), (b"a", b"2")], [(0, 5000)]) * 3,
        min_time_ns=10**9,
    )
    assert [(position, cause) for position, cause, _ in found.refusals] == [(1, "too_old"), (2, "duplicate_tag")]
    assert found.refusals[0][2] == "cannot keep the sample: want a time from 1970-01-01T00:00:01Z on"
    assert found.refused_by_cause == {"too_old": 1, "duplicate_tag": 3}


def test_refusals_of_labels_that_were_gathered_show_only_the_request() -> None:
    apart = label(b"__name__", b"up") + sample(0, 1) + label(b"__name__", b"down")
    many = message(1, apart) + b"".join(
        message(1, label(b"n", b"%d" % number * 50) + sample(0, 1) + label(b"m", b"1")) for number in range(50)
    )
    found = Decoder().raw(many)
    assert found.refusals == [(1, "duplicate_tag", "cannot keep the sample: want each label name once")]
    assert len(found.times) == 50


def test_raw_keys_are_forgotten_beyond_their_memory() -> None:
    decode = Decoder(max_key_bytes=1 << 12, max_tagsets=10_000)
    for number in range(2_000):
        kept, _, _ = decode(series([(b"__name__", b"m%d" % number)], [(0, 1)]))
        assert kept[0][0] == ((b"__name__", b"m%d" % number),)
    assert decode.native.key_bytes < 1 << 14
    assert decode.catalogue.tagset_count == 2_000


@given(st.lists(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=6), max_size=6))
def test_series_may_come_in_the_expected_order_or_in_any_other(orders: list[list[tuple[int, bool]]]) -> None:
    decode = Decoder()
    names = [b"a", b"ab", b"abc", b"b"]
    for order in orders:
        body = b""
        for number, longer in order:
            late = label(b"late", b"1") if longer else b""  # behind the sample, or right behind the other labels
            parts = label(b"__name__", names[number]) + sample(number, 5) + late
            body += message(1, parts) + series([(b"__name__", names[number]), (b"z", b"1")][: 1 + longer], [(1, 2)])
        compare(decode, body, -ENOUGH_NS, ENOUGH_NS)


def test_wrong_use_is_refused() -> None:
    decode = Decoder()
    with pytest.raises(ValueError, match="table 7"):
        decode.native.decode(b"", table_id=7, min_time_ns=0, max_time_ns=1)
    with pytest.raises(ValueError, match="max_refusals"):
        Decoder(max_refusals=-1)
