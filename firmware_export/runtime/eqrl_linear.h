/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_linear.h - what layers with weights share: sums of products, rescaled. For generated code and the runtime, not for callers. */
#ifndef EQRL_LINEAR_H
#define EQRL_LINEAR_H

#include "eqrl_internal.h"

#ifdef __cplusplus
extern "C" {
#endif

/* About sum * multiplier * 2^(shift - 31), rounded once, halves up, as TFLite Micro does for int16.
 *
 * The multiplier is rounded to 16 bits first. sum within 48 bits, multiplier in [0, 2^31), shift in [-31, 7];
 * the exporter proves that the result fits int32. The branch depends on a param.
 */
EQRL_HELPER int32_t eqrl_requantize_wide(int64_t sum, int32_t multiplier, int32_t shift)
{
    const uint32_t rounded = ((uint32_t)multiplier + 0x8000u) >> 16;
    const uint32_t factor = rounded - (rounded >> 15); /* at most 2^15 - 1 */
    /* sum * factor in 16-bit pieces of the lower half: 62 bits and a sign. */
    const uint32_t sum_low = (uint32_t)((uint64_t)sum & 0xFFFFFFFFu);
    const uint32_t low = (sum_low & 0xFFFFu) * factor;
    const uint32_t middle = (uint32_t)eqrl_opaque((int32_t)((sum_low >> 16) * factor + (low >> 16)));
    const int32_t high = (int32_t)(sum >> 32) * (int32_t)factor + (int32_t)(middle >> 16);
    const uint32_t product_low = (middle << 16) | (low & 0xFFFFu);
    const uint32_t right = (uint32_t)(15 - shift); /* 8 to 46 */
    if (right > 32u) {
        return (high + ((int32_t)1 << (right - 33u))) >> (right - 32u);
    }
    const uint64_t product = ((uint64_t)(uint32_t)high << 32) | product_low;
    const uint64_t shifted = product + ((uint32_t)1 << (right - 1u));
    const uint32_t upper = (uint32_t)(shifted >> 32);
    const uint32_t lower = (uint32_t)(shifted & 0xFFFFFFFFu);
    return (int32_t)((upper << (32u - right)) | ((lower >> (right - 1u)) >> 1));
}

/* A block of such a layer with int8 activations; see eqrl_dense_s8 in eqrl_kernels.h. */
typedef struct {
    const int8_t *ranges; /* {input zero point, output zero point, output_min, output_max} */
    const int32_t *bias;
    const int32_t *multiplier;
    const int8_t *shift;
    const int8_t *zero_points; /* of the weights, if the block has them */
    const int8_t *weights;
} eqrl_linear_s8;

EQRL_HELPER eqrl_linear_s8 eqrl_read_linear_s8(const uint32_t *block, uint32_t num_channels,
                                               uint32_t has_zero_points)
{
    const uint32_t padded = (num_channels + 3u) & ~(uint32_t)3u;
    eqrl_linear_s8 linear;
    linear.ranges = (const int8_t *)block;
    linear.bias = (const int32_t *)(block + 1);
    linear.multiplier = linear.bias + num_channels;
    linear.shift = (const int8_t *)(linear.multiplier + num_channels);
    linear.zero_points = linear.shift + padded;
    linear.weights = linear.zero_points + (has_zero_points != 0u ? padded : 0u);
    return linear;
}

/* Where weights have zero points, sum(q * (w - zero_point)) is sum(q * w) - zero_point * sum(q): inner loops know
 * nothing of them, and a sum begins with what they take away. The exporter proves that it fits int32.
 */
EQRL_HELPER int32_t eqrl_start_s8(const eqrl_linear_s8 *linear, uint32_t channel, uint32_t has_zero_points,
                                  int32_t input_sum)
{
    int32_t sum = linear->bias[channel];
    if (has_zero_points != 0u) {
        sum -= linear->zero_points[channel] * input_sum;
    }
    return sum;
}

EQRL_OUTLINE int32_t eqrl_sum_s8(const int8_t *values, uint32_t count)
{
    int32_t sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        sum += values[i];
    }
    return sum;
}

/* The exporter proves that the sum and the differences in the clamp fit int32. */
EQRL_HELPER int8_t eqrl_rescale_s8(const eqrl_linear_s8 *linear, uint32_t channel, int32_t sum)
{
    const int8_t *const ranges = linear->ranges;
    const int32_t scaled = eqrl_requantize(sum, linear->multiplier[channel], linear->shift[channel]);
    return (int8_t)eqrl_clamp(scaled + ranges[1], ranges[2], ranges[3]);
}

