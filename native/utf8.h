// Whether bytes are UTF-8 as RFC 3629 has it: no overlong forms, no surrogates, nothing above U+10FFFF.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace tidegauge {

inline bool is_utf8(const char *data, size_t length) {
    const unsigned char *at = reinterpret_cast<const unsigned char *>(data);
    const unsigned char *const end = at + length;
    while (at != end) {
        if (end - at >= 8) {
            uint64_t word;
            std::memcpy(&word, at, sizeof word);
            if ((word & 0x8080808080808080u) == 0) {
                at += 8;
                continue;
            }
        }
        const unsigned char lead = *at;
        if (lead < 0x80) {
            ++at;
            continue;
        }
        // The second byte's range excludes overlong forms (E0, F0), surrogates (ED) and what lies above (F4).
        unsigned char lowest = 0x80, highest = 0xBF;
        int following;
        if (lead >= 0xC2 && lead <= 0xDF) {
            following = 1;
        } else if (lead >= 0xE0 && lead <= 0xEF) {
            following = 2;
            if (lead == 0xE0) lowest = 0xA0;
            if (lead == 0xED) highest = 0x9F;
        } else if (lead >= 0xF0 && lead <= 0xF4) {
            following = 3;
            if (lead == 0xF0) lowest = 0x90;
            if (lead == 0xF4) highest = 0x8F;
        } else {
            return false;
        }
        if (end - at <= following || at[1] < lowest || at[1] > highest) return false;
        for (int i = 2; i <= following; ++i)
            if (at[i] < 0x80 || at[i] > 0xBF) return false;
        at += following + 1;
    }
    return true;
}

}  // namespace tidegauge
