/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_internal.h - kernels and integer arithmetic. For generated code and the runtime, not for callers.
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

#ifdef __cplusplus
extern "C" {
#endif

/* Kernels. `block` points to the layer's block in the params blob; firmware_export/emit/packing.py writes
 * it. Inputs and outputs are int8 activations that do not overlap unless said so.
 */

/* FULLY_CONNECTED. Block: int8 {input zero point, output zero point, output_min, output_max};
 * int32 bias[num_outputs] with the input zero point folded in; int32 multiplier[num_outputs];
 * int8 shift[num_outputs], padded to 4; int8 weights[num_outputs][num_inputs], padded to 4.
 */
void eqrl_dense_s8(const uint32_t *block, const int8_t *input, int8_t *output, uint32_t num_inputs,
                   uint32_t num_outputs);

/* Any elementwise function. Block: int8 table[256], for inputs -128 to 127. output may be input. */
void eqrl_lookup_s8(const uint32_t *block, const int8_t *input, int8_t *output, uint32_t size);

/* float32 observation -> int8. Block: uint32 multiplier; int32 exponent bias; int32 zero point.
 * Returns a sum of EQRL_SATURATED and EQRL_NOT_FINITE.
 */
eqrl_status eqrl_observation_f32(const uint32_t *block, const float *observation, int8_t *input,
                                 uint32_t size);

/* int8 outputs -> discrete action, the lowest index on a tie. Block: int32 start. */
int32_t eqrl_argmax(const uint32_t *block, const int8_t *output, uint32_t num_actions);

/* The same among the actions whose mask is not 0; a mask that allows nothing is ignored. */
int32_t eqrl_argmax_masked(const uint32_t *block, const int8_t *output, const uint8_t *action_mask,
                           uint32_t num_actions);

/* int8 outputs -> float32 action. Block: int32 {gain, offset, low, high, fraction bits} an action. */
void eqrl_affine_f32(const uint32_t *block, const int8_t *output, float *action, uint32_t size);

/* Whether layer `index` is among [first, last). */
static inline int eqrl_is_selected(uint32_t index, uint32_t first, uint32_t last)
{
    return index >= first && index < last;
}

/* Read and write the bits of a float (or any 4-aligned word) as an integer. GCC and clang would call
 * memcpy() on a core without unaligned access, as they do not trust the pointer's alignment.
 */
static inline uint32_t eqrl_load_word(const void *source)
{
#if defined(__GNUC__) || defined(__clang__)
    typedef uint32_t __attribute__((may_alias)) word;
    return *(const word *)source;
#else
    uint32_t value;
    memcpy(&value, source, sizeof value);
    return value;
#endif
}

static inline void eqrl_store_word(void *target, uint32_t value)
{
#if defined(__GNUC__) || defined(__clang__)
    typedef uint32_t __attribute__((may_alias)) word;
    *(word *)target = value;
#else
    memcpy(target, &value, sizeof value);
#endif
}

/* Hide from the compiler where a value comes from. Else it may turn a comparison or a mask into a branch,
 * or find out that four small multiplications are one large one and call its library for that.
 */
static inline int32_t eqrl_opaque(int32_t value)
{
#if defined(__GNUC__) || defined(__clang__)
    __asm__("" : "+r"(value));
#endif
    return value;
}

/* All ones where value < 0, else 0. */
static inline int32_t eqrl_is_negative(int32_t value)
{
    return eqrl_opaque(eqrl_opaque(value) >> 31);
}

/* All ones where a < b, else 0; for all a and b. */
static inline int32_t eqrl_is_less(int32_t a, int32_t b)
{
    const uint32_t x = (uint32_t)a;
    const uint32_t y = (uint32_t)b;
    return eqrl_is_negative((int32_t)((x & ~y) | (~(x ^ y) & (x - y))));
}

/* mask is all ones or 0. */
static inline int32_t eqrl_select(int32_t mask, int32_t if_ones, int32_t if_zero)
{
    return if_zero ^ ((if_ones ^ if_zero) & mask);
}

/* Clamp to [low, high]; needs the differences to fit int32. */
static inline int32_t eqrl_clamp(int32_t value, int32_t low, int32_t high)
{
    const int32_t below = value - low;
    const int32_t raised = value - (below & eqrl_is_negative(below));
    const int32_t above = high - raised;
    return raised + (above & eqrl_is_negative(above));
}

/* floor((value * multiplier + 2^30) / 2^31), multiplier in [0, 2^31): gemmlowp's first rounding. */
static inline int32_t eqrl_rounding_high_multiply(int32_t value, int32_t multiplier)
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
    const uint32_t middle = value_low * (uint32_t)multiplier_high + ((uint32_t)cross & 0xFFFFu);
    const int32_t high = value_high * multiplier_high + (cross >> 16) + (int32_t)(middle >> 16);
    const uint32_t top = (middle << 16) >> 30; /* the two bits below `high` */
    return high * 2 + (int32_t)((top + 1u) >> 1);
#endif
}

/* floor(a * b / 2^32) */
static inline uint32_t eqrl_high_multiply(uint32_t a, uint32_t b)
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
static inline int32_t eqrl_requantize(int32_t accumulator, int32_t multiplier, int32_t shift)
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

#ifdef __cplusplus
}
#endif

#endif
