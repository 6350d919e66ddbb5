"""SipHash-2-4 with 128 bits of output, with whole numbers (Aumasson and Bernstein, 2012, and its reference code)."""

from __future__ import annotations

MASK = 2**64 - 1


def _turned(word: int, by: int) -> int:
    return (word << by | word >> (64 - by)) & MASK


def _rounds(state: tuple[int, int, int, int], count: int) -> tuple[int, int, int, int]:
    a, b, c, d = state
    for _ in range(count):
        a = (a + b) & MASK
        b = _turned(b, 13) ^ a
        a = _turned(a, 32)
        c = (c + d) & MASK
        d = _turned(d, 16) ^ c
        a = (a + d) & MASK
        d = _turned(d, 21) ^ a
        c = (c + b) & MASK
        b = _turned(b, 17) ^ c
        c = _turned(c, 32)
    return a, b, c, d


def fingerprint_of(data: bytes, secret: bytes) -> bytes:
    low, high = int.from_bytes(secret[:8], "little"), int.from_bytes(secret[8:], "little")
    state = low ^ 0x736F6D6570736575, high ^ 0x646F72616E646F83, low ^ 0x6C7967656E657261, high ^ 0x7465646279746573
    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) % 256])
    for start in range(0, len(padded), 8):
        word = int.from_bytes(padded[start : start + 8], "little")
        a, b, c, d = _rounds((*state[:3], state[3] ^ word), 2)
        state = a ^ word, b, c, d
    a, b, c, d = _rounds((*state[:2], state[2] ^ 0xEE, state[3]), 4)
    first = a ^ b ^ c ^ d
    a, b, c, d = _rounds((a, b ^ 0xDD, c, d), 4)
    return first.to_bytes(8, "little") + (a ^ b ^ c ^ d).to_bytes(8, "little")
