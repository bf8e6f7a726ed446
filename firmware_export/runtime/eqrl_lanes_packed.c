/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_lanes_packed.c - weights of 4, 3 or 2 bits for cores with the DSP extension: fields of 16-bit lanes.
 *
 * A mask takes the same field of both lanes of a word in one instruction, with a shifted operand, and SMLAD
 * multiplies both with two values: so two products cost two instructions, whatever the bits are. What a tile's
 * four channels have of the column:
 *
 *   4 bits: a word for each 2 values; a lane has the fields of the four channels
 *   3 bits: three words for each 8 values; from bit 1 on, lanes have the fields of the four channels of every
 *           second value, 15 of them, five a word; bits 0 of the three are the 16th, the lowest bit first
 *   2 bits: a word for each 4 values; a lane has the four channels of one value, then of the one after the next
 *
 * The first field is the lowest. A field is the weight + 2^(bits - 1), so none is negative: a core multiplies
 * fields, and its sums begin with what that adds. All sums are modulo 2^32; the exporter proves that each fits
 * int32 at its end. The column is that of eqrl_lanes.h; of 3 bits, of a multiple of 8 values.
 */
#include "eqrl_kernels.h"
#include "eqrl_lanes.h"

#if !EQRL_HAS_DSP

/* Field `index` of a lane of the three words: channels of the first value, then of the one after the next. */
EQRL_HELPER uint32_t field_of_three(const uint32_t *words, uint32_t half, uint32_t index)
{
    const uint32_t word = (13u * index) >> 6; /* index / 5 */
    if (word < 3u) {
        return (words[word] >> (16u * half + 1u + 3u * (index - 5u * word))) & 7u;
    }
    const uint32_t place = 16u * half;
    return ((words[0] >> place) & 1u) | (((words[1] >> place) & 1u) << 1) | (((words[2] >> place) & 1u) << 2);
}

EQRL_HELPER uint32_t field_of(uint32_t bits, const uint32_t *words, uint32_t half, uint32_t index)
{
    if (bits == 3u) {
        return field_of_three(words, half, index);
    }
    return (words[0] >> (16u * half + bits * index)) & (((uint32_t)1 << bits) - 1u);
}

/* The definition. Returns what follows the weights. */
EQRL_INLINE const uint32_t *dot(uint32_t bits, const uint32_t *tile, const eqrl_s16 *column,
                                uint32_t num_columns, int32_t sums[4])
{
    const uint32_t in_lane = bits == 4u ? 1u : (bits == 3u ? 4u : 2u); /* fields of one channel */
    const int32_t zero = (int32_t)1 << (bits - 1u);
    for (uint32_t i = 0; i < num_columns; i += 2u * in_lane) {
        for (uint32_t channel = 0; channel < 4u; channel++) {
            for (uint32_t j = 0; j < 2u * in_lane; j++) {
                const uint32_t field = field_of(bits, tile, j & 1u, channel + 4u * (j / 2u));
                sums[channel] += ((int32_t)field - zero) * column[i + j];
            }
        }
        tile += bits == 3u ? 3u : 1u;
    }
    return tile;
}

EQRL_INLINE const uint32_t *multiply(uint32_t bits, const eqrl_tiles *layer, const uint32_t *tiles,
                                     const void *column, int8_t *output, uint32_t num_inputs,
                                     uint32_t num_outputs)
{
    const uint32_t num_columns = eqrl_round_up(num_inputs, bits == 3u ? 8u : 4u);
    for (uint32_t i = 0; i < num_outputs; i += 4u) {
        int32_t sums[4];
        for (uint32_t channel = 0; channel < 4u; channel++) {
            sums[channel] = eqrl_opaque(0); /* else a compiler calls memset() */
        }
        tiles = dot(bits, tiles, (const eqrl_s16 *)column, num_columns, sums);
        tiles = eqrl_end_tile(layer, tiles, sums, output + i, layer->is_usual);
    }
    return tiles;
}

EQRL_CODE static const uint32_t *multiply_p4(const eqrl_tiles *layer, const uint32_t *tiles,
                                             const void *column, int8_t *output, uint32_t num_inputs,
                                             uint32_t num_outputs)
{
    return multiply(4u, layer, tiles, column, output, num_inputs, num_outputs);
}

EQRL_CODE static const uint32_t *multiply_p3(const eqrl_tiles *layer, const uint32_t *tiles,
                                             const void *column, int8_t *output, uint32_t num_inputs,
                                             uint32_t num_outputs)
{
    return multiply(3u, layer, tiles, column, output, num_inputs, num_outputs);
}

EQRL_CODE static const uint32_t *multiply_p2(const eqrl_tiles *layer, const uint32_t *tiles,
                                             const void *column, int8_t *output, uint32_t num_inputs,
                                             uint32_t num_outputs)
{
    return multiply(2u, layer, tiles, column, output, num_inputs, num_outputs);
}

