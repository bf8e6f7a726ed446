/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_random.c - the generator of stochastic policies: xoshiro128** of Blackman and Vigna.
 *
 * The twin of edgeqrl/network/draws.py: the same seed gives the same draws on every machine. Not for secrets.
 */
#include "eqrl_kernels.h"

#define GOLDEN 0x9E3779B9u

EQRL_HELPER uint32_t rotated(uint32_t value, uint32_t bits)
{
    return (value << bits) | (value >> (32u - bits));
}

/* A permutation of all words in which every bit depends on every bit. */
EQRL_HELPER uint32_t mixed(uint32_t value)
{
    value = (value ^ (value >> 16)) * 0x85EBCA6Bu;
    value = (value ^ (value >> 13)) * 0xC2B2AE35u;
    return value ^ (value >> 16);
}

EQRL_CODE void eqrl_random_seed(uint32_t *random, uint32_t low, uint32_t high)
{
    uint32_t any = 0u;
    for (uint32_t i = 0; i < 4u; i++) {
        const uint32_t first = mixed(low + (2u * i + 1u) * GOLDEN);
        random[i] = mixed(first + high + (2u * i + 2u) * GOLDEN);
        any |= random[i];
    }
    random[0] |= (uint32_t)~eqrl_is_negative((int32_t)(any | (0u - any))) & 1u;
}

EQRL_CODE uint32_t eqrl_draw_word(uint32_t *random)
{
    const uint32_t drawn = rotated(random[1] * 5u, 7u) * 9u;
    const uint32_t shifted = random[1] << 9;
    random[2] ^= random[0];
    random[3] ^= random[1];
    random[1] ^= random[2];
    random[0] ^= random[3];
    random[2] ^= shifted;
    random[3] = rotated(random[3], 11u);
    return drawn;
}
