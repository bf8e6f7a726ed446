/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_pairs.c - elementwise functions of two tensors, with broadcasting. */
#include "eqrl_kernels.h"

enum { ADD, SQUARED_DIFFERENCE, MUL, PRELU, MAXIMUM };

EQRL_INLINE int32_t scaled_sum(const int32_t *numbers, int32_t a, int32_t b, int32_t is_sub, int is_squared)
{
    const int32_t left = numbers[11];
    const int32_t x = eqrl_requantize((a - numbers[0]) * ((int32_t)1 << left), numbers[5], numbers[6]);
    const int32_t y = eqrl_requantize((b - numbers[1]) * ((int32_t)1 << left), numbers[7], numbers[8]);
    const int32_t total = x + ((y ^ is_sub) - is_sub);
    return eqrl_requantize(is_squared ? total * total : total, numbers[9], numbers[10]);
}

EQRL_INLINE int32_t prelu(const int32_t *numbers, int32_t a, int32_t b)
{
    const int32_t x = a - numbers[0];
    const int32_t is_below = eqrl_is_negative(x);
    const int32_t factor = eqrl_select(is_below, b - numbers[1], 1);
    const int32_t multiplier = eqrl_select(is_below, numbers[7], numbers[5]);
    return eqrl_requantize(x * factor, multiplier, eqrl_select(is_below, numbers[8], numbers[6]));
}

/* The result, not yet clamped; without its zero point. */
EQRL_INLINE int32_t combine(const int32_t *numbers, int32_t a, int32_t b, int function, int32_t flag)
{
    if (function == ADD) {
        return scaled_sum(numbers, a, b, flag, 0);
    }
    if (function == SQUARED_DIFFERENCE) {
        return scaled_sum(numbers, a, b, -1, 1);
    }
    if (function == MUL) {
        return eqrl_requantize((a - numbers[0]) * (b - numbers[1]), numbers[5], numbers[6]);
    }
    if (function == PRELU) {
        return prelu(numbers, a, b);
    }
    /* The lesser is the greater of the complements. */
    const int32_t above = (b ^ flag) - (a ^ flag);
    return eqrl_select(eqrl_is_negative(above), a, b);
}

/* flag: 0 or -1 */
EQRL_INLINE void pair(const uint32_t *block, const void *a, const void *b, void *output,
                      const eqrl_loop *axes, uint32_t num_axes, uint32_t element_bytes, uint32_t b_bytes,
                      int function, int32_t flag)
{
    const int32_t *const numbers = (const int32_t *)block;
    const int32_t output_zero_point = function == MAXIMUM ? 0 : numbers[2];
    const int32_t output_min = numbers[function == MAXIMUM ? 0 : 3];
    const int32_t output_max = numbers[function == MAXIMUM ? 1 : 4];
    const eqrl_loop run = axes[num_axes - 1u];
    int32_t place = 0;
    eqrl_walk walk;

    walk.first = 0;
    walk.second = 0;
    eqrl_walk_start(&walk, axes, (int32_t)num_axes);
    do {
        int32_t from_a = walk.first;
        int32_t from_b = walk.second;
        for (int32_t i = 0; i < run.size; i++) {
            const int32_t left = eqrl_load(a, element_bytes, from_a);
            const int32_t right = eqrl_load(b, b_bytes, from_b);
            const int32_t result = combine(numbers, left, right, function, flag);
            const int32_t clamped = eqrl_clamp(result, output_min, output_max);
            eqrl_store(output, element_bytes, place, clamped + output_zero_point);
            from_a += run.first;
            from_b += run.second;
            place++;
        }
    } while (eqrl_walk_next(&walk, axes, (int32_t)num_axes));
}

EQRL_CODE void eqrl_add_s8(const uint32_t *block, const int8_t *a, const int8_t *b, int8_t *output,
                           const eqrl_loop *axes, uint32_t num_axes, uint32_t is_sub)
{
    pair(block, a, b, output, axes, num_axes, 1u, 1u, ADD, -(int32_t)is_sub);
}

EQRL_CODE void eqrl_add_s16(const uint32_t *block, const eqrl_s16 *a, const eqrl_s16 *b, eqrl_s16 *output,
                            const eqrl_loop *axes, uint32_t num_axes, uint32_t is_sub)
{
    pair(block, a, b, output, axes, num_axes, 2u, 2u, ADD, -(int32_t)is_sub);
}

EQRL_CODE void eqrl_squared_difference_s8(const uint32_t *block, const int8_t *a, const int8_t *b,
                                          int8_t *output, const eqrl_loop *axes, uint32_t num_axes)
{
    pair(block, a, b, output, axes, num_axes, 1u, 1u, SQUARED_DIFFERENCE, 0);
}

EQRL_CODE void eqrl_squared_difference_s16(const uint32_t *block, const eqrl_s16 *a, const eqrl_s16 *b,
                                           eqrl_s16 *output, const eqrl_loop *axes, uint32_t num_axes)
{
    pair(block, a, b, output, axes, num_axes, 2u, 2u, SQUARED_DIFFERENCE, 0);
}

EQRL_CODE void eqrl_mul_s8(const uint32_t *block, const int8_t *a, const int8_t *b, int8_t *output,
                           const eqrl_loop *axes, uint32_t num_axes)
{
    pair(block, a, b, output, axes, num_axes, 1u, 1u, MUL, 0);
}

EQRL_CODE void eqrl_mul_s16(const uint32_t *block, const eqrl_s16 *a, const eqrl_s16 *b, eqrl_s16 *output,
                            const eqrl_loop *axes, uint32_t num_axes)
{
    pair(block, a, b, output, axes, num_axes, 2u, 2u, MUL, 0);
}

EQRL_CODE void eqrl_prelu_s8(const uint32_t *block, const int8_t *a, const void *b, int8_t *output,
                             const eqrl_loop *axes, uint32_t num_axes, uint32_t b_bytes)
{
    pair(block, a, b, output, axes, num_axes, 1u, b_bytes, PRELU, 0);
}

EQRL_CODE void eqrl_prelu_s16(const uint32_t *block, const eqrl_s16 *a, const void *b, eqrl_s16 *output,
                              const eqrl_loop *axes, uint32_t num_axes, uint32_t b_bytes)
{
    pair(block, a, b, output, axes, num_axes, 2u, b_bytes, PRELU, 0);
}

EQRL_CODE void eqrl_maximum_s8(const uint32_t *block, const int8_t *a, const int8_t *b, int8_t *output,
                               const eqrl_loop *axes, uint32_t num_axes, uint32_t is_minimum)
{
    pair(block, a, b, output, axes, num_axes, 1u, 1u, MAXIMUM, -(int32_t)is_minimum);
}

EQRL_CODE void eqrl_maximum_s16(const uint32_t *block, const eqrl_s16 *a, const eqrl_s16 *b, eqrl_s16 *output,
                                const eqrl_loop *axes, uint32_t num_axes, uint32_t is_minimum)
{
    pair(block, a, b, output, axes, num_axes, 2u, 2u, MAXIMUM, -(int32_t)is_minimum);
}
