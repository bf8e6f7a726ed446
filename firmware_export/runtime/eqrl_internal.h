/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_internal.h - integer arithmetic. For generated code and the runtime, not for callers.
 *
 * Nothing here branches on a value that comes from an observation: conditions become masks. So a step
 * executes the same blocks for every input. Loops and branches depend on shapes and params only.
 */
#ifndef EQRL_INTERNAL_H
#define EQRL_INTERNAL_H

#include "eqrl.h"

#if !defined(__GNUC__) && !defined(__clang__)
#include <string.h>
#endif

/* Whether the core multiplies 32 x 32 -> 64 bits in one instruction. Where it does not, the compiler
 * would call a library function whose time depends on the data.
 */
#ifndef EQRL_HAS_LONG_MULTIPLY
#if defined(__ARM_ARCH_6M__) || defined(__ARM_ARCH_8M_BASE__) || defined(__AVR__) || defined(__MSP430__)
#define EQRL_HAS_LONG_MULTIPLY 0
#else
#define EQRL_HAS_LONG_MULTIPLY 1
#endif
#endif

/* Whether the core has the integer vectors of Helium, and the compiler takes their instructions. */
#if defined(__ARM_FEATURE_MVE) && (defined(__GNUC__) || defined(__clang__))
#define EQRL_HAS_MVE 1
#else
#define EQRL_HAS_MVE 0
#endif

/* Params are read as words and bytes of a little-endian machine. */
#if defined(__BYTE_ORDER__) && defined(__ORDER_LITTLE_ENDIAN__)
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "edgeqrl supports little-endian machines only"
#endif
#endif

/* C leaves these to the compiler, and the arithmetic below needs them so. */
typedef char eqrl_needs_arithmetic_shift[((-1) >> 1) == -1 ? 1 : -1];
typedef char eqrl_needs_twos_complement[(int32_t)0xFFFFFFFFu == -1 ? 1 : -1];
typedef char eqrl_needs_32_bit_float[sizeof(float) == 4u ? 1 : -1];
typedef char eqrl_needs_packed_header[sizeof(eqrl_params_header) == 128u ? 1 : -1];

/* A small function; where the compiler keeps a copy of it, that lies where its callers lie. */
#define EQRL_HELPER EQRL_CODE static inline

/* A function that is compiled anew for each call, with constant arguments folded in. */
#if defined(__GNUC__) || defined(__clang__)
#define EQRL_INLINE static inline __attribute__((always_inline))
#else
#define EQRL_INLINE EQRL_HELPER
#endif

/* Before a loop that is to stay as small as it is written. */
#if defined(__clang__)
#define EQRL_ROLLED _Pragma("clang loop unroll(disable) vectorize(disable)")
#else
#define EQRL_ROLLED
#endif

/* Read anew what a pointer points to, instead of keeping all of it on the stack across a loop. */
#if defined(__GNUC__) || defined(__clang__)
#define EQRL_READ_AGAIN(pointer) __asm__("" : "+r"(pointer))
#else
#define EQRL_READ_AGAIN(pointer)
#endif

/* A function with an inner loop, which gets all registers for itself. */
#if defined(__GNUC__) || defined(__clang__)
#define EQRL_OUTLINE EQRL_CODE __attribute__((noinline, unused)) static
#else
#define EQRL_OUTLINE EQRL_CODE static
#endif

/* A function that is assembler alone, arguments as the ABI has them; and what compilers think is unused there. */
#if defined(__GNUC__) || defined(__clang__)
#define EQRL_NAKED EQRL_CODE __attribute__((naked, noinline)) static
#define EQRL_UNUSED __attribute__((unused))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* CRC-32 (IEEE 802.3, reflected) from `crc` on, a nibble at a time. Begin with 0xFFFFFFFF and invert at the end. */
uint32_t eqrl_crc32(uint32_t crc, const void *bytes, uint32_t num_bytes);

/* Whether layer `index` is among [first, last). */
EQRL_HELPER int eqrl_is_selected(uint32_t index, uint32_t first, uint32_t last)
{
    return index >= first && index < last;
}

/* Activations of all dtypes share one arena, whose declared type is another: compilers are told so. */
#if defined(__GNUC__) || defined(__clang__)
typedef int16_t __attribute__((may_alias)) eqrl_s16;
typedef uint16_t __attribute__((may_alias)) eqrl_u16;
typedef int32_t __attribute__((may_alias)) eqrl_s32;
typedef uint32_t __attribute__((may_alias)) eqrl_u32;
#else
typedef int16_t eqrl_s16;
typedef uint16_t eqrl_u16;
typedef int32_t eqrl_s32;
typedef uint32_t eqrl_u32;
#endif

/* Element `i` of an array of int8, int16 or int32. */
EQRL_INLINE int32_t eqrl_load(const void *values, uint32_t element_bytes, int32_t i)
{
    if (element_bytes == 1u) {
        return ((const int8_t *)values)[i];
    }
    return element_bytes == 2u ? ((const eqrl_s16 *)values)[i] : ((const eqrl_s32 *)values)[i];
}

