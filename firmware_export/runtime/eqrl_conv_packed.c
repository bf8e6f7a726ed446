/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_conv_packed.c - CONV_2D with weights of 4, 3 or 2 bits, unpacked in the inner loop.
 *
 * Units hold channels of one group; what its last one has beyond the group is computed and thrown away.
 */
#include "eqrl_conv.h"
#include "eqrl_kernels.h"
#include "eqrl_packed.h"

/* Padding is an input of `zero_point`: what the folded bias took away for it comes back. */
EQRL_INLINE void pad_units(uint32_t bits, const int8_t *zero_point, const uint8_t *units, uint32_t count,
                           uint32_t *sums)
{
    for (uint32_t i = 0; i < count; i++) {
        eqrl_dot_packed_s8(bits, zero_point, units + i * eqrl_unit_bytes(bits), 1u, sums);
    }
}

EQRL_INLINE void sum_units_s8(uint32_t bits, const eqrl_conv_place *place, const int8_t *input,
                              const uint8_t *units, const int8_t *zero_point, uint32_t *sums)
{
    const uint32_t unit_bytes = eqrl_unit_bytes(bits);
    const uint32_t after = place->row_weights - place->before - place->run * place->num_runs;
    uint32_t row = place->start;
    uint32_t padding = place->above * place->row_weights;

    for (uint32_t i = 0; i < place->inside; i++) {
        uint32_t from = row;
        padding += place->before;
        pad_units(bits, zero_point, units, padding, sums);
        units += padding * unit_bytes;
        for (uint32_t j = 0; j < place->num_runs; j++) {
            eqrl_dot_packed_s8(bits, input + from, units, place->run, sums);
            units += place->run * unit_bytes;
            from += place->run_stride;
        }
        padding = after;
        row += place->row_stride;
    }
    pad_units(bits, zero_point, units, padding + place->below * place->row_weights, sums);
}

/* All output channels of a position. */
EQRL_INLINE void conv_units_s8(uint32_t bits, const eqrl_linear_s8 *linear, const eqrl_conv_place *place,
                               const int8_t *input, int8_t *output, uint32_t depth, uint32_t group_outputs,
                               uint32_t num_outputs, uint32_t has_zero_points)
{
    const uint32_t num_channels = 2u * eqrl_half_channels(bits);
    const uint32_t num_bytes = eqrl_conv_weights(place) * eqrl_unit_bytes(bits);
    const uint8_t *units = (const uint8_t *)linear->weights;
    uint32_t sums[EQRL_MOST_UNIT_CHANNELS];

    for (uint32_t group = 0; group < num_outputs; group += group_outputs) {
        const uint32_t end = group + group_outputs;
        const int32_t input_sum = eqrl_sum_window_s8(place, input, linear->ranges[0]);
        for (uint32_t first = group; first < end; first += num_channels) {
            eqrl_begin_unit_s8(bits, linear, first, end, has_zero_points, input_sum, sums);
            sum_units_s8(bits, place, input, units, linear->ranges, sums);
            eqrl_end_unit_s8(bits, linear, first, end, sums, output);
            units += num_bytes;
        }
        input += depth;
    }
}

EQRL_INLINE void conv_packed_s8(uint32_t bits, const uint32_t *block, const int8_t *input, int8_t *output,
                                const eqrl_window *window, uint32_t depth, uint32_t group_outputs,
                                uint32_t has_zero_points)
{
    const uint32_t num_outputs = window->output_channels;
    const eqrl_linear_s8 linear = eqrl_read_linear_s8(block, num_outputs, has_zero_points);
    eqrl_conv_place place;

    for (uint32_t image = 0; image < window->num_images; image++) {
        for (uint32_t y = 0; y < window->y.output; y++) {
            for (uint32_t x = 0; x < window->x.output; x++) {
                eqrl_find_conv_place(&place, window, depth, y, x);
                conv_units_s8(bits, &linear, &place, input, output, depth, group_outputs, num_outputs,
                              has_zero_points);
                output += num_outputs;
            }
        }
        input += window->y.input * window->x.input * window->input_channels;
    }
}

EQRL_CODE void eqrl_conv_p4_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                               const eqrl_window *window, uint32_t depth, uint32_t group_outputs,
                               uint32_t has_zero_points)
{
    conv_packed_s8(4u, block, input, output, window, depth, group_outputs, has_zero_points);
}

