/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_vectors_packed.c - weights of 4, 3 or 2 bits for Helium (Cortex-M55): fields of bytes, 16 bytes a vector.
 *
 * Byte j of a vector belongs to value j of 16 of the column. Its fields, the first lowest:
 *
 *   4 bits: two vectors for each 16 values; channels 0 and 1, then 2 and 3
 *   2 bits: a vector for each 16 values; the four channels
 *   3 bits: three vectors for each 32 values, which first have, of the first 16 values, channels 0 and 1 and the
 *           upper two bits of channel 2; then of these values, and in the upper halves of the bytes of the other
 *           16, the lowest bit of channel 2 and channel 3; then the same as first of the other 16 values. Where
 *           16 values are left at the end, they have two vectors
 *
 * The highest field of a byte is in two's complement where it is of 4 or 2 bits, and the upper bits of channel 2
 * are; the others are the weight + 2^(bits - 1), so none is negative.
 *
 * A core multiplies whole bytes, and then what an arithmetic shift leaves of them, so all sums but the last hold
 * others, times a power of two, that are taken out at the end: exact modulo 2^32, whatever the values are. The
 * exporter proves that each sum fits int32 at its end.
 */
#include "eqrl_kernels.h"
#include "eqrl_tiles.h"

#if !EQRL_HAS_MVE

EQRL_HELPER int32_t field_of(uint32_t byte, uint32_t place, uint32_t bits, uint32_t is_signed)
{
    const uint32_t sign = (uint32_t)1 << (bits - 1u);
    const uint32_t field = (byte >> place) & (2u * sign - 1u);
    return (int32_t)(is_signed != 0u ? field ^ sign : field) - (int32_t)sign;
}

/* The weight of a channel for value `index` of 16, or of 32 if bits is 3. */
EQRL_INLINE int32_t weight_of(uint32_t bits, const uint8_t *vectors, uint32_t index, uint32_t channel)
{
    const uint32_t in_byte = 8u / bits; /* fields */
    if (bits != 3u) {
        const uint32_t field = channel & (in_byte - 1u);
        const uint32_t byte = vectors[16u * (channel / in_byte) + index];
        return field_of(byte, bits * field, bits, field == in_byte - 1u ? 1u : 0u);
    }
    const uint32_t half = index / 16u;
    const uint32_t byte = vectors[32u * half + index % 16u];
    const uint32_t other = (uint32_t)vectors[16u + index % 16u] >> (4u * half);
    if (channel == 2u) {
        return 2 * field_of(byte, 6u, 2u, 1u) + (int32_t)(other & 1u);
    }
    return channel == 3u ? field_of(other, 1u, 3u, 0u) : field_of(byte, 3u * channel, 3u, 0u);
}

/* The definition. */
EQRL_INLINE const uint32_t *multiply(uint32_t bits, const eqrl_tiles *layer, const uint32_t *tiles,
                                     const void *column, int8_t *output, uint32_t num_inputs,
                                     uint32_t num_outputs)
{
    const uint32_t num_columns = eqrl_round_up(num_inputs, 16u);
    const int8_t *const values = (const int8_t *)column;
    for (uint32_t first = 0; first < num_outputs; first += 4u) {
        int32_t sums[4];
        for (uint32_t channel = 0; channel < 4u; channel++) {
            sums[channel] = eqrl_opaque(0); /* else a compiler calls memset() */
        }
        uint32_t i = 0;
        while (i < num_columns) {
            const uint32_t columns = bits == 3u && num_columns - i >= 32u ? 32u : 16u;
            for (uint32_t channel = 0; channel < 4u; channel++) {
                for (uint32_t j = 0; j < columns; j++) {
                    sums[channel] += weight_of(bits, (const uint8_t *)tiles, j, channel) * values[i + j];
                }
            }
            tiles += bits == 3u ? 4u + columns / 4u : 2u * bits;
            i += columns;
        }
        tiles = eqrl_end_tile(layer, tiles, sums, output + first, 0u);
    }
    return tiles;
}

#else

/* The sum of 16 * count values. */
EQRL_INLINE uint32_t sum_of_column(const void *column, uint32_t count)
{
    uint32_t sum = 0;
    __asm__ volatile("dls lr, %[count]\n\t"
                     "1:\n\t"
                     "vldrb.8 q0, [%[column]], #16\n\t"
                     "vaddva.s8 %[sum], q0\n\t"
                     "le lr, 1b"
                     : [column] "+r"(column), [sum] "+Te"(sum)
                     : [count] "r"(count)
                     : "lr", "q0", "cc", "memory");
    return sum;
}

