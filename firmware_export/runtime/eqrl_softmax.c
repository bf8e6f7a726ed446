/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_softmax.c - functions of rows: SOFTMAX, LOG_SOFTMAX, ARG_MAX and ARG_MIN.
 *
 * Exponentials come from tables; logarithms and reciprocals are polynomials and Newton steps in fixed point.
 * A number with k integer bits ("in qk") is an int32 scaled by 2^(31 - k).
 */
#include "eqrl_kernels.h"

#define INT32_HIGHEST 0x7FFFFFFF
#define LEAST_INT32 ((int32_t)-0x7FFFFFFF - 1)
#define NUM_KNOT_WORDS 257u /* int16 knots[513], padded */

/* Twice a value that is not below -2^30, saturating. */
EQRL_CODE static int32_t doubled(int32_t value)
{
    const int32_t is_beyond = eqrl_is_negative(0x3FFFFFFF - value);
    return eqrl_select(is_beyond, INT32_HIGHEST, (int32_t)((uint32_t)value << 1));
}

/* 1 / (1 + value) for value in [0, 1), both in q0. */
EQRL_CODE static int32_t one_over_one_plus(int32_t value)
{
    const int32_t half = (int32_t)(((uint32_t)value + 0x80000000u) >> 1);
    /* 48/17 - 32/17 half, then three Newton steps, all in q2 */
    int32_t x = 1515870810 + eqrl_rounding_high_multiply(half, -1010580540);
    for (uint32_t i = 0; i < 3u; i++) {
        const int32_t error = ((int32_t)1 << 29) - eqrl_rounding_high_multiply(half, x);
        x += eqrl_rounding_high_multiply(x, error) * 4;
    }
    return doubled(x);
}

/* ln(total) in q5, for total in q12 in [1, 2^12). */
EQRL_CODE static int32_t log_of_sum(int32_t total)
{
    const int32_t quarter = (int32_t)1 << 23; /* in q6 */
    const int32_t sqrt_half = 1518500250;     /* in q0, as all that follow */
    const int32_t root_4_half = 1805811301;
    const int32_t alpha_n = 117049297; /* with r = 2^(1/4): 11/240 r, r/20, 2/r - r, r/4 */
    const int32_t alpha_d = 127690142;
    const int32_t alpha_i = 1057819769;
    const int32_t alpha_f = 638450708;
    const int32_t log_2 = 1488522236;

    const int32_t zeros = (int32_t)eqrl_leading_zeros((uint32_t)total);
    const int32_t shifted = total << (zeros - 1);
    const int32_t r_a = doubled(eqrl_rounding_high_multiply(shifted, sqrt_half));
    const int32_t e_a = (12 - zeros) * ((int32_t)1 << 25) + quarter;
    const int32_t lowered = eqrl_rounding_high_multiply(total, sqrt_half);
    const int32_t headroom = (int32_t)eqrl_leading_zeros((uint32_t)lowered) - 1;
    const int32_t wrapped = (int32_t)((uint32_t)total << headroom); /* below 2^32 */
    const int32_t r_b = eqrl_select(eqrl_is_negative(wrapped), INT32_HIGHEST, wrapped);
    const int32_t e_b = (12 - headroom) * ((int32_t)1 << 25) - quarter;
    const int32_t r = eqrl_select(eqrl_is_negative(r_a - r_b), r_a, r_b);
    const int32_t e = eqrl_select(eqrl_is_negative(e_a - e_b), e_b, e_a);

    const int32_t p = (int32_t)(((uint32_t)r + (uint32_t)root_4_half + 1u) >> 1);
    const int32_t q = (r - root_4_half) * 2;
    const int32_t squared = eqrl_rounding_high_multiply(q, q);
    const int32_t cubed = eqrl_rounding_high_multiply(q, squared);
    const int32_t numerator = eqrl_rounding_high_multiply(q, r) + eqrl_rounding_high_multiply(cubed, alpha_n);
    const int32_t inner = alpha_i + q + eqrl_rounding_high_multiply(alpha_d, squared);
    const int32_t denominator = eqrl_rounding_high_multiply(p, inner) + eqrl_rounding_high_multiply(alpha_f, q);
    const int32_t rounded = (numerator + 32 + eqrl_is_negative(numerator)) >> 6; /* halves away from zero */
    const int32_t fraction = eqrl_rounding_high_multiply(rounded, one_over_one_plus(denominator));
    return doubled(eqrl_rounding_high_multiply(e, log_2) + fraction);
}

EQRL_INLINE int32_t greatest(const void *values, uint32_t element_bytes, int32_t size)
{
    int32_t result = eqrl_load(values, element_bytes, 0);
    for (int32_t i = 1; i < size; i++) {
        const int32_t value = eqrl_load(values, element_bytes, i);
        result = eqrl_select(eqrl_is_negative(result - value), value, result);
    }
    return result;
}

EQRL_CODE static void softmax_row_s8(const int32_t *table, const int8_t *input, int8_t *output,
                                     uint32_t depth)
{
    const int32_t most = greatest(input, 1u, (int32_t)depth);
    int32_t total = 0; /* in q12 */

    for (uint32_t i = 0; i < depth; i++) {
        total += ((table[most - input[i]] >> 11) + 1) >> 1;
    }
    const int32_t zeros = (int32_t)eqrl_leading_zeros((uint32_t)total);
    const int32_t reciprocal = one_over_one_plus((int32_t)(((uint32_t)total << zeros) ^ 0x80000000u));
    for (uint32_t i = 0; i < depth; i++) {
        const int32_t scaled = eqrl_rounding_high_multiply(reciprocal, table[most - input[i]]);
        const int32_t rounded = ((scaled >> (34 - zeros)) + 1) >> 1; /* 256 at most */
        const int32_t excess = eqrl_is_negative(255 - rounded);
        output[i] = (int8_t)(rounded - 128 + excess);
    }
}

