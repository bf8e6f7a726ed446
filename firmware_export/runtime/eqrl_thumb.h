/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_thumb.h - pieces of assembler that kernels for Thumb-2 share. For the runtime, not for callers. */
#ifndef EQRL_THUMB_H
#define EQRL_THUMB_H

/* The second rounding of four sums in r4 to r7, their shifts the bytes of r8, of which an instruction takes the lowest;
 * `odd` holds 2 * output zero point + 1. Saturates, and stores at `to`, which goes on: 23 instructions.
 */
#define EQRL_ROUND_FOUR(odd, to) \
    "add r4, r4, r4, asr #31\n\t" \
    "add r5, r5, r5, asr #31\n\t" \
    "add r6, r6, r6, asr #31\n\t" \
    "add r7, r7, r7, asr #31\n\t" \
    "asr r4, r4, r8\n\t" \
    "lsr r8, r8, #8\n\t" \
    "asr r5, r5, r8\n\t" \
    "lsr r8, r8, #8\n\t" \
    "asr r6, r6, r8\n\t" \
    "lsr r8, r8, #8\n\t" \
    "asr r7, r7, r8\n\t" \
    "add r4, r4, " #odd "\n\t" \
    "add r5, r5, " #odd "\n\t" \
    "add r6, r6, " #odd "\n\t" \
    "add r7, r7, " #odd "\n\t" \
    "ssat r4, #8, r4, asr #1\n\t" \
    "ssat r5, #8, r5, asr #1\n\t" \
    "ssat r6, #8, r6, asr #1\n\t" \
    "ssat r7, #8, r7, asr #1\n\t" \
    "strb r4, [" #to "], #1\n\t" \
    "strb r5, [" #to "], #1\n\t" \
    "strb r6, [" #to "], #1\n\t" \
    "strb r7, [" #to "], #1\n\t"

#endif
