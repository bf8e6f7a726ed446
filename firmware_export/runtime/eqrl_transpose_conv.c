/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_transpose_conv.c - TRANSPOSE_CONV with strides and padding. Portable C.
 *
 * Each output gathers what reaches it. Two output channels at a time share each load of the input; an odd
 * last one is computed twice.
 */
#include "eqrl_kernels.h"
#include "eqrl_linear.h"

/* Along one axis: which elements of the kernel bring which inputs to one output. */
typedef struct {
    uint32_t phase;   /* first element of the kernel; `stride` further on comes the next one */
    uint32_t input;   /* which it brings; the next one brings the input before */
    uint32_t skipped; /* how many bring inputs beyond the last */
    uint32_t end;     /* how many there are, skipped ones included */
} reach;

/* Begin with the first output that any input reaches, which lies `padding` before the first that is kept. */
EQRL_HELPER void first_reach(reach *at)
{
    at->phase = 0u;
    at->input = 0u;
}

EQRL_CODE static void find_reach(reach *at, const eqrl_axis *axis)
{
    at->skipped = at->input < axis->input ? 0u : at->input - axis->input + 1u;
    at->end = 0u;
    for (uint32_t k = at->phase; k < axis->kernel && at->end <= at->input; k += axis->stride) {
        at->end++;
    }
}

EQRL_HELPER void next_reach(reach *at, const eqrl_axis *axis)
{
    at->phase++;
    if (at->phase == axis->stride) {
        at->phase = 0u;
        at->input++;
    }
}

/* As eqrl_dot_pair_s8, with the zero point taken from each value: which weights count differs by place. */
EQRL_OUTLINE void dot_centred(const int8_t *values, const int8_t *first, const int8_t *second, uint32_t count,
                              int32_t zero_point, int32_t sums[2])
{
    int32_t sum = sums[0];
    int32_t next_sum = sums[1];
    for (uint32_t i = 0; i < count; i++) {
        const int32_t value = values[i] - zero_point;
        sum += first[i] * value;
        next_sum += second[i] * value;
    }
    sums[0] = sum;
    sums[1] = next_sum;
}

EQRL_CODE static void sum_pair_s8(const eqrl_window *window, const reach *y, const reach *x,
                                  const int8_t *input, const int8_t *first, const int8_t *second,
                                  int32_t zero_point, int32_t sums[2])
{
    const uint32_t depth = window->input_channels;

    for (uint32_t i = y->skipped; i < y->end; i++) {
        const uint32_t row = (y->input - i) * window->x.input;
        const uint32_t kernel_row = (y->phase + i * window->y.stride) * window->x.kernel;
        for (uint32_t j = x->skipped; j < x->end; j++) {
            const uint32_t at = (kernel_row + x->phase + j * window->x.stride) * depth;
            const uint32_t from = (row + x->input - j) * depth;
            dot_centred(input + from, first + at, second + at, depth, zero_point, sums);
        }
    }
}

/* The sum of the inputs that reach an output, the zero point taken from each. */
EQRL_OUTLINE int32_t sum_reached_s8(const eqrl_window *window, const reach *y, const reach *x,
                                    const int8_t *input, int32_t zero_point)
{
    const uint32_t depth = window->input_channels;
    int32_t sum = 0;

    for (uint32_t i = y->skipped; i < y->end; i++) {
        const uint32_t row = (y->input - i) * window->x.input;
        for (uint32_t j = x->skipped; j < x->end; j++) {
            sum += eqrl_sum_s8(input + (row + x->input - j) * depth, depth) - (int32_t)depth * zero_point;
        }
    }
    return sum;
}

/* All output channels of a position. */
EQRL_INLINE void transpose_at_s8(const eqrl_linear_s8 *linear, const eqrl_window *window, const reach *y,
                                 const reach *x, const int8_t *input, int8_t *output,
                                 uint32_t has_zero_points)
{
    const uint32_t num_outputs = window->output_channels;
    const uint32_t num_weights = window->y.kernel * window->x.kernel * window->input_channels;
    const int8_t *first = linear->weights;
    int32_t input_sum = 0;

    if (has_zero_points != 0u) {
        input_sum = sum_reached_s8(window, y, x, input, linear->ranges[0]);
    }
    for (uint32_t channel = 0; channel < num_outputs; channel += 2u) {
        const uint32_t next = channel + 1u < num_outputs ? channel + 1u : channel;
        const int8_t *const second = first + (next - channel) * num_weights;
        int32_t sums[2] = {eqrl_start_s8(linear, channel, has_zero_points, input_sum),
                           eqrl_start_s8(linear, next, has_zero_points, input_sum)};
        sum_pair_s8(window, y, x, input, first, second, linear->ranges[0], sums);
        output[channel] = eqrl_rescale_s8(linear, channel, sums[0]);
        output[next] = eqrl_rescale_s8(linear, next, sums[1]);
        first = second + num_weights;
    }
}

