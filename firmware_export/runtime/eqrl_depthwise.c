/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_depthwise.c - DEPTHWISE_CONV_2D with strides, dilations, padding and a depth multiplier. Portable C.
 *
 * Two output channels at a time share the loops over the window; an odd last one is computed twice.
 */
#include "eqrl_kernels.h"
#include "eqrl_linear.h"

/* A position of the window, and what it sees. */
typedef struct {
    eqrl_span y;
    eqrl_span x;
    uint32_t num_rows; /* of the window */
    uint32_t num_columns;
    uint32_t num_outputs;   /* channels: as far apart are the weights of one of them */
    uint32_t start;         /* the first input of channel 0 */
    uint32_t column_stride; /* from column to column of the window in the input */
    uint32_t row_stride;
} depthwise_place;

EQRL_CODE static void find_place(depthwise_place *place, const eqrl_window *window, uint32_t y, uint32_t x)
{
    const uint32_t channels = window->input_channels;
    place->y = eqrl_span_at(&window->y, y);
    place->x = eqrl_span_at(&window->x, x);
    place->num_rows = window->y.kernel;
    place->num_columns = window->x.kernel;
    place->num_outputs = window->output_channels;
    place->start = (place->y.start * window->x.input + place->x.start) * channels;
    place->column_stride = window->x.dilation * channels;
    place->row_stride = window->y.dilation * window->x.input * channels;
}

/* Go to the next output channel: each input channel has `multiplier` of them. */
EQRL_HELPER void next_channel(uint32_t *input_channel, uint32_t *index, uint32_t multiplier)
{
    *index += 1u;
    if (*index == multiplier) {
        *index = 0u;
        *input_channel += 1u;
    }
}

/* Add weights times `zero_point`, from weight `at` on; those of the next channel lie `to_next` further. */
EQRL_OUTLINE void add_weights(const int8_t *weights, uint32_t at, uint32_t to_next, uint32_t stride,
                              uint32_t count, int32_t zero_point, int32_t sums[2])
{
    int32_t sum = 0;
    int32_t next_sum = 0;
    for (; count > 0u; count--) {
        sum += weights[at];
        next_sum += weights[at + to_next];
        at += stride;
    }
    sums[0] += sum * zero_point;
    sums[1] += next_sum * zero_point;
}

/* Padding is an input of `zero_point`: what the folded bias took away for it comes back. */
EQRL_HELPER void pad_pair(const int8_t *weights, uint32_t at, uint32_t to_next, uint32_t stride,
                          uint32_t count, int32_t zero_point, int32_t sums[2])
{
    if (count > 0u) { /* most windows have none */
        add_weights(weights, at, to_next, stride, count, zero_point, sums);
    }
}

/* input and weights: of the first channel; of the other they lie this much further. */
EQRL_OUTLINE void sum_pair_s8(const depthwise_place *place, const int8_t *input, uint32_t to_next_input,
                              const int8_t *weights, uint32_t to_next, int32_t zero_point, int32_t sums[2])
{
    const uint32_t stride = place->num_outputs;
    const uint32_t column_stride = place->column_stride;
    const uint32_t before = place->x.first;
    const uint32_t after = place->num_columns - place->x.last;
    const uint32_t below = (place->num_rows - place->y.last) * place->num_columns;
    uint32_t row = place->start;
    uint32_t at = place->y.first * place->num_columns;

    pad_pair(weights, 0u, to_next, stride, at, zero_point, sums);
    at *= stride;
    for (uint32_t ky = place->y.first; ky < place->y.last; ky++) {
        uint32_t from = row;
        int32_t sum = 0;
        int32_t next_sum = 0;
        pad_pair(weights, at, to_next, stride, before, zero_point, sums);
        at += before * stride;
        for (uint32_t count = place->x.last - before; count > 0u; count--) {
            sum += weights[at] * input[from];
            next_sum += weights[at + to_next] * input[from + to_next_input];
            at += stride;
            from += column_stride;
        }
        sums[0] += sum;
        sums[1] += next_sum;
        pad_pair(weights, at, to_next, stride, after, zero_point, sums);
        at += after * stride;
        row += place->row_stride;
    }
    pad_pair(weights, at, to_next, stride, below, zero_point, sums);
}