EQRL_CODE void eqrl_conv_p3_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                               const eqrl_window *window, uint32_t depth, uint32_t group_outputs,
                               uint32_t has_zero_points)
{
    conv_packed_s8(3u, block, input, output, window, depth, group_outputs, has_zero_points);
}

EQRL_CODE void eqrl_conv_p2_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                               const eqrl_window *window, uint32_t depth, uint32_t group_outputs,
                               uint32_t has_zero_points)
{
    conv_packed_s8(2u, block, input, output, window, depth, group_outputs, has_zero_points);
}

/* int16 has no zero point, so padding adds nothing. */
EQRL_INLINE void sum_units_s16(uint32_t bits, const eqrl_conv_place *place, const eqrl_s16 *input,
                               const uint8_t *units, int64_t *sums)
{
    const uint32_t unit_bytes = eqrl_unit_bytes(bits);
    const uint32_t skipped = place->row_weights - place->run * place->num_runs;
    uint32_t row = place->start;

    units += (place->above * place->row_weights + place->before) * unit_bytes;
    for (uint32_t i = 0; i < place->inside; i++) {
        uint32_t from = row;
        for (uint32_t j = 0; j < place->num_runs; j++) {
            eqrl_dot_packed_s16(bits, input + from, units, place->run, sums);
            units += place->run * unit_bytes;
            from += place->run_stride;
        }
        units += skipped * unit_bytes;
        row += place->row_stride;
    }
}

EQRL_INLINE void conv_units_s16(uint32_t bits, const eqrl_linear_s16 *linear, const eqrl_conv_place *place,
                                const eqrl_s16 *input, eqrl_s16 *output, uint32_t depth,
                                uint32_t group_outputs, uint32_t num_outputs, uint32_t has_zero_points)
{
    const uint32_t num_channels = 2u * eqrl_half_channels(bits);
    const uint32_t num_bytes = eqrl_conv_weights(place) * eqrl_unit_bytes(bits);
    const uint8_t *units = (const uint8_t *)linear->weights;
    int64_t sums[EQRL_MOST_UNIT_CHANNELS];

    for (uint32_t group = 0; group < num_outputs; group += group_outputs) {
        const uint32_t end = group + group_outputs;
        const int64_t input_sum = eqrl_sum_window_s16(place, input);
        for (uint32_t first = group; first < end; first += num_channels) {
            eqrl_begin_unit_s16(bits, linear, first, end, has_zero_points, input_sum, sums);
            sum_units_s16(bits, place, input, units, sums);
            eqrl_end_unit_s16(bits, linear, first, end, sums, output);
            units += num_bytes;
        }
        input += depth;
    }
}

EQRL_INLINE void conv_packed_s16(uint32_t bits, const uint32_t *block, const eqrl_s16 *input,
                                 eqrl_s16 *output, const eqrl_window *window, uint32_t depth, uint32_t group_outputs,
                                 uint32_t has_zero_points)
{
    const uint32_t num_outputs = window->output_channels;
    const eqrl_linear_s16 linear = eqrl_read_linear_s16(block, num_outputs, has_zero_points);
    eqrl_conv_place place;

    for (uint32_t image = 0; image < window->num_images; image++) {
        for (uint32_t y = 0; y < window->y.output; y++) {
            for (uint32_t x = 0; x < window->x.output; x++) {
                eqrl_find_conv_place(&place, window, depth, y, x);
                conv_units_s16(bits, &linear, &place, input, output, depth, group_outputs, num_outputs,
                               has_zero_points);
                output += num_outputs;
            }
        }
        input += window->y.input * window->x.input * window->input_channels;
    }
}

EQRL_CODE void eqrl_conv_p4_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                                const eqrl_window *window, uint32_t depth, uint32_t group_outputs,
                                uint32_t has_zero_points)
{
    conv_packed_s16(4u, block, input, output, window, depth, group_outputs, has_zero_points);
}

EQRL_CODE void eqrl_conv_p3_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                                const eqrl_window *window, uint32_t depth, uint32_t group_outputs,
                                uint32_t has_zero_points)
{
    conv_packed_s16(3u, block, input, output, window, depth, group_outputs, has_zero_points);
}

EQRL_CODE void eqrl_conv_p2_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                                const eqrl_window *window, uint32_t depth, uint32_t group_outputs,
                                uint32_t has_zero_points)
{
    conv_packed_s16(2u, block, input, output, window, depth, group_outputs, has_zero_points);
}