EQRL_INLINE void transpose_conv_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                                   const eqrl_window *window, uint32_t has_zero_points)
{
    const eqrl_linear_s8 linear = eqrl_read_linear_s8(block, window->output_channels, has_zero_points);
    const uint32_t height = window->y.padding + window->y.output;
    const uint32_t width = window->x.padding + window->x.output;
    reach y;
    reach x;

    for (uint32_t image = 0; image < window->num_images; image++) {
        first_reach(&y);
        for (uint32_t i = 0; i < height; i++) {
            find_reach(&y, &window->y);
            first_reach(&x);
            for (uint32_t j = 0; j < width; j++) {
                if (i >= window->y.padding && j >= window->x.padding) {
                    find_reach(&x, &window->x);
                    transpose_at_s8(&linear, window, &y, &x, input, output, has_zero_points);
                    output += window->output_channels;
                }
                next_reach(&x, &window->x);
            }
            next_reach(&y, &window->y);
        }
        input += window->y.input * window->x.input * window->input_channels;
    }
}

EQRL_CODE void eqrl_transpose_conv_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                                      const eqrl_window *window)
{
    transpose_conv_s8(block, input, output, window, 0u);
}

EQRL_CODE void eqrl_transpose_conv_asymmetric_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                                                 const eqrl_window *window)
{
    transpose_conv_s8(block, input, output, window, 1u);
}

EQRL_CODE static void sum_pair_s16(const eqrl_window *window, const reach *y, const reach *x,
                                   const eqrl_s16 *input, const int8_t *first, const int8_t *second,
                                   int64_t sums[2])
{
    const uint32_t depth = window->input_channels;

    for (uint32_t i = y->skipped; i < y->end; i++) {
        const uint32_t row = (y->input - i) * window->x.input;
        const uint32_t kernel_row = (y->phase + i * window->y.stride) * window->x.kernel;
        for (uint32_t j = x->skipped; j < x->end; j++) {
            const uint32_t at = (kernel_row + x->phase + j * window->x.stride) * depth;
            const uint32_t from = (row + x->input - j) * depth;
            eqrl_dot_pair_s16(input + from, first + at, second + at, depth, sums);
        }
    }
}

EQRL_OUTLINE int64_t sum_reached_s16(const eqrl_window *window, const reach *y, const reach *x,
                                     const eqrl_s16 *input)
{
    const uint32_t depth = window->input_channels;
    int64_t sum = 0;

    for (uint32_t i = y->skipped; i < y->end; i++) {
        const uint32_t row = (y->input - i) * window->x.input;
        for (uint32_t j = x->skipped; j < x->end; j++) {
            sum += eqrl_sum_s16(input + (row + x->input - j) * depth, depth);
        }
    }
    return sum;
}

EQRL_INLINE void transpose_at_s16(const eqrl_linear_s16 *linear, const eqrl_window *window, const reach *y,
                                  const reach *x, const eqrl_s16 *input, eqrl_s16 *output,
                                  uint32_t has_zero_points)
{
    const uint32_t num_outputs = window->output_channels;
    const uint32_t num_weights = window->y.kernel * window->x.kernel * window->input_channels;
    const int8_t *first = linear->weights;
    int64_t input_sum = 0;

    if (has_zero_points != 0u) {
        input_sum = sum_reached_s16(window, y, x, input);
    }
    for (uint32_t channel = 0; channel < num_outputs; channel += 2u) {
        const uint32_t next = channel + 1u < num_outputs ? channel + 1u : channel;
        const int8_t *const second = first + (next - channel) * num_weights;
        int64_t sums[2] = {eqrl_start_s16(linear, channel, has_zero_points, input_sum),
                           eqrl_start_s16(linear, next, has_zero_points, input_sum)};
        sum_pair_s16(window, y, x, input, first, second, sums);
        output[channel] = eqrl_rescale_s16(linear, channel, sums[0]);
        output[next] = eqrl_rescale_s16(linear, next, sums[1]);
        first = second + num_weights;
    }
}

EQRL_INLINE void transpose_conv_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                                    const eqrl_window *window, uint32_t has_zero_points)
{
    const eqrl_linear_s16 linear = eqrl_read_linear_s16(block, window->output_channels, has_zero_points);
    const uint32_t height = window->y.padding + window->y.output;
    const uint32_t width = window->x.padding + window->x.output;
    reach y;
    reach x;

    for (uint32_t image = 0; image < window->num_images; image++) {
        first_reach(&y);
        for (uint32_t i = 0; i < height; i++) {
            find_reach(&y, &window->y);
            first_reach(&x);
            for (uint32_t j = 0; j < width; j++) {
                if (i >= window->y.padding && j >= window->x.padding) {
                    find_reach(&x, &window->x);
                    transpose_at_s16(&linear, window, &y, &x, input, output, has_zero_points);
                    output += window->output_channels;
                }
                next_reach(&x, &window->x);
            }
            next_reach(&y, &window->y);
        }
        input += window->y.input * window->x.input * window->input_channels;
    }
}

EQRL_CODE void eqrl_transpose_conv_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                                       const eqrl_window *window)
{
    transpose_conv_s16(block, input, output, window, 0u);
}

EQRL_CODE void eqrl_transpose_conv_asymmetric_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                                                  const eqrl_window *window)
{
    transpose_conv_s16(block, input, output, window, 1u);
}