/* The sum of what one input channel has in the window; padding is an input of `zero_point`. */
EQRL_OUTLINE int32_t sum_channel_s8(const depthwise_place *place, const int8_t *input, int32_t zero_point)
{
    const uint32_t width = place->x.last - place->x.first;
    const uint32_t num_inputs = (place->y.last - place->y.first) * width;
    int32_t sum = (int32_t)(place->num_rows * place->num_columns - num_inputs) * zero_point;
    uint32_t row = place->start;

    for (uint32_t ky = place->y.first; ky < place->y.last; ky++) {
        uint32_t from = row;
        for (uint32_t count = width; count > 0u; count--) {
            sum += input[from];
            from += place->column_stride;
        }
        row += place->row_stride;
    }
    return sum;
}

/* All output channels of a position. */
EQRL_INLINE void depthwise_at_s8(const eqrl_linear_s8 *linear, const depthwise_place *place,
                                 const int8_t *input, int8_t *output, uint32_t multiplier,
                                 uint32_t has_zero_points)
{
    uint32_t input_channel = 0;
    uint32_t index = 0;

    for (uint32_t channel = 0; channel < place->num_outputs; channel += 2u) {
        const uint32_t to_next = channel + 1u < place->num_outputs ? 1u : 0u;
        const int8_t *const first_input = input + input_channel;
        next_channel(&input_channel, &index, multiplier);
        const uint32_t to_next_input = to_next * (uint32_t)(input + input_channel - first_input);
        next_channel(&input_channel, &index, multiplier);
        int32_t input_sums[2] = {0, 0};
        if (has_zero_points != 0u) {
            input_sums[0] = sum_channel_s8(place, first_input, linear->ranges[0]);
            input_sums[1] = sum_channel_s8(place, first_input + to_next_input, linear->ranges[0]);
        }
        int32_t sums[2] = {eqrl_start_s8(linear, channel, has_zero_points, input_sums[0]),
                           eqrl_start_s8(linear, channel + to_next, has_zero_points, input_sums[1])};
        sum_pair_s8(place, first_input, to_next_input, linear->weights + channel, to_next,
                    linear->ranges[0], sums);
        output[channel] = eqrl_rescale_s8(linear, channel, sums[0]);
        output[channel + to_next] = eqrl_rescale_s8(linear, channel + to_next, sums[1]);
    }
}

EQRL_INLINE void depthwise_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                              const eqrl_window *window, uint32_t multiplier, uint32_t has_zero_points)
{
    const eqrl_linear_s8 linear = eqrl_read_linear_s8(block, window->output_channels, has_zero_points);
    depthwise_place place;

    for (uint32_t image = 0; image < window->num_images; image++) {
        for (uint32_t y = 0; y < window->y.output; y++) {
            for (uint32_t x = 0; x < window->x.output; x++) {
                find_place(&place, window, y, x);
                depthwise_at_s8(&linear, &place, input, output, multiplier, has_zero_points);
                output += window->output_channels;
            }
        }
        input += window->y.input * window->x.input * window->input_channels;
    }
}

EQRL_CODE void eqrl_depthwise_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                                 const eqrl_window *window, uint32_t multiplier)
{
    depthwise_s8(block, input, output, window, multiplier, 0u);
}

EQRL_CODE void eqrl_depthwise_asymmetric_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                                            const eqrl_window *window, uint32_t multiplier)
{
    depthwise_s8(block, input, output, window, multiplier, 1u);
}

