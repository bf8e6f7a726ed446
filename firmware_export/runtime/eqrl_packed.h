/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_packed.h - sums of products with weights of 4, 3 or 2 bits. For generated code and the runtime, not for callers.
 *
 * Weights lie in units: one weight each of some neighbouring output channels, for one input.
 *
 *   4 bits:  8 channels in 32 bits
 *   3 bits: 10 channels in 32 bits, bits 15 and 31 unused
 *   2 bits:  8 channels in 16 bits
 *
 * Each half of a unit has half of the channels, the first lowest. A field is the weight + 2^(bits - 1), so no field
 * is negative; a sum begins with what that adds, as it does where weights have zero points.
 *
 * Two fields, one of each half, times an int8 are one multiplication: their products lie in lanes of 16 bits.
 * Lanes are added up as long as both sums fit, and then taken apart. All sums are modulo 2^32; the exporter proves
 * that each fits int32 at its end.
 */
#ifndef EQRL_PACKED_H
#define EQRL_PACKED_H

#include "eqrl_linear.h"

#ifdef __cplusplus
extern "C" {
#endif

#define EQRL_MOST_UNIT_CHANNELS 10
#define EQRL_MOST_HALF_CHANNELS 5

EQRL_INLINE uint32_t eqrl_half_channels(uint32_t bits)
{
    return bits == 3u ? 5u : 4u;
}

EQRL_INLINE uint32_t eqrl_unit_bytes(uint32_t bits)
{
    return bits == 2u ? 2u : 4u;
}

/* Unit `index`, its halves 16 bits apart. */
EQRL_INLINE uint32_t eqrl_load_unit(uint32_t bits, const uint8_t *units, uint32_t index)
{
    if (bits == 2u) {
        const uint32_t unit = ((const eqrl_u16 *)(const void *)units)[index];
        return unit | (unit << 8);
    }
    return ((const eqrl_u32 *)(const void *)units)[index];
}

/* Add lanes to the sums of channel `index` of each half. */
EQRL_HELPER void eqrl_add_lanes(uint32_t lanes, uint32_t *sums, uint32_t index, uint32_t half_channels)
{
    const int32_t low = (int32_t)(lanes << 16) >> 16;
    const int32_t high = (int32_t)(lanes - (uint32_t)low) >> 16;
    sums[index] += (uint32_t)low;
    sums[index + half_channels] += (uint32_t)high;
}

/* sums[i] += values . fields of channel i; bits is a constant. */
EQRL_INLINE void eqrl_dot_units_s8(uint32_t bits, const int8_t *values, const uint8_t *units, uint32_t count,
                                   uint32_t *sums)
{
    const uint32_t half_channels = eqrl_half_channels(bits);
    const uint32_t mask = bits == 4u ? 0x000F000Fu : (bits == 3u ? 0x00070007u : 0x00030003u);
    const uint32_t most = bits == 4u ? 16u : (bits == 3u ? 32u : 64u); /* products of at most 128 * field */

    for (uint32_t start = 0; start < count; start += most) {
        const uint32_t end = count - start < most ? count : start + most;
        uint32_t lanes_0 = 0;
        uint32_t lanes_1 = 0;
        uint32_t lanes_2 = 0;
        uint32_t lanes_3 = 0;
        uint32_t lanes_4 = 0;
        for (uint32_t i = start; i < end; i++) {
            const uint32_t unit = eqrl_load_unit(bits, units, i);
            const uint32_t value = (uint32_t)(int32_t)values[i];
            lanes_0 += (unit & mask) * value;
            lanes_1 += ((unit >> bits) & mask) * value;
            lanes_2 += ((unit >> (2u * bits)) & mask) * value;
            lanes_3 += ((unit >> (3u * bits)) & mask) * value;
            if (bits == 3u) {
                lanes_4 += ((unit >> (4u * bits)) & mask) * value;
            }
        }
        eqrl_add_lanes(lanes_0, sums, 0u, half_channels);
        eqrl_add_lanes(lanes_1, sums, 1u, half_channels);
        eqrl_add_lanes(lanes_2, sums, 2u, half_channels);
        eqrl_add_lanes(lanes_3, sums, 3u, half_channels);
        if (bits == 3u) {
            eqrl_add_lanes(lanes_4, sums, 4u, half_channels);
        }
    }
}

EQRL_OUTLINE void eqrl_dot_p4_s8(const int8_t *values, const uint8_t *units, uint32_t count, uint32_t *sums)
{
    eqrl_dot_units_s8(4u, values, units, count, sums);
}

EQRL_OUTLINE void eqrl_dot_p3_s8(const int8_t *values, const uint8_t *units, uint32_t count, uint32_t *sums)
{
    eqrl_dot_units_s8(3u, values, units, count, sums);
}

EQRL_OUTLINE void eqrl_dot_p2_s8(const int8_t *values, const uint8_t *units, uint32_t count, uint32_t *sums)
{
    eqrl_dot_units_s8(2u, values, units, count, sums);
}

EQRL_INLINE void eqrl_dot_packed_s8(uint32_t bits, const int8_t *values, const uint8_t *units, uint32_t count,
                                    uint32_t *sums)
{
    if (bits == 4u) {
        eqrl_dot_p4_s8(values, units, count, sums);
    } else if (bits == 3u) {
        eqrl_dot_p3_s8(values, units, count, sums);
    } else {
        eqrl_dot_p2_s8(values, units, count, sums);
    }
}

/* sums[i] = values . fields of channel i of the half that begins at bit `place`; products are below 2^19. */
EQRL_INLINE void eqrl_dot_half_s16(uint32_t bits, const eqrl_s16 *values, const uint8_t *units, uint32_t count,
                                   uint32_t place, int32_t *sums)
{
    const uint32_t mask = (1u << bits) - 1u;
    int32_t sum_0 = 0;
    int32_t sum_1 = 0;
    int32_t sum_2 = 0;
    int32_t sum_3 = 0;
    int32_t sum_4 = 0;
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t half = eqrl_load_unit(bits, units, i) >> place;
        const int32_t value = values[i];
        sum_0 += (int32_t)(half & mask) * value;
        sum_1 += (int32_t)((half >> bits) & mask) * value;
        sum_2 += (int32_t)((half >> (2u * bits)) & mask) * value;
        sum_3 += (int32_t)((half >> (3u * bits)) & mask) * value;
        if (bits == 3u) {
            sum_4 += (int32_t)((half >> (4u * bits)) & mask) * value;
        }
    }
    sums[0] = sum_0;
    sums[1] = sum_1;
    sums[2] = sum_2;
    sums[3] = sum_3;
    sums[4] = sum_4;
}

