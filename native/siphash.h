// SipHash-2-4 with 128 bits of output: a keyed fingerprint that nobody without the key can make collide.
//
// Source: Aumasson and Bernstein, "SipHash: a fast short-input PRF" (2012), and the 128-bit variant of its reference
// implementation.  tests/native/test_rawkeys.py has its published vectors.  Reads stay inside [data, data + length).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace tidegauge {

struct SipState {
    uint64_t a, b, c, d;

    static uint64_t turned(uint64_t word, int by) { return (word << by) | (word >> (64 - by)); }

    void round() {
        a += b, c += d;
        b = turned(b, 13) ^ a, d = turned(d, 16) ^ c;
        a = turned(a, 32);
        c += b, a += d;
        b = turned(b, 17) ^ c, d = turned(d, 21) ^ a;
        c = turned(c, 32);
    }

    void take(uint64_t word) {
        d ^= word;
        round(), round();
        a ^= word;
    }

    uint64_t folded() {
        round(), round(), round(), round();
        return a ^ b ^ c ^ d;
    }
};

// Depends on the byte order of the machine, but never leaves the process.
inline void fingerprint(const char *data, size_t length, const uint64_t *key, uint64_t *out) {
    SipState state = {
        key[0] ^ 0x736f6d6570736575u,
        key[1] ^ 0x646f72616e646f6du ^ 0xeeu,
        key[0] ^ 0x6c7967656e657261u,
        key[1] ^ 0x7465646279746573u,
    };
    const char *at = data;
    uint64_t word;
    for (size_t words = length / 8; words > 0; --words, at += 8) {
        std::memcpy(&word, at, 8);
        state.take(word);
    }
    word = 0;
    if (length % 8 != 0) std::memcpy(&word, at, length % 8);
    state.take(word | static_cast<uint64_t>(length) << 56);
    state.c ^= 0xee;
    out[0] = state.folded();
    state.b ^= 0xdd;
    out[1] = state.folded();
}

}  // namespace tidegauge
