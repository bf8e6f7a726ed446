/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_biased.c - FULLY_CONNECTED and CONV_2D for Cortex-M0 and M0+, whose LDRSB has no offset and whose LDRB has
 * one: weights and inputs lie 128 higher, without a sign.
 *
 * sum(w * x) = sum((w + 128) * (x + 128)) - 128 * sum(x + 128) - 128 * sum(w). The exporter has put the last term
 * into the bias; the middle one is the same for all channels, and lies behind the column as `prepare` makes it.
 */
#include "eqrl_kernels.h"
#include "eqrl_tiles.h"

#if defined(__ARM_ARCH_6M__) && (defined(__GNUC__) || defined(__clang__))
#define IS_V6M 1
#else
#define IS_V6M 0
#endif

/* The definition. */
EQRL_OUTLINE void dot(const uint8_t *weights, const uint8_t *column, uint32_t num_columns, uint32_t start,
                      int32_t sums[4])
{
    uint32_t sum_0 = start;
    uint32_t sum_1 = start;
    uint32_t sum_2 = start;
    uint32_t sum_3 = start;
    for (uint32_t i = 0; i < num_columns; i++) {
        const uint32_t value = column[i];
        sum_0 += weights[0] * value;
        sum_1 += weights[1] * value;
        sum_2 += weights[2] * value;
        sum_3 += weights[3] * value;
        weights += 4;
    }
    sums[0] = (int32_t)sum_0;
    sums[1] = (int32_t)sum_1;
    sums[2] = (int32_t)sum_2;
    sums[3] = (int32_t)sum_3;
}

EQRL_OUTLINE const uint32_t *multiply_any(const eqrl_tiles *layer, const uint32_t *tiles, const void *column,
                                          int8_t *output, uint32_t num_inputs, uint32_t num_outputs)
{
    const uint32_t num_columns = eqrl_round_up(num_inputs, 4u);
    const uint32_t start = ((const eqrl_u32 *)column)[num_columns / 4u];
    for (uint32_t i = 0; i < num_outputs; i += 4u) {
        int32_t sums[4];
        dot((const uint8_t *)tiles, (const uint8_t *)column, num_columns, start, sums);
        tiles = eqrl_end_tile(layer, tiles + num_columns, sums, output + i, 0u);
    }
    return tiles;
}

/* By words, two sums of two bytes each in one: up to 128 words at a time. From the front, as values may lie where the
 * column does.
 */
EQRL_OUTLINE void prepare(const int8_t *values, void *column, uint32_t num_inputs)
{
    const eqrl_u32 *from = (const eqrl_u32 *)(const void *)values;
    eqrl_u32 *to = (eqrl_u32 *)column;
    const eqrl_u32 *const end = to + eqrl_round_up(num_inputs, 4u) / 4u;
    uint32_t sum = 0u;
    while (to < end) {
        const eqrl_u32 *const stop = (uint32_t)(end - to) > 128u ? to + 128u : end;
        uint32_t pairs = 0u; /* 128 words have 256 bytes in each half: below 2^16 */
        EQRL_ROLLED
        while (to < stop) {
            const uint32_t four = *from ^ 0x80808080u;
            from++;
            *to = four;
            to++;
            pairs += (four & 0x00FF00FFu) + ((four >> 8) & 0x00FF00FFu);
        }
        sum += (pairs & 0xFFFFu) + (pairs >> 16);
    }
    *to = 0u - 128u * sum;
}

#if !IS_V6M

EQRL_CODE static const uint32_t *multiply(const eqrl_tiles *layer, const uint32_t *tiles, const void *column,
                                          int8_t *output, uint32_t num_inputs, uint32_t num_outputs)
{
    return multiply_any(layer, tiles, column, output, num_inputs, num_outputs);
}

#else

/* Tiles in r1, the column in r2, sums in r4 to r7: 13 instructions for 4 products. */
#define PRODUCT(at, sum) \
    "ldrb r0, [r1, #" #at "]\n\t" \
    "muls r0, r3, r0\n\t" \
    "adds " #sum ", " #sum ", r0\n\t"
