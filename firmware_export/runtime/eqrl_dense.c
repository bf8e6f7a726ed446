/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_dense.c - FULLY_CONNECTED, per-channel weights. Portable C.
 *
 * Two outputs at a time share each load of the input; an odd last one is computed twice.
 */
#include "eqrl_kernels.h"
#include "eqrl_linear.h"

EQRL_INLINE void row_s8(const eqrl_linear_s8 *linear, const int8_t *input, int8_t *output, uint32_t num_inputs,
                        uint32_t num_outputs, uint32_t has_zero_points)
{
    const int32_t input_sum = has_zero_points != 0u ? eqrl_sum_s8(input, num_inputs) : 0;
    const int8_t *first = linear->weights;

    for (uint32_t row = 0; row < num_outputs; row += 2u) {
        const uint32_t next = row + 1u < num_outputs ? row + 1u : row;
        const int8_t *const second = first + (next - row) * num_inputs;
        int32_t sums[2] = {eqrl_start_s8(linear, row, has_zero_points, input_sum),
                           eqrl_start_s8(linear, next, has_zero_points, input_sum)};
        eqrl_dot_pair_s8(input, first, second, num_inputs, sums);
        output[row] = eqrl_rescale_s8(linear, row, sums[0]);
        output[next] = eqrl_rescale_s8(linear, next, sums[1]);
        first = second + num_inputs;
    }
}

EQRL_CODE static void dense_row_s8(const eqrl_linear_s8 *linear, const int8_t *input, int8_t *output,
                                   uint32_t num_inputs, uint32_t num_outputs)
{
    row_s8(linear, input, output, num_inputs, num_outputs, 0u);
}

EQRL_CODE void eqrl_dense_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                             uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs)
{
    const eqrl_linear_s8 linear = eqrl_read_linear_s8(block, num_outputs, 0u);

    for (uint32_t i = 0; i < num_rows; i++) {
        dense_row_s8(&linear, input + i * num_inputs, output + i * num_outputs, num_inputs, num_outputs);
    }
}

EQRL_CODE void eqrl_dense_asymmetric_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                                        uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs)
{
    const eqrl_linear_s8 linear = eqrl_read_linear_s8(block, num_outputs, 1u);

    for (uint32_t i = 0; i < num_rows; i++) {
        row_s8(&linear, input + i * num_inputs, output + i * num_outputs, num_inputs, num_outputs, 1u);
    }
}

EQRL_INLINE void row_s16(const eqrl_linear_s16 *linear, const eqrl_s16 *input, eqrl_s16 *output, uint32_t num_inputs,
                         uint32_t num_outputs, uint32_t has_zero_points)
{
    const int64_t input_sum = has_zero_points != 0u ? eqrl_sum_s16(input, num_inputs) : 0;
    const int8_t *first = linear->weights;

    for (uint32_t row = 0; row < num_outputs; row += 2u) {
        const uint32_t next = row + 1u < num_outputs ? row + 1u : row;
        const int8_t *const second = first + (next - row) * num_inputs;
        int64_t sums[2] = {eqrl_start_s16(linear, row, has_zero_points, input_sum),
                           eqrl_start_s16(linear, next, has_zero_points, input_sum)};
        eqrl_dot_pair_s16(input, first, second, num_inputs, sums);
        output[row] = eqrl_rescale_s16(linear, row, sums[0]);
        output[next] = eqrl_rescale_s16(linear, next, sums[1]);
        first = second + num_inputs;
    }
}

EQRL_CODE static void dense_row_s16(const eqrl_linear_s16 *linear, const eqrl_s16 *input, eqrl_s16 *output,
                                    uint32_t num_inputs, uint32_t num_outputs)
{
    row_s16(linear, input, output, num_inputs, num_outputs, 0u);
}

EQRL_CODE void eqrl_dense_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                              uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs)
{
    const eqrl_linear_s16 linear = eqrl_read_linear_s16(block, num_outputs, 0u);

    for (uint32_t i = 0; i < num_rows; i++) {
        dense_row_s16(&linear, input + i * num_inputs, output + i * num_outputs, num_inputs, num_outputs);
    }
}

EQRL_CODE void eqrl_dense_asymmetric_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                                         uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs)
{
    const eqrl_linear_s16 linear = eqrl_read_linear_s16(block, num_outputs, 1u);

    for (uint32_t i = 0; i < num_rows; i++) {
        row_s16(&linear, input + i * num_inputs, output + i * num_outputs, num_inputs, num_outputs, 1u);
    }
}
