/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_lanes.c - FULLY_CONNECTED and CONV_2D for cores with the DSP extension: two channels in a 16-bit lane.
 *
 * A lane is 256 * second + first: the weights of two channels for one input. SMLAD multiplies both lanes of a
 * word with two values, and the sum is 256 * (sum of the second) + (sum of the first), modulo 2^32. The first
 * alone, by way of SXTB16, gives the rest. So four products cost three instructions, at a byte a weight.
 *
 * Exact where no lane leaves int16, which the exporter proves, and no sum of a second channel leaves 24 bits:
 * where it could, `any` parts them after each `run` of columns. In a tile, each four inputs have four words, for
 * channels 0 and 1, 2 and 3, of inputs 0 and 2, then of inputs 1 and 3: so a word of int8 values becomes column by
 * two SXTB16.
 */
#include "eqrl_kernels.h"
#include "eqrl_lanes.h"

/* What a tile's sums are: of both channels of its lanes, and of the first alone. */
typedef struct {
    uint32_t both[2];
    uint32_t first[2];
} lane_sums;

#if !EQRL_HAS_DSP

/* The definition. At least four columns; returns the lanes behind them. */
EQRL_OUTLINE const eqrl_s16 *add_lanes(lane_sums *sums, const eqrl_s16 *lanes, const eqrl_s16 *from,
                                       const eqrl_s16 *end)
{
    const int32_t num_steps = (int32_t)(end - from) / 2;
    for (uint32_t pair = 0; pair < 2u; pair++) {
        const eqrl_s16 *const words = lanes + 2u * pair;
        uint32_t both = sums->both[pair];
        uint32_t first = sums->first[pair];
        for (int32_t i = 0; i < num_steps; i++) { /* a sign, so that compilers see vectors */
            const int32_t even = words[4 * i];
            const int32_t odd = words[4 * i + 1];
            both += (uint32_t)(even * from[2 * i]) + (uint32_t)(odd * from[2 * i + 1]);
            first += (uint32_t)((((even & 0xFF) ^ 0x80) - 0x80) * from[2 * i]);
            first += (uint32_t)((((odd & 0xFF) ^ 0x80) - 0x80) * from[2 * i + 1]);
        }
        sums->both[pair] = both;
        sums->first[pair] = first;
    }
    return lanes + 4 * num_steps;
}

#else

/* Four inputs of four channels: 14 instructions for 16 products, of which 12 multiply or part lanes. Tiles in r1, the
 * column in r2, sums of both in r9 and r11, first ones in r10 and lr.
 */
#define FOUR_COLUMNS \
    "ldmia r1!, {r4, r5, r6, r7}\n\t" \
    "ldrd r8, r12, [r2], #8\n\t" \
    "smlad r9, r4, r8, r9\n\t" \
    "sxtb16 r4, r4\n\t" \
    "smlad r10, r4, r8, r10\n\t" \
    "smlad r11, r5, r8, r11\n\t" \
    "sxtb16 r5, r5\n\t" \
    "smlad lr, r5, r8, lr\n\t" \
    "smlad r9, r6, r12, r9\n\t" \
    "sxtb16 r6, r6\n\t" \
    "smlad r10, r6, r12, r10\n\t" \
    "smlad r11, r7, r12, r11\n\t" \
    "sxtb16 r7, r7\n\t" \
    "smlad lr, r7, r12, lr\n\t"

EQRL_NAKED const eqrl_s16 *add_lanes(EQRL_UNUSED lane_sums *sums, EQRL_UNUSED const eqrl_s16 *lanes,
                                     EQRL_UNUSED const eqrl_s16 *from, EQRL_UNUSED const eqrl_s16 *end)
{
    __asm__ volatile("push {r4, r5, r6, r7, r8, r9, r10, r11, lr}\n\t"
                     "ldrd r9, r11, [r0]\n\t"
                     "ldrd r10, lr, [r0, #8]\n"
                     "1:\n\t" FOUR_COLUMNS "cmp r2, r3\n\t"
                     "blo 1b\n\t"
                     "strd r9, r11, [r0]\n\t"
                     "strd r10, lr, [r0, #8]\n\t"
                     "mov r0, r1\n\t"
                     "pop {r4, r5, r6, r7, r8, r9, r10, r11, pc}");
}

#endif

/* Take the sums of the second channels out of those of both, so that these go on from those of the first. */
EQRL_HELPER void part(lane_sums *sums, int32_t seconds[2])
{
    for (uint32_t pair = 0; pair < 2u; pair++) {
        seconds[pair] += (int32_t)(sums->both[pair] - sums->first[pair]) >> 8;
        sums->both[pair] = sums->first[pair];
    }
}

/* In any case: sums are parted after each run of columns, and rescaled in the long way. */
EQRL_INLINE const uint32_t *multiply_by_runs(const eqrl_tiles *layer, const uint32_t *tiles, const void *column,
                                             int8_t *output, uint32_t num_inputs, uint32_t num_outputs,
                                             uint32_t doubled)
{
    const eqrl_s16 *const start = (const eqrl_s16 *)column;
    const uint32_t num_columns = eqrl_round_up(num_inputs, 4u);
    const uint32_t run = layer->run;

    for (uint32_t i = 0; i < num_outputs; i += 4u) {
        const eqrl_s16 *lanes = (const eqrl_s16 *)(const void *)tiles;
        lane_sums sums = {{0u, 0u}, {0u, 0u}};
        int32_t seconds[2] = {0, 0};
        uint32_t from = 0;
        while (from < num_columns) {
            const uint32_t end = num_columns - from > run ? from + run : num_columns;
            lanes = add_lanes(&sums, lanes, start + from, start + end);
            part(&sums, seconds);
            from = end;
        }
        const int32_t four[4] = {(int32_t)sums.first[0], seconds[0], (int32_t)sums.first[1], seconds[1]};
        tiles = eqrl_end_tile(layer, tiles + num_columns, four, output + i, doubled);
    }
    return tiles;
}

