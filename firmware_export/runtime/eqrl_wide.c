/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_wide.c - FULLY_CONNECTED and CONV_2D for computers.
 *
 * A tile is 16 output channels: four inputs' weights of the first, four of the next, and so on, then the next four
 * inputs. So a vector of weights meets four inputs that are the same in all its lanes, sums of channels lie in lanes,
 * and nothing is summed across a vector. Inputs that lie side by side are a run: a row of a dense layer, a row of a
 * window, or less where it is dilated or sees one group of several. Runs are rounded up to a multiple of four, with
 * weights of 0, and read where they lie. All sums of a row, or of a row of positions, come first; then all of them
 * are rescaled, in any case alike.
 *
 * x86-64 multiplies bytes only where one of them has no sign. So inputs lie 128 higher there:
 * sum(w * x) = sum(w * (x + 128)) - 128 * sum(w), whose last term the block brings along.
 */
#include "eqrl_kernels.h"
#include "eqrl_linear.h"
#include "eqrl_wide.h"

/* The runs that an output sees, as a window does: row by row, each num_runs of them. */
typedef struct {
    uint32_t num_rows;
    uint32_t row_stride;
    uint32_t num_runs;
    uint32_t run_stride;
    uint32_t num_fours; /* of a run */
} wide_runs;

/* A block. */
typedef struct {
    const int8_t *ranges; /* {input zero point, output zero point, output_min, output_max} */
    const int32_t *bias;
    const int32_t *multiplier;
    const int32_t *shift;
    const int8_t *weights;
    uint32_t tile_weights;
    uint32_t num_lanes; /* of a group: its output channels, rounded up */
    uint32_t all_lanes;
} wide_layer;

/* Of outputs. */
typedef struct {
    int32_t zero_point;
    int32_t low;
    int32_t high;
} wide_range;

EQRL_HELPER uint32_t round_up(uint32_t count, uint32_t multiple)
{
    return (count + multiple - 1u) / multiple * multiple;
}

EQRL_HELPER wide_layer read_wide(const uint32_t *block, const wide_runs *runs, uint32_t num_outputs,
                                 uint32_t num_groups)
{
    const int32_t *const words = (const int32_t *)(block + 1);
    wide_layer layer;
    layer.tile_weights = runs->num_rows * runs->num_runs * runs->num_fours * FOUR * LANES;
    layer.num_lanes = round_up(num_outputs, LANES);
    layer.all_lanes = num_groups * layer.num_lanes;
    layer.ranges = (const int8_t *)block;
    layer.bias = words + (RAISED_BY != 0 ? layer.all_lanes : 0u);
    layer.multiplier = words + 2u * layer.all_lanes;
    layer.shift = words + 3u * layer.all_lanes;
    layer.weights = (const int8_t *)(words + 4u * layer.all_lanes);
    return layer;
}

#if TILES > PLACES
#define SUMS TILES
#else
#define SUMS PLACES
#endif

/* The sums of so many tiles for so many positions, whose inputs lie `stride` apart. Both numbers are constants. */
EQRL_INLINE void sum_block(const wide_layer *layer, const wide_runs *runs, const int8_t *weights,
                           const wide_value *row, uint32_t stride, eqrl_s32 *sums, const uint32_t num_tiles,
                           const uint32_t num_places)
{
    wide_sums all[SUMS];
    for (uint32_t i = 0; i < num_tiles * num_places; i++) {
        clear_sums(&all[i]);
    }
    for (uint32_t y = 0; y < runs->num_rows; y++) {
        const wide_value *run = row;
        for (uint32_t x = 0; x < runs->num_runs; x++) {
            for (uint32_t k = 0; k < runs->num_fours; k++) {
                for (uint32_t tile = 0; tile < num_tiles; tile++) {
                    wide_weights some;
                    load_weights(&some, weights + tile * layer->tile_weights);
                    for (uint32_t place = 0; place < num_places; place++) {
                        add_four(&all[tile + place], &some, run + place * stride + k * FOUR);
                    }
                }
                weights += FOUR * LANES;
            }
            run += runs->run_stride;
        }
        row += runs->row_stride;
    }
    for (uint32_t tile = 0; tile < num_tiles; tile++) {
        for (uint32_t place = 0; place < num_places; place++) {
            store_sums(&all[tile + place], sums + tile * LANES + place * layer->all_lanes);
        }
    }
}

