/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_vectors.c - FULLY_CONNECTED and CONV_2D for Helium (Cortex-M55): four channels share each vector of 16
 * inputs.
 */
#include "eqrl_kernels.h"
#include "eqrl_tiles.h"

#if !EQRL_HAS_MVE

#define MULTIPLY_TWO NULL

/* The definition. */
EQRL_OUTLINE void dot(const int8_t *weights, const int8_t *column, uint32_t num_columns, int32_t sums[4])
{
    for (uint32_t channel = 0; channel < 4u; channel++) {
        const int8_t *sixteen = weights + 16u * channel;
        const int8_t *values = column;
        int32_t sum = 0;
        for (uint32_t i = 0; i < num_columns; i += 16u) {
            for (uint32_t j = 0; j < 16u; j++) {
                sum += sixteen[j] * values[j];
            }
            sixteen += 64;
            values += 16;
        }
        sums[channel] += sum;
    }
}

EQRL_CODE static const uint32_t *multiply(const eqrl_tiles *layer, const uint32_t *tiles, const void *column,
                                          int8_t *output, uint32_t num_inputs, uint32_t num_outputs)
{
    const uint32_t num_columns = eqrl_round_up(num_inputs, 16u);
    for (uint32_t i = 0; i < num_outputs; i += 4u) {
        int32_t sums[4] = {0, 0, 0, 0};
        dot((const int8_t *)tiles, (const int8_t *)column, num_columns, sums);
        tiles = eqrl_end_tile(layer, tiles + num_columns, sums, output + i, 0u);
    }
    return tiles;
}

#else

#define MULTIPLY_TWO multiply_two

/* 16 inputs of four channels in 9 instructions: no load waits for what follows it. `first` begins sums. */
#define SIXTEEN_INPUTS(multiply) \
    "vldrb.8 q0, [%[from]], #16\n\t" \
    "vldrb.8 q1, [%[tiles]], #16\n\t" \
    "vldrb.8 q2, [%[tiles]], #16\n\t" \
    multiply " r6, q0, q1\n\t" \
    "vldrb.8 q1, [%[tiles]], #16\n\t" \
    multiply " r8, q0, q2\n\t" \
    "vldrb.8 q2, [%[tiles]], #16\n\t" \
    multiply " r10, q0, q1\n\t" \
    multiply " r12, q0, q2\n\t"
#define BEGIN_SUMS SIXTEEN_INPUTS("vmladav.s8")
#define ADD_TO_SUMS SIXTEEN_INPUTS("vmladava.s8")

/* All tiles. Sums of a tile lie in r6, r8, r10 and r12, as VMLADAVA takes only even registers, and then in q0,
 * where all four are rescaled at once: half-way is away from zero, so a negative value is lowered by 1 before
 * VRSHL rounds halves up. q3 has the output's zero point; `unusual` is NULL where the layer is usual.
 */
