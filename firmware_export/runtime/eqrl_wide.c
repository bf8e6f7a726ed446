/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_wide.c - FULLY_CONNECTED and CONV_2D for computers, whose compilers make vectors of plain loops.
 *
 * All sums of a row, or of a row of positions, come first: two channels share each load of an input, and K, the
 * inputs rounded up to a multiple of 32, leaves no rest to a vector. Then all of them are rescaled, in any case alike.
 *
 * x86-64 multiplies bytes only where one of them has no sign. So inputs lie 128 higher there:
 * sum(w * x) = sum(w * (x + 128)) - 128 * sum(w), whose last term the block brings along.
 */
#include "eqrl_conv.h"
#include "eqrl_kernels.h"

#define ROWS 2u
#define LANES 16u
#define COLUMNS 32u

#if defined(__x86_64__) || defined(_M_X64)
typedef uint8_t wide_value;
#define RAISED_BY 128
#else
typedef int8_t wide_value;
#define RAISED_BY 0
#endif

/* A block. */
typedef struct {
    const int8_t *ranges; /* {input zero point, output zero point, output_min, output_max} */
    const int32_t *bias;
    const int32_t *multiplier;
    const int32_t *shift;
    const int8_t *weights;
    uint32_t num_columns;
    uint32_t num_rows; /* of weights of a group */
    uint32_t num_lanes; /* of a group: its output channels, rounded up */
    uint32_t all_lanes;
} wide_layer;

EQRL_HELPER uint32_t round_up(uint32_t count, uint32_t multiple)
{
    return (count + multiple - 1u) / multiple * multiple;
}

EQRL_HELPER wide_layer read_wide(const uint32_t *block, uint32_t num_inputs, uint32_t num_outputs,
                                 uint32_t num_groups)
{
    const int32_t *const words = (const int32_t *)(block + 1);
    wide_layer layer;
    layer.num_columns = round_up(num_inputs, COLUMNS);
    layer.num_rows = round_up(num_outputs, ROWS);
    layer.num_lanes = round_up(num_outputs, LANES);
    layer.all_lanes = num_groups * layer.num_lanes;
    layer.ranges = (const int8_t *)block;
    layer.bias = words + (RAISED_BY != 0 ? layer.all_lanes : 0u);
    layer.multiplier = words + 2u * layer.all_lanes;
    layer.shift = words + 3u * layer.all_lanes;
    layer.weights = (const int8_t *)(words + 4u * layer.all_lanes);
    return layer;
}

/* Multiply columns, which lie side by side, with the weights of a group. */
EQRL_OUTLINE void add_products(const wide_layer *layer, const int8_t *weights, const wide_value *columns,
                               uint32_t num_positions, eqrl_s32 *sums)
{
    const uint32_t count = layer->num_columns / COLUMNS * COLUMNS; /* a multiple, as compilers can see */
    const uint32_t num_rows = layer->num_rows;
    const uint32_t all_lanes = layer->all_lanes;
    for (uint32_t row = 0; row < num_rows; row += ROWS) {
        const int8_t *const second = weights + count;
        const wide_value *column = columns;
        eqrl_s32 *two = sums + row;
        for (uint32_t position = 0; position < num_positions; position++) {
            int32_t sum = 0;
            int32_t next_sum = 0;
            for (uint32_t i = 0; i < count; i++) {
                const int32_t value = column[i];
                sum += weights[i] * value;
                next_sum += second[i] * value;
            }
            two[0] = sum;
            two[1] = next_sum;
            column += count;
            two += all_lanes;
        }
        weights = second + count;
    }
}

/* What eqrl_requantize and eqrl_clamp compute, of as many sums as a vector has at most; nothing is hidden from
 * compilers, so that it becomes vectors.
 */
EQRL_INLINE void rescale_lanes(const wide_layer *layer, uint32_t first, const eqrl_s32 *sums, int8_t *output)
{
    const int32_t *const bias = layer->bias + first;
    const int32_t *const multiplier = layer->multiplier + first;
    const int32_t *const shifts = layer->shift + first;
    const int32_t zero_point = layer->ranges[1];
    const int32_t low = layer->ranges[2];
    const int32_t high = layer->ranges[3];
    int32_t clamped[LANES];

    for (uint32_t i = 0; i < LANES; i++) {
        const int32_t shift = shifts[i];
        const int32_t is_right = shift >> 31;
        const uint32_t sum = (uint32_t)sums[i] + (uint32_t)bias[i];
        const int32_t shifted = (int32_t)(sum << (uint32_t)(shift & ~is_right));
        const int32_t product = eqrl_rounding_high_multiply(shifted, multiplier[i]);
        const int32_t biased = product + ((product >> 31) & is_right);
        const int32_t halves = (biased >> (~shift & is_right)) - is_right;
        const int32_t scaled = (halves >> (is_right & 1)) + zero_point;
        const int32_t below = scaled - low;
        const int32_t raised = scaled - (below & (below >> 31));
        const int32_t above = high - raised;
        clamped[i] = raised + (above & (above >> 31));
    }
    for (uint32_t i = 0; i < LANES; i++) {
        output[i] = (int8_t)clamped[i];
    }
}

