"""Remote write requests and text exposition read and written the slow way, one value at a time."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence

Labels = tuple[tuple[bytes, bytes], ...]
Sample = tuple[Labels, int, int]  # labels sorted by name, nanoseconds, bits of the value

ABSENT_BITS = 0x7FF8544944454741
ENOUGH_NS = 1 << 62
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class NotProtobuf(Exception):
    """The bytes cannot be walked to their end."""


class Refused(Exception):
    """One sample or series is refused; the argument is the cause."""


# --- protobuf


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def message(field: int, content: bytes) -> bytes:
    return varint(field << 3 | BYTES) + varint(len(content)) + content


def label(name: bytes, value: bytes) -> bytes:
    return message(1, message(1, name) + message(2, value))


def sample(bits: int, time_ms: int) -> bytes:
    return message(2, varint(1 << 3 | FIXED64) + struct.pack("<Q", bits) + varint(2 << 3) + varint(time_ms))


def series(labels: Sequence[tuple[bytes, bytes]], samples: Sequence[tuple[int, int]]) -> bytes:
    return message(
        1, b"".join(label(*pair) for pair in labels) + b"".join(sample(bits, time_ms) for bits, time_ms in samples)
    )


def fields(data: bytes) -> Iterator[tuple[int, int, int | bytes, bytes]]:
    """Yield (number, wire type, content, all bytes) of each field."""
    at = 0

    def number() -> int:
        nonlocal at
        value = 0
        for shift in range(0, 70, 7):
            if at == len(data):
                raise NotProtobuf
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & ((1 << 64) - 1)
        raise NotProtobuf

    def taken(size: int) -> bytes:
        nonlocal at
        if size > len(data) - at:
            raise NotProtobuf
        at += size
        return data[at - size : at]

    while at < len(data):
        began = at
        key = number()
        content: int | bytes
        if not 0 < key >> 3 < 1 << 29:
            raise NotProtobuf
        match key & 7:
            case 0:
                content = number()
            case 1:
                content = taken(8)
            case 2:
                content = taken(number())
            case 5:
                content = taken(4)
            case _:
                raise NotProtobuf
        yield key >> 3, key & 7, content, data[began:at]


def remote_write(
    body: bytes, *, min_time_ns: int = -ENOUGH_NS, max_time_ns: int = ENOUGH_NS
) -> tuple[list[Sample], dict[str, int], int]:
    """Return samples, refused samples by cause, and how many exemplars and metadata there were."""
    kept: list[Sample] = []
    refused: dict[str, int] = {}
    dropped = 0
    for number, kind, content, _ in list(fields(body)):
        if (number, kind) == (1, BYTES):
            assert isinstance(content, bytes)
            dropped += _series(content, kept, refused, min_time_ns, max_time_ns)
        dropped += (number, kind) == (3, BYTES)
    return kept, refused, dropped


def _series(content: bytes, kept: list[Sample], refused: dict[str, int], min_time_ns: int, max_time_ns: int) -> int:
    found: list[tuple[int, int]] = []
    labels: list[bytes] = []
    dropped = 0

    def refuse(cause: str, count: int = 1) -> None:
        refused[cause] = refused.get(cause, 0) + count

    for number, kind, part, _ in fields(content):
        if kind != BYTES:
            continue
        assert isinstance(part, bytes)
        if number == 1:
            labels.append(part)
        elif number == 2:
            bits, time_ms = 0, 0
            for inner, wire, value, _ in fields(part):
                if (inner, wire) == (1, FIXED64):
                    assert isinstance(value, bytes)
                    bits = int.from_bytes(value, "little")
                elif (inner, wire) == (2, VARINT):
                    assert isinstance(value, int)
                    time_ms = value - (1 << 64 if value >> 63 else 0)
            time_ns = time_ms * 1_000_000
            if time_ns < min_time_ns:
                refuse("too_old")
            elif time_ns > max_time_ns:
                refuse("too_far_in_future")
            elif bits == ABSENT_BITS:
                refuse("reserved_nan")
            else:
                found.append((time_ns, bits))
        elif number == 3:
            dropped += 1
        elif number == 4:
            refuse("histogram")
    if found:
        try:
            tags = tag_set([_label(part) for part in labels])
        except Refused as error:
            refuse(str(error), len(found))
        else:
            kept.extend((tags, time_ns, bits) for time_ns, bits in found)
    return dropped


def symbols_request(
    symbols: Sequence[bytes], many: Sequence[tuple[Sequence[int], Sequence[tuple[int, int]]]], *, packed: bool = True
) -> bytes:
    """Return a version 2 request of (label references, (bits, time in ms)) series."""
    body = b"".join(message(4, symbol) for symbol in symbols)
    for references, samples in many:
        numbers = [varint(number) for number in references]
        labels = message(1, b"".join(numbers)) if packed else b"".join(varint(1 << 3) + number for number in numbers)
        body += message(5, labels + b"".join(sample(bits, time_ms) for bits, time_ms in samples))
    return body


def remote_write_2(
    body: bytes, *, min_time_ns: int = -ENOUGH_NS, max_time_ns: int = ENOUGH_NS
) -> tuple[list[Sample], dict[str, int], int]:
    """As :func:`remote_write`, by turning each series into one of version 1 whose labels are written out."""
    symbols = [content for number, kind, content, _ in fields(body) if (number, kind) == (4, BYTES)]
    kept: list[Sample] = []
    refused: dict[str, int] = {}
    dropped = 0
    for number, kind, content, _ in fields(body):
        if (number, kind) != (5, BYTES):
            continue
        assert isinstance(content, bytes)
        references: list[int] = []
        rest = b""
        for inner, wire, part, raw in fields(content):
            if (inner, wire) == (1, VARINT):
                assert isinstance(part, int)
                references.append(part)
            elif (inner, wire) == (1, BYTES):
                assert isinstance(part, bytes)
                references += _numbers(part)
            elif wire == BYTES and inner in (2, 3, 4, 5):
                assert isinstance(part, bytes)
                rest += message({2: 2, 3: 4, 4: 3, 5: 3}[inner], part)
            else:
                assert raw
        if len(references) % 2 or any(reference >= len(symbols) for reference in references):
            before: list[Sample] = []
            dropped += _series(label(b"a", b"b") + rest, before, refused, min_time_ns, max_time_ns)
            if before:
                refused["malformed"] = refused.get("malformed", 0) + len(before)
            continue
        texts = [symbols[reference] for reference in references]
        labels = b""
        for name, value in zip(texts[::2], texts[1::2], strict=True):
            assert isinstance(name, bytes)
            assert isinstance(value, bytes)
            labels += label(name, value)
        dropped += _series(labels + rest, kept, refused, min_time_ns, max_time_ns)
    return kept, refused, dropped


def _numbers(data: bytes) -> list[int]:
    found = []
    while data:
        prefix = varint(1 << 3)
        try:
            ((_, _, number, raw),) = list(fields(prefix + data[: _varint_bytes(data)]))
        except ValueError:
            raise NotProtobuf from None
        assert isinstance(number, int)
        found.append(number)
        data = data[len(raw) - len(prefix) :]
    return found


def _varint_bytes(data: bytes) -> int:
    for index, byte in enumerate(data[:10]):
        if byte < 0x80:
            return index + 1
    raise NotProtobuf


def _label(content: bytes) -> tuple[bytes, bytes]:
    name, value = b"", b""
    for number, kind, part, _ in fields(content):
        if kind == BYTES:
            assert isinstance(part, bytes)
            name, value = (part, value) if number == 1 else (name, part) if number == 2 else (name, value)
    return name, value


def tag_set(pairs: Sequence[tuple[bytes, bytes]]) -> Labels:
    """Return labels as they are stored, or raise Refused with the cause."""
    for name, value in pairs:
        if not 0 < len(name) <= 0xFFFF:
            raise Refused("malformed")
        try:
            name.decode()
            value.decode()
        except UnicodeDecodeError:
            raise Refused("not_utf8") from None
    if 4 + sum(6 + len(name) + len(value) for name, value in pairs) > 1 << 20:
        raise Refused("malformed")
    if len({name for name, _ in pairs}) < len(pairs):
        raise Refused("duplicate_tag")
    kept = tuple(sorted(pair for pair in pairs if pair[1]))
    if not kept:
        raise Refused("malformed")
    return kept


# --- text

NAME = rb"[a-zA-Z_:][a-zA-Z0-9_:]*"
QUOTED = rb'"(?:\\.|[^"\\])*"'
BLANKS = rb"[ \t]*"
SERIES = re.compile(rb"([^ \t{]*)" + BLANKS + rb"\{((?:" + QUOTED + rb"|[^\"}])*)\}", re.DOTALL)
BARE = re.compile(rb"[^ \t{]*")
LABEL = re.compile(
    rb"(?P<name>" + NAME + rb"|" + QUOTED + rb")" + BLANKS + rb"(?:=" + BLANKS + rb"(?P<value>" + QUOTED + rb"))?"
    + BLANKS + rb"(?P<comma>,?)" + BLANKS,
    re.DOTALL,
)  # fmt: skip
NUMBER = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
WORD = re.compile(rb"nan|[+-]?inf(?:inity)?", re.IGNORECASE)
TIME_MS = re.compile(rb"(-?)([0-9]+)()")
TIME_SECONDS = re.compile(rb"(-?)([0-9]+)(?:\.([0-9]*))?")


def unquoted(text: bytes) -> bytes:
    plain = {b"\\\\": b"\\", b'\\"': b'"', b"\\n": b"\n"}
    return re.sub(rb'\\[\\"n]', lambda match: plain[match[0]], text[1:-1])


def text_line(
    line: bytes,
    *,
    default_time_ns: int = 0,
    min_time_ns: int = -ENOUGH_NS,
    max_time_ns: int = ENOUGH_NS,
    open_metrics: bool = False,
    labels: Sequence[tuple[bytes, bytes]] = (),
) -> tuple[Sample | None, bool]:
    """Return the sample of a line (None for a comment) and whether an exemplar was passed over; raises Refused."""
    line = line.removesuffix(b"\r").lstrip(b" \t")
    if not line or line.startswith(b"#"):
        return None, False
    match = SERIES.match(line)
    if match is not None:
        name, inside, rest = match[1], match[2].lstrip(b" \t"), line[match.end() :].lstrip(b" \t")
    else:
        bare = BARE.match(line)
        assert bare is not None
        name, inside, rest = bare[0], None, line[bare.end() :].lstrip(b" \t")
        if rest.startswith(b"{"):
            raise Refused("malformed")
    token = re.split(rb"[ \t]", rest, maxsplit=1)[0]
    rest = rest[len(token) :].lstrip(b" \t")
    if WORD.fullmatch(token):
        value = float(token)
    elif NUMBER.fullmatch(token):
        value = float(token)
        if value in (float("inf"), float("-inf")):
            raise Refused("not_finite")
    else:
        raise Refused("malformed")
    time_ns, exemplar = _time(rest, default_time_ns, open_metrics)
    if time_ns < min_time_ns:
        raise Refused("too_old")
    if time_ns > max_time_ns:
        raise Refused("too_far_in_future")
    tags = tag_set(_text_labels(name, inside, dict(labels)))
    return (tags, time_ns, struct.unpack("<Q", struct.pack("<d", value))[0]), exemplar


def _time(rest: bytes, default_time_ns: int, open_metrics: bool) -> tuple[int, bool]:
    time_ns = default_time_ns
    if rest and not rest.startswith(b"#"):
        token = re.split(rb"[ \t]", rest, maxsplit=1)[0]
        rest = rest[len(token) :].lstrip(b" \t")
        match = (TIME_SECONDS if open_metrics else TIME_MS).fullmatch(token)
        if match is None:
            raise Refused("malformed")
        fraction = int((match[3] or b"").ljust(9, b"0")[:9]) if open_metrics else 0
        time_ns = int(match[2]) * (10**9 if open_metrics else 10**6) + fraction
        time_ns = -time_ns if match[1] else time_ns
    if rest and not rest.startswith(b"#"):
        raise Refused("malformed")
    return time_ns, bool(rest)


def _text_labels(name: bytes, inside: bytes | None, extra: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    pairs: list[tuple[bytes, bytes]] = []
    named = bool(name)
    if named:
        if not re.fullmatch(NAME, name):
            raise Refused("malformed")
        pairs.append((b"__name__", name))
    elif inside is None:
        raise Refused("malformed")
    at = 0
    inside = inside or b""
    while at < len(inside):
        match = LABEL.match(inside, at)
        if match is None:
            raise Refused("malformed")
        key = match["name"]
        quoted = key.startswith(b'"')
        if match["value"] is not None:
            pairs.append((unquoted(key) if quoted else key, unquoted(match["value"])))
        elif quoted and not named:
            named = True
            pairs.append((b"__name__", unquoted(key)))
        else:
            raise Refused("malformed")
        at = match.end()
        if not match["comma"] and at < len(inside):
            raise Refused("malformed")
    if not named:
        raise Refused("malformed")
    return [pair for pair in pairs if pair[0] not in extra] + list(extra.items())
