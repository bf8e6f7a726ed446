/* FULLY_CONNECTED as one would write it down: what kernels in plain C must not be slower than. */
#include <stdint.h>

__attribute__((section(".harness.text"))) void plain_dense(const int8_t *weights, const int32_t *scales,
                                                           const int8_t *input, int8_t *output, uint32_t num_inputs,
                                                           uint32_t num_outputs)
{
    const int32_t *const bias = scales;
    const int32_t *const multiplier = bias + num_outputs;
    const int32_t *const right = multiplier + num_outputs; /* how far to shift right, at least 1 */
    for (uint32_t row = 0; row < num_outputs; row++) {
        int32_t sum = bias[row];
        for (uint32_t i = 0; i < num_inputs; i++) {
            sum += weights[row * num_inputs + i] * input[i];
        }
        const int32_t high = (int32_t)(((int64_t)sum * multiplier[row] + (1 << 30)) >> 31);
        const int32_t mask = (int32_t)((1u << right[row]) - 1u);
        const int32_t rest = high & mask;
        const int32_t threshold = (mask >> 1) + (high < 0 ? 1 : 0);
        const int32_t scaled = (high >> right[row]) + (rest > threshold ? 1 : 0);
        output[row] = (int8_t)(scaled < -128 ? -128 : scaled > 127 ? 127 : scaled);
    }
}