EQRL_CODE void eqrl_softmax_s8(const uint32_t *block, const int8_t *input, int8_t *output, uint32_t num_rows,
                               uint32_t depth)
{
    for (uint32_t row = 0; row < num_rows; row++) {
        softmax_row_s8((const int32_t *)block, input + row * depth, output + row * depth, depth);
    }
}

/* A function at an int16 value, by straight lines. */
EQRL_CODE static int32_t interpolated(const eqrl_s16 *knots, int32_t value)
{
    const int32_t index = (value >> 7) + 256;
    const int32_t low = knots[index];
    return low + (((knots[index + 1] - low) * (value & 127) + 64) >> 7);
}

EQRL_CODE static void softmax_row_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                                      uint32_t depth)
{
    const int32_t multiplier = (int32_t)block[0];
    const int32_t shift = (int32_t)block[1];
    const eqrl_s16 *const exp_knots = (const eqrl_s16 *)(const void *)(block + 2);
    const eqrl_s16 *const reciprocal_knots = exp_knots + 2u * NUM_KNOT_WORDS;
    const int32_t most = greatest(input, 2u, (int32_t)depth);
    int32_t total = 0;

    for (uint32_t i = 0; i < depth; i++) {
        const int32_t below = eqrl_requantize(input[i] - most, multiplier, shift);
        const int32_t is_beyond = eqrl_is_less(below, -65535);
        const int32_t exponential = interpolated(exp_knots, eqrl_select(is_beyond, -65535, below) + 32767);
        output[i] = (int16_t)exponential;
        total += exponential;
    }
    const int32_t zeros = (int32_t)eqrl_leading_zeros((uint32_t)total);
    const int32_t normal = (int32_t)((((uint32_t)total << (zeros - 1)) + 0x2000u) >> 14);
    const int32_t place = normal - 98304;
    const int32_t reciprocal = interpolated(reciprocal_knots, place + eqrl_is_negative(32767 - place));
    for (uint32_t i = 0; i < depth; i++) {
        const int32_t scaled = (output[i] * reciprocal + ((int32_t)1 << (30 - zeros))) >> (31 - zeros);
        output[i] = (int16_t)eqrl_select(eqrl_is_negative(32767 - scaled), 32767, scaled);
    }
}

EQRL_CODE void eqrl_softmax_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                                uint32_t num_rows, uint32_t depth)
{
    for (uint32_t row = 0; row < num_rows; row++) {
        softmax_row_s16(block, input + row * depth, output + row * depth, depth);
    }
}

EQRL_CODE static void log_softmax_row_s8(const int32_t *numbers, const int8_t *input, int8_t *output,
                                         uint32_t depth)
{
    const int32_t *const table = numbers + 5;
    const int32_t most = greatest(input, 1u, (int32_t)depth);
    int32_t total = 0; /* in q12 */

    for (uint32_t i = 0; i < depth; i++) {
        total += table[most - input[i]];
    }
    const int32_t log = log_of_sum(total);
    const int32_t reach = -eqrl_requantize(log + LEAST_INT32, numbers[2], numbers[3]);
    const int32_t limit = eqrl_select(eqrl_is_less(reach, numbers[4]), reach, numbers[4]);
    for (uint32_t i = 0; i < depth; i++) {
        const int32_t below = most - input[i];
        const int32_t counts = eqrl_is_less(below, limit);
        const int32_t scaled = eqrl_requantize(-(below & counts), numbers[0], numbers[1]);
        const int32_t value = (int32_t)((uint32_t)scaled - (uint32_t)log);
        /* Halves away from zero; value is not positive. */
        const int32_t rounded = (value + ((int32_t)1 << 21) + eqrl_is_negative(value)) >> 22;
        output[i] = (int8_t)eqrl_select(counts, eqrl_clamp(rounded + 127, -128, 127), -128);
    }
}

EQRL_CODE void eqrl_log_softmax_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                                   uint32_t num_rows, uint32_t depth)
{
    for (uint32_t row = 0; row < num_rows; row++) {
        log_softmax_row_s8((const int32_t *)block, input + row * depth, output + row * depth, depth);
    }
}

EQRL_CODE void eqrl_arg_extreme(const void *input, eqrl_s32 *output, uint32_t input_bytes, uint32_t outer,
                                uint32_t size, uint32_t inner, uint32_t is_minimum)
{
    const int32_t flip = -(int32_t)is_minimum; /* the least is the greatest of the complements */
    uint32_t start = 0;

    for (uint32_t i = 0; i < outer; i++) {
        for (uint32_t j = 0; j < inner; j++) {
            int32_t place = (int32_t)(start + j);
            int32_t best = eqrl_load(input, input_bytes, place) ^ flip;
            int32_t best_index = 0;
            for (int32_t index = 1; index < (int32_t)size; index++) {
                place += (int32_t)inner;
                const int32_t value = eqrl_load(input, input_bytes, place) ^ flip;
                const int32_t is_better = eqrl_is_negative(best - value);
                best = eqrl_select(is_better, value, best);
                best_index = eqrl_select(is_better, index, best_index);
            }
            output[i * inner + j] = best_index;
        }
        start += size * inner;
    }
}
