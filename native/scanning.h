// Finding single bytes in text: SSE2 where the processor is an x86-64 (which always has it), bytes elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace tidegauge {

// The first byte in [at, end) that is a or b; end when there is none.
inline const char *find_either(const char *at, const char *end, char a, char b) {
#if defined(__SSE2__)
    const __m128i all_a = _mm_set1_epi8(a), all_b = _mm_set1_epi8(b);
    for (; end - at >= 16; at += 16) {
        const __m128i block = _mm_loadu_si128(reinterpret_cast<const __m128i *>(at));
        const __m128i hits = _mm_or_si128(_mm_cmpeq_epi8(block, all_a), _mm_cmpeq_epi8(block, all_b));
        const unsigned mask = static_cast<unsigned>(_mm_movemask_epi8(hits));
        if (mask != 0) return at + __builtin_ctz(mask);
    }
#endif
    while (at != end && *at != a && *at != b) ++at;
    return at;
}

// The first `wanted` in [at, end) that no backslash precedes, or the first `stop` before it; end when there is none.
// `at` itself counts as preceded by nothing.
inline const char *find_unescaped(const char *at, const char *end, char wanted, char stop) {
    const char *const start = at;
    while ((at = find_either(at, end, wanted, stop)) != end) {
        if (*at == stop || at == start || at[-1] != '\\') return at;
        ++at;
    }
    return end;
}

// Whether the 16 bytes at `text` begin as `head` does, in the bytes whose bits are set in `mask` (the lowest is first).
inline bool same_head(const char *text, const char *head, uint32_t mask) {
#if defined(__SSE2__)
    const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i *>(text));
    const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i *>(head));
    return (~static_cast<uint32_t>(_mm_movemask_epi8(_mm_cmpeq_epi8(a, b))) & mask) == 0;
#else
    return std::memcmp(text, head, static_cast<size_t>(__builtin_popcount(mask))) == 0;
#endif
}

// Whether `length` bytes are the same.  Both ranges must be readable; the first 16 bytes decide most of the time.
inline bool same_bytes(const char *a, const char *b, size_t length) {
#if defined(__SSE2__)
    size_t done = 0;
    for (; length - done >= 16; done += 16) {
        const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i *>(a + done));
        const __m128i y = _mm_loadu_si128(reinterpret_cast<const __m128i *>(b + done));
        if (_mm_movemask_epi8(_mm_cmpeq_epi8(x, y)) != 0xFFFF) return false;
    }
    if (done == length) return true;
    if (length >= 16) {
        const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i *>(a + length - 16));
        const __m128i y = _mm_loadu_si128(reinterpret_cast<const __m128i *>(b + length - 16));
        return _mm_movemask_epi8(_mm_cmpeq_epi8(x, y)) == 0xFFFF;
    }
#endif
    return std::memcmp(a, b, length) == 0;
}

}  // namespace tidegauge
