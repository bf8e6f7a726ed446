/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_heads.c - several discrete actions, and discrete actions that are drawn.
 *
 * The twin of edgeqrl/network/edges/decode.py. A draw takes its word from the generator in the policy's memory.
 */
#include "eqrl_kernels.h"

/* The outputs of one action among those of all. */
EQRL_HELPER const void *segment(const void *output, uint32_t element_bytes, uint32_t first)
{
    return (const int8_t *)output + first * element_bytes;
}

EQRL_CODE void eqrl_multi_argmax(const uint32_t *block, const void *output, uint32_t element_bytes,
                                 const uint8_t *action_mask, int32_t *action, const uint32_t *counts,
                                 uint32_t num_actions)
{
    uint32_t first = 0u;
    for (uint32_t i = 0; i < num_actions; i++) {
        const void *const values = segment(output, element_bytes, first);
        if (action_mask == NULL) {
            action[i] = eqrl_argmax(block + i, values, element_bytes, counts[i]);
        } else {
            const uint8_t *const mask = action_mask + first;
            action[i] = eqrl_argmax_masked(block + i, values, element_bytes, mask, counts[i]);
        }
        first += counts[i];
    }
}

EQRL_CODE void eqrl_multi_binary(const uint32_t *block, const void *output, uint32_t element_bytes,
                                 int32_t *action, uint32_t size)
{
    for (uint32_t i = 0; i < size; i++) {
        action[i] = eqrl_is_less((int32_t)block[i], eqrl_load(output, element_bytes, (int32_t)i)) & 1;
    }
}

/* All ones where a mask is used and blocks action `i`. */
EQRL_HELPER int32_t blocked(const uint8_t *action_mask, uint32_t i, int32_t is_mask_used)
{
    return action_mask == NULL ? 0 : eqrl_is_negative((int32_t)action_mask[i] - 1) & is_mask_used;
}

/* Sums of all weights stay below 2^30: how far an exponential of 32 bits goes to the right. */
EQRL_HELPER uint32_t weight_shift(uint32_t count)
{
    return 34u - eqrl_leading_zeros(count - 1u);
}

/* Draw one action; `tables` are the exponentials. */
EQRL_CODE static int32_t draw(const uint32_t *tables, const void *output, uint32_t element_bytes,
                              const uint8_t *action_mask, uint32_t count, uint32_t *random)
{
    const uint32_t shift = weight_shift(count);
    int32_t any_allowed = 0;
    for (uint32_t i = 0; i < count; i++) {
        any_allowed |= action_mask == NULL ? 0 : (int32_t)action_mask[i];
    }
    const int32_t is_mask_used = eqrl_is_negative(-any_allowed);

    int32_t best = -32768;
    for (uint32_t i = 0; i < count; i++) {
        const int32_t value = eqrl_load(output, element_bytes, (int32_t)i);
        best = eqrl_select(blocked(action_mask, i, is_mask_used), best, eqrl_larger(best, value));
    }

    /* Twice the same sums: first all of it, then as far as the draw. */
    int32_t bound = 0;
    int32_t chosen = 0;
    for (uint32_t pass = 0; pass < 2u; pass++) {
        int32_t sum = 0;
        for (uint32_t i = 0; i < count; i++) {
            const int32_t is_blocked = blocked(action_mask, i, is_mask_used);
            const int32_t difference = (best - eqrl_load(output, element_bytes, (int32_t)i)) & ~is_blocked;
            const uint32_t weight = eqrl_exponential(tables, element_bytes, (uint32_t)difference) >> shift;
            sum += (int32_t)weight & ~is_blocked;
            chosen -= ~eqrl_is_negative(bound - sum); /* in the first pass it counts what is forgotten */
        }
        if (pass == 0u) {
            bound = (int32_t)eqrl_high_multiply(eqrl_draw_word(random), (uint32_t)sum);
            chosen = 0;
        }
    }
    return chosen;
}

EQRL_CODE void eqrl_categorical(const uint32_t *block, const void *output, uint32_t element_bytes,
                                const uint8_t *action_mask, int32_t *action, const uint32_t *counts,
                                uint32_t num_actions, uint32_t *random)
{
    const uint32_t *const tables = block + num_actions;
    uint32_t first = 0u;
    for (uint32_t i = 0; i < num_actions; i++) {
        const uint8_t *const mask = action_mask == NULL ? NULL : action_mask + first;
        const void *const values = segment(output, element_bytes, first);
        action[i] = (int32_t)block[i] + draw(tables, values, element_bytes, mask, counts[i], random);
        first += counts[i];
    }
}

EQRL_CODE void eqrl_bernoulli(const uint32_t *block, const void *output, uint32_t element_bytes,
                              int32_t *action, uint32_t size, uint32_t *random)
{
    const uint32_t *const tables = block + size;
    const uint32_t shift = weight_shift(2u);
    const int32_t greater = (int32_t)(eqrl_exponential(tables, element_bytes, 0u) >> shift);
    for (uint32_t i = 0; i < size; i++) {
        const int32_t excess = eqrl_load(output, element_bytes, (int32_t)i) - (int32_t)block[i];
        const int32_t is_below = eqrl_is_negative(excess);
        const uint32_t distance = (uint32_t)((excess ^ is_below) - is_below);
        const int32_t lesser = (int32_t)(eqrl_exponential(tables, element_bytes, distance) >> shift);
        const int32_t zero = eqrl_select(is_below, greater, lesser); /* the weight of action 0 */
        const uint32_t sum = (uint32_t)(greater + lesser);
        const int32_t bound = (int32_t)eqrl_high_multiply(eqrl_draw_word(random), sum);
        action[i] = 1 + eqrl_is_negative(bound - zero);
    }
}