EQRL_INLINE void eqrl_store(void *values, uint32_t element_bytes, int32_t i, int32_t value)
{
    if (element_bytes == 1u) {
        ((int8_t *)values)[i] = (int8_t)value;
    } else if (element_bytes == 2u) {
        ((eqrl_s16 *)values)[i] = (int16_t)value;
    } else {
        ((eqrl_s32 *)values)[i] = value;
    }
}

/* Read and write the bits of a float (or any 4-aligned word) as an integer. GCC and clang would call
 * memcpy() on a core without unaligned access, as they do not trust the pointer's alignment.
 */
EQRL_HELPER uint32_t eqrl_load_word(const void *source)
{
#if defined(__GNUC__) || defined(__clang__)
    return *(const eqrl_u32 *)source;
#else
    uint32_t value;
    memcpy(&value, source, sizeof value);
    return value;
#endif
}

EQRL_HELPER void eqrl_store_word(void *target, uint32_t value)
{
#if defined(__GNUC__) || defined(__clang__)
    *(eqrl_u32 *)target = value;
#else
    memcpy(target, &value, sizeof value);
#endif
}

/* Hide from the compiler where a value comes from. Else it may turn a comparison or a mask into a branch,
 * or find out that four small multiplications are one large one and call its library for that.
 */
EQRL_HELPER int32_t eqrl_opaque(int32_t value)
{
#if defined(__GNUC__) || defined(__clang__)
    __asm__("" : "+r"(value));
#endif
    return value;
}

/* Copy bytes that do not overlap, one by one: where the way of it must not depend on the place, such as a slot. */
EQRL_HELPER void eqrl_copy_bytes(void *target, const void *source, uint32_t num_bytes)
{
    int8_t *const to = (int8_t *)target;
    const int8_t *const from = (const int8_t *)source;
    EQRL_ROLLED
    for (uint32_t i = 0; i < num_bytes; i++) {
        to[i] = (int8_t)eqrl_opaque(from[i]);
    }
}

/* eqrl_copy.c: copy bytes that do not overlap; by words where both are 4-aligned. */
void eqrl_copy(void *target, const void *source, uint32_t num_bytes);

#if EQRL_HAS_MVE
/* The same, 16 bytes at once; the loop's end masks the last ones. */
EQRL_HELPER void eqrl_copy_vectors(void *target, const void *source, uint32_t num_bytes)
{
    __asm__ volatile("wlstp.8 lr, %[num_bytes], 2f\n\t"
                     "1:\n\t"
                     "vldrb.8 q0, [%[source]], #16\n\t"
                     "vstrb.8 q0, [%[target]], #16\n\t"
                     "letp lr, 1b\n\t"
                     "2:"
                     : [target] "+&r"(target), [source] "+&r"(source)
                     : [num_bytes] "r"(num_bytes)
                     : "lr", "q0", "memory");
}
#endif

/* All ones where value < 0, else 0. */
EQRL_HELPER int32_t eqrl_is_negative(int32_t value)
{
    return eqrl_opaque(eqrl_opaque(value) >> 31);
}

/* All ones where a < b, else 0; for all a and b. */
EQRL_HELPER int32_t eqrl_is_less(int32_t a, int32_t b)
{
    const uint32_t x = (uint32_t)a;
    const uint32_t y = (uint32_t)b;
    return eqrl_is_negative((int32_t)((x & ~y) | (~(x ^ y) & (x - y))));
}

/* mask is all ones or 0. */
EQRL_HELPER int32_t eqrl_select(int32_t mask, int32_t if_ones, int32_t if_zero)
{
    return if_zero ^ ((if_ones ^ if_zero) & mask);
}

/* Clamp to [low, high]; needs the differences to fit int32. */
EQRL_HELPER int32_t eqrl_clamp(int32_t value, int32_t low, int32_t high)
{
    const int32_t below = value - low;
    const int32_t raised = value - (below & eqrl_is_negative(below));
    const int32_t above = high - raised;
    return raised + (above & eqrl_is_negative(above));
}

/* floor((value * multiplier + 2^30) / 2^31): gemmlowp's first rounding. Not both may be -2^31. */
EQRL_HELPER int32_t eqrl_rounding_high_multiply(int32_t value, int32_t multiplier)
{
#if EQRL_HAS_LONG_MULTIPLY
    return (int32_t)(((int64_t)value * multiplier + ((int32_t)1 << 30)) >> 31);
#else
    /* In 16-bit halves; each sum fits its 32 bits. */
    const int32_t value_high = value >> 16;
    const uint32_t value_low = (uint32_t)value & 0xFFFFu;
    const int32_t multiplier_high = multiplier >> 16;
    const uint32_t multiplier_low = (uint32_t)multiplier & 0xFFFFu;
    const uint32_t low = value_low * multiplier_low;
    const int32_t cross = eqrl_opaque(value_high * (int32_t)multiplier_low + (int32_t)(low >> 16));
    const int32_t middle = (int32_t)value_low * multiplier_high + (int32_t)((uint32_t)cross & 0xFFFFu);
    const int32_t high = value_high * multiplier_high + (cross >> 16) + (middle >> 16);
    const uint32_t top = ((uint32_t)middle << 16) >> 30; /* the two bits below `high` */
    return high * 2 + (int32_t)((top + 1u) >> 1);
#endif
}

