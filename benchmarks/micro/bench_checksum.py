"""native.checksum: CRC-32C of one small frame, of a large one, and without the processor's instruction.

Best case: 1 MiB, where only the loop counts.  Worst: a frame of 64 bytes, where calling counts, and the tables.
"""

from __future__ import annotations

from collections.abc import Callable

from native.checksum import crc32c, crc32c_portable

Case = tuple[str, float, str, Callable[[], object]]

CHECK = (b"123456789", 0xE3069283)
LARGE_BYTES = 1 << 20
SMALL_BYTES = 64
SMALL_CALLS = 1_000


def cases() -> list[Case]:
    """Return checksums of bytes that differ, after checking the published value."""
    for function in (crc32c, crc32c_portable):
        if function(CHECK[0]) != CHECK[1]:
            raise AssertionError(f"{function.__name__} does not give the check value of CRC-32C")
    large = bytes(range(256)) * (LARGE_BYTES // 256)
    small = large[:SMALL_BYTES]
    if crc32c(large) != crc32c_portable(large):
        raise AssertionError("crc32c and crc32c_portable differ")

    def many_small() -> None:
        for _ in range(SMALL_CALLS):
            crc32c(small)

    return [
        ("1 MiB", LARGE_BYTES, "bytes", lambda: crc32c(large)),
        ("64 bytes", SMALL_BYTES * SMALL_CALLS, "bytes", many_small),
        ("1 MiB by tables", LARGE_BYTES, "bytes", lambda: crc32c_portable(large)),
    ]