/* sums[0] += values . first and sums[1] += values . second: two channels share each load of a value. */
EQRL_OUTLINE void eqrl_dot_pair_s8(const int8_t *values, const int8_t *first, const int8_t *second,
                                   uint32_t count, int32_t sums[2])
{
    int32_t sum = sums[0];
    int32_t next_sum = sums[1];
    for (uint32_t i = 0; i < count; i++) {
        const int32_t value = values[i];
        sum += first[i] * value;
        next_sum += second[i] * value;
    }
    sums[0] = sum;
    sums[1] = next_sum;
}

/* The same with int16 activations; see eqrl_dense_s16 in eqrl_kernels.h. */
typedef struct {
    int32_t output_min;
    int32_t output_max;
    uint32_t is_wide;
    const uint32_t *bias; /* low word, high word */
    const int32_t *multiplier;
    const int8_t *shift;
    const int8_t *zero_points;
    const int8_t *weights;
} eqrl_linear_s16;

EQRL_HELPER eqrl_linear_s16 eqrl_read_linear_s16(const uint32_t *block, uint32_t num_channels,
                                                 uint32_t has_zero_points)
{
    const uint32_t padded = (num_channels + 3u) & ~(uint32_t)3u;
    eqrl_linear_s16 linear;
    linear.output_min = (int32_t)(block[0] << 16) >> 16;
    linear.output_max = (int32_t)block[0] >> 16;
    linear.is_wide = block[1];
    linear.bias = block + 2;
    linear.multiplier = (const int32_t *)(linear.bias + 2u * num_channels);
    linear.shift = (const int8_t *)(linear.multiplier + num_channels);
    linear.zero_points = linear.shift + padded;
    linear.weights = linear.zero_points + (has_zero_points != 0u ? padded : 0u);
    return linear;
}

EQRL_HELPER int64_t eqrl_bias_s16(const eqrl_linear_s16 *linear, uint32_t channel)
{
    const uint32_t *const words = linear->bias + 2u * channel;
    return (int64_t)(((uint64_t)words[1] << 32) | words[0]);
}

/* input_sum * factor for |input_sum| below 2^38 and |factor| below 2^9, made of two products that fit int32. */
EQRL_HELPER int64_t eqrl_multiply_sum(int64_t input_sum, int32_t factor)
{
    const uint32_t lower = (uint32_t)((uint64_t)input_sum & 0xFFFFFFFFu);
    const uint32_t middle = ((uint32_t)(input_sum >> 32) << 16) | (lower >> 16);
    const int32_t low = (int32_t)(lower & 0xFFFFu) * factor;
    const int32_t high = eqrl_opaque((int32_t)middle) * factor;
    const uint64_t upper = (uint64_t)(uint32_t)(high >> 16) << 32;
    return (int64_t)(upper | ((uint32_t)high << 16)) + low;
}

/* As eqrl_start_s8. */
EQRL_HELPER int64_t eqrl_start_s16(const eqrl_linear_s16 *linear, uint32_t channel, uint32_t has_zero_points,
                                   int64_t input_sum)
{
    int64_t sum = eqrl_bias_s16(linear, channel);
    if (has_zero_points != 0u) {
        sum -= eqrl_multiply_sum(input_sum, linear->zero_points[channel]);
    }
    return sum;
}

EQRL_OUTLINE int64_t eqrl_sum_s16(const eqrl_s16 *values, uint32_t count)
{
    int64_t sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        sum += values[i];
    }
    return sum;
}

EQRL_HELPER int16_t eqrl_rescale_s16(const eqrl_linear_s16 *linear, uint32_t channel, int64_t sum)
{
    const int32_t multiplier = linear->multiplier[channel];
    const int32_t shift = linear->shift[channel];
    int32_t scaled;
    if (linear->is_wide != 0u) { /* a param */
        scaled = eqrl_requantize_wide(sum, multiplier, shift);
    } else {
        scaled = eqrl_requantize((int32_t)sum, multiplier, shift);
    }
    return (int16_t)eqrl_saturate(scaled, linear->output_min, linear->output_max);
}

/* In runs whose sums fit int32: a product is at most 2^22. */
EQRL_OUTLINE void eqrl_dot_pair_s16(const eqrl_s16 *values, const int8_t *first, const int8_t *second,
                                    uint32_t count, int64_t sums[2])
{
    for (uint32_t start = 0; start < count; start += 256u) {
        const uint32_t end = count - start < 256u ? count : start + 256u;
        int32_t sum = 0;
        int32_t next_sum = 0;
        for (uint32_t i = start; i < end; i++) {
            const int32_t value = values[i];
            sum += first[i] * value;
            next_sum += second[i] * value;
        }
        sums[0] += sum;
        sums[1] += next_sum;
    }
}

#ifdef __cplusplus
}
#endif

#endif
