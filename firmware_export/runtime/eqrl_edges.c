/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_edges.c - float32 observation -> int8, int8 -> action, in integers on the IEEE bits.
 *
 * The twin of edgeqrl/network/edges.py, which says what the numbers mean. Both give the same bits for
 * every float32, so an episode on the chip is the episode that was validated.
 */
#include "eqrl_kernels.h"

/* Activation `i` of an array of int8, int16 or int32. */
EQRL_CODE static int32_t element(const void *values, uint32_t element_bytes, uint32_t i)
{
    return eqrl_load(values, element_bytes, (int32_t)i);
}

EQRL_CODE eqrl_status eqrl_observation_f32(const uint32_t *block, const float *observation, void *input,
                                           uint32_t element_bytes, uint32_t size, uint16_t *saturated,
                                           uint32_t num_counters)
{
    const uint32_t multiplier = block[0];
    const int32_t exponent_bias = (int32_t)block[1];
    const int32_t zero_point = (int32_t)block[2];
    const int32_t highest = element_bytes == 1u ? 127 : 32767;
    int32_t clamped_away = 0;
    int32_t any_not_finite = 0;
    uint32_t counter = 0u;

    for (uint32_t i = 0; i < size; i++) {
        const uint32_t bits = eqrl_load_word(&observation[i]);
        const int32_t sign = eqrl_is_negative((int32_t)bits);
        const int32_t exponent = (int32_t)((bits >> 23) & 0xFFu);
        const int32_t fraction = (int32_t)(bits & 0x7FFFFFu);
        const int32_t is_not_finite = eqrl_is_negative(254 - exponent);
        const int32_t is_nan = is_not_finite & eqrl_is_negative(-fraction);
        /* Zero and denormals get a leading 1 too, and still shift to 0: no scale is that small. */
        const uint32_t mantissa = (((uint32_t)fraction | 0x800000u) << 8) & ~(uint32_t)is_nan;
        const uint32_t high = eqrl_high_multiply(mantissa, multiplier);
        /* In [0, 21]: beyond these all values saturate, or all round to 0. Infinity takes the former. */
        const int32_t shift = eqrl_clamp(exponent_bias - exponent, 12, 33) - 12;
        const int32_t finite_shift = shift & ~is_not_finite;
        /* To nearest, halves away from zero. */
        const int32_t magnitude = ((int32_t)((high >> 11) >> finite_shift) + 1) >> 1;
        const int32_t unclamped = ((magnitude ^ sign) - sign) + zero_point;
        const int32_t quantized = eqrl_clamp(unclamped, -highest - 1, highest);
        clamped_away |= unclamped ^ quantized;
        any_not_finite |= is_not_finite;
        const int32_t event = (unclamped ^ quantized) | is_not_finite;
        const uint32_t count = saturated[counter] - (uint32_t)eqrl_is_negative(event | -event);
        saturated[counter] = (uint16_t)(count - (count >> 16)); /* 65536 does not fit */
        counter = counter + 1u == num_counters ? 0u : counter + 1u; /* of shapes alone, as `i` */
        if (element_bytes == 1u) {
            ((int8_t *)input)[i] = (int8_t)quantized;
        } else {
            ((eqrl_s16 *)input)[i] = (int16_t)quantized;
        }
    }
    const int32_t is_saturated = eqrl_is_negative(clamped_away | -clamped_away);
    return (is_saturated & EQRL_SATURATED) | (any_not_finite & EQRL_NOT_FINITE);
}

EQRL_CODE int32_t eqrl_argmax(const uint32_t *block, const void *output, uint32_t element_bytes,
                              uint32_t num_actions)
{
    int32_t best = element(output, element_bytes, 0u);
    int32_t best_index = 0;

    for (uint32_t i = 1; i < num_actions; i++) {
        const int32_t value = element(output, element_bytes, i);
        const int32_t is_better = eqrl_is_less(best, value);
        best = eqrl_select(is_better, value, best);
        best_index = eqrl_select(is_better, (int32_t)i, best_index);
    }
    return (int32_t)block[0] + best_index;
}

EQRL_CODE int32_t eqrl_argmax_masked(const uint32_t *block, const void *output, uint32_t element_bytes,
                                     const uint8_t *action_mask, uint32_t num_actions)
{
    int32_t any_allowed = 0;
    for (uint32_t i = 0; i < num_actions; i++) {
        any_allowed |= action_mask[i];
    }
    const int32_t is_mask_used = eqrl_is_negative(-any_allowed);

    int32_t best = 0;
    int32_t best_index = 0;
    int32_t has_best = 0;
    for (uint32_t i = 0; i < num_actions; i++) {
        const int32_t value = element(output, element_bytes, i);
        const int32_t is_blocked = eqrl_is_negative((int32_t)action_mask[i] - 1) & is_mask_used;
        const int32_t is_better = ~is_blocked & (~has_best | eqrl_is_less(best, value));
        best = eqrl_select(is_better, value, best);
        best_index = eqrl_select(is_better, (int32_t)i, best_index);
        has_best |= is_better;
    }
    return (int32_t)block[0] + best_index;
}

EQRL_CODE void eqrl_affine_f32(const uint32_t *block, const void *output, uint32_t element_bytes,
                               float *action, uint32_t size)
{
    for (uint32_t i = 0; i < size; i++) {
        const uint32_t gain = block[0];
        const uint32_t offset = block[1];
        const int32_t low = (int32_t)block[2];
        const int32_t high = (int32_t)block[3];
        const int32_t fraction_bits = (int32_t)block[4];
        /* The sum fits int32, the product alone may not: unsigned arithmetic wraps there and back. */
        const int32_t linear = (int32_t)((uint32_t)element(output, element_bytes, i) * gain + offset);
        const int32_t raised = eqrl_select(eqrl_is_less(linear, low), low, linear);
        const int32_t clamped = eqrl_select(eqrl_is_less(high, raised), high, raised);
        eqrl_store_word(&action[i], eqrl_float_bits(clamped, fraction_bits));
        block += 5;
    }
}
