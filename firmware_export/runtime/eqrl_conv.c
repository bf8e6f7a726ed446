/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_conv.c - CONV_2D with strides, dilations, padding and groups. Portable C.
 *
 * Inputs and weights of one row of the window lie side by side, unless it is dilated or sees one group of
 * several: so the inner loop goes over whole rows where it can. Two output channels at a time share each
 * load of the input; an odd last one of a group is computed twice.
 */
#include "eqrl_kernels.h"
#include "eqrl_linear.h"

/* A position of the window. Of its rows, `above` lie over the input and `below` under it; of the weights of
 * a row, `before` lie left of the input, then come `num_runs` runs that have inputs, the rest lies right.
 */
typedef struct {
    uint32_t above;
    uint32_t inside;
    uint32_t below;
    uint32_t row_weights; /* of one channel */
    uint32_t before;
    uint32_t run;
    uint32_t num_runs;
    uint32_t run_stride; /* from run to run in the input */
    uint32_t row_stride; /* from row to row of the window in the input */
    uint32_t start;      /* the first input, of the first group */
} conv_place;

EQRL_CODE static void find_place(conv_place *place, const eqrl_window *window, uint32_t depth, uint32_t y,
                                 uint32_t x)
{
    const eqrl_span rows = eqrl_span_at(&window->y, y);
    const eqrl_span columns = eqrl_span_at(&window->x, x);
    const uint32_t channels = window->input_channels;
    const uint32_t width = columns.last - columns.first;
    const uint32_t is_whole = window->x.dilation == 1u && depth == channels;
    place->above = rows.first;
    place->inside = rows.last - rows.first;
    place->below = window->y.kernel - rows.last;
    place->row_weights = window->x.kernel * depth;
    place->before = columns.first * depth;
    place->run = is_whole ? width * depth : depth;
    place->num_runs = is_whole ? 1u : width;
    place->run_stride = window->x.dilation * channels;
    place->row_stride = window->y.dilation * window->x.input * channels;
    place->start = (rows.start * window->x.input + columns.start) * channels;
}

EQRL_OUTLINE void add_weights(const int8_t *first, const int8_t *second, uint32_t count, int32_t zero_point,
                              int32_t sums[2])
{
    int32_t sum = 0;
    int32_t next_sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        sum += first[i];
        next_sum += second[i];
    }
    sums[0] += sum * zero_point;
    sums[1] += next_sum * zero_point;
}

/* Padding is an input of `zero_point`: what the folded bias took away for it comes back. */
EQRL_HELPER void pad_pair(const int8_t *first, const int8_t *second, uint32_t count, int32_t zero_point,
                          int32_t sums[2])
{
    if (count > 0u) { /* most windows have none */
        add_weights(first, second, count, zero_point, sums);
    }
}

EQRL_CODE static void sum_pair_s8(const conv_place *place, const int8_t *input, const int8_t *first,
                                  const int8_t *second, int32_t zero_point, int32_t sums[2])
{
    const uint32_t after = place->row_weights - place->before - place->run * place->num_runs;
    uint32_t row = place->start;
    uint32_t at = place->above * place->row_weights;

    pad_pair(first, second, at, zero_point, sums);
    for (uint32_t i = 0; i < place->inside; i++) {
        uint32_t from = row;
        pad_pair(first + at, second + at, place->before, zero_point, sums);
        at += place->before;
        for (uint32_t j = 0; j < place->num_runs; j++) {
            eqrl_dot_pair_s8(input + from, first + at, second + at, place->run, sums);
            at += place->run;
            from += place->run_stride;
        }
        pad_pair(first + at, second + at, after, zero_point, sums);
        at += after;
        row += place->row_stride;
    }
    pad_pair(first + at, second + at, place->below * place->row_weights, zero_point, sums);
}

