"""CRC-32C bit by bit, from the definition: reflected polynomial 0x82F63B78, all ones before and after."""

from __future__ import annotations

POLYNOMIAL = 0x82F63B78


def crc32c(data: bytes, crc: int = 0) -> int:
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (POLYNOMIAL if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
