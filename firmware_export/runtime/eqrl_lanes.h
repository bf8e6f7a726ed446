/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_lanes.h - the column of kernels for the DSP extension. For generated code and the runtime, not for callers.
 *
 * A column has int16 values; each four inputs lie as 0, 2, 1, 3, as SXTB16 makes them of a word.
 */
#ifndef EQRL_LANES_H
#define EQRL_LANES_H

#include "eqrl_thumb.h"
#include "eqrl_tiles.h"

#if defined(__ARM_FEATURE_DSP) && defined(__thumb2__) && (defined(__GNUC__) || defined(__clang__))
#define EQRL_HAS_DSP 1
#include <arm_acle.h>
#else
#define EQRL_HAS_DSP 0
#endif

#ifdef __cplusplus
extern "C" {
#endif

#if !EQRL_HAS_DSP

EQRL_OUTLINE void eqrl_prepare_lanes(const int8_t *values, void *column, uint32_t num_inputs)
{
    eqrl_s16 *const to = (eqrl_s16 *)column;
    for (uint32_t i = 0; i < num_inputs; i += 4u) {
        const int16_t second = values[i + 1u]; /* values may lie where the column does */
        const int16_t third = values[i + 2u];
        const int16_t fourth = values[i + 3u];
        to[i] = values[i];
        to[i + 1u] = third;
        to[i + 2u] = second;
        to[i + 3u] = fourth;
    }
}

#else

/* A word of int8 to two words of int16; from the front, as values may lie at the end of the column's room. */
EQRL_OUTLINE void eqrl_prepare_lanes(const int8_t *values, void *column, uint32_t num_inputs)
{
    const eqrl_u32 *from = (const eqrl_u32 *)(const void *)values;
    eqrl_u32 *to = (eqrl_u32 *)column;
    const eqrl_u32 *const end = from + eqrl_round_up(num_inputs, 4u) / 4u;
    EQRL_ROLLED
    while (from < end) {
        const uint32_t four = *from;
        from++;
        to[0] = (uint32_t)__sxtb16((int8x4_t)four);
        to[1] = (uint32_t)__sxtb16((int8x4_t)((four >> 8) | (four << 24)));
        to += 2;
    }
}

#endif

#ifdef __cplusplus
}
#endif

#endif
