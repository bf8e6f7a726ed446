/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_lookup.c - elementwise functions (TANH, LOGISTIC, RELU, QUANTIZE ...) as tables. */
#include "eqrl_kernels.h"

EQRL_CODE void eqrl_lookup_s8(const uint32_t *block, const int8_t *input, int8_t *output, uint32_t size)
{
    const int8_t *const table = (const int8_t *)block;

#if EQRL_HAS_MVE /* 16 at once; a place in the table is an input with its sign inverted */
    __asm__ volatile("vmov.i8 q2, #128\n\t"
                     "wlstp.8 lr, %[size], 2f\n\t"
                     "1:\n\t"
                     "vldrb.8 q0, [%[input]], #16\n\t"
                     "veor q0, q0, q2\n\t"
                     "vldrb.u8 q1, [%[table], q0]\n\t"
                     "vstrb.8 q1, [%[output]], #16\n\t"
                     "letp lr, 1b\n\t"
                     "2:"
                     : [input] "+&r"(input), [output] "+&r"(output)
                     : [table] "r"(table), [size] "r"(size)
                     : "lr", "q0", "q1", "q2", "memory");
#else
    const uint32_t whole = size & ~(uint32_t)3u; /* by words: an input with its sign inverted is a place */
    EQRL_ROLLED
    for (uint32_t i = 0; i < whole; i += 4u) {
        const uint32_t four = *(const eqrl_u32 *)(const void *)(input + i) ^ 0x80808080u;
        output[i] = table[four & 0xFFu];
        output[i + 1u] = table[(four >> 8) & 0xFFu];
        output[i + 2u] = table[(four >> 16) & 0xFFu];
        output[i + 3u] = table[four >> 24];
    }
    EQRL_ROLLED
    for (uint32_t i = whole; i < size; i++) {
        output[i] = table[(int32_t)input[i] + 128];
    }
#endif
}

EQRL_CODE void eqrl_interpolate_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                                    uint32_t size)
{
    const eqrl_s16 *const knots = (const eqrl_s16 *)(const void *)block;

    for (uint32_t i = 0; i < size; i++) {
        const int32_t value = input[i];
        const int32_t index = (value >> 7) + 256;
        const int32_t low = knots[index];
        const int32_t rise = (knots[index + 1] - low) * (value & 127);
        output[i] = (int16_t)(low + ((rise + 64) >> 7));
    }
}

EQRL_CODE void eqrl_sigmoid_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output, uint32_t size,
                                uint32_t is_tanh)
{
    const int32_t multiplier = (int32_t)block[0];
    const int32_t shift = (int32_t)block[1];
    const int32_t half = (int32_t)((1u << shift) >> 1);
    const eqrl_u16 *const table = (const eqrl_u16 *)(const void *)(block + 2);
    const uint32_t fraction_bits = is_tanh ? 8u : 9u;
    const int32_t limit = is_tanh ? 0xFFFF << 8 : 0x7FFF << 10;
    /* LOGISTIC is y / 2^10 or 1 - y / 2^10, TANH is y / 2^8 - 1 or 1 - y / 2^8, each to nearest. */
    const int32_t one = is_tanh ? 1 << 23 : 1 << 25;
    const int32_t offset = is_tanh ? 128 - (1 << 23) : 512;
    const int32_t offset_of_negative = is_tanh ? one + 127 : one + 511;
    const uint32_t result_bits = is_tanh ? 8u : 10u;

    for (uint32_t i = 0; i < size; i++) {
        const int32_t x = input[i] * multiplier + half;
        const int32_t scaled = x >> shift;
        const int32_t sign = eqrl_is_negative(scaled);
        const int32_t magnitude = (scaled ^ sign) - sign;
        const int32_t index = magnitude >> fraction_bits;
        const int32_t is_beyond = eqrl_is_negative(254 - index);
        const int32_t low = eqrl_select(is_beyond, 254, index);
        const int32_t fraction = magnitude & ((1 << fraction_bits) - 1);
        const int32_t start = table[low];
        const int32_t between = start * (1 << fraction_bits) + fraction * (table[low + 1] - start);
        const int32_t y = eqrl_select(is_beyond, limit, between);
        const int32_t shifted = ((y ^ sign) - sign) + eqrl_select(sign, offset_of_negative, offset);
        output[i] = (int16_t)(shifted >> result_bits);
    }
}
