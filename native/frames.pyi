from collections.abc import Sequence

from typing_extensions import Buffer

FRAME_HEADER_BYTES: int
MAX_PAYLOAD_BYTES: int

def encode_frame(kind: int, sequence: int, parts: Sequence[Buffer]) -> bytes: ...
def scan_frames(
    data: Buffer, offset: int = 0, max_frames: int | None = None
) -> tuple[list[tuple[int, int, int, int]], int, str]: ...
def find_frame(data: Buffer, offset: int, lowest_sequence: int, highest_sequence: int) -> int: ...