/* All sums of a group: several tiles at once for few positions, several positions at once for many. */
EQRL_OUTLINE void add_products(const wide_layer *layer, const wide_runs *runs, const int8_t *weights,
                               const wide_value *values, uint32_t stride, uint32_t num_positions,
                               eqrl_s32 *sums)
{
    const wide_layer own = *layer; /* which no sum changes, as compilers can see */
    const wide_runs of = *runs;
    uint32_t lane = 0;
    for (; num_positions < PLACES && lane + TILES * LANES <= own.num_lanes; lane += TILES * LANES) {
        for (uint32_t i = 0; i < num_positions; i++) {
            sum_block(&own, &of, weights, values + i * stride, 0u, sums + lane + i * own.all_lanes, TILES, 1u);
        }
        weights += TILES * own.tile_weights;
    }
    for (; lane < own.num_lanes; lane += LANES) {
        const wide_value *place = values;
        eqrl_s32 *target = sums + lane;
        uint32_t left = num_positions;
        for (; left >= PLACES; left -= PLACES) {
            sum_block(&own, &of, weights, place, stride, target, 1u, PLACES);
            place += PLACES * stride;
            target += PLACES * own.all_lanes;
        }
        for (; left > 0u; left--) {
            sum_block(&own, &of, weights, place, stride, target, 1u, 1u);
            place += stride;
            target += own.all_lanes;
        }
        weights += own.tile_weights;
    }
}

/* Vectors have a minimum and a maximum, which no value takes another way through. */
EQRL_INLINE int32_t clamp(int32_t value, const wide_range *range)
{
#if IS_X64 || defined(__ARM_NEON)
    const int32_t raised = value < range->low ? range->low : value;
    return raised > range->high ? range->high : raised;
#else
    return eqrl_clamp(value, range->low, range->high);
#endif
}

/* What eqrl_requantize and eqrl_clamp compute, of as many sums as a vector has at most; nothing of the rest is
 * hidden from compilers, so that it becomes vectors.
 */
EQRL_INLINE void rescale_lanes(const wide_layer *layer, const wide_range *range, uint32_t first,
                               const eqrl_s32 *sums, int8_t *output)
{
    const int32_t *const bias = layer->bias + first;
    const int32_t *const multiplier = layer->multiplier + first;
    const int32_t *const shifts = layer->shift + first;
    int32_t clamped[LANES];

    for (uint32_t i = 0; i < LANES; i++) {
        const int32_t shift = shifts[i];
        const int32_t is_right = shift >> 31;
        const uint32_t sum = (uint32_t)sums[i] + (uint32_t)bias[i];
        const int32_t shifted = (int32_t)(sum << (uint32_t)(shift & ~is_right));
        const int32_t product = eqrl_rounding_high_multiply(shifted, multiplier[i]);
        const int32_t biased = product + ((product >> 31) & is_right);
        const int32_t halves = (biased >> (~shift & is_right)) - is_right;
        clamped[i] = clamp((halves >> (is_right & 1)) + range->zero_point, range);
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
    const wide_range range = {own.ranges[1], own.ranges[2], own.ranges[3]};
    for (uint32_t position = 0; position < num_positions; position++) {
        for (uint32_t group = 0; group < own.all_lanes; group += own.num_lanes) {
            for (uint32_t i = 0; i < own.num_lanes; i += LANES) {
                rescale_lanes(&own, &range, group + i, sums, output + i);
                sums += LANES;
            }
            output += num_outputs;
        }
    }
}

EQRL_INLINE void raise_values(const int8_t *input, wide_value *values, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        values[i] = (wide_value)(input[i] + RAISED_BY);
    }
}

