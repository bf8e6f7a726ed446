/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_observe.c - observations that are normalised, bytes, or indices, in integers.
 *
 * The twin of edgeqrl/network/edges/observation.py, which says what the numbers mean.
 */
#include "eqrl_kernels.h"

/* Add 1 to a counter that stops at 65535, where `event` is all ones. */
EQRL_HELPER void count_event(uint16_t *counter, int32_t event)
{
    const uint32_t count = *counter - (uint32_t)event;
    *counter = (uint16_t)(count - (count >> 16));
}

/* A float32 by one row of the block, in the input's fixed point: the zero point and a half are in it. */
EQRL_HELPER int32_t fixed_point(const uint32_t *row, uint32_t bits, int32_t is_nan, int32_t nothing)
{
    const int32_t packed = (int32_t)row[1];
    const int32_t exponent = (int32_t)((bits >> 23) & 0xFFu);
    const uint32_t mantissa = ((bits & 0x7FFFFFu) | 0x800000u) << 8;
    const uint32_t product = eqrl_high_multiply(mantissa, row[0]);
    const int32_t shift = (packed >> 3) - exponent;
    const int32_t is_over = eqrl_is_negative(shift - 2);
    const uint32_t shifted = (product >> 2) >> (eqrl_clamp(shift, 2, 33) - 2);
    const int32_t magnitude = eqrl_select(is_over, 0x3FFFFFFF, (int32_t)shifted);
    const int32_t sign = eqrl_is_negative((int32_t)bits) ^ -(packed & 1);
    return eqrl_select(is_nan, nothing, ((magnitude ^ sign) - sign) + (int32_t)row[2]);
}

EQRL_CODE eqrl_status eqrl_observation_affine_f32(const uint32_t *block, const float *observation, void *input,
                                                  uint32_t element_bytes, uint32_t size, uint16_t *saturated,
                                                  uint32_t num_counters, uint32_t num_rows)
{
    const uint32_t fraction_bits = block[0];
    const int32_t unit = (int32_t)((uint32_t)1 << fraction_bits);
    const int32_t nothing = (int32_t)block[1] * unit + (unit >> 1);
    const uint32_t *const rows = block + 2;
    int32_t any_cut = 0;
    int32_t any_not_finite = 0;
    uint32_t counter = 0u;
    uint32_t place = 0u;

    for (uint32_t i = 0; i < size; i++) {
        const uint32_t *const row = rows + 4u * place;
        const uint32_t bits = eqrl_load_word(&observation[i]);
        const int32_t is_not_finite = eqrl_is_negative(254 - (int32_t)((bits >> 23) & 0xFFu));
        const int32_t is_nan = is_not_finite & eqrl_is_negative(-(int32_t)(bits & 0x7FFFFFu));
        const int32_t value = fixed_point(row, bits, is_nan, nothing) >> fraction_bits;
        const int32_t low = (int16_t)(row[3] & 0xFFFFu);
        const int32_t high = (int32_t)row[3] >> 16;
        const int32_t flags = (int32_t)row[1];
        const int32_t is_cut = (eqrl_is_negative(value - low) & -((flags >> 1) & 1)) |
                               (eqrl_is_negative(high - value) & -((flags >> 2) & 1));
        any_cut |= is_cut;
        any_not_finite |= is_not_finite;
        count_event(&saturated[counter], is_cut | is_not_finite);
        eqrl_store(input, element_bytes, (int32_t)i, eqrl_clamp(value, low, high));
        counter = counter + 1u == num_counters ? 0u : counter + 1u; /* of shapes alone, as `i` */
        place = place + 1u == num_rows ? 0u : place + 1u;
    }
    return (any_cut & EQRL_SATURATED) | (any_not_finite & EQRL_NOT_FINITE);
}

EQRL_CODE void eqrl_observation_u8(const uint32_t *block, const uint8_t *observation, void *input,
                                   uint32_t element_bytes, uint32_t size)
{
    for (uint32_t i = 0; i < size; i++) {
        eqrl_store(input, element_bytes, (int32_t)i, eqrl_load(block, element_bytes, observation[i]));
    }
}

EQRL_CODE eqrl_status eqrl_observation_one_hot(const uint32_t *block, const int32_t *observation, void *input,
                                               uint32_t element_bytes, uint32_t size, uint16_t *saturated,
                                               uint32_t num_counters, const uint32_t *counts)
{
    const int32_t one = (int32_t)block[0];
    const int32_t zero = (int32_t)block[1];
    int32_t any_cut = 0;
    int32_t first = 0;
    uint32_t counter = 0u;

    for (uint32_t i = 0; i < size; i++) {
        const int32_t start = (int32_t)block[2u + i];
        const int32_t count = (int32_t)counts[i];
        const int32_t nearest = eqrl_saturate(observation[i], start, start + (count - 1));
        const int32_t difference = nearest ^ observation[i];
        const int32_t is_cut = eqrl_is_negative(difference | (int32_t)(0u - (uint32_t)difference));
        for (int32_t k = 0; k < count; k++) {
            const int32_t other = k ^ (nearest - start);
            eqrl_store(input, element_bytes, first + k, eqrl_select(eqrl_is_negative(other - 1), one, zero));
        }
        any_cut |= is_cut;
        count_event(&saturated[counter], is_cut);
        counter = counter + 1u == num_counters ? 0u : counter + 1u; /* of shapes alone, as `i` */
        first += count;
    }
    return any_cut & EQRL_SATURATED;
}
