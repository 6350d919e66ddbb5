// Numbers as line protocol writes them: floats, 1i, 1u, booleans.
//
// Doubles are correctly rounded: up to 2^53 x 10^(-22..22) by one exact multiplication or division (W. D. Clinger,
// "How to read floating point numbers accurately", PLDI 1990), everything else by std::from_chars.  Digits are taken
// eight at a time from a little-endian word (D. Lemire, "Quickly parsing eight digits", 2018).
#pragma once

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#if !defined(__cpp_lib_to_chars)
#include <cstdlib>
#include <locale.h>
#include <string>
#if defined(__APPLE__)
#include <xlocale.h>
#endif
#endif

namespace tidegauge {

enum ValueKind : int {
    VALUE_NUMBER,
    VALUE_ROUNDED,       // an integer that a double cannot hold exactly
    VALUE_NOT_FINITE,    // NaN, infinity, or a float too large for a double
    VALUE_OUT_OF_RANGE,  // an integer beyond int64 or uint64
    VALUE_MALFORMED,
};

constexpr double POWERS_OF_TEN[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
constexpr uint64_t INTEGER_POWERS_OF_TEN[] = {1u, 10u, 100u, 1000u, 10000u, 100000u, 1000000u, 10000000u, 100000000u};
constexpr uint64_t EXACT_MANTISSA = uint64_t{1} << 53;

inline bool is_digit(char byte) { return static_cast<unsigned char>(byte - '0') < 10; }

inline bool ends_value(char byte) { return byte == ',' || byte == ' ' || byte == '\n'; }

// The digits at the start of the eight bytes at `at`, all of which must be readable: how many, and their value.
inline unsigned leading_digits(const char *at, uint64_t *value) {
    uint64_t word;
    std::memcpy(&word, at, sizeof word);
    word ^= 0x3030303030303030u;
    const uint64_t others = ((word + 0x7676767676767676u) | word) & 0x8080808080808080u;
    const unsigned count = others == 0 ? 8 : static_cast<unsigned>(__builtin_ctzll(others)) >> 3;
    if (count == 0) return 0;
    word <<= 64 - 8 * count;  // leading zeros in front of fewer than eight digits
    word = word * 10 + (word >> 8);
    constexpr uint64_t mask = 0x000000FF000000FFu;
    *value = ((word & mask) * (100 + (uint64_t{1000000} << 32)) +
              ((word >> 16) & mask) * (1 + (uint64_t{10000} << 32))) >> 32;
    return count;
}

// Passes all digits at `at`; `*value` = value x 10^digits + digits modulo 2^64, exact up to 19 significant digits.
inline const char *take_digits(const char *at, const char *end, uint64_t *value) {
    while (end - at >= 8) {
        uint64_t digits = 0;
        const unsigned count = leading_digits(at, &digits);
        *value = *value * INTEGER_POWERS_OF_TEN[count] + digits;
        at += count;
        if (count < 8) return at;
    }
    for (; at != end && is_digit(*at); ++at) *value = *value * 10 + static_cast<unsigned char>(*at - '0');
    return at;
}

// The double nearest to the text of a validated decimal number; false when it lies outside the range of doubles.
inline bool nearest_double(const char *text, const char *end, double *value) {
#if defined(__cpp_lib_to_chars)
    return std::from_chars(text, end, *value).ec == std::errc();
#else
    static const locale_t plain = newlocale(LC_ALL_MASK, "C", static_cast<locale_t>(nullptr));
    *value = strtod_l(std::string(text, end).c_str(), nullptr, plain);
    return true;
#endif
}

inline bool same_word(const char *at, const char *end, const char *lower) {
    const size_t length = std::strlen(lower);
    if (static_cast<size_t>(end - at) != length) return false;
    for (size_t i = 0; i < length; ++i)
        if ((at[i] | 0x20) != lower[i]) return false;
    return true;
}

// A value that does not begin as a number does: a boolean, NaN, infinity, or nothing we know.
inline ValueKind read_word(const char *at, const char *end, double *value) {
    const size_t length = static_cast<size_t>(end - at);
    const auto is = [&](const char *word) { return std::strlen(word) == length && std::memcmp(at, word, length) == 0; };
    if (is("t") || is("T") || is("true") || is("True") || is("TRUE")) {
        *value = 1.0;
        return VALUE_NUMBER;
    }
    if (is("f") || is("F") || is("false") || is("False") || is("FALSE")) {
        *value = 0.0;
        return VALUE_NUMBER;
    }
    if (length > 0 && (*at == '-' || *at == '+')) ++at;
    if (same_word(at, end, "nan") || same_word(at, end, "inf") || same_word(at, end, "infinity"))
        return VALUE_NOT_FINITE;
    return VALUE_MALFORMED;
}

inline ValueKind integer_value(const char *digits, const char *end, uint64_t magnitude, bool negative, char suffix,
                               double *value) {
    if (suffix == 'u' && negative) return VALUE_MALFORMED;
    while (digits != end && *digits == '0') ++digits;
    const ptrdiff_t significant = end - digits;
    if (significant > 20 || (significant == 20 && std::memcmp(digits, "18446744073709551615", 20) > 0))
        return VALUE_OUT_OF_RANGE;
    const uint64_t most = uint64_t{1} << 63;
    if (suffix == 'i' && magnitude >= most && !(negative && magnitude == most)) return VALUE_OUT_OF_RANGE;
    *value = static_cast<double>(magnitude);
    if (negative && magnitude != 0) *value = -*value;
    const bool exact = magnitude <= EXACT_MANTISSA || (magnitude >> __builtin_ctzll(magnitude)) < EXACT_MANTISSA;
    return exact ? VALUE_NUMBER : VALUE_ROUNDED;
}

// Reads one value that is not a string.  Returns its end, where a comma, a space, a newline or the end of the text is,
// and sets `*kind`; `*value` is set for VALUE_NUMBER and VALUE_ROUNDED.
inline const char *read_value(const char *at, const char *end, ValueKind *kind, double *value) {
    const char *const start = at;
    const bool negative = at != end && *at == '-';
    at += negative;
    const char *const digits = at;
    uint64_t mantissa = 0;
    at = take_digits(at, end, &mantissa);
    const char *const digits_end = at;
    int64_t fraction = 0, exponent = 0;
    bool malformed = false;
    if (at != end && (*at == 'i' || *at == 'u') && at != digits && (end - at == 1 || ends_value(at[1]))) {
        *kind = integer_value(digits, at, mantissa, negative, *at, value);
        return at + 1;
    }
    if (at != end && *at == '.') {
        const char *const point = ++at;
        at = take_digits(at, end, &mantissa);
        fraction = at - point;
    }
    const int64_t count = (digits_end - digits) + fraction;
    if (count == 0) malformed = true;
    if (!malformed && at != end && (*at == 'e' || *at == 'E')) {
        ++at;
        const bool minus = at != end && *at == '-';
        if (at != end && (*at == '-' || *at == '+')) ++at;
        if (at == end || !is_digit(*at)) malformed = true;
        for (; at != end && is_digit(*at); ++at)
            if (exponent < int64_t{1} << 40) exponent = exponent * 10 + (*at - '0');
        if (minus) exponent = -exponent;
    }
    if (malformed || (at != end && !ends_value(*at))) {
        at = start;
        while (at != end && !ends_value(*at)) ++at;
        *kind = read_word(start, at, value);
        return at;
    }
    *kind = VALUE_NUMBER;
    const int64_t power = exponent - fraction;
    if (count <= 19 && mantissa <= EXACT_MANTISSA && power >= -22 && power <= 22) {
        const double whole = static_cast<double>(mantissa);
        const double size = power < 0 ? whole / POWERS_OF_TEN[-power] : whole * POWERS_OF_TEN[power];
        *value = negative ? -size : size;
        return at;
    }
    if (!nearest_double(start, at, value)) {
        // Out of range: too small rounds to zero, too large has no double.  The first digit that is not zero tells.
        const char *first = digits;
        while (first != at && (*first == '0' || *first == '.')) ++first;
        const int64_t before = first < digits_end ? digits_end - first : digits_end + 1 - first;
        *value = negative ? -0.0 : 0.0;
        if (before + exponent > 0) *value = std::numeric_limits<double>::infinity();
    }
    if (!(*value <= std::numeric_limits<double>::max() && *value >= std::numeric_limits<double>::lowest()))
        *kind = VALUE_NOT_FINITE;
    return at;
}

// The same for a value that begins at `at` with at least 24 readable bytes and more text after it: short numbers are
// read in a straight line.  Returns where it ends, before `end`, or nullptr for anything but a number or a boolean.
inline const char *read_plain_value(const char *at, const char *end, double *value, uint32_t *rounded) {
    const char *const start = at;
    const bool negative = *at == '-';
    at += negative;
    uint64_t whole = 0;
    const unsigned count = leading_digits(at, &whole);
    if (count - 1 < 7) {
        at += count;
        if (*at == 'i') {
            const double size = static_cast<double>(whole);
            *value = negative ? 0.0 - size : size;
            return at + 1;
        }
        if (*at != '.') {
            if (ends_value(*at)) {
                const double size = static_cast<double>(whole);
                *value = negative ? -size : size;
                return at;
            }
        } else {
            uint64_t part = 0;
            const unsigned decimals = leading_digits(at + 1, &part);
            if (decimals < 8 && ends_value(at[1 + decimals])) {
                const uint64_t mantissa = whole * INTEGER_POWERS_OF_TEN[decimals] + part;
                const double size = static_cast<double>(mantissa) / POWERS_OF_TEN[decimals];
                *value = negative ? -size : size;
                return at + 1 + decimals;
            }
        }
    }
    ValueKind kind;
    at = read_value(start, end, &kind, value);
    if (kind > VALUE_ROUNDED || at == end) return nullptr;
    *rounded += kind == VALUE_ROUNDED;
    return at;
}

}  // namespace tidegauge