#define ONE_COLUMN(at, w0, w1, w2, w3) \
    "ldrb r3, [r2, #" #at "]\n\t" PRODUCT(w0, r4) PRODUCT(w1, r5) PRODUCT(w2, r6) PRODUCT(w3, r7)

/* The usual case: 108 instructions for 32 products; for each channel 41 that rescale it, which compilers spread over
 * twice as many, and for each tile 20 or 23 more.
 *
 * With a = 2^15 * a1 + a0 and m = 2^16 * m1 + m0, floor((a * m + 2^30) / 2^31) is
 * a1 * m1 + ((a0 * m1 + ((a1 * m0 + ((a0 * m0) >> 15) + 2^15) >> 1)) >> 15), each term within 32 bits for |a| < 2^29.
 */
EQRL_NAKED const uint32_t *multiply(EQRL_UNUSED const eqrl_tiles *layer, EQRL_UNUSED const uint32_t *tiles,
                                    EQRL_UNUSED const void *column, EQRL_UNUSED int8_t *output,
                                    EQRL_UNUSED uint32_t num_inputs, EQRL_UNUSED uint32_t num_outputs)
{
    __asm__ volatile(
        ".syntax unified\n\t"
        "push {r4, r5, r6, r7, lr}\n\t"
        "mov r4, r8\n\t"
        "mov r5, r9\n\t"
        "mov r6, r10\n\t"
        "mov r7, r11\n\t"
        "push {r4, r5, r6, r7}\n\t"
        "ldr r4, [sp, #36]\n\t" /* num_inputs */
        "ldr r5, [sp, #40]\n\t" /* num_outputs */
        "adds r5, r5, r3\n\t"   /* end of the output */
        "adds r4, r4, #3\n\t"
        "lsrs r4, r4, #2\n\t"
        "lsls r4, r4, #2\n\t"
        "adds r7, r2, r4\n\t"
        "mov r12, r7\n\t"       /* end of the column */
        "ldr r7, [r7]\n\t"      /* what sums start from */
        "lsls r6, r4, #29\n\t"
        "lsrs r6, r6, #29\n\t"  /* columns left for the first round: 4 or 0 */
        "movs r4, #1\n\t"
        "ldrsb r4, [r0, r4]\n\t"
        "lsls r4, r4, #1\n\t"
        "movs r0, #1\n\t"
        "lsls r0, r0, #8\n\t"
        "adds r4, r4, r0\n\t"
        "adds r4, r4, #1\n\t"   /* 2 * output zero point + 1 + 2 * 128 */
        "mov lr, r4\n\t"
        "movs r0, #1\n\t"
        "lsls r0, r0, #15\n\t"
        "mov r9, r0\n\t"
        "mov r11, r3\n\t"
        "str r6, [sp, #36]\n\t" /* what is left, and the end, where the arguments were */
        "str r5, [sp, #40]\n\t"
        "mov r6, r2\n\t"
        "push {r6, r7}\n\t"         /* column, start */
        "mov r8, sp\n\t"            /* end of the sums */
        "sub sp, sp, #16\n"
        "10:\n\t"
        "ldr r4, [sp, #20]\n\t"
        "mov r5, r4\n\t"
        "mov r6, r4\n\t"
        "mov r7, r4\n\t"
        "ldr r0, [sp, #60]\n\t"
        "cmp r0, #0\n\t"
        "beq 1f\n\t"
        "subs r2, r2, #4\n\t"
        "subs r1, r1, #16\n\t"
        "b 2f\n"
        "1:\n\t" ONE_COLUMN(0, 0, 1, 2, 3) ONE_COLUMN(1, 4, 5, 6, 7) ONE_COLUMN(2, 8, 9, 10, 11)
        ONE_COLUMN(3, 12, 13, 14, 15)
        "2:\n\t" ONE_COLUMN(4, 16, 17, 18, 19) ONE_COLUMN(5, 20, 21, 22, 23) ONE_COLUMN(6, 24, 25, 26, 27)
        ONE_COLUMN(7, 28, 29, 30, 31)
        "adds r1, r1, #32\n\t"
        "adds r2, r2, #8\n\t"
        "cmp r2, r12\n\t"
        "bne 1b\n\t"
        "mov r0, sp\n\t"
        "stmia r0!, {r4, r5, r6, r7}\n\t"
        "mov r7, sp\n\t"
        "mov r3, r11\n\t"
        "ldr r0, [r1, #32]\n\t" /* four shifts; an instruction shifts by the lowest byte */
        "mov r10, r0\n"
        "3:\n\t"
        "ldmia r7!, {r4}\n\t"
        "ldr r0, [r1]\n\t"
        "adds r4, r4, r0\n\t"
        "ldr r0, [r1, #16]\n\t"
        "adds r1, r1, #4\n\t"
        "asrs r5, r4, #15\n\t" /* a1 */
        "lsls r4, r4, #17\n\t"
        "lsrs r4, r4, #17\n\t" /* a0 */
        "lsrs r6, r0, #16\n\t" /* m1 */
        "uxth r0, r0\n\t"      /* m0 */
        "movs r2, r5\n\t"
        "muls r2, r6, r2\n\t"
        "muls r5, r0, r5\n\t"
        "muls r6, r4, r6\n\t"
        "muls r4, r0, r4\n\t"
        "lsrs r4, r4, #15\n\t"
        "adds r4, r4, r5\n\t"
        "add r4, r9\n\t"
        "asrs r4, r4, #1\n\t"
        "adds r4, r4, r6\n\t"
        "asrs r4, r4, #15\n\t"
        "adds r4, r4, r2\n\t"
        "asrs r0, r4, #31\n\t" /* halves away from zero */
        "adds r4, r4, r0\n\t"
        "mov r0, r10\n\t"
        "asrs r4, r0\n\t"
        "lsrs r0, r0, #8\n\t"
        "mov r10, r0\n\t"
        "add r4, lr\n\t"
        "asrs r4, r4, #1\n\t"
        "asrs r0, r4, #31\n\t" /* clamp to 0 .. 255, without a branch */
        "bics r4, r0\n\t"
        "movs r0, #255\n\t"
        "subs r0, r0, r4\n\t"
        "asrs r0, r0, #31\n\t"
        "orrs r4, r0\n\t"
        "subs r4, r4, #128\n\t"
        "strb r4, [r3]\n\t"
        "adds r3, r3, #1\n\t"
        "cmp r7, r8\n\t"
        "bne 3b\n\t"
        "mov r11, r3\n\t"
        "adds r1, r1, #20\n\t"
        "ldr r2, [sp, #16]\n\t"
        "ldr r0, [sp, #64]\n\t"
        "cmp r3, r0\n\t"
        "bhs 4f\n\t"
        "b 10b\n"
        "4:\n\t"
        "movs r0, r1\n\t"
        "add sp, sp, #24\n\t"
        "pop {r4, r5, r6, r7}\n\t"
        "mov r8, r4\n\t"
        "mov r9, r5\n\t"
        "mov r10, r6\n\t"
        "mov r11, r7\n\t"
        "pop {r4, r5, r6, r7, pc}");
}

#endif

EQRL_CODE void eqrl_dense_biased_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                                 uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs)
{
    eqrl_dense_tiles(block, input, output, column, num_rows, num_inputs, num_outputs, 4u, 1u, prepare,
                     multiply);
}

EQRL_CODE void eqrl_conv_biased_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                                const eqrl_window *window, uint32_t depth, uint32_t group_outputs)
{
    eqrl_conv_tiles(block, input, output, column, window, depth, group_outputs, 4u, 1u, prepare, multiply);
}

EQRL_CODE void eqrl_dense_biased_any_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                                 uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs)
{
    eqrl_dense_tiles(block, input, output, column, num_rows, num_inputs, num_outputs, 4u, 1u, prepare,
                     multiply_any);
}

EQRL_CODE void eqrl_conv_biased_any_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                                const eqrl_window *window, uint32_t depth, uint32_t group_outputs)
{
    eqrl_conv_tiles(block, input, output, column, window, depth, group_outputs, 4u, 1u, prepare, multiply_any);
}