#else

/* Registers of a core's loop: r0 the mask, r1 the tiles, r2 where in the column and lr its end; r9 to r12 sums. */

/* sum += the fields at bit `place` of weights, times two values: 2 instructions. `field` may be the weights. */
#define MULTIPLY_ADD(sum, field, weights, place, values) \
    "and " field ", r0, " weights ", lsr #" place "\n\t" \
    "smlad " sum ", " field ", " values ", " sum "\n\t"
#define MULTIPLY_ADD_LOWEST(sum, field, weights, values) \
    "and " field ", r0, " weights "\n\t" \
    "smlad " sum ", " field ", " values ", " sum "\n\t"

/* Four values of four channels of 4 bits: 18 instructions. */
#define TWO_VALUES_P4(weights, values) \
    MULTIPLY_ADD_LOWEST("r9", "r6", weights, values) \
    MULTIPLY_ADD("r10", "r6", weights, "4", values) \
    MULTIPLY_ADD("r11", "r6", weights, "8", values) \
    MULTIPLY_ADD("r12", weights, weights, "12", values)
#define FOUR_VALUES_P4 \
    "ldrd r4, r5, [r1], #8\n\t" \
    "ldrd r7, r8, [r2], #8\n\t" TWO_VALUES_P4("r4", "r7") TWO_VALUES_P4("r5", "r8")

/* Four values of four channels of 2 bits: 18 instructions. */
#define FOUR_VALUES_P2 \
    "ldr r4, [r1], #4\n\t" \
    "ldrd r7, r8, [r2], #8\n\t" \
    MULTIPLY_ADD_LOWEST("r9", "r6", "r4", "r7") \
    MULTIPLY_ADD("r10", "r6", "r4", "2", "r7") \
    MULTIPLY_ADD("r11", "r6", "r4", "4", "r7") \
    MULTIPLY_ADD("r12", "r6", "r4", "6", "r7") \
    MULTIPLY_ADD("r9", "r6", "r4", "8", "r8") \
    MULTIPLY_ADD("r10", "r6", "r4", "10", "r8") \
    MULTIPLY_ADD("r11", "r6", "r4", "12", "r8") \
    MULTIPLY_ADD("r12", "r6", "r4", "14", "r8")

/* Eight values of four channels of 3 bits: 39 instructions. */
#define EIGHT_VALUES_P3 \
    "ldmia r1!, {r4, r5, r6}\n\t" \
    "ldrd r3, r8, [r2], #8\n\t" \
    MULTIPLY_ADD("r9", "r7", "r4", "1", "r3") \
    MULTIPLY_ADD("r10", "r7", "r4", "4", "r3") \
    MULTIPLY_ADD("r11", "r7", "r4", "7", "r3") \
    MULTIPLY_ADD("r12", "r7", "r4", "10", "r3") \
    MULTIPLY_ADD("r9", "r7", "r4", "13", "r8") \
    MULTIPLY_ADD("r10", "r7", "r5", "1", "r8") \
    MULTIPLY_ADD("r11", "r7", "r5", "4", "r8") \
    MULTIPLY_ADD("r12", "r7", "r5", "7", "r8") \
    "ldrd r3, r8, [r2], #8\n\t" \
    MULTIPLY_ADD("r9", "r7", "r5", "10", "r3") \
    MULTIPLY_ADD("r10", "r7", "r5", "13", "r3") \
    MULTIPLY_ADD("r11", "r7", "r6", "1", "r3") \
    MULTIPLY_ADD("r12", "r7", "r6", "4", "r3") \
    MULTIPLY_ADD("r9", "r7", "r6", "7", "r8") \
    MULTIPLY_ADD("r10", "r7", "r6", "10", "r8") \
    MULTIPLY_ADD("r11", "r7", "r6", "13", "r8") \
    "and r4, r4, #0x00010001\n\t" \
    "and r5, r5, #0x00010001\n\t" \
    "and r6, r6, #0x00010001\n\t" \
    "orr r4, r4, r5, lsl #1\n\t" \
    "orr r4, r4, r6, lsl #2\n\t" \
    "smlad r12, r4, r8, r12\n\t"

/* Loops over the column. Of steps of four values, a first one is left out where their number is odd. */
#define BY_TWO(four) \
    "sub r4, lr, r2\n\t" \
    "lsls r4, r4, #28\n\t" \
    "bmi 3f\n" \
    "2:\n\t" four "\n" \
    "3:\n\t" four "cmp r2, lr\n\t" \
    "blo 2b\n\t"
#define BY_ONE(eight) \
    "2:\n\t" eight "cmp r2, lr\n\t" \
    "blo 2b\n\t"

