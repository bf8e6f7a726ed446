/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_lookup.c - elementwise int8 functions (TANH, LOGISTIC, RELU, QUANTIZE ...) as tables of 256. */
#include "eqrl_internal.h"

EQRL_CODE void eqrl_lookup_s8(const uint32_t *block, const int8_t *input, int8_t *output, uint32_t size)
{
    const int8_t *const table = (const int8_t *)block;

    for (uint32_t i = 0; i < size; i++) {
        output[i] = table[(int32_t)input[i] + 128];
    }
}
