"""native.remotewrite, native.promtext and native.routing: one scrape of 2,000 series with eight labels.

Best case: the series of the scrape before, in its order.  Worst: series that are all new.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from api.flight.protobuf import FIXED64, VARINT, bytes_field, varint
from benchmarks.remote_write import key, label
from native.catalogue import Catalogue
from native.promtext import PromTextDecoder
from native.remotewrite import RemoteWriteDecoder
from native.routing import classify_runs

Case = tuple[str, float, str, Callable[[], object]]
Decoder = RemoteWriteDecoder | PromTextDecoder

SERIES = 2_000
LABELS = ("cluster", "datacenter", "instance", "job", "mode", "namespace", "pod")
NOW_MS = 1_700_000_000_000
FOR_EVER_NS = 2**62
RUNS, RUN_CELLS = 2_000, 480


def _series() -> list[dict[str, str]]:
    return [
        {"__name__": f"node_metric_{number % 300}_total", **{name: f"{name}-{number}" for name in LABELS}}
        for number in range(SERIES)
    ]


def _request(order: Sequence[int]) -> bytes:
    series = _series()
    body = b""
    for number in order:
        sample = key(1, FIXED64) + np.float64(number).tobytes() + key(2, VARINT) + varint(NOW_MS)
        labels = b"".join(label(name, value) for name, value in sorted(series[number].items()))
        body += bytes_field(1, labels + bytes_field(2, sample))
    return body


def _text(order: Sequence[int]) -> bytes:
    lines = []
    for number in order:
        series = dict(_series_text[number])
        name = series.pop("__name__")
        inside = ",".join(f'{label_}="{value}"' for label_, value in series.items())
        lines.append(f"{name}{{{inside}}} {number / 100} {NOW_MS}\n")
    return "".join(lines).encode()


_series_text = _series()


def _decoder(kind: type[RemoteWriteDecoder] | type[PromTextDecoder]) -> tuple[Decoder, int]:
    catalogue = Catalogue()
    table_id = catalogue.table(b"prometheus")
    return kind(catalogue, max_tagsets=1 << 30, max_refusals=10, max_key_bytes=1 << 30), table_id


def _decode(decoder: Decoder, table_id: int, body: bytes) -> int:
    if isinstance(decoder, RemoteWriteDecoder):
        found = decoder.decode(body, table_id=table_id, min_time_ns=0, max_time_ns=FOR_EVER_NS)
    else:
        found = decoder.decode(body, table_id=table_id, default_time_ns=0, min_time_ns=0, max_time_ns=FOR_EVER_NS)
    return len(found.times)


def _decoding(
    name: str, kind: type[RemoteWriteDecoder] | type[PromTextDecoder], body: Callable[[Sequence[int]], bytes]
) -> list[Case]:
    in_order = body(range(SERIES))
    shuffled = body(np.random.default_rng(1).permutation(SERIES).tolist())
    known, table_id = _decoder(kind)
    for each in (in_order, shuffled):
        if _decode(known, table_id, each) != SERIES:
            raise AssertionError(f"{name}: not every sample was decoded")

    def alternately() -> None:
        _decode(known, table_id, in_order)
        _decode(known, table_id, shuffled)

    def afresh() -> None:
        decoder, own = _decoder(kind)
        _decode(decoder, own, in_order)

    return [
        (f"{name}, known series in order", SERIES, "samples", lambda: _decode(known, table_id, in_order)),
        (f"{name}, known series in any order", 2 * SERIES, "samples", alternately),
        (f"{name}, new series", SERIES, "samples", afresh),
    ]


def _routing() -> list[Case]:
    random = np.random.default_rng(2)
    starts = np.arange(RUNS, dtype=np.int64) * RUN_CELLS
    columns = {
        "constants": np.repeat(random.integers(0, 100, RUNS).astype(np.float64), RUN_CELLS),
        "counters": np.cumsum(random.poisson(10, RUNS * RUN_CELLS)).astype(np.float64),
        "nine decimals": random.integers(0, 10**8, RUNS * RUN_CELLS) / 1e9,
        "noise": random.normal(size=RUNS * RUN_CELLS),
    }
    wanted = {"constants": 0, "counters": 0, "nine decimals": 9, "noise": -1}
    cases: list[Case] = []
    for name, values in columns.items():
        if set(classify_runs(values, starts, 9, 32)[0].tolist()) != {wanted[name]}:
            raise AssertionError(f"runs of {name} are not classified as such")
        cases.append((f"classify runs, {name}", len(values), "cells", partial(classify_runs, values, starts, 9, 32)))
    return cases


def cases() -> list[Case]:
    return [
        *_decoding("remote write", RemoteWriteDecoder, _request),
        *_decoding("text", PromTextDecoder, _text),
        *_routing(),
    ]
