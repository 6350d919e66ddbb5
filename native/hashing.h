// A 64-bit hash of byte strings for the native label tables.
//
// Multiply-and-fold mixing in the manner of wyhash, two lanes for long keys.  The result depends on the seed and on
// the byte order of the machine.  Tag-set files keep it (docs/formats/catalogue.md), so a change here is a new version
// of that format; tests/native/test_tagsetfile.py has vectors.  Reads stay inside [data, data + length).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace tidegauge {

inline uint64_t load_u64(const char *at) {
    uint64_t word;
    std::memcpy(&word, at, sizeof word);
    return word;
}

inline uint32_t load_u32(const char *at) {
    uint32_t word;
    std::memcpy(&word, at, sizeof word);
    return word;
}

// Both halves of the 128-bit product, folded: every input bit reaches every output bit.
inline uint64_t fold_product(uint64_t a, uint64_t b) {
#ifdef __SIZEOF_INT128__
    const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
#else
    const uint64_t a_low = a & 0xffffffffu, a_high = a >> 32, b_low = b & 0xffffffffu, b_high = b >> 32;
    const uint64_t low = a_low * b_low, cross = a_high * b_low, other = a_low * b_high;
    const uint64_t middle = (low >> 32) + (cross & 0xffffffffu) + (other & 0xffffffffu);
    const uint64_t high = a_high * b_high + (cross >> 32) + (other >> 32) + (middle >> 32);
    return ((middle << 32) | (low & 0xffffffffu)) ^ high;
#endif
}

inline uint64_t hash_bytes(const char *data, size_t length, uint64_t seed) {
    constexpr uint64_t first = 0x9e3779b97f4a7c15u, second = 0xd1b54a32d192ed03u, third = 0xaef17502108ef2d9u;
    uint64_t state = seed ^ fold_product(seed ^ first, static_cast<uint64_t>(length) ^ second);
    uint64_t low, high;
    if (length > 16) {
        const char *at = data;
        size_t left = length;
        uint64_t lane = state;
        for (; left > 32; at += 32, left -= 32) {
            state = fold_product(load_u64(at) ^ first, load_u64(at + 8) ^ state);
            lane = fold_product(load_u64(at + 16) ^ second, load_u64(at + 24) ^ lane);
        }
        state ^= lane;
        if (left > 16) state = fold_product(load_u64(at) ^ third, load_u64(at + 8) ^ state);
        low = load_u64(data + length - 16);
        high = load_u64(data + length - 8);
    } else if (length >= 8) {
        low = load_u64(data);
        high = load_u64(data + length - 8);
    } else if (length >= 4) {
        low = load_u32(data);
        high = load_u32(data + length - 4);
    } else if (length > 0) {
        low = (static_cast<uint64_t>(static_cast<unsigned char>(data[0])) << 16) |
              (static_cast<uint64_t>(static_cast<unsigned char>(data[length >> 1])) << 8) |
              static_cast<unsigned char>(data[length - 1]);
        high = 0;
    } else {
        low = high = 0;
    }
    state = fold_product(low ^ second, high ^ state);
    return fold_product(state ^ third, length ^ first);
}

}  // namespace tidegauge
