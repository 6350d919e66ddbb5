"""native.lineprotocol: bodies of about 1 MiB decoded in one thread, samples per second.

Best case: the series and fields of the last body again, in the same order, small integers.  Worst: every line
a series never seen before, with ten tags; lines that are all refused; and values of 17 digits.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np

from native.catalogue import Catalogue
from native.lineprotocol import DecodedLines, LineDecoder

BODY_BYTES = 1 << 20
START_NS = 1_700_000_000_000_000_000
STEP_NS = 10_000_000_000
FIELDS = [f"usage_{name}" for name in ("user", "system", "idle", "nice", "iowait", "irq", "softirq")]
FIELDS += [f"usage_{name}" for name in ("steal", "guest", "guest_nice")]
TAGS = (
    "region=eu-central-1,datacenter=eu-central-1b,rack={rack},os=Ubuntu16.04LTS,arch=x64,team=LON,"
    "service={service},service_version=1,service_environment=production"
)

Case = tuple[str, float, str, Callable[[], object]]
Line = tuple[str, list[str], int]  # measurement and tags, values as written, time


def _decoder() -> LineDecoder:
    return LineDecoder(Catalogue(), max_tagsets=10_000_000, max_tables=1_000, max_fields=4_096, max_refusals=100)


def _decode(decoder: LineDecoder, body: bytes) -> DecodedLines:
    return decoder.decode(body, precision_ns=1, default_time_ns=START_NS, min_time_ns=0, max_time_ns=2 * START_NS)


def _body(lines: Iterator[Line]) -> tuple[bytes, list[Line]]:
    parts: list[bytes] = []
    used: list[Line] = []
    size = 0
    for key, values, time in lines:
        fields = ",".join(f"{name}={value}" for name, value in zip(FIELDS, values, strict=False))
        parts.append(f"{key} {fields} {time}\n".encode())
        used.append((key, values, time))
        size += len(parts[-1])
        if size >= BODY_BYTES:
            break
    return b"".join(parts), used


def _devops_key(host: int) -> str:
    return f"cpu,hostname=host_{host}," + TAGS.format(rack=host % 100, service=host % 20)


def _lines(key: Callable[[int], str], value: Callable[[], str], fields: int, order: list[int]) -> Iterator[Line]:
    step = 0
    while True:
        for host in order:
            yield key(host), [value() for _ in range(fields)], START_NS + step * STEP_NS
        step += 1


def _verify(decoded: DecodedLines, lines: list[Line]) -> None:
    """Hold rows and values against what was written."""
    (table,) = decoded.tables
    values = np.array([[float(value.rstrip("i")) for value in values] for _, values, _ in lines]).T
    if decoded.refused_by_cause or not np.array_equal(table.values, values):
        raise AssertionError("the decoded values are not those written")
    if table.times.tolist() != [time for _, _, time in lines]:
        raise AssertionError("the decoded times are not those written")
    keys = {key: int(tagset) for (key, _, _), tagset in zip(lines, table.tagset_ids, strict=True)}
    if [keys[key] for key, _, _ in lines] != table.tagset_ids.tolist() or len(set(keys.values())) != len(keys):
        raise AssertionError("the decoded tag sets are not those written")


def _known(name: str, lines: Iterator[Line]) -> Case:
    """Time a decoder that has read the same body before."""
    body, written = _body(lines)
    decoder = _decoder()
    _verify(_decode(decoder, body), written)
    decoded = _decode(decoder, body)
    _verify(decoded, written)
    return name, decoded.samples, "samples", lambda: _decode(decoder, body)


def _new(name: str, lines: Iterator[Line]) -> Case:
    """Time a decoder that has read nothing before."""
    body, written = _body(lines)
    decoded = _decode(_decoder(), body)
    _verify(decoded, written)
    return name, decoded.samples, "samples", lambda: _decode(_decoder(), body)


def _refused() -> Case:
    line = _devops_key(1) + " usage_user=oops 1700000000000000000\n"
    count = BODY_BYTES // len(line)
    body = line.encode() * count
    decoder = _decoder()
    if _decode(decoder, body).refused_by_cause != {"malformed": count}:
        raise AssertionError("the lines are not refused")
    return "every line refused", count, "lines", lambda: _decode(decoder, body)


def _one_line() -> Case:
    body, written = _body(_lines(_devops_key, lambda: "58i", 10, [1]))
    line = body[: body.index(b"\n") + 1]
    decoder = _decoder()
    _verify(_decode(decoder, line), written[:1])
    return "a body of one line", 1, "calls", lambda: _decode(decoder, line)


def cases() -> list[Case]:
    rng = random.Random(5)
    hosts = list(range(1000))
    shuffled = hosts * 20
    rng.shuffle(shuffled)
    endless = list(range(100_000))

    def small() -> str:
        return f"{rng.randrange(100)}i"

    def two_decimals() -> str:
        return f"{rng.uniform(0, 100):.2f}"

    def all_digits() -> str:
        return repr(rng.uniform(0, 100))

    def short_key(host: int) -> str:
        return f"cpu,host=h{host}"

    return [
        _known("devops, 10 integers", _lines(_devops_key, small, 10, hosts)),
        _known("devops, 10 x two decimals", _lines(_devops_key, two_decimals, 10, hosts)),
        _known("devops, 10 x 17 digits", _lines(_devops_key, all_digits, 10, hosts)),
        _known("devops, hosts in random order", _lines(_devops_key, small, 10, shuffled)),
        _known("1 integer, short key", _lines(short_key, small, 1, hosts)),
        _known("1 x two decimals, short key", _lines(short_key, two_decimals, 1, hosts)),
        _new("devops, every series new", _lines(_devops_key, small, 10, endless)),
        _new("1 integer, every series new", _lines(short_key, small, 1, endless)),
        _refused(),
        _one_line(),
    ]