/* A function of the type eqrl_multiply. The stack holds, from sp on: what sums begin with, the column and its end,
 * the output and its end, 2 * output zero point + 1, and the layer, or NULL if it is usual.
 */
#define MULTIPLY(columns_less_1, zero_shift, mask, loop) \
    "push {r4, r5, r6, r7, r8, r9, r10, r11, lr}\n\t" \
    "ldrd r5, r4, [sp, #36]\n\t" /* num_inputs, num_outputs */ \
    "add r4, r4, r3\n\t" \
    "add r5, r5, #" columns_less_1 "\n\t" \
    "bic r5, r5, #" columns_less_1 "\n\t" \
    "add r5, r2, r5, lsl #1\n\t" \
    "mov r6, r2\n\t" \
    "mov r7, #0\n\t" \
    "mov r8, #0x00010001\n" \
    "1:\n\t" /* the sum of the column */ \
    "ldrd r9, r10, [r6], #8\n\t" \
    "smlad r7, r9, r8, r7\n\t" \
    "smlad r7, r10, r8, r7\n\t" \
    "cmp r6, r5\n\t" \
    "blo 1b\n\t" \
    "lsl r7, r7, #" zero_shift "\n\t" \
    "rsb r7, r7, #0\n\t" \
    "ldrsb r9, [r0, #1]\n\t" \
    "lsl r9, r9, #1\n\t" \
    "add r9, r9, #1\n\t" \
    "ldr r10, [r0, #4]\n\t" \
    "sub r10, r10, #1\n\t" /* 0 if usual, else all ones */ \
    "and r10, r10, r0\n\t" \
    "sub sp, sp, #28\n\t" \
    "strd r7, r2, [sp]\n\t" \
    "strd r5, r3, [sp, #8]\n\t" \
    "strd r4, r9, [sp, #16]\n\t" \
    "str r10, [sp, #24]\n" \
    "10:\n\t" \
    "ldrd r9, r2, [sp]\n\t" \
    "ldr lr, [sp, #8]\n\t" \
    "mov r10, r9\n\t" \
    "mov r11, r9\n\t" \
    "mov r12, r9\n\t" \
    "mov r0, #" mask "\n\t" loop \
    "ldrd r0, r8, [sp, #20]\n\t" \
    "ldmia r1!, {r4, r5, r6, r7}\n\t" /* biases; of usual layers doubled, and so are the sums from here */ \
    "cmp r8, #0\n\t" \
    "bne 20f\n\t" \
    "add r4, r4, r9, lsl #1\n\t" \
    "add r5, r5, r10, lsl #1\n\t" \
    "add r6, r6, r11, lsl #1\n\t" \
    "add r7, r7, r12, lsl #1\n\t" \
    "ldmia r1!, {r8, r9, r10, r11}\n\t" /* multipliers */ \
    "smmulr r4, r4, r8\n\t" \
    "smmulr r5, r5, r9\n\t" \
    "smmulr r6, r6, r10\n\t" \
    "smmulr r7, r7, r11\n\t" \
    "ldr r8, [r1], #4\n\t" /* four shifts; an instruction shifts by the lowest byte */ \
    "ldrd r2, r3, [sp, #12]\n\t" \
    EQRL_ROUND_FOUR(r0, r2) \
    "11:\n\t" \
    "str r2, [sp, #12]\n\t" \
    "cmp r2, r3\n\t" \
    "blo 10b\n\t" \
    "mov r0, r1\n\t" \
    "add sp, sp, #28\n\t" \
    "pop {r4, r5, r6, r7, r8, r9, r10, r11, pc}\n" \
    "20:\n\t" /* shifts of all kinds, any clamp: as eqrl_end_tile, r4 after r4 */ \
    "add r4, r4, r9\n\t" \
    "add r5, r5, r10\n\t" \
    "add r6, r6, r11\n\t" \
    "add r7, r7, r12\n\t" \
    "add r3, r1, #16\n\t" /* shifts */ \
    "ldr r2, [sp, #12]\n\t" \
    "mov lr, #4\n" \
    "21:\n\t" \
    "ldrsb r9, [r3], #1\n\t" /* -1 - shift */ \
    "mvn r10, r9\n\t" \
    "usat r11, #5, r10\n\t" \
    "lsl r4, r4, r11\n\t" /* to the left */ \
    "ldr r11, [r1], #4\n\t" \
    "smull r11, r4, r4, r11\n\t" \
    "adds r11, r11, #0x40000000\n\t" \
    "adc r4, r4, #0\n\t" \
    "lsl r4, r4, #1\n\t" \
    "orr r4, r4, r11, lsr #31\n\t" \
    "and r10, r10, r4\n\t" /* negative, and shifted to the right */ \
    "add r4, r4, r10, asr #31\n\t" \
    "usat r11, #5, r9\n\t" \
    "asr r4, r4, r11\n\t" \
    "mvn r9, r9, asr #31\n\t" /* all ones if to the right */ \
    "sub r4, r4, r9\n\t" \
    "lsr r9, r9, #31\n\t" \
    "asr r4, r4, r9\n\t" \
    "add r4, r4, r0, asr #1\n\t" \
    "ldrsb r9, [r8, #2]\n\t" \
    "sub r4, r4, r9\n\t" \
    "bic r4, r4, r4, asr #31\n\t" \
    "add r4, r4, r9\n\t" \
    "ldrsb r9, [r8, #3]\n\t" \
    "sub r9, r9, r4\n\t" \
    "and r9, r9, r9, asr #31\n\t" \
    "add r4, r4, r9\n\t" \
    "strb r4, [r2], #1\n\t" \
    "mov r4, r5\n\t" \
    "mov r5, r6\n\t" \
    "mov r6, r7\n\t" \
    "subs lr, lr, #1\n\t" \
    "bne 21b\n\t" \
    "mov r1, r3\n\t" \
    "ldr r3, [sp, #16]\n\t" \
    "b 11b"

