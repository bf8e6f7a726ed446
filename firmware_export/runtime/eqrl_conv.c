/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_conv.c - CONV_2D with strides, dilations, padding and groups. Portable C.
 *
 * Two output channels at a time share each load of the input; an odd last one of a group is computed twice.
 */
#include "eqrl_conv.h"
#include "eqrl_kernels.h"

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

EQRL_CODE static void sum_pair_s8(const eqrl_conv_place *place, const int8_t *input, const int8_t *first,
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
EQRL_INLINE void conv_at_s8(const eqrl_linear_s8 *linear, const eqrl_conv_place *place, const int8_t *input,
                            int8_t *output, uint32_t depth, uint32_t group_outputs, uint32_t num_outputs,
                            uint32_t has_zero_points)
{
    const uint32_t num_weights = eqrl_conv_weights(place);
    const int8_t *first = linear->weights;

    for (uint32_t group = 0; group < num_outputs; group += group_outputs) {
        const uint32_t end = group + group_outputs;
        int32_t input_sum = 0;
        if (has_zero_points != 0u) {
            input_sum = eqrl_sum_window_s8(place, input, linear->ranges[0]);
        }
        for (uint32_t channel = group; channel < end; channel += 2u) {
            const uint32_t next = channel + 1u < end ? channel + 1u : channel;
            const int8_t *const second = first + (next - channel) * num_weights;
            int32_t sums[2] = {eqrl_start_s8(linear, channel, has_zero_points, input_sum),
                               eqrl_start_s8(linear, next, has_zero_points, input_sum)};
            sum_pair_s8(place, input, first, second, linear->ranges[0], sums);
            output[channel] = eqrl_rescale_s8(linear, channel, sums[0]);
            output[next] = eqrl_rescale_s8(linear, next, sums[1]);
            first = second + num_weights;
        }
        input += depth;
    }
}

EQRL_INLINE void conv_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                         const eqrl_window *window, uint32_t depth, uint32_t group_outputs, uint32_t has_zero_points)
{
    const uint32_t num_outputs = window->output_channels;
    const eqrl_linear_s8 linear = eqrl_read_linear_s8(block, num_outputs, has_zero_points);
    eqrl_conv_place place;

    for (uint32_t image = 0; image < window->num_images; image++) {
        for (uint32_t y = 0; y < window->y.output; y++) {
            for (uint32_t x = 0; x < window->x.output; x++) {
                eqrl_find_conv_place(&place, window, depth, y, x);
                conv_at_s8(&linear, &place, input, output, depth, group_outputs, num_outputs,
                           has_zero_points);
                output += num_outputs;
            }
        }
        input += window->y.input * window->x.input * window->input_channels;
    }
}

EQRL_CODE void eqrl_conv_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                            const eqrl_window *window, uint32_t depth, uint32_t group_outputs)
{
    conv_s8(block, input, output, window, depth, group_outputs, 0u);
}

EQRL_CODE void eqrl_conv_asymmetric_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                                       const eqrl_window *window, uint32_t depth, uint32_t group_outputs)
{
    conv_s8(block, input, output, window, depth, group_outputs, 1u);
}

/* int16 has no zero point, so padding adds nothing. */
EQRL_CODE static void sum_pair_s16(const eqrl_conv_place *place, const eqrl_s16 *input, const int8_t *first,
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

EQRL_INLINE void conv_at_s16(const eqrl_linear_s16 *linear, const eqrl_conv_place *place,
                             const eqrl_s16 *input, eqrl_s16 *output, uint32_t depth, uint32_t group_outputs, uint32_t num_outputs,
                             uint32_t has_zero_points)
{
    const uint32_t num_weights = eqrl_conv_weights(place);
    const int8_t *first = linear->weights;

    for (uint32_t group = 0; group < num_outputs; group += group_outputs) {
        const uint32_t end = group + group_outputs;
        int64_t input_sum = 0;
        if (has_zero_points != 0u) {
            input_sum = eqrl_sum_window_s16(place, input);
        }
        for (uint32_t channel = group; channel < end; channel += 2u) {
            const uint32_t next = channel + 1u < end ? channel + 1u : channel;
            const int8_t *const second = first + (next - channel) * num_weights;
            int64_t sums[2] = {eqrl_start_s16(linear, channel, has_zero_points, input_sum),
                               eqrl_start_s16(linear, next, has_zero_points, input_sum)};
            sum_pair_s16(place, input, first, second, sums);
            output[channel] = eqrl_rescale_s16(linear, channel, sums[0]);
            output[next] = eqrl_rescale_s16(linear, next, sums[1]);
            first = second + num_weights;
        }
        input += depth;
    }
}

EQRL_INLINE void conv_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                          const eqrl_window *window, uint32_t depth, uint32_t group_outputs, uint32_t has_zero_points)
{
    const uint32_t num_outputs = window->output_channels;
    const eqrl_linear_s16 linear = eqrl_read_linear_s16(block, num_outputs, has_zero_points);
    eqrl_conv_place place;

    for (uint32_t image = 0; image < window->num_images; image++) {
        for (uint32_t y = 0; y < window->y.output; y++) {
            for (uint32_t x = 0; x < window->x.output; x++) {
                eqrl_find_conv_place(&place, window, depth, y, x);
                conv_at_s16(&linear, &place, input, output, depth, group_outputs, num_outputs,
                            has_zero_points);
                output += num_outputs;
            }
        }
        input += window->y.input * window->x.input * window->input_channels;
    }
}

EQRL_CODE void eqrl_conv_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                             const eqrl_window *window, uint32_t depth, uint32_t group_outputs)
{
    conv_s16(block, input, output, window, depth, group_outputs, 0u);
}

EQRL_CODE void eqrl_conv_asymmetric_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                                        const eqrl_window *window, uint32_t depth, uint32_t group_outputs)
{
    conv_s16(block, input, output, window, depth, group_outputs, 1u);
}
