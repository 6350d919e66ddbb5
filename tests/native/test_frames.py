from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native.frames import FRAME_HEADER_BYTES, MAX_PAYLOAD_BYTES, encode_frame, find_frame, scan_frames
from tests.oracles import frames as oracle

Frames = list[tuple[int, int, bytes]]
FRAMES = st.lists(
    st.tuples(st.integers(0, 255), st.integers(0, 2**64 - 1), st.binary(max_size=40)), min_size=0, max_size=6
)


def log_of(frames: Frames) -> bytes:
    return b"".join(encode_frame(kind, sequence, [payload]) for kind, sequence, payload in frames)


THREE = [(1, 7, b"alpha"), (1, 8, b""), (2, 9, b"gamma-gamma")]
LOG = log_of(THREE)


def test_constants() -> None:
    assert FRAME_HEADER_BYTES == oracle.HEADER.size == 17
    assert MAX_PAYLOAD_BYTES == oracle.MAX_PAYLOAD_BYTES


@pytest.mark.parametrize(
    ("kind", "sequence", "parts", "want"),
    [
        (1, 7, [b"abc", b"de"], "050000002e6b70310107000000000000006162636465"),
        (0, 0, [], "00000000a368e5bb000000000000000000"),
        (255, 2**64 - 1, [b"\x00"], "010000000958c9f4ffffffffffffffffff00"),
    ],
)
def test_frozen_bytes(kind: int, sequence: int, parts: list[bytes], want: str) -> None:
    assert encode_frame(kind, sequence, parts).hex() == want
    assert oracle.encode_frame(kind, sequence, parts).hex() == want


@given(
    kind=st.integers(0, 255),
    sequence=st.integers(0, 2**64 - 1),
    parts=st.lists(st.binary(max_size=50), max_size=5),
)
@settings(max_examples=100, deadline=None)
def test_encodes_as_the_oracle(kind: int, sequence: int, parts: list[bytes]) -> None:
    assert encode_frame(kind, sequence, parts) == oracle.encode_frame(kind, sequence, parts)


def test_parts_are_any_buffers_and_large_ones_too() -> None:
    import numpy as np

    numbers = np.arange(20_000, dtype=np.int64)
    frame = encode_frame(1, 1, [bytearray(b"ab"), memoryview(b"cd"), numbers.data])
    assert frame == encode_frame(1, 1, [b"abcd" + numbers.tobytes()])
    assert scan_frames(frame) == ([(1, 1, 17, len(frame))], len(frame), "end")


@given(frames=FRAMES)
@settings(max_examples=100, deadline=None)
def test_scanning_gives_back_what_was_encoded(frames: Frames) -> None:
    data = log_of(frames)
    found, end, status = scan_frames(data)
    assert [(kind, sequence, data[start:stop]) for kind, sequence, start, stop in found] == frames
    assert (end, status) == (len(data), "end")