/* All sums of so many positions. The last lanes of a group lie where the next outputs come, or behind them all. */
EQRL_OUTLINE void rescale(const wide_layer *layer, const eqrl_s32 *sums, int8_t *output, uint32_t num_positions,
                          uint32_t num_outputs)
{
    const wide_layer own = *layer; /* which no output changes, as compilers can see */
    for (uint32_t position = 0; position < num_positions; position++) {
        for (uint32_t group = 0; group < own.all_lanes; group += own.num_lanes) {
            for (uint32_t i = 0; i < own.num_lanes; i += LANES) {
                rescale_lanes(&own, group + i, sums, output + i);
                sums += LANES;
            }
            output += num_outputs;
        }
    }
}

EQRL_OUTLINE void raise_values(const int8_t *input, wide_value *values, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        values[i] = (wide_value)(input[i] + RAISED_BY);
    }
}

EQRL_CODE void eqrl_dense_wide_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                                  uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs)
{
    const wide_layer layer = read_wide(block, num_inputs, num_outputs, 1u);
    wide_value *const values = (wide_value *)column;
    eqrl_s32 *const sums = (eqrl_s32 *)(void *)(values + layer.num_columns);

    for (uint32_t row = 0; row < num_rows; row++) {
        raise_values(input, values, num_inputs);
        add_products(&layer, layer.weights, values, 1u, sums);
        rescale(&layer, sums, output, 1u, num_outputs);
        input += num_inputs;
        output += num_outputs;
    }
}

/* The columns of a row of positions, side by side, as one group sees them. */
EQRL_HELPER void fill_columns(const wide_layer *layer, eqrl_conv_place *place, const wide_value *image,
                              wide_value *columns, const eqrl_window *window, uint32_t depth, uint32_t y)
{
    const int8_t zero = (int8_t)(layer->ranges[0] + RAISED_BY);
    for (uint32_t x = 0; x < window->x.output; x++) {
        eqrl_move_conv_place(place, window, depth, y, x);
        eqrl_fill_column(place, (const int8_t *)image, zero, (int8_t *)columns);
        columns += layer->num_columns;
    }
}

/* Without a division, as not all cores have one. */
EQRL_HELPER uint32_t count_groups(const eqrl_window *window, uint32_t depth)
{
    uint32_t num_groups = 0;
    for (uint32_t channel = 0; channel < window->input_channels; channel += depth) {
        num_groups++;
    }
    return num_groups;
}

EQRL_CODE void eqrl_conv_wide_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                                 const eqrl_window *window, uint32_t depth, uint32_t group_outputs)
{
    const uint32_t num_groups = count_groups(window, depth);
    const uint32_t num_positions = window->x.output;
    const uint32_t size = window->y.input * window->x.input * window->input_channels;
    const wide_layer layer =
        read_wide(block, window->y.kernel * window->x.kernel * depth, group_outputs, num_groups);
    wide_value *const columns = (wide_value *)column;
    eqrl_s32 *const sums = (eqrl_s32 *)(void *)(columns + num_positions * layer.num_columns);
    wide_value *const image = (wide_value *)(void *)(sums + num_positions * layer.all_lanes);
    eqrl_conv_place place;

    eqrl_begin_conv_place(&place, window, depth);
    for (uint32_t i = 0; i < window->num_images; i++) {
        raise_values(input, image, size);
        for (uint32_t y = 0; y < window->y.output; y++) {
            const int8_t *weights = layer.weights;
            for (uint32_t group = 0; group < num_groups; group++) {
                fill_columns(&layer, &place, image + group * depth, columns, window, depth, y);
                add_products(&layer, weights, columns, num_positions, sums + group * layer.num_lanes);
                weights += layer.num_rows * layer.num_columns;
            }
            rescale(&layer, sums, output, num_positions, group_outputs);
            output += num_positions * window->output_channels;
        }
        input += size;
    }
}