/* int16 has no zero point, so padding adds nothing. */
EQRL_OUTLINE void sum_pair_s16(const depthwise_place *place, const eqrl_s16 *input, uint32_t to_next_input,
                               const int8_t *weights, uint32_t to_next, int64_t sums[2])
{
    const uint32_t stride = place->num_outputs;
    const uint32_t column_stride = place->column_stride;
    uint32_t row = place->start;
    uint32_t row_weights = (place->y.first * place->num_columns + place->x.first) * stride;
    int64_t sum = sums[0];
    int64_t next_sum = sums[1];

    for (uint32_t ky = place->y.first; ky < place->y.last; ky++) {
        uint32_t from = row;
        uint32_t at = row_weights;
        for (uint32_t count = place->x.last - place->x.first; count > 0u; count--) {
            sum += (int64_t)(weights[at] * input[from]);
            next_sum += (int64_t)(weights[at + to_next] * input[from + to_next_input]);
            at += stride;
            from += column_stride;
        }
        row += place->row_stride;
        row_weights += place->num_columns * stride;
    }
    sums[0] = sum;
    sums[1] = next_sum;
}

EQRL_OUTLINE int64_t sum_channel_s16(const depthwise_place *place, const eqrl_s16 *input)
{
    int64_t sum = 0;
    uint32_t row = place->start;

    for (uint32_t ky = place->y.first; ky < place->y.last; ky++) {
        uint32_t from = row;
        for (uint32_t count = place->x.last - place->x.first; count > 0u; count--) {
            sum += input[from];
            from += place->column_stride;
        }
        row += place->row_stride;
    }
    return sum;
}

EQRL_INLINE void depthwise_at_s16(const eqrl_linear_s16 *linear, const depthwise_place *place,
                                  const eqrl_s16 *input, eqrl_s16 *output, uint32_t multiplier,
                                  uint32_t has_zero_points)
{
    uint32_t input_channel = 0;
    uint32_t index = 0;

    for (uint32_t channel = 0; channel < place->num_outputs; channel += 2u) {
        const uint32_t to_next = channel + 1u < place->num_outputs ? 1u : 0u;
        const eqrl_s16 *const first_input = input + input_channel;
        next_channel(&input_channel, &index, multiplier);
        const uint32_t to_next_input = to_next * (uint32_t)(input + input_channel - first_input);
        next_channel(&input_channel, &index, multiplier);
        int64_t input_sums[2] = {0, 0};
        if (has_zero_points != 0u) {
            input_sums[0] = sum_channel_s16(place, first_input);
            input_sums[1] = sum_channel_s16(place, first_input + to_next_input);
        }
        int64_t sums[2] = {eqrl_start_s16(linear, channel, has_zero_points, input_sums[0]),
                           eqrl_start_s16(linear, channel + to_next, has_zero_points, input_sums[1])};
        sum_pair_s16(place, first_input, to_next_input, linear->weights + channel, to_next, sums);
        output[channel] = eqrl_rescale_s16(linear, channel, sums[0]);
        output[channel + to_next] = eqrl_rescale_s16(linear, channel + to_next, sums[1]);
    }
}

EQRL_INLINE void depthwise_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                               const eqrl_window *window, uint32_t multiplier, uint32_t has_zero_points)
{
    const eqrl_linear_s16 linear = eqrl_read_linear_s16(block, window->output_channels, has_zero_points);
    depthwise_place place;

    for (uint32_t image = 0; image < window->num_images; image++) {
        for (uint32_t y = 0; y < window->y.output; y++) {
            for (uint32_t x = 0; x < window->x.output; x++) {
                find_place(&place, window, y, x);
                depthwise_at_s16(&linear, &place, input, output, multiplier, has_zero_points);
                output += window->output_channels;
            }
        }
        input += window->y.input * window->x.input * window->input_channels;
    }
}

EQRL_CODE void eqrl_depthwise_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                                  const eqrl_window *window, uint32_t multiplier)
{
    depthwise_s16(block, input, output, window, multiplier, 0u);
}

EQRL_CODE void eqrl_depthwise_asymmetric_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                                             const eqrl_window *window, uint32_t multiplier)
{
    depthwise_s16(block, input, output, window, multiplier, 1u);
}
