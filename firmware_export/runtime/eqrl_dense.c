/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_dense.c - FULLY_CONNECTED, int8 in and out, per-channel weights. Portable C. */
#include "eqrl_internal.h"

/* ranges: {input zero point, output zero point, output_min, output_max}. The exporter proves that the sum and
 * the differences in the clamp fit int32.
 */
EQRL_CODE static int8_t rescale(int32_t accumulator, int32_t multiplier, int32_t shift, const int8_t *ranges)
{
    const int32_t scaled = eqrl_requantize(accumulator, multiplier, shift);
    return (int8_t)eqrl_clamp(scaled + ranges[1], ranges[2], ranges[3]);
}

EQRL_CODE void eqrl_dense_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                             uint32_t num_inputs, uint32_t num_outputs)
{
    const int8_t *const ranges = (const int8_t *)block;
    const int32_t *const bias = (const int32_t *)(block + 1);
    const int32_t *const multiplier = bias + num_outputs;
    const int8_t *const shift = (const int8_t *)(multiplier + num_outputs);
    const int8_t *first = shift + ((num_outputs + 3u) & ~(uint32_t)3u);

    /* Two rows at a time share each load of the input. An odd last row is computed twice. */
    for (uint32_t row = 0; row < num_outputs; row += 2u) {
        const uint32_t next = row + 1u < num_outputs ? row + 1u : row;
        const int8_t *const second = first + (next - row) * num_inputs;
        int32_t sum = bias[row];
        int32_t next_sum = bias[next];
        for (uint32_t column = 0; column < num_inputs; column++) {
            const int32_t value = input[column];
            sum += first[column] * value;
            next_sum += second[column] * value;
        }
        first = second + num_inputs;
        output[row] = rescale(sum, multiplier[row], shift[row], ranges);
        output[next] = rescale(next_sum, multiplier[next], shift[next], ranges);
    }
}