/* All output channels of a position. */
EQRL_CODE static void conv_at_s8(const eqrl_linear_s8 *linear, const conv_place *place, const int8_t *input,
                                 int8_t *output, uint32_t depth, uint32_t group_outputs, uint32_t num_outputs)
{
    const uint32_t num_weights = (place->above + place->inside + place->below) * place->row_weights;
    const int8_t *first = linear->weights;

    for (uint32_t group = 0; group < num_outputs; group += group_outputs) {
        const uint32_t end = group + group_outputs;
        for (uint32_t channel = group; channel < end; channel += 2u) {
            const uint32_t next = channel + 1u < end ? channel + 1u : channel;
            const int8_t *const second = first + (next - channel) * num_weights;
            int32_t sums[2] = {linear->bias[channel], linear->bias[next]};
            sum_pair_s8(place, input, first, second, linear->ranges[0], sums);
            output[channel] = eqrl_rescale_s8(linear, channel, sums[0]);
            output[next] = eqrl_rescale_s8(linear, next, sums[1]);
            first = second + num_weights;
        }
        input += depth;
    }
}

EQRL_CODE void eqrl_conv_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                            const eqrl_window *window, uint32_t depth, uint32_t group_outputs)
{
    const uint32_t num_outputs = window->output_channels;
    const eqrl_linear_s8 linear = eqrl_read_linear_s8(block, num_outputs);
    conv_place place;

    for (uint32_t image = 0; image < window->num_images; image++) {
        for (uint32_t y = 0; y < window->y.output; y++) {
            for (uint32_t x = 0; x < window->x.output; x++) {
                find_place(&place, window, depth, y, x);
                conv_at_s8(&linear, &place, input, output, depth, group_outputs, num_outputs);
                output += num_outputs;
            }
        }
        input += window->y.input * window->x.input * window->input_channels;
    }
}

/* int16 has no zero point, so padding adds nothing. */
EQRL_CODE static void sum_pair_s16(const conv_place *place, const eqrl_s16 *input, const int8_t *first,
                                   const int8_t *second, int64_t sums[2])
{
    uint32_t row = place->start;
    uint32_t row_weights = place->above * place->row_weights + place->before;

    for (uint32_t i = 0; i < place->inside; i++) {
        uint32_t from = row;
        uint32_t at = row_weights;
        for (uint32_t j = 0; j < place->num_runs; j++) {
            eqrl_dot_pair_s16(input + from, first + at, second + at, place->run, sums);
            at += place->run;
            from += place->run_stride;
        }
        row += place->row_stride;
        row_weights += place->row_weights;
    }
}

EQRL_CODE static void conv_at_s16(const eqrl_linear_s16 *linear, const conv_place *place,
                                  const eqrl_s16 *input, eqrl_s16 *output, uint32_t depth,
                                  uint32_t group_outputs, uint32_t num_outputs)
{
    const uint32_t num_weights = (place->above + place->inside + place->below) * place->row_weights;
    const int8_t *first = linear->weights;

    for (uint32_t group = 0; group < num_outputs; group += group_outputs) {
        const uint32_t end = group + group_outputs;
        for (uint32_t channel = group; channel < end; channel += 2u) {
            const uint32_t next = channel + 1u < end ? channel + 1u : channel;
            const int8_t *const second = first + (next - channel) * num_weights;
            int64_t sums[2] = {eqrl_bias_s16(linear, channel), eqrl_bias_s16(linear, next)};
            sum_pair_s16(place, input, first, second, sums);
            output[channel] = eqrl_rescale_s16(linear, channel, sums[0]);
            output[next] = eqrl_rescale_s16(linear, next, sums[1]);
            first = second + num_weights;
        }
        input += depth;
    }
}

EQRL_CODE void eqrl_conv_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                             const eqrl_window *window, uint32_t depth, uint32_t group_outputs)
{
    const uint32_t num_outputs = window->output_channels;
    const eqrl_linear_s16 linear = eqrl_read_linear_s16(block, num_outputs);
    conv_place place;

    for (uint32_t image = 0; image < window->num_images; image++) {
        for (uint32_t y = 0; y < window->y.output; y++) {
            for (uint32_t x = 0; x < window->x.output; x++) {
                find_place(&place, window, depth, y, x);
                conv_at_s16(&linear, &place, input, output, depth, group_outputs, num_outputs);
                output += num_outputs;
            }
        }
        input += window->y.input * window->x.input * window->input_channels;
    }
}