EQRL_OUTLINE const uint32_t *multiply(const eqrl_tiles *layer, const uint32_t *tiles, const void *column,
                                      int8_t *output, uint32_t num_inputs, uint32_t num_outputs)
{
    const uint32_t others = (num_inputs - 1u) / 16u; /* steps after the first */
    const eqrl_tiles *const unusual = layer->is_usual != 0u ? NULL : layer;
    int32_t from = layer->output_zero_point; /* then where a tile is in the column */
    const int8_t *const end = output + num_outputs;
    __asm__ volatile("vdup.32 q3, %[from]\n\t"
                     "1:\n\t"
                     "mov %[from], %[column]\n\t" BEGIN_SUMS
                     "wls lr, %[pairs], 3f\n\t"
                     "2:\n\t" ADD_TO_SUMS ADD_TO_SUMS
                     "le lr, 2b\n\t"
                     "3:\n\t"
                     "cbz %[is_odd], 4f\n\t" ADD_TO_SUMS
                     "4:\n\t"
                     "vmov q0[2], q0[0], r6, r10\n\t"
                     "vmov q0[3], q0[1], r8, r12\n\t"
                     "vldrw.32 q1, [%[tiles]], #16\n\t" /* biases */
                     "vadd.i32 q0, q0, q1\n\t"
                     "cbnz %[unusual], 6f\n\t"
                     "vldrw.32 q1, [%[tiles]], #16\n\t" /* multipliers */
                     "vqrdmulh.s32 q0, q0, q1\n\t"
                     "vldrb.s32 q1, [%[tiles]], #4\n\t" /* -1 - shift */
                     "vshr.s32 q2, q0, #31\n\t"
                     "vmvn q1, q1\n\t"
                     "vadd.i32 q0, q0, q2\n\t"
                     "vrshl.s32 q0, q0, q1\n\t"
                     "vadd.i32 q0, q0, q3\n\t"
                     "vqmovnb.s32 q0, q0\n\t"
                     "vqmovnb.s16 q0, q0\n\t"
                     "5:\n\t"
                     "vstrb.32 q0, [%[output]], #4\n\t"
                     "cmp %[output], %[end]\n\t"
                     "blo 1b\n\t"
                     "b 7f\n\t"
                     "6:\n\t" /* shifts of all kinds, any clamp */
                     "vldrb.s32 q1, [%[tiles], #16]\n\t"
                     "vmov.i32 q2, #0\n\t"
                     "vmvn q1, q1\n\t"
                     "vmax.s32 q2, q2, q1\n\t" /* to the left */
                     "vshl.s32 q0, q0, q2\n\t"
                     "vldrw.32 q2, [%[tiles]], #16\n\t"
                     "vqrdmulh.s32 q0, q0, q2\n\t"
                     "adds %[tiles], #4\n\t"
                     "vand q2, q0, q1\n\t" /* negative, and shifted to the right */
                     "vshr.s32 q2, q2, #31\n\t"
                     "vadd.i32 q0, q0, q2\n\t"
                     "vmov.i32 q2, #0\n\t"
                     "vmin.s32 q1, q1, q2\n\t"
                     "vrshl.s32 q0, q0, q1\n\t"
                     "vadd.i32 q0, q0, q3\n\t"
                     "ldrsb lr, [%[unusual], #2]\n\t"
                     "vdup.32 q1, lr\n\t"
                     "vmax.s32 q0, q0, q1\n\t"
                     "ldrsb lr, [%[unusual], #3]\n\t"
                     "vdup.32 q1, lr\n\t"
                     "vmin.s32 q0, q0, q1\n\t"
                     "b 5b\n\t"
                     "7:"
                     : [tiles] "+l"(tiles), [from] "+&r"(from), [output] "+&l"(output)
                     : [column] "h"(column), [end] "h"(end), [pairs] "r"(others / 2u),
                       [is_odd] "l"(others % 2u), [unusual] "l"(unusual)
                     : "r6", "r8", "r10", "r12", "lr", "q0", "q1", "q2", "q3", "cc", "memory");
    return tiles;
}

/* 16 inputs of four channels at two positions in 14 instructions: each vector of weights is loaded once. */
#define SIXTEEN_TWICE(multiply) \
    "vldrb.8 q0, [r3], #16\n\t" \
    "vldrb.8 q1, [r5], #16\n\t" \
    "vldrb.8 q2, [%[tiles]], #16\n\t" \
    "vldrb.8 q3, [%[tiles]], #16\n\t" \
    multiply " r0, q0, q2\n\t" \
    multiply " r8, q1, q2\n\t" \
    "vldrb.8 q2, [%[tiles]], #16\n\t" \
    multiply " r2, q0, q3\n\t" \
    multiply " r10, q1, q3\n\t" \
    "vldrb.8 q3, [%[tiles]], #16\n\t" \
    multiply " r4, q0, q2\n\t" \
    multiply " r12, q1, q2\n\t" \
    multiply " r6, q0, q3\n\t" \
    multiply " lr, q1, q3\n\t"
#define BEGIN_SUMS_TWICE SIXTEEN_TWICE("vmladav.s8")
#define ADD_TO_SUMS_TWICE SIXTEEN_TWICE("vmladava.s8")