/* 38 instructions each 32 products, and 50 for each tile of a usual layer. */
EQRL_NAKED const uint32_t *multiply_p4(EQRL_UNUSED const eqrl_tiles *layer, EQRL_UNUSED const uint32_t *tiles,
                                       EQRL_UNUSED const void *column, EQRL_UNUSED int8_t *output,
                                       EQRL_UNUSED uint32_t num_inputs, EQRL_UNUSED uint32_t num_outputs)
{
    __asm__ volatile(MULTIPLY("3", "3", "0x000F000F", BY_TWO(FOUR_VALUES_P4)));
}

/* 41 instructions each 32 products, and 47 for each tile of a usual layer. */
EQRL_NAKED const uint32_t *multiply_p3(EQRL_UNUSED const eqrl_tiles *layer, EQRL_UNUSED const uint32_t *tiles,
                                       EQRL_UNUSED const void *column, EQRL_UNUSED int8_t *output,
                                       EQRL_UNUSED uint32_t num_inputs, EQRL_UNUSED uint32_t num_outputs)
{
    __asm__ volatile(MULTIPLY("7", "2", "0x00070007", BY_ONE(EIGHT_VALUES_P3)));
}

/* 38 instructions each 32 products, and 50 for each tile of a usual layer. */
EQRL_NAKED const uint32_t *multiply_p2(EQRL_UNUSED const eqrl_tiles *layer, EQRL_UNUSED const uint32_t *tiles,
                                       EQRL_UNUSED const void *column, EQRL_UNUSED int8_t *output,
                                       EQRL_UNUSED uint32_t num_inputs, EQRL_UNUSED uint32_t num_outputs)
{
    __asm__ volatile(MULTIPLY("3", "1", "0x00030003", BY_TWO(FOUR_VALUES_P2)));
}

#endif

EQRL_CODE static void prepare_p3(const int8_t *values, void *column, uint32_t num_inputs)
{
    eqrl_prepare_lanes(values, column, eqrl_round_up(num_inputs, 8u));
}

EQRL_CODE void eqrl_dense_lanes_p4_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                                      uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs)
{
    eqrl_dense_tiles(block, input, output, column, num_rows, num_inputs, num_outputs, 4u, 2u,
                     eqrl_prepare_lanes, multiply_p4);
}

EQRL_CODE void eqrl_dense_lanes_p3_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                                      uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs)
{
    eqrl_dense_tiles(block, input, output, column, num_rows, num_inputs, num_outputs, 8u, 2u, prepare_p3,
                     multiply_p3);
}

EQRL_CODE void eqrl_dense_lanes_p2_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                                      uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs)
{
    eqrl_dense_tiles(block, input, output, column, num_rows, num_inputs, num_outputs, 4u, 2u,
                     eqrl_prepare_lanes, multiply_p2);
}

EQRL_CODE void eqrl_conv_lanes_p4_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                                     const eqrl_window *window, uint32_t depth, uint32_t group_outputs)
{
    eqrl_conv_tiles(block, input, output, column, window, depth, group_outputs, 4u, 2u, eqrl_prepare_lanes,
                    multiply_p4);
}

EQRL_CODE void eqrl_conv_lanes_p3_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                                     const eqrl_window *window, uint32_t depth, uint32_t group_outputs)
{
    eqrl_conv_tiles(block, input, output, column, window, depth, group_outputs, 8u, 2u, prepare_p3,
                    multiply_p3);
}

EQRL_CODE void eqrl_conv_lanes_p2_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                                     const eqrl_window *window, uint32_t depth, uint32_t group_outputs)
{
    eqrl_conv_tiles(block, input, output, column, window, depth, group_outputs, 4u, 2u, eqrl_prepare_lanes,
                    multiply_p2);
}
