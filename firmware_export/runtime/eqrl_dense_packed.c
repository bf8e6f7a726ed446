/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_dense_packed.c - FULLY_CONNECTED with weights of 4, 3 or 2 bits, unpacked in the inner loop.
 *
 * Where the last unit has more channels than there are outputs, the rest is computed and thrown away.
 */
#include "eqrl_kernels.h"
#include "eqrl_packed.h"

EQRL_INLINE void dense_packed_s8(uint32_t bits, const uint32_t *block, const int8_t *input, int8_t *output,
                                 uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs,
                                 uint32_t has_zero_points)
{
    const eqrl_linear_s8 linear = eqrl_read_linear_s8(block, num_outputs, has_zero_points);
    const uint32_t num_channels = 2u * eqrl_half_channels(bits);
    uint32_t sums[EQRL_MOST_UNIT_CHANNELS];

    for (uint32_t row = 0; row < num_rows; row++) {
        const uint8_t *units = (const uint8_t *)linear.weights;
        const int32_t input_sum = eqrl_sum_s8(input, num_inputs);
        for (uint32_t first = 0; first < num_outputs; first += num_channels) {
            eqrl_begin_unit_s8(bits, &linear, first, num_outputs, has_zero_points, input_sum, sums);
            eqrl_dot_packed_s8(bits, input, units, num_inputs, sums);
            eqrl_end_unit_s8(bits, &linear, first, num_outputs, sums, output);
            units += num_inputs * eqrl_unit_bytes(bits);
        }
        input += num_inputs;
        output += num_outputs;
    }
}

EQRL_CODE void eqrl_dense_p4_s8(const uint32_t *block, const int8_t *input, int8_t *output, uint32_t num_rows,
                                uint32_t num_inputs, uint32_t num_outputs, uint32_t has_zero_points)
{
    dense_packed_s8(4u, block, input, output, num_rows, num_inputs, num_outputs, has_zero_points);
}

EQRL_CODE void eqrl_dense_p3_s8(const uint32_t *block, const int8_t *input, int8_t *output, uint32_t num_rows,
                                uint32_t num_inputs, uint32_t num_outputs, uint32_t has_zero_points)
{
    dense_packed_s8(3u, block, input, output, num_rows, num_inputs, num_outputs, has_zero_points);
}

EQRL_CODE void eqrl_dense_p2_s8(const uint32_t *block, const int8_t *input, int8_t *output, uint32_t num_rows,
                                uint32_t num_inputs, uint32_t num_outputs, uint32_t has_zero_points)
{
    dense_packed_s8(2u, block, input, output, num_rows, num_inputs, num_outputs, has_zero_points);
}

EQRL_INLINE void dense_packed_s16(uint32_t bits, const uint32_t *block, const eqrl_s16 *input,
                                  eqrl_s16 *output, uint32_t num_rows, uint32_t num_inputs,
                                  uint32_t num_outputs, uint32_t has_zero_points)
{
    const eqrl_linear_s16 linear = eqrl_read_linear_s16(block, num_outputs, has_zero_points);
    const uint32_t num_channels = 2u * eqrl_half_channels(bits);
    int64_t sums[EQRL_MOST_UNIT_CHANNELS];

    for (uint32_t row = 0; row < num_rows; row++) {
        const uint8_t *units = (const uint8_t *)linear.weights;
        const int64_t input_sum = eqrl_sum_s16(input, num_inputs);
        for (uint32_t first = 0; first < num_outputs; first += num_channels) {
            eqrl_begin_unit_s16(bits, &linear, first, num_outputs, has_zero_points, input_sum, sums);
            eqrl_dot_packed_s16(bits, input, units, num_inputs, sums);
            eqrl_end_unit_s16(bits, &linear, first, num_outputs, sums, output);
            units += num_inputs * eqrl_unit_bytes(bits);
        }
        input += num_inputs;
        output += num_outputs;
    }
}

EQRL_CODE void eqrl_dense_p4_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                                 uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs,
                                 uint32_t has_zero_points)
{
    dense_packed_s16(4u, block, input, output, num_rows, num_inputs, num_outputs, has_zero_points);
}

EQRL_CODE void eqrl_dense_p3_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                                 uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs,
                                 uint32_t has_zero_points)
{
    dense_packed_s16(3u, block, input, output, num_rows, num_inputs, num_outputs, has_zero_points);
}

EQRL_CODE void eqrl_dense_p2_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                                 uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs,
                                 uint32_t has_zero_points)
{
    dense_packed_s16(2u, block, input, output, num_rows, num_inputs, num_outputs, has_zero_points);
}