/* What a tile begins and ends with, as eight sums leave no register for it. */
typedef struct {
    int8_t *first_output;
    int8_t *second_output;
    const int8_t *first_end;
    int32_t zero_point;
    struct {
        const int8_t *first_column;
        const int8_t *second_column;
        uint32_t others; /* steps after the first */
    } from;
} positions;

/* As `multiply`, of a usual layer at two positions. */
EQRL_OUTLINE void multiply_two(const eqrl_tiles *layer, const uint32_t *tiles, const void *columns,
                               int8_t *output, uint32_t num_inputs, uint32_t num_outputs)
{
    const int8_t *const first = (const int8_t *)columns;
    const uint32_t others = (num_inputs - 1u) / 16u;
    positions two = {
        output, output + num_outputs, output + num_outputs, layer->output_zero_point,
        {first, first + 16u * others + 16u, others},
    };
    __asm__ volatile("1:\n\t"
                     "ldm %[from], {r3, r5, r9}\n\t" BEGIN_SUMS_TWICE
                     "subs r9, #2\n\t"
                     "blt 3f\n\t"
                     "2:\n\t" ADD_TO_SUMS_TWICE ADD_TO_SUMS_TWICE
                     "subs r9, #2\n\t"
                     "bge 2b\n\t"
                     "3:\n\t"
                     "adds r9, #1\n\t"
                     "bne 4f\n\t" ADD_TO_SUMS_TWICE
                     "4:\n\t"
                     "vmov q0[2], q0[0], r0, r4\n\t"
                     "vmov q0[3], q0[1], r2, r6\n\t"
                     "vmov q1[2], q1[0], r8, r12\n\t"
                     "vmov q1[3], q1[1], r10, lr\n\t"
                     "vldrw.32 q2, [%[tiles]], #16\n\t" /* biases */
                     "ldmdb %[from], {r0, r2, r4, r6}\n\t"
                     "vadd.i32 q0, q0, q2\n\t"
                     "vadd.i32 q1, q1, q2\n\t"
                     "vldrw.32 q2, [%[tiles]], #16\n\t" /* multipliers */
                     "vqrdmulh.s32 q0, q0, q2\n\t"
                     "vqrdmulh.s32 q1, q1, q2\n\t"
                     "vshr.s32 q2, q0, #31\n\t"
                     "vshr.s32 q3, q1, #31\n\t"
                     "vadd.i32 q0, q0, q2\n\t"
                     "vadd.i32 q1, q1, q3\n\t"
                     "vldrb.s32 q2, [%[tiles]], #4\n\t" /* -1 - shift */
                     "vmvn q2, q2\n\t"
                     "vrshl.s32 q0, q0, q2\n\t"
                     "vrshl.s32 q1, q1, q2\n\t"
                     "vadd.i32 q0, q0, r6\n\t"
                     "vadd.i32 q1, q1, r6\n\t"
                     "vqmovnb.s32 q0, q0\n\t"
                     "vqmovnb.s32 q1, q1\n\t"
                     "vqmovnb.s16 q0, q0\n\t"
                     "vqmovnb.s16 q1, q1\n\t"
                     "vstrb.32 q0, [r0], #4\n\t"
                     "vstrb.32 q1, [r2], #4\n\t"
                     "strd r0, r2, [%[from], #-16]\n\t"
                     "cmp r0, r4\n\t"
                     "blo 1b"
                     : [tiles] "+l"(tiles)
                     : [from] "r"(&two.from)
                     : "r0", "r2", "r3", "r4", "r5", "r6", "r8", "r9", "r10", "r12", "lr", "q0", "q1", "q2",
                       "q3", "cc", "memory");
}

#endif

EQRL_CODE void eqrl_dense_vectors_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                                     uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs)
{
    eqrl_dense_tiles(block, input, output, column, num_rows, num_inputs, num_outputs, 16u, 1u, NULL,
                     multiply);
}

EQRL_CODE void eqrl_conv_vectors_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                                    const eqrl_window *window, uint32_t depth, uint32_t group_outputs)
{
    eqrl_conv_tiles_by_two(block, input, output, column, window, depth, group_outputs, 16u, 1u, NULL,
                           multiply, MULTIPLY_TWO);
}