EQRL_OUTLINE void eqrl_dot_p4_s16(const eqrl_s16 *values, const uint8_t *units, uint32_t count, uint32_t place,
                                  int32_t *sums)
{
    eqrl_dot_half_s16(4u, values, units, count, place, sums);
}

EQRL_OUTLINE void eqrl_dot_p3_s16(const eqrl_s16 *values, const uint8_t *units, uint32_t count, uint32_t place,
                                  int32_t *sums)
{
    eqrl_dot_half_s16(3u, values, units, count, place, sums);
}

EQRL_OUTLINE void eqrl_dot_p2_s16(const eqrl_s16 *values, const uint8_t *units, uint32_t count, uint32_t place,
                                  int32_t *sums)
{
    eqrl_dot_half_s16(2u, values, units, count, place, sums);
}

/* One half after the other, in runs whose sums fit int32. */
EQRL_INLINE void eqrl_dot_packed_s16(uint32_t bits, const eqrl_s16 *values, const uint8_t *units,
                                     uint32_t count, int64_t *sums)
{
    const uint32_t half_channels = eqrl_half_channels(bits);

    for (uint32_t start = 0; start < count; start += 2048u) {
        const uint32_t run = count - start < 2048u ? count - start : 2048u;
        const uint8_t *const from = units + start * eqrl_unit_bytes(bits);
        for (uint32_t half = 0; half < 2u; half++) {
            int32_t run_sums[EQRL_MOST_HALF_CHANNELS];
            if (bits == 4u) {
                eqrl_dot_p4_s16(values + start, from, run, 16u * half, run_sums);
            } else if (bits == 3u) {
                eqrl_dot_p3_s16(values + start, from, run, 16u * half, run_sums);
            } else {
                eqrl_dot_p2_s16(values + start, from, run, 16u * half, run_sums);
            }
            for (uint32_t i = 0; i < half_channels; i++) {
                sums[half * half_channels + i] += run_sums[i];
            }
        }
    }
}

/* What a field is above the weight less its zero point. */
EQRL_INLINE int32_t eqrl_field_zero(uint32_t bits, const int8_t *zero_points, uint32_t channel,
                                    uint32_t has_zero_points)
{
    const int32_t zero = (int32_t)1 << (bits - 1u);
    return has_zero_points != 0u ? zero + zero_points[channel] : zero;
}

/* Begin the sums of a unit's channels, from `first` on; where there is none from `end` on, any number does. */
EQRL_INLINE void eqrl_begin_unit_s8(uint32_t bits, const eqrl_linear_s8 *linear, uint32_t first, uint32_t end,
                                    uint32_t has_zero_points, int32_t input_sum, uint32_t *sums)
{
    for (uint32_t i = 0; i < 2u * eqrl_half_channels(bits); i++) {
        const uint32_t channel = first + i < end ? first + i : first;
        const int32_t zero = eqrl_field_zero(bits, linear->zero_points, channel, has_zero_points);
        sums[i] = (uint32_t)linear->bias[channel] - (uint32_t)zero * (uint32_t)input_sum;
    }
}

/* Rescale the sums of the channels that exist. */
EQRL_INLINE void eqrl_end_unit_s8(uint32_t bits, const eqrl_linear_s8 *linear, uint32_t first, uint32_t end,
                                  const uint32_t *sums, int8_t *output)
{
    const uint32_t most = 2u * eqrl_half_channels(bits);
    const uint32_t used = end - first < most ? end - first : most;
    for (uint32_t i = 0; i < used; i++) {
        output[first + i] = eqrl_rescale_s8(linear, first + i, (int32_t)sums[i]);
    }
}

EQRL_INLINE void eqrl_begin_unit_s16(uint32_t bits, const eqrl_linear_s16 *linear, uint32_t first, uint32_t end,
                                     uint32_t has_zero_points, int64_t input_sum, int64_t *sums)
{
    for (uint32_t i = 0; i < 2u * eqrl_half_channels(bits); i++) {
        const uint32_t channel = first + i < end ? first + i : first;
        const int32_t zero = eqrl_field_zero(bits, linear->zero_points, channel, has_zero_points);
        sums[i] = eqrl_bias_s16(linear, channel) - eqrl_multiply_sum(input_sum, zero);
    }
}

EQRL_INLINE void eqrl_end_unit_s16(uint32_t bits, const eqrl_linear_s16 *linear, uint32_t first, uint32_t end,
                                   const int64_t *sums, eqrl_s16 *output)
{
    const uint32_t most = 2u * eqrl_half_channels(bits);
    const uint32_t used = end - first < most ? end - first : most;
    for (uint32_t i = 0; i < used; i++) {
        output[first + i] = eqrl_rescale_s16(linear, first + i, sums[i]);
    }
}

#ifdef __cplusplus
}
#endif

#endif