EQRL_CODE static const uint32_t *multiply_any(const eqrl_tiles *layer, const uint32_t *tiles, const void *column,
                                              int8_t *output, uint32_t num_inputs, uint32_t num_outputs)
{
    return multiply_by_runs(layer, tiles, column, output, num_inputs, num_outputs, 0u);
}

#if !EQRL_HAS_DSP

EQRL_CODE static const uint32_t *multiply(const eqrl_tiles *layer, const uint32_t *tiles, const void *column,
                                          int8_t *output, uint32_t num_inputs, uint32_t num_outputs)
{
    return multiply_by_runs(layer, tiles, column, output, num_inputs, num_outputs, 1u);
}

#else

/* The usual case, all in registers: 58 instructions for 64 products, and for each tile 47 to 50 that begin, rescale
 * and store; compilers take twice as many for these, since the inner loop leaves them no register.
 *
 * The inner loop is entered where so many steps of four columns are left that it ends with a whole round.
 */
EQRL_NAKED const uint32_t *multiply(EQRL_UNUSED const eqrl_tiles *layer, EQRL_UNUSED const uint32_t *tiles,
                                    EQRL_UNUSED const void *column, EQRL_UNUSED int8_t *output,
                                    EQRL_UNUSED uint32_t num_inputs, EQRL_UNUSED uint32_t num_outputs)
{
    __asm__ volatile(
        "push {r4, r5, r6, r7, r8, r9, r10, r11, lr}\n\t"
        "ldrd r5, r4, [sp, #36]\n\t" /* num_inputs, num_outputs */
        "add r4, r4, r3\n\t"         /* end of the output */
        "add r5, r5, #3\n\t"
        "lsr r5, r5, #2\n\t"
        "neg r6, r5\n\t"
        "and r6, r6, #3\n\t"            /* steps to skip */
        "add r5, r2, r5, lsl #3\n\t"    /* end of the column */
        "ldrsb r7, [r0, #1]\n\t"
        "lsl r7, r7, #1\n\t"
        "add r7, r7, #1\n\t"            /* 2 * output zero point + 1 */
        "push {r2, r4, r5, r6, r7}\n"
        "10:\n\t"
        "mov r9, #0\n\t"
        "mov r10, #0\n\t"
        "mov r11, #0\n\t"
        "mov lr, #0\n\t"
        "ldrd r0, r12, [sp, #8]\n\t"
        "cmp r12, #2\n\t"
        "bhi 4f\n\t"
        "beq 3f\n\t"
        "cmp r12, #1\n\t"
        "beq 2f\n"
        "1:\n\t" FOUR_COLUMNS
        "2:\n\t" FOUR_COLUMNS
        "3:\n\t" FOUR_COLUMNS
        "4:\n\t" FOUR_COLUMNS
        "cmp r2, r0\n\t"
        "bne 1b\n\t"
        "sub r9, r9, r10\n\t" /* 256 * second */
        "sub r11, r11, lr\n\t"
        "ldmia r1!, {r4, r5, r6, r7}\n\t" /* biases, doubled, and so are the sums from here */
        "add r4, r4, r10, lsl #1\n\t"
        "add r5, r5, r9, asr #7\n\t"
        "add r6, r6, lr, lsl #1\n\t"
        "add r7, r7, r11, asr #7\n\t"
        "ldmia r1!, {r8, r9, r10, r11}\n\t" /* multipliers */
        "smmulr r4, r4, r8\n\t"
        "smmulr r5, r5, r9\n\t"
        "smmulr r6, r6, r10\n\t"
        "smmulr r7, r7, r11\n\t"
        "ldr r8, [r1], #4\n\t" /* four shifts; an instruction shifts by the lowest byte */
        "ldr r0, [sp, #16]\n\t"
        EQRL_ROUND_FOUR(r0, r3)
        "ldrd r2, r0, [sp]\n\t"
        "cmp r3, r0\n\t"
        "blo 10b\n\t"
        "mov r0, r1\n\t"
        "add sp, sp, #20\n\t"
        "pop {r4, r5, r6, r7, r8, r9, r10, r11, pc}");
}

#endif

EQRL_CODE void eqrl_dense_lanes_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                                   uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs)
{
    eqrl_dense_tiles(block, input, output, column, num_rows, num_inputs, num_outputs, 4u, 2u,
                     eqrl_prepare_lanes, multiply);
}

EQRL_CODE void eqrl_conv_lanes_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                                  const eqrl_window *window, uint32_t depth, uint32_t group_outputs)
{
    eqrl_conv_tiles(block, input, output, column, window, depth, group_outputs, 4u, 2u, eqrl_prepare_lanes,
                    multiply);
}

EQRL_CODE void eqrl_dense_lanes_any_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                                   uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs)
{
    eqrl_dense_tiles(block, input, output, column, num_rows, num_inputs, num_outputs, 4u, 2u,
                     eqrl_prepare_lanes, multiply_any);
}

EQRL_CODE void eqrl_conv_lanes_any_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                                  const eqrl_window *window, uint32_t depth, uint32_t group_outputs)
{
    eqrl_conv_tiles(block, input, output, column, window, depth, group_outputs, 4u, 2u, eqrl_prepare_lanes,
                    multiply_any);
}
