/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_quads.c - FULLY_CONNECTED and CONV_2D where a register holds one product: four channels share each load
 * of an input. For Cortex-M3, and as plain C for RV32.
 */
#include "eqrl_kernels.h"
#include "eqrl_thumb.h"
#include "eqrl_tiles.h"

#if defined(__ARM_ARCH_7M__) && (defined(__GNUC__) || defined(__clang__))
#define IS_V7M 1
#else
#define IS_V7M 0
#endif

/* The definition. */
EQRL_OUTLINE void dot(const int8_t *weights, const int8_t *column, uint32_t num_columns, int32_t sums[4])
{
    int32_t sum_0 = 0;
    int32_t sum_1 = 0;
    int32_t sum_2 = 0;
    int32_t sum_3 = 0;
    for (uint32_t i = 0; i < num_columns; i++) {
        const int32_t value = column[i];
        sum_0 += weights[0] * value;
        sum_1 += weights[1] * value;
        sum_2 += weights[2] * value;
        sum_3 += weights[3] * value;
        weights += 4;
    }
    sums[0] = sum_0;
    sums[1] = sum_1;
    sums[2] = sum_2;
    sums[3] = sum_3;
}

EQRL_CODE static const uint32_t *multiply_any(const eqrl_tiles *layer, const uint32_t *tiles, const void *column,
                                              int8_t *output, uint32_t num_inputs, uint32_t num_outputs)
{
    const uint32_t num_columns = eqrl_round_up(num_inputs, 4u);
    for (uint32_t i = 0; i < num_outputs; i += 4u) {
        int32_t sums[4];
        dot((const int8_t *)tiles, (const int8_t *)column, num_columns, sums);
        tiles = eqrl_end_tile(layer, tiles + num_columns, sums, output + i, 0u);
    }
    return tiles;
}

#if !IS_V7M

EQRL_CODE static const uint32_t *multiply(const eqrl_tiles *layer, const uint32_t *tiles, const void *column,
                                          int8_t *output, uint32_t num_inputs, uint32_t num_outputs)
{
    const uint32_t num_columns = eqrl_round_up(num_inputs, 4u);
    for (uint32_t i = 0; i < num_outputs; i += 4u) {
        int32_t sums[4];
        dot((const int8_t *)tiles, (const int8_t *)column, num_columns, sums);
        tiles = eqrl_end_usual_tile(layer, tiles + num_columns, sums, output + i);
    }
    return tiles;
}

#else

/* Tiles in r1, the column in r2, sums in r4 to r7: 9 instructions for 4 products. */
#define ONE_COLUMN \
    "ldrsb r8, [r2], #1\n\t" \
    "ldrsb r0, [r1], #1\n\t" \
    "ldrsb r9, [r1], #1\n\t" \
    "mla r4, r0, r8, r4\n\t" \
    "ldrsb r0, [r1], #1\n\t" \
    "mla r5, r9, r8, r5\n\t" \
    "ldrsb r9, [r1], #1\n\t" \
    "mla r6, r0, r8, r6\n\t" \
    "mla r7, r9, r8, r7\n\t"

/* The usual case, all in registers: 74 instructions for 32 products, and for each tile 47 that begin, rescale
 * and store. Four columns may be left for the first round: it is entered in its middle.
 */
EQRL_NAKED const uint32_t *multiply(EQRL_UNUSED const eqrl_tiles *layer, EQRL_UNUSED const uint32_t *tiles,
                                    EQRL_UNUSED const void *column, EQRL_UNUSED int8_t *output,
                                    EQRL_UNUSED uint32_t num_inputs, EQRL_UNUSED uint32_t num_outputs)
{
    __asm__ volatile(
        "push {r4, r5, r6, r7, r8, r9, r10, r11, lr}\n\t"
        "ldrd r10, r12, [sp, #36]\n\t" /* num_inputs, num_outputs */
        "add r12, r12, r3\n\t"         /* end of the output */
        "add r10, r10, #3\n\t"
        "bic r10, r10, #3\n\t"
        "and lr, r10, #4\n\t"          /* columns left for the first round, or 0 */
        "add r10, r10, r2\n\t"         /* end of the column */
        "ldrsb r11, [r0, #1]\n\t"
        "lsl r11, r11, #1\n\t"
        "add r11, r11, #1\n\t"         /* 2 * output zero point + 1 */
        "push {r2, lr}\n"
        "10:\n\t"
        "movs r4, #0\n\t"
        "movs r5, #0\n\t"
        "movs r6, #0\n\t"
        "movs r7, #0\n\t"
        "cmp lr, #0\n\t"
        "bne 2f\n"
        "1:\n\t" ONE_COLUMN ONE_COLUMN ONE_COLUMN ONE_COLUMN
        "2:\n\t" ONE_COLUMN ONE_COLUMN ONE_COLUMN ONE_COLUMN
        "cmp r2, r10\n\t"
        "bne 1b\n\t"
        "ldmia r1!, {r0, r2, r8, r9}\n\t" /* biases, doubled, and so are the sums from here */
        "add r4, r0, r4, lsl #1\n\t"
        "add r5, r2, r5, lsl #1\n\t"
        "add r6, r8, r6, lsl #1\n\t"
        "add r7, r9, r7, lsl #1\n\t"
        "ldmia r1!, {r0, r2, r8, r9}\n\t" /* multipliers */
        "smull lr, r4, r4, r0\n\t"
        "add r4, r4, lr, lsr #31\n\t"
        "smull lr, r5, r5, r2\n\t"
        "add r5, r5, lr, lsr #31\n\t"
        "smull lr, r6, r6, r8\n\t"
        "add r6, r6, lr, lsr #31\n\t"
        "smull lr, r7, r7, r9\n\t"
        "add r7, r7, lr, lsr #31\n\t"
        "ldr r8, [r1], #4\n\t" /* four shifts; an instruction shifts by the lowest byte */
        EQRL_ROUND_FOUR(r11, r3)
        "ldrd r2, lr, [sp]\n\t"
        "cmp r3, r12\n\t"
        "blo 10b\n\t"
        "mov r0, r1\n\t"
        "add sp, sp, #8\n\t"
        "pop {r4, r5, r6, r7, r8, r9, r10, r11, pc}");
}

#endif

EQRL_CODE void eqrl_dense_quads_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                                 uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs)
{
    eqrl_dense_tiles(block, input, output, column, num_rows, num_inputs, num_outputs, 4u, 1u, NULL,
                     multiply);
}

EQRL_CODE void eqrl_conv_quads_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                                const eqrl_window *window, uint32_t depth, uint32_t group_outputs)
{
    eqrl_conv_tiles(block, input, output, column, window, depth, group_outputs, 4u, 1u, NULL, multiply);
}

EQRL_CODE void eqrl_dense_quads_any_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                                 uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs)
{
    eqrl_dense_tiles(block, input, output, column, num_rows, num_inputs, num_outputs, 4u, 1u, NULL,
                     multiply_any);
}

EQRL_CODE void eqrl_conv_quads_any_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                                const eqrl_window *window, uint32_t depth, uint32_t group_outputs)
{
    eqrl_conv_tiles(block, input, output, column, window, depth, group_outputs, 4u, 1u, NULL, multiply_any);
}
