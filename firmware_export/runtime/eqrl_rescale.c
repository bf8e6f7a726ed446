/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_rescale.c - QUANTIZE, RELU and their kin where a side is int16: straight lines; RSQRT. */
#include "eqrl_kernels.h"

EQRL_CODE void eqrl_rescale(const uint32_t *block, const void *input, void *output, uint32_t input_bytes,
                            uint32_t output_bytes, uint32_t size)
{
    const int32_t *const numbers = (const int32_t *)block;
    const int32_t zero_point = numbers[0];
    const int32_t output_min = numbers[7];
    const int32_t output_max = numbers[8];
    const int32_t output_zero_point = numbers[9];

    for (int32_t i = 0; i < (int32_t)size; i++) {
        const int32_t x = eqrl_load(input, input_bytes, i) - zero_point;
        const int32_t is_below = eqrl_is_negative(x);
        const int32_t multiplier = eqrl_select(is_below, numbers[4], numbers[1]);
        const int32_t shift = eqrl_select(is_below, numbers[5], numbers[2]);
        const int32_t sign = eqrl_select(is_below, numbers[6], numbers[3]);
        const int32_t scaled = eqrl_requantize((x ^ sign) - sign, multiplier, shift);
        const int32_t clamped = eqrl_clamp(scaled, output_min, output_max);
        eqrl_store(output, output_bytes, i, clamped + output_zero_point);
    }
}

/* 1 / sqrt(value) ~ result * 2^(exponent - 31) for value in [1, 2^15), by Newton's method in fixed point. */
EQRL_CODE static int32_t inverse_root(int32_t value, int32_t *exponent)
{
    const int32_t root_half = 1518500250; /* sqrt(1/2) * 2^31 */
    const int32_t is_one = eqrl_is_negative(value - 2);
    const int32_t pairs = (int32_t)((eqrl_leading_zeros((uint32_t)value) - 1u) >> 1) - 1;
    const int32_t normal = value << (2 * pairs); /* in [2^27, 2^29) */
    const int32_t half = ((normal >> 1) + 1) >> 1;
    int32_t x = (int32_t)1 << 28;

    for (uint32_t i = 0; i < 5u; i++) {
        const int32_t squared = eqrl_rounding_high_multiply(x, x);
        const int32_t cubed = eqrl_rounding_high_multiply(squared, x) * 64;
        const int32_t next = eqrl_rounding_high_multiply(3 << 27, x) - eqrl_rounding_high_multiply(half, cubed);
        x = next * 8;
    }
    const int32_t shift = pairs - 11;
    const int32_t is_left = eqrl_is_negative(-shift);
    *exponent = shift & ~is_left; /* 0 for 1, which shifts left */
    const uint32_t root = (uint32_t)eqrl_rounding_high_multiply(x, root_half) << (shift & is_left);
    return eqrl_select(is_one, 0x7FFFFFFF, (int32_t)root);
}

EQRL_CODE void eqrl_rsqrt_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output, uint32_t size)
{
    const int32_t multiplier = (int32_t)block[0];
    const int32_t shift = (int32_t)block[1];

    for (uint32_t i = 0; i < size; i++) {
        const int32_t value = input[i];
        const int32_t is_positive = eqrl_is_negative(-value);
        int32_t exponent = 0;
        const int32_t root = inverse_root(eqrl_select(is_positive, value, 1), &exponent);
        const int32_t inverse = eqrl_requantize(1, root, exponent + 20);
        const int32_t scaled = eqrl_requantize(inverse, multiplier, shift);
        const int32_t is_beyond = eqrl_is_negative(32767 - scaled) | ~is_positive;
        output[i] = (int16_t)eqrl_select(is_beyond, 32767, scaled);
    }
}
