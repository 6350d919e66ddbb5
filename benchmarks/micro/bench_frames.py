"""native.frames: encoding a frame and scanning a log of 16 MiB.

Best case: frames of 1 MiB, where checksum and copy count.  Worst: frames of 40 bytes, where each costs objects.
Looking for a frame behind a break is timed over bytes that hold none.
"""

from __future__ import annotations

from collections.abc import Callable

from native.frames import FRAME_HEADER_BYTES, encode_frame, find_frame, scan_frames

Case = tuple[str, float, str, Callable[[], object]]

LOG_BYTES = 1 << 24
LARGE_PAYLOAD_BYTES = (1 << 20) - FRAME_HEADER_BYTES
SMALL_PAYLOAD_BYTES = 40
ENCODED_SMALL = 1_000


def _log(payload_bytes: int) -> tuple[bytes, int]:
    """Return a log of frames of one size, and their number; scanned once to see that all are found."""
    payload = bytes(range(256)) * (payload_bytes // 256 + 1)
    count = LOG_BYTES // (payload_bytes + FRAME_HEADER_BYTES)
    log = b"".join(encode_frame(1, sequence, [payload[:payload_bytes]]) for sequence in range(count))
    frames, end, status = scan_frames(log)
    if (len(frames), end, status) != (count, len(log), "end") or frames[-1][1] != count - 1:
        raise AssertionError("scan_frames does not find the frames that were encoded")
    return log, count


def cases() -> list[Case]:
    """Return encoding and scanning of large and of small frames."""
    large_log, _ = _log(LARGE_PAYLOAD_BYTES)
    small_log, small_count = _log(SMALL_PAYLOAD_BYTES)
    large_payload = large_log[FRAME_HEADER_BYTES : FRAME_HEADER_BYTES + LARGE_PAYLOAD_BYTES]
    small_payload = large_payload[:SMALL_PAYLOAD_BYTES]
    nothing = b"\xff" * LOG_BYTES
    if find_frame(nothing, 0, 1, 1_000_000) != -1:
        raise AssertionError("find_frame finds a frame where there is none")

    def encode_small() -> None:
        for sequence in range(ENCODED_SMALL):
            encode_frame(1, sequence, [small_payload])

    return [
        ("encode 1 MiB", LARGE_PAYLOAD_BYTES, "bytes", lambda: encode_frame(1, 1, [large_payload])),
        ("encode 40 bytes", ENCODED_SMALL, "frames", encode_small),
        ("scan frames of 1 MiB", len(large_log), "bytes", lambda: scan_frames(large_log)),
        ("scan frames of 40 bytes", small_count, "frames", lambda: scan_frames(small_log)),
        ("find none", LOG_BYTES, "bytes", lambda: find_frame(nothing, 0, 1, 1_000_000)),
    ]