/* Return the value shifted left until bit 31 is set, and subtract the shift from *exponent; in fixed steps, as
 * ARMv6-M has no instruction for it. 0 stays 0 and counts as 31.
 */
EQRL_HELPER uint32_t eqrl_normalise(uint32_t value, int32_t *exponent)
{
    for (uint32_t step = 16u; step > 0u; step >>= 1) {
        /* All ones where the `step` highest bits are 0. */
        const uint32_t shift = step & (uint32_t)eqrl_is_negative((int32_t)(value >> (32u - step)) - 1);
        value <<= shift;
        *exponent -= (int32_t)shift;
    }
    return value;
}

/* Count the leading zeros of a value that is not 0; 31 for 0. */
EQRL_HELPER uint32_t eqrl_leading_zeros(uint32_t value)
{
    int32_t exponent = 0;
    (void)eqrl_normalise(value, &exponent);
    return (uint32_t)-exponent;
}

/* floor(a * b / 2^32) */
EQRL_HELPER uint32_t eqrl_high_multiply(uint32_t a, uint32_t b)
{
#if EQRL_HAS_LONG_MULTIPLY
    return (uint32_t)(((uint64_t)a * b) >> 32);
#else
    const uint32_t a_high = a >> 16;
    const uint32_t a_low = a & 0xFFFFu;
    const uint32_t b_high = b >> 16;
    const uint32_t b_low = b & 0xFFFFu;
    const uint32_t cross = (uint32_t)eqrl_opaque((int32_t)(a_high * b_low + ((a_low * b_low) >> 16)));
    const uint32_t middle = a_low * b_high + (cross & 0xFFFFu);
    return a_high * b_high + (cross >> 16) + (middle >> 16);
#endif
}

/* accumulator * multiplier * 2^(shift - 31), rounded twice as TFLite Micro does.
 *
 * multiplier in [2^30, 2^31), shift in [-31, 30], > 0 shifts left. The exporter proves that the shifted
 * accumulator stays inside int32.
 */
EQRL_HELPER int32_t eqrl_requantize(int32_t accumulator, int32_t multiplier, int32_t shift)
{
    const int32_t is_right = shift >> 31;
    const uint32_t left = (uint32_t)(shift & ~is_right);
    const int32_t right_less_one = ~shift & is_right; /* -shift - 1, or 0 */
    const int32_t shifted = (int32_t)((uint32_t)accumulator << left);
    const int32_t high = eqrl_rounding_high_multiply(shifted, multiplier);
    /* To nearest, halves away from zero: lower a negative value by 1, then round halves up. */
    const int32_t biased = high + (eqrl_is_negative(high) & is_right);
    return ((biased >> right_less_one) - is_right) >> (is_right & 1);
}

/* Clamp to [low, high], for all values. */
EQRL_HELPER int32_t eqrl_saturate(int32_t value, int32_t low, int32_t high)
{
    const int32_t raised = eqrl_select(eqrl_is_less(value, low), low, value);
    return eqrl_select(eqrl_is_less(high, raised), high, raised);
}

/* The greater of two values whose difference fits int32. */
EQRL_HELPER int32_t eqrl_larger(int32_t a, int32_t b)
{
    const int32_t above = b - a;
    return a + (above & ~eqrl_is_negative(above));
}

/* The IEEE bits of float32(value * 2^-fraction_bits), to nearest even; |fraction_bits| <= 60. */
EQRL_HELPER uint32_t eqrl_float_bits(int32_t value, int32_t fraction_bits)
{
    const int32_t sign = eqrl_is_negative(value);
    const uint32_t magnitude = ((uint32_t)value ^ (uint32_t)sign) - (uint32_t)sign;
    int32_t exponent = 127 + 31 - fraction_bits;
    const uint32_t normal = eqrl_normalise(magnitude, &exponent);
    const uint32_t kept = normal >> 8; /* 24 bits, the highest of them implicit in the result */
    const uint32_t rounded = kept + (((normal & 0xFFu) + 127u + (kept & 1u)) >> 8);
    const uint32_t is_nonzero = (uint32_t)eqrl_is_negative((int32_t)normal); /* bit 31 is set, or all are 0 */
    return ((((uint32_t)exponent - 1u) << 23) + rounded + ((uint32_t)sign << 31)) & is_nonzero;
}

/* exp(-difference * step) with 32 fraction bits: tables[256], of int16 times tables[256 + 256]. */
EQRL_HELPER uint32_t eqrl_exponential(const uint32_t *tables, uint32_t element_bytes, uint32_t difference)
{
    const uint32_t low = tables[difference & 0xFFu];
    return element_bytes == 1u ? low : eqrl_high_multiply(tables[256u + (difference >> 8)], low);
}

#ifdef __cplusplus
}
#endif

#endif