/* 16 values of four channels of 4 bits: 10 instructions. */
#define SIXTEEN_INPUTS_P4 \
    "vldrb.8 q1, [%[tiles]], #16\n\t" \
    "vldrb.8 q0, [%[from]], #16\n\t" \
    "vldrb.8 q2, [%[tiles]], #16\n\t" \
    "vmladava.s8 %[both_0], q0, q1\n\t" \
    "vshr.s8 q1, q1, #4\n\t" \
    "vmladava.s8 %[both_2], q0, q2\n\t" \
    "vshr.s8 q2, q2, #4\n\t" \
    "vmladava.s8 %[sum_1], q0, q1\n\t" \
    "vmladava.s8 %[sum_3], q0, q2\n\t"

/* 16 values of four channels of 2 bits: 9 instructions. */
#define SIXTEEN_INPUTS_P2 \
    "vldrb.8 q1, [%[tiles]], #16\n\t" \
    "vldrb.8 q0, [%[from]], #16\n\t" \
    "vshr.s8 q2, q1, #2\n\t" \
    "vmladava.s8 %[from_0], q0, q1\n\t" \
    "vshr.s8 q3, q1, #4\n\t" \
    "vmladava.s8 %[from_1], q0, q2\n\t" \
    "vshr.s8 q1, q1, #6\n\t" \
    "vmladava.s8 %[from_2], q0, q3\n\t" \
    "vmladava.s8 %[sum_3], q0, q1\n\t"

/* 16 values of channels 0 and 1 of 3 bits, and of the upper bits of channel 2: 6 instructions. */
#define UPPER_BITS_P3 \
    "vldrb.8 q1, [%[tiles]], #16\n\t" \
    "vmladava.s8 %[from_0], q0, q1\n\t" \
    "vshr.s8 q1, q1, #3\n\t" \
    "vmladava.s8 %[from_1], q0, q1\n\t" \
    "vshr.s8 q1, q1, #3\n\t" \
    "vmladava.s8 %[upper], q0, q1\n\t"

/* 16 values of four channels of 3 bits: 12 instructions. q3 has 15 in all bytes. */
#define SIXTEEN_INPUTS_P3 \
    "vldrb.8 q0, [%[from]], #16\n\t" UPPER_BITS_P3 \
    "vldrb.8 q2, [%[tiles]], #16\n\t" \
    "vand q1, q2, q3\n\t" \
    "vmladava.s8 %[lower], q0, q1\n\t" \
    "vshr.u8 q1, q1, #1\n\t" \
    "vmladava.s8 %[sum_3], q0, q1\n\t"

/* 32 values: 23 instructions. */
#define THIRTY_TWO_INPUTS_P3 \
    SIXTEEN_INPUTS_P3 \
    "vldrb.8 q0, [%[from]], #16\n\t" \
    "vshr.u8 q2, q2, #4\n\t" \
    "vmladava.s8 %[lower], q0, q2\n\t" \
    "vshr.u8 q2, q2, #1\n\t" \
    "vmladava.s8 %[sum_3], q0, q2\n\t" UPPER_BITS_P3

#define LOOP(body) "dls lr, %[count]\n\t1:\n\t" body "le lr, 1b"

/* The sums of a tile's channels, modulo 2^32. */
typedef struct {
    uint32_t of_0;
    uint32_t of_1;
    uint32_t of_2;
    uint32_t of_3;
} tile_sums;

/* They begin with what fields of the tile are above weights, times `sum`: that of the column. */
EQRL_INLINE const uint32_t *dot_p4(const uint32_t *tiles, const void *from, uint32_t count, uint32_t sum,
                                   tile_sums *sums)
{
    uint32_t both_0 = 0u - 8u * sum; /* channel 0 + 16 * channel 1 */
    uint32_t both_2 = both_0;
    uint32_t sum_1 = 0;
    uint32_t sum_3 = 0;
    __asm__ volatile(LOOP(SIXTEEN_INPUTS_P4)
                     : [tiles] "+r"(tiles), [from] "+r"(from), [both_0] "+Te"(both_0), [both_2] "+Te"(both_2),
                       [sum_1] "+Te"(sum_1), [sum_3] "+Te"(sum_3)
                     : [count] "r"(count)
                     : "lr", "q0", "q1", "q2", "cc", "memory");
    sums->of_0 = both_0 - 16u * sum_1;
    sums->of_1 = sum_1;
    sums->of_2 = both_2 - 16u * sum_3;
    sums->of_3 = sum_3;
    return tiles;
}

