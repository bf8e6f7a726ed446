/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_tiles.h - weights in tiles, as cores eat them. For generated code and the runtime, not for callers.
 *
 * A tile is what four output channels need: their weights in the order in which a core's inner loop reads them,
 * then what rescales their sums. One pointer walks through a whole layer. A layer is the product of its tiles
 * and a column: the inputs of one row, or of one position of a window.
 *
 *     order     column                     weights of a tile                        for
 *     quads     int8 [K]                   int8 [K][4 channels]                     Cortex-M3, RV32
 *     biased    uint8 [K]: value + 128     uint8 [K][4 channels]: weight + 128      Cortex-M0, M0+
 *               and a word, see there
 *     lanes     int16 [K], eqrl_lanes.c    int16 [K][2]: two channels in each       Cortex-M4, M7, M33
 *     vectors   int8 [K]                   int8 [K / 16][4 channels][16]            Cortex-M55
 *
 * Columns of two positions of a window may follow one another: in vectors.
 *
 * Weights of 4, 3 and 2 bits lie in tiles of lanes and of vectors, as eqrl_lanes_packed.c and eqrl_vectors_packed.c
 * say, and of other cores in the units of eqrl_packed.h.
 *
 * K is the number of inputs rounded up to a multiple of 4, of vectors 16; weights are 0 from the last input on.
 * Where a layer, or a group of one, has no multiple of four channels, its last tile computes more, which lie behind
 * the output: there is room for them.
 */
#ifndef EQRL_TILES_H
#define EQRL_TILES_H

#include "eqrl_conv.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a block begins with; the tiles follow. */
typedef struct {
    int8_t input_zero_point;
    int8_t output_zero_point;
    int8_t output_min;
    int8_t output_max;
    /* Whether, as the exporter has proved, no sum is above 2^29, all shifts are to the right, by 1 to 24, the
     * clamp is to all of int8, and lanes need no runs.
     */
    uint32_t is_usual;
    uint32_t run; /* of lanes: columns, a multiple of 16, after which the sums of two channels are parted */
} eqrl_tiles;

/* What a tile ends with. */
typedef struct {
    int32_t bias[4]; /* the input's zero point folded in; of usual quads and lanes doubled */
    int32_t multiplier[4];
    int8_t right[4]; /* -1 - shift */
} eqrl_tile_scales;

/* How an order multiplies a column, 4-aligned, with `tiles` of `layer`; returns what follows them. */
typedef const uint32_t *eqrl_multiply(const eqrl_tiles *layer, const uint32_t *tiles, const void *column,
                                      int8_t *output, uint32_t num_inputs, uint32_t num_outputs);

/* How it makes the column of num_inputs values, which may lie at the end of the column's room. */
typedef void eqrl_prepare(const int8_t *values, void *column, uint32_t num_inputs);

/* Rescale four sums in any case, with biases that are doubled (1) or not (0); returns what follows the tile. */
EQRL_OUTLINE const uint32_t *eqrl_end_tile(const eqrl_tiles *layer, const uint32_t *end, const int32_t sums[4],
                                           int8_t *output, uint32_t doubled)
{
    const eqrl_tile_scales *const scales = (const eqrl_tile_scales *)end;
    for (uint32_t i = 0; i < 4u; i++) {
        const int32_t sum = sums[i] + (scales->bias[i] >> doubled);
        const int32_t scaled = eqrl_requantize(sum, scales->multiplier[i], -1 - scales->right[i]);
        output[i] =
            (int8_t)eqrl_clamp(scaled + layer->output_zero_point, layer->output_min, layer->output_max);
    }
    return end + sizeof *scales / sizeof *end;
}

#if EQRL_HAS_LONG_MULTIPLY
/* The same for usual layers whose biases are doubled: both roundings without a case, as cores' own kernels do it. */
EQRL_OUTLINE const uint32_t *eqrl_end_usual_tile(const eqrl_tiles *layer, const uint32_t *end,
                                                 const int32_t sums[4], int8_t *output)
{
    const eqrl_tile_scales *const scales = (const eqrl_tile_scales *)end;
    const int32_t odd = 2 * layer->output_zero_point + 1;
    for (uint32_t i = 0; i < 4u; i++) {
        const int32_t doubled = 2 * sums[i] + scales->bias[i];
        const int64_t product = (int64_t)doubled * scales->multiplier[i];
        const int32_t high = (int32_t)((product + ((int64_t)1 << 31)) >> 32);
        const int32_t biased = high + eqrl_is_negative(high);
        output[i] = (int8_t)eqrl_clamp(((biased >> scales->right[i]) + odd) >> 1, -128, 127);
    }
    return end + sizeof *scales / sizeof *end;
}
#else
EQRL_HELPER const uint32_t *eqrl_end_usual_tile(const eqrl_tiles *layer, const uint32_t *end,
                                                const int32_t sums[4], int8_t *output)
{
    return eqrl_end_tile(layer, end, sums, output, 1u);
}
#endif