@given(frames=FRAMES, tail=st.binary(max_size=40), offset=st.integers(0, 20), limit=st.none() | st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_scans_any_bytes_as_the_oracle(frames: Frames, tail: bytes, offset: int, limit: int | None) -> None:
    data = log_of(frames) + tail
    offset = min(offset, len(data))
    assert scan_frames(data, offset, limit) == oracle.scan_frames(data, offset, limit)


@given(frames=FRAMES.filter(bool), data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_flipped_bit_never_passes(frames: Frames, data: st.DataObject) -> None:
    log = bytearray(log_of(frames))
    bit = data.draw(st.integers(0, 8 * len(log) - 1))
    log[bit // 8] ^= 1 << bit % 8
    found, end, status = scan_frames(log)
    assert (found, end, status) == oracle.scan_frames(bytes(log))
    assert status in ("torn", "bad_length", "bad_checksum")
    assert end <= bit // 8
    assert len(found) < len(frames)


@pytest.mark.parametrize("cut", range(len(LOG)))
def test_cut_at_every_byte(cut: int) -> None:
    found, end, status = scan_frames(LOG[:cut])
    ends = [0, 22, 39, 67]
    want = max(at for at in ends if at <= cut)
    assert (end, len(found)) == (want, ends.index(want))
    assert status == ("end" if cut in ends else "torn")


DAMAGE = {
    "zeros_after_the_last_frame": (LOG + bytes(100), 3, "torn"),
    "fewer_zeros_than_a_header": (LOG + bytes(3), 3, "torn"),
    "zeros_and_then_a_frame": (LOG + bytes(100) + LOG, 3, "bad_checksum"),
    "length_beyond_the_largest": (
        LOG + struct.pack("<I", MAX_PAYLOAD_BYTES + 1) + bytes(60),
        3,
        "bad_length",
    ),
    "length_of_the_largest_but_no_bytes": (LOG + struct.pack("<I", MAX_PAYLOAD_BYTES) + bytes(60), 3, "torn"),
    "payload_changed": (LOG.replace(b"gamma-gamma", b"gamma_gamma"), 2, "bad_checksum"),
    "kind_changed": (LOG[:8] + b"\x02" + LOG[9:], 0, "bad_checksum"),
    "sequence_changed": (LOG[:9] + b"\x08" + LOG[10:], 0, "bad_checksum"),
    "length_shortened": (b"\x04" + LOG[1:], 0, "bad_checksum"),
    "checksum_changed": (LOG[:4] + b"\x00" + LOG[5:], 0, "bad_checksum"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage(name: str) -> None:
    data, intact, status = DAMAGE[name]
    found, end, got = scan_frames(data)
    assert (len(found), got) == (intact, status)
    assert end == [0, 22, 39, 67][intact]
    assert oracle.scan_frames(data) == (found, end, got)


def test_more_than_one_batch_of_frames() -> None:
    frames = [(1, sequence, b"x") for sequence in range(700)]
    data = log_of(frames)
    assert len(scan_frames(data)[0]) == 700
    first, end, status = scan_frames(data, 0, 300)
    assert (len(first), end, status) == (300, 300 * 18, "more")
    rest, end, status = scan_frames(data, end)
    assert (first + rest, end, status) == (scan_frames(data)[0], len(data), "end")


@given(before=st.binary(max_size=30), frames=FRAMES, lowest=st.integers(0, 20), span=st.integers(0, 2**64 - 21))
@settings(max_examples=100, deadline=None)
def test_finds_frames_as_the_oracle(before: bytes, frames: Frames, lowest: int, span: int) -> None:
    data = before + log_of(frames)
    assert find_frame(data, 0, lowest, lowest + span) == oracle.find_frame(data, 0, lowest, lowest + span)


def test_finds_the_frame_behind_damage() -> None:
    damaged = LOG[:31] + b"\xff" + LOG[32:]
    assert scan_frames(damaged)[1:] == (22, "bad_checksum")
    assert find_frame(damaged, 22, 8, 100) == 39
    assert find_frame(damaged, 22, 10, 100) == -1
    assert find_frame(damaged, 40, 8, 100) == -1
    assert find_frame(b"", 0, 0, 1) == -1


def test_refuses_impossible_arguments() -> None:
    with pytest.raises(ValueError, match=r"kind 256, want 0..255"):
        encode_frame(256, 1, [])
    with pytest.raises(ValueError, match=r"kind -1, want 0..255"):
        encode_frame(-1, 1, [])
    with pytest.raises(OverflowError):
        encode_frame(1, 2**64, [])
    with pytest.raises(TypeError):
        encode_frame(1, 1, ["text"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"offset 68, want 0..67"):
        scan_frames(LOG, 68)
    with pytest.raises(ValueError, match="offset -1"):
        find_frame(LOG, -1, 0, 1)


def test_refuses_a_payload_that_no_reader_would_accept() -> None:
    largest = memoryview(bytes(1 << 20))
    with pytest.raises(ValueError, match=r"payload of 268435457 bytes, want at most 268435456"):
        encode_frame(1, 1, [largest] * 256 + [b"x"])