EQRL_INLINE const uint32_t *dot_p3(const uint32_t *tiles, const void *from, uint32_t count, uint32_t sum,
                                   tile_sums *sums)
{
    uint32_t from_0 = 0u - 36u * sum; /* channel 0 + 8 * from_1 */
    uint32_t from_1 = 0u - 4u * sum;  /* channel 1 + 8 * upper */
    uint32_t upper = 0;               /* bits of channel 2 */
    uint32_t lower = 0u - 8u * sum;   /* the lowest bit of channel 2, + 2 * channel 3 */
    uint32_t sum_3 = 0u - 4u * sum;
    __asm__ volatile("vmov.i8 q3, #15\n\t"
                     "wls lr, %[thirty_twos], 2f\n\t"
                     "1:\n\t" THIRTY_TWO_INPUTS_P3
                     "le lr, 1b\n"
                     "2:\n\t"
                     "cbz %[is_odd], 3f\n\t" SIXTEEN_INPUTS_P3
                     "3:"
                     : [tiles] "+r"(tiles), [from] "+r"(from), [from_0] "+Te"(from_0), [from_1] "+Te"(from_1),
                       [upper] "+Te"(upper), [lower] "+Te"(lower), [sum_3] "+Te"(sum_3)
                     : [thirty_twos] "r"(count / 2u), [is_odd] "l"(count & 1u)
                     : "lr", "q0", "q1", "q2", "q3", "cc", "memory");
    sums->of_0 = from_0 - 8u * from_1;
    sums->of_1 = from_1 - 8u * upper;
    sums->of_2 = 2u * upper + lower - 2u * sum_3;
    sums->of_3 = sum_3;
    return tiles;
}

EQRL_INLINE const uint32_t *dot_p2(const uint32_t *tiles, const void *from, uint32_t count, uint32_t sum,
                                   tile_sums *sums)
{
    uint32_t from_0 = 0u - 42u * sum; /* channel 0 + 4 * from_1 */
    uint32_t from_1 = 0u - 10u * sum; /* channel 1 + 4 * from_2 */
    uint32_t from_2 = 0u - 2u * sum;  /* channel 2 + 4 * channel 3 */
    uint32_t sum_3 = 0;
    __asm__ volatile(LOOP(SIXTEEN_INPUTS_P2)
                     : [tiles] "+r"(tiles), [from] "+r"(from), [from_0] "+Te"(from_0), [from_1] "+Te"(from_1),
                       [from_2] "+Te"(from_2), [sum_3] "+Te"(sum_3)
                     : [count] "r"(count)
                     : "lr", "q0", "q1", "q2", "q3", "cc", "memory");
    sums->of_0 = from_0 - 4u * from_1;
    sums->of_1 = from_1 - 4u * from_2;
    sums->of_2 = from_2 - 4u * sum_3;
    sums->of_3 = sum_3;
    return tiles;
}

/* q0 = the sums and their biases. */
#define SUMS_AND_BIASES \
    "vmov q0[2], q0[0], %[sum_0], %[sum_2]\n\t" \
    "vmov q0[3], q0[1], %[sum_1], %[sum_3]\n\t" \
    "vldrw.32 q1, [%[tiles]], #16\n\t" \
    "vadd.i32 q0, q0, q1\n\t"
#define SUMS \
    [sum_0] "r"(sums->of_0), [sum_1] "r"(sums->of_1), [sum_2] "r"(sums->of_2), [sum_3] "r"(sums->of_3)

/* Rescale and store the sums of a usual tile: 16 instructions. Returns what follows it. */
EQRL_INLINE const uint32_t *end_usual(const uint32_t *tiles, const tile_sums *sums, int32_t output_zero_point,
                                      int8_t *output)
{
    __asm__ volatile(SUMS_AND_BIASES
                     "vldrw.32 q1, [%[tiles]], #16\n\t" /* multipliers */
                     "vqrdmulh.s32 q0, q0, q1\n\t"
                     "vldrb.s32 q1, [%[tiles]], #4\n\t" /* -1 - shift */
                     "vshr.s32 q2, q0, #31\n\t" /* halves go away from zero: lower what is negative by 1, */
                     "vmvn q1, q1\n\t"
                     "vadd.i32 q0, q0, q2\n\t"
                     "vrshl.s32 q0, q0, q1\n\t" /* and then up */
                     "vdup.32 q1, %[zero_point]\n\t"
                     "vadd.i32 q0, q0, q1\n\t"
                     "vqmovnb.s32 q0, q0\n\t"
                     "vqmovnb.s16 q0, q0\n\t"
                     "vstrb.32 q0, [%[output]]"
                     : [tiles] "+l"(tiles)
                     : [output] "l"(output), [zero_point] "r"(output_zero_point), SUMS
                     : "q0", "q1", "q2", "memory");
    return tiles;
}