EQRL_CODE void eqrl_dense_wide_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                                  uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs)
{
    const wide_runs runs = {1u, 0u, 1u, 0u, round_up(num_inputs, FOUR) / FOUR};
    const wide_layer layer = read_wide(block, &runs, num_outputs, 1u);
    wide_value *const values = (wide_value *)column;
    eqrl_s32 *const sums = (eqrl_s32 *)(void *)(values + runs.num_fours * FOUR);

    for (uint32_t row = 0; row < num_rows; row++) {
        raise_values(input, values, num_inputs);
        add_products(&layer, &runs, layer.weights, values, 0u, 1u, sums);
        rescale(&layer, sums, output, 1u, num_outputs);
        input += num_inputs;
        output += num_outputs;
    }
}

/* How far windows reach, from the beginning of the padding. */
EQRL_HELPER uint32_t reach(const eqrl_axis *axis)
{
    return (axis->output - 1u) * axis->stride + (axis->kernel - 1u) * axis->dilation + 1u;
}

EQRL_OUTLINE void fill_values(wide_value *values, wide_value value, uint32_t count)
{
    EQRL_ROLLED
    for (uint32_t i = 0; i < count; i++) {
        values[i] = (wide_value)eqrl_opaque(value); /* no memset */
    }
}

EQRL_HELPER uint32_t at_most(uint32_t limit, uint32_t value)
{
    return value < limit ? value : limit;
}

/* What windows see of an image, with its padding: so that all of them lie inside. */
EQRL_OUTLINE void raise_image(const int8_t *input, wide_value *image, const eqrl_window *window, wide_value zero)
{
    const uint32_t height = reach(&window->y);
    const uint32_t width = reach(&window->x) * window->input_channels;
    const uint32_t input_width = window->x.input * window->input_channels;
    const uint32_t before = at_most(width, window->x.padding * window->input_channels);
    const uint32_t inside = at_most(width - before, input_width);

    for (uint32_t y = 0; y < height; y++) {
        if (y >= window->y.padding && y - window->y.padding < window->y.input) {
            fill_values(image, zero, before);
            raise_values(input, image + before, inside);
            fill_values(image + before + inside, zero, width - before - inside);
            input += input_width;
        } else {
            fill_values(image, zero, width);
        }
        image += width;
    }
}

/* The runs of a window in such an image. */
EQRL_HELPER wide_runs find_runs(const eqrl_window *window, uint32_t depth)
{
    const uint32_t channels = window->input_channels;
    const uint32_t is_whole = window->x.dilation == 1u && depth == channels ? 1u : 0u;
    wide_runs runs;
    runs.num_rows = window->y.kernel;
    runs.row_stride = window->y.dilation * reach(&window->x) * channels;
    runs.num_runs = is_whole != 0u ? 1u : window->x.kernel;
    runs.run_stride = window->x.dilation * channels;
    runs.num_fours = round_up(is_whole != 0u ? window->x.kernel * depth : depth, FOUR) / FOUR;
    return runs;
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
    const uint32_t stride = window->x.stride * window->input_channels;
    const uint32_t row_stride = window->y.stride * reach(&window->x) * window->input_channels;
    const wide_runs runs = find_runs(window, depth);
    const wide_layer layer = read_wide(block, &runs, group_outputs, num_groups);
    const wide_value zero = (wide_value)(layer.ranges[0] + RAISED_BY);
    eqrl_s32 *const sums = (eqrl_s32 *)column;
    wide_value *const image = (wide_value *)(void *)(sums + num_positions * layer.all_lanes);

    for (uint32_t i = 0; i < window->num_images; i++) {
        const wide_value *row = image;
        raise_image(input, image, window, zero);
        for (uint32_t y = 0; y < window->y.output; y++) {
            const int8_t *weights = layer.weights;
            for (uint32_t group = 0; group < num_groups; group++) {
                add_products(&layer, &runs, weights, row + group * depth, stride, num_positions,
                             sums + group * layer.num_lanes);
                weights += layer.num_lanes / LANES * layer.tile_weights;
            }
            rescale(&layer, sums, output, num_positions, group_outputs);
            output += num_positions * window->output_channels;
            row += row_stride;
        }
        input += window->y.input * window->x.input * window->input_channels;
    }
}