EQRL_HELPER uint32_t eqrl_round_up(uint32_t count, uint32_t multiple)
{
    return (count + multiple - 1u) & ~(multiple - 1u);
}

/* FULLY_CONNECTED: all rows. `columns` and `column_bytes` are the order's: what K is a multiple of, and the bytes
 * of one value.
 */
EQRL_INLINE void eqrl_dense_tiles(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                                  uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs,
                                  uint32_t columns, uint32_t column_bytes, eqrl_prepare *prepare,
                                  eqrl_multiply *multiply)
{
    const eqrl_tiles *const layer = (const eqrl_tiles *)block;
    const uint32_t *const tiles = block + sizeof *layer / sizeof *block;

    for (uint32_t row = 0; row < num_rows; row++) {
        const int8_t *values = input;
        if (num_inputs % columns != 0u) { /* it may be read beyond its end, and by words */
            int8_t *const end = (int8_t *)column + (column_bytes - 1u) * eqrl_round_up(num_inputs, columns);
            eqrl_copy(end, input, num_inputs);
            values = end;
        }
        const void *made = values;
        if (prepare != NULL) {
            prepare(values, column, num_inputs);
            made = column;
        }
        (void)multiply(layer, tiles, made, output, num_inputs, num_outputs);
        input += num_inputs;
        output += num_outputs;
    }
}

/* How an order multiplies two columns, one behind the other, with all tiles of a usual layer; num_outputs is a
 * multiple of 4, and the second's outputs follow those of the first.
 */
typedef void eqrl_multiply_two(const eqrl_tiles *layer, const uint32_t *tiles, const void *columns,
                               int8_t *output, uint32_t num_inputs, uint32_t num_outputs);

/* CONV_2D: all groups of all positions. `multiply_two` is NULL in orders that have none. */
EQRL_INLINE void eqrl_conv_tiles_by_two(const uint32_t *block, const int8_t *input, int8_t *output,
                                        void *column, const eqrl_window *window, uint32_t depth,
                                        uint32_t group_outputs, uint32_t columns, uint32_t column_bytes,
                                        eqrl_prepare *prepare, eqrl_multiply *multiply,
                                        eqrl_multiply_two *multiply_two)
{
    const eqrl_tiles *const layer = (const eqrl_tiles *)block;
    const uint32_t num_inputs = window->y.kernel * window->x.kernel * depth;
    const uint32_t num_columns = eqrl_round_up(num_inputs, columns);
    int8_t *const values = (int8_t *)column + (column_bytes - 1u) * num_columns;
    /* Where the last tile has less than four channels, it would write into the second outputs. */
    const uint32_t is_two = multiply_two != NULL && layer->is_usual != 0u && group_outputs % 4u == 0u &&
                            depth == window->input_channels;
    eqrl_conv_place place;

    eqrl_begin_conv_place(&place, window, depth);
    for (uint32_t image = 0; image < window->num_images; image++) {
        for (uint32_t y = 0; y < window->y.output; y++) {
            for (uint32_t x = 0; x < window->x.output; x++) {
                const uint32_t *tiles = block + sizeof *layer / sizeof *block;
                EQRL_READ_AGAIN(window);
                eqrl_move_conv_place(&place, window, depth, y, x);
                if (is_two != 0u && x + 1u < window->x.output) {
                    eqrl_fill_column(&place, input, layer->input_zero_point, values);
                    x++;
                    eqrl_move_conv_place(&place, window, depth, y, x);
                    eqrl_fill_column(&place, input, layer->input_zero_point, values + num_columns);
                    multiply_two(layer, tiles, column, output, num_inputs, group_outputs);
                    output += 2u * group_outputs;
                    continue;
                }
                for (uint32_t group = 0; group < window->input_channels; group += depth) {
                    eqrl_fill_column(&place, input + group, layer->input_zero_point, values);
                    if (prepare != NULL) {
                        prepare(values, column, num_inputs);
                    }
                    tiles = multiply(layer, tiles, column, output, num_inputs, group_outputs);
                    output += group_outputs;
                }
            }
        }
        input += window->y.input * window->x.input * window->input_channels;
    }
}

EQRL_INLINE void eqrl_conv_tiles(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                                 const eqrl_window *window, uint32_t depth, uint32_t group_outputs,
                                 uint32_t columns, uint32_t column_bytes, eqrl_prepare *prepare,
                                 eqrl_multiply *multiply)
{
    eqrl_conv_tiles_by_two(block, input, output, column, window, depth, group_outputs, columns, column_bytes,
                           prepare, multiply, NULL);
}

#ifdef __cplusplus
}
#endif

#endif