/* The same with shifts of all kinds and any clamp. */
EQRL_INLINE const uint32_t *end_unusual(const eqrl_tiles *layer, const uint32_t *tiles, const tile_sums *sums,
                                        int8_t *output)
{
    int32_t number = layer->output_zero_point;
    __asm__ volatile(SUMS_AND_BIASES
                     "vldrb.s32 q1, [%[tiles], #16]\n\t"
                     "vmov.i32 q2, #0\n\t"
                     "vmvn q1, q1\n\t"         /* the shift */
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
                     "vdup.32 q1, %[number]\n\t"
                     "vadd.i32 q0, q0, q1\n\t"
                     "ldrsb %[number], [%[layer], #2]\n\t"
                     "vdup.32 q1, %[number]\n\t"
                     "vmax.s32 q0, q0, q1\n\t"
                     "ldrsb %[number], [%[layer], #3]\n\t"
                     "vdup.32 q1, %[number]\n\t"
                     "vmin.s32 q0, q0, q1\n\t"
                     "vstrb.32 q0, [%[output]]"
                     : [tiles] "+l"(tiles), [number] "+r"(number)
                     : [output] "l"(output), [layer] "r"(layer), SUMS
                     : "q0", "q1", "q2", "cc", "memory");
    return tiles;
}

EQRL_INLINE const uint32_t *multiply(uint32_t bits, const eqrl_tiles *layer, const uint32_t *tiles,
                                     const void *column, int8_t *output, uint32_t num_inputs,
                                     uint32_t num_outputs)
{
    const uint32_t count = eqrl_round_up(num_inputs, 16u) / 16u;
    const uint32_t sum = sum_of_column(column, count);
    const int8_t *const end = output + num_outputs;
    for (; output < end; output += 4) {
        tile_sums sums;
        if (bits == 4u) {
            tiles = dot_p4(tiles, column, count, sum, &sums);
        } else if (bits == 3u) {
            tiles = dot_p3(tiles, column, count, sum, &sums);
        } else {
            tiles = dot_p2(tiles, column, count, sum, &sums);
        }
        if (layer->is_usual != 0u) {
            tiles = end_usual(tiles, &sums, layer->output_zero_point, output);
        } else {
            tiles = end_unusual(layer, tiles, &sums, output);
        }
    }
    return tiles;
}

#endif

EQRL_OUTLINE const uint32_t *multiply_p4(const eqrl_tiles *layer, const uint32_t *tiles, const void *column,
                                         int8_t *output, uint32_t num_inputs, uint32_t num_outputs)
{
    return multiply(4u, layer, tiles, column, output, num_inputs, num_outputs);
}

EQRL_OUTLINE const uint32_t *multiply_p3(const eqrl_tiles *layer, const uint32_t *tiles, const void *column,
                                         int8_t *output, uint32_t num_inputs, uint32_t num_outputs)
{
    return multiply(3u, layer, tiles, column, output, num_inputs, num_outputs);
}

EQRL_OUTLINE const uint32_t *multiply_p2(const eqrl_tiles *layer, const uint32_t *tiles, const void *column,
                                         int8_t *output, uint32_t num_inputs, uint32_t num_outputs)
{
    return multiply(2u, layer, tiles, column, output, num_inputs, num_outputs);
}

EQRL_CODE void eqrl_dense_vectors_p4_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                                        void *column, uint32_t num_rows, uint32_t num_inputs,
                                        uint32_t num_outputs)
{
    eqrl_dense_tiles(block, input, output, column, num_rows, num_inputs, num_outputs, 16u, 1u, NULL,
                     multiply_p4);
}

EQRL_CODE void eqrl_dense_vectors_p3_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                                        void *column, uint32_t num_rows, uint32_t num_inputs,
                                        uint32_t num_outputs)
{
    eqrl_dense_tiles(block, input, output, column, num_rows, num_inputs, num_outputs, 16u, 1u, NULL,
                     multiply_p3);
}

EQRL_CODE void eqrl_dense_vectors_p2_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                                        void *column, uint32_t num_rows, uint32_t num_inputs,
                                        uint32_t num_outputs)
{
    eqrl_dense_tiles(block, input, output, column, num_rows, num_inputs, num_outputs, 16u, 1u, NULL,
                     multiply_p2);
}

EQRL_CODE void eqrl_conv_vectors_p4_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                                       void *column, const eqrl_window *window, uint32_t depth,
                                       uint32_t group_outputs)
{
    eqrl_conv_tiles(block, input, output, column, window, depth, group_outputs, 16u, 1u, NULL,
                    multiply_p4);
}

EQRL_CODE void eqrl_conv_vectors_p3_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                                       void *column, const eqrl_window *window, uint32_t depth,
                                       uint32_t group_outputs)
{
    eqrl_conv_tiles(block, input, output, column, window, depth, group_outputs, 16u, 1u, NULL,
                    multiply_p3);
}

EQRL_CODE void eqrl_conv_vectors_p2_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                                       void *column, const eqrl_window *window, uint32_t depth,
                                       uint32_t group_outputs)
{
    eqrl_conv_tiles(block, input, output, column, window, depth, group_outputs, 16u, 1u, NULL,
                    multiply_p2);
}
