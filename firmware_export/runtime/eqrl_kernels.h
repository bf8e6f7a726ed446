/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_kernels.h - the kernels. For generated code, not for callers.
 *
 * `block` points to the layer's block in the params blob: all that depends on weights, written by
 * firmware_export/emit/kernels/. Inputs and outputs are activations in C order that do not overlap unless
 * said so. Every kernel executes the same blocks whatever its inputs hold.
 */
#ifndef EQRL_KERNELS_H
#define EQRL_KERNELS_H

#include "eqrl_internal.h"
#include "eqrl_shapes.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The edges. element_bytes is 1, 2 or 4: int8, int16 or int32 activations. */

/* float32 observation -> int8 or int16. Block: uint32 multiplier; int32 exponent bias; int32 zero point.
 * Each element i that is clamped or not finite adds 1 to saturated[i % num_counters], which stops at 65535;
 * `size` is a multiple of num_counters. Returns a sum of EQRL_SATURATED and EQRL_NOT_FINITE.
 */
eqrl_status eqrl_observation_f32(const uint32_t *block, const float *observation, void *input,
                                 uint32_t element_bytes, uint32_t size, uint16_t *saturated,
                                 uint32_t num_counters);

/* Outputs -> discrete action, the lowest index on a tie. Block: int32 start. */
int32_t eqrl_argmax(const uint32_t *block, const void *output, uint32_t element_bytes, uint32_t num_actions);

/* The same among the actions whose mask is not 0; a mask that allows nothing is ignored. */
int32_t eqrl_argmax_masked(const uint32_t *block, const void *output, uint32_t element_bytes,
                           const uint8_t *action_mask, uint32_t num_actions);

/* int8 or int16 outputs -> float32 action. Block: int32 {gain, offset, low, high, fraction bits} an action. */
void eqrl_affine_f32(const uint32_t *block, const void *output, uint32_t element_bytes, float *action,
                     uint32_t size);

/* eqrl_dense.c */

/* FULLY_CONNECTED of num_rows rows. Block: int8 {input zero point, output zero point, output_min, output_max};
 * int32 bias[num_outputs] with the input zero point folded in; int32 multiplier[num_outputs];
 * int8 shift[num_outputs], padded to 4; int8 weights[num_outputs][num_inputs], padded to 4.
 */
void eqrl_dense_s8(const uint32_t *block, const int8_t *input, int8_t *output, uint32_t num_rows,
                   uint32_t num_inputs, uint32_t num_outputs);

/* The same for int16, zero point 0. Block: int16 {output_min, output_max}; uint32 is_wide: whether sums need
 * 64 bits and are rescaled by eqrl_requantize_wide; int64 bias[num_outputs]; the rest as for int8.
 */
void eqrl_dense_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output, uint32_t num_rows,
                    uint32_t num_inputs, uint32_t num_outputs);

/* Convolutions. Blocks as for eqrl_dense, with as many biases, multipliers and shifts as output channels, and
 * other weights. Inputs and outputs are [image][y][x][channel].
 */

/* eqrl_conv.c */

/* CONV_2D: int8 weights[output channel][ky][kx][depth]. An output channel sees the `depth` input channels of
 * its group, and a group has `group_outputs` output channels.
 */
void eqrl_conv_s8(const uint32_t *block, const int8_t *input, int8_t *output, const eqrl_window *window,
                  uint32_t depth, uint32_t group_outputs);
void eqrl_conv_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output, const eqrl_window *window,
                   uint32_t depth, uint32_t group_outputs);

/* eqrl_depthwise.c */

/* DEPTHWISE_CONV_2D: int8 weights[ky][kx][output channel]. Each input channel has `multiplier` output
 * channels.
 */
void eqrl_depthwise_s8(const uint32_t *block, const int8_t *input, int8_t *output, const eqrl_window *window,
                       uint32_t multiplier);
void eqrl_depthwise_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                        const eqrl_window *window, uint32_t multiplier);

/* eqrl_transpose_conv.c */

/* TRANSPOSE_CONV: int8 weights[output channel][ky][kx][input channel], the input zero point not folded into
 * the bias. In `window` the axes' input is added to output `stride * input + k - padding`; dilation is 1.
 */
void eqrl_transpose_conv_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                            const eqrl_window *window);
void eqrl_transpose_conv_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                             const eqrl_window *window);

/* eqrl_pool.c */

/* MAX_POOL_2D. Block: int32 output_min, output_max. Every window overlaps the input; dilation is 1. */
void eqrl_max_pool_s8(const uint32_t *block, const int8_t *input, int8_t *output, const eqrl_window *window);
void eqrl_max_pool_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                       const eqrl_window *window);

/* n / count = floor(2 * n * multiplier / 2^32) >> shift, for all n that occur. */
typedef struct {
    uint32_t count;
    uint32_t multiplier;
    uint32_t shift;
} eqrl_divisor;

/* AVERAGE_POOL_2D, with a divisor for each number of elements that a window has inside the input. Block as
 * for eqrl_max_pool.
 */
void eqrl_average_pool_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                          const eqrl_window *window, const eqrl_divisor *divisors);
void eqrl_average_pool_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                           const eqrl_window *window, const eqrl_divisor *divisors);

/* eqrl_reduce.c */

/* Reductions. `kept` are 1 to 6 loops over the first input of each output, in the output's order; `reduced`
 * are 1 to 6 loops over the inputs of one output. The innermost loop is last; `second` is not used.
 */

/* MEAN and SUM. Block: int32 {-zero point * inputs of an output; multiplier; shift; output zero point}. */
void eqrl_reduce_sum_s8(const uint32_t *block, const int8_t *input, int8_t *output, const eqrl_loop *kept,
                        uint32_t num_kept, const eqrl_loop *reduced, uint32_t num_reduced);
void eqrl_reduce_sum_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                         const eqrl_loop *kept, uint32_t num_kept, const eqrl_loop *reduced,
                         uint32_t num_reduced);

/* REDUCE_MAX, or REDUCE_MIN if is_minimum is 1. No block. */
void eqrl_reduce_max_s8(const int8_t *input, int8_t *output, const eqrl_loop *kept, uint32_t num_kept,
                        const eqrl_loop *reduced, uint32_t num_reduced, uint32_t is_minimum);
void eqrl_reduce_max_s16(const eqrl_s16 *input, eqrl_s16 *output, const eqrl_loop *kept, uint32_t num_kept,
                         const eqrl_loop *reduced, uint32_t num_reduced, uint32_t is_minimum);

/* eqrl_lookup.c */

/* Any elementwise function. Block: int8 table[256], for inputs -128 to 127. output may be input. */
void eqrl_lookup_s8(const uint32_t *block, const int8_t *input, int8_t *output, uint32_t size);

/* int16 functions; output may be input. */

/* By straight lines. Block: int16 knots[513], for inputs -32768, -32640 ... 32768, padded to 4. */
void eqrl_interpolate_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output, uint32_t size);

/* LOGISTIC, or TANH if is_tanh is 1. Block: int32 {multiplier, shift to the right}; uint16 table[256]. */
void eqrl_sigmoid_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output, uint32_t size,
                      uint32_t is_tanh);

/* eqrl_rescale.c */

/* Two straight lines through zero, of int8 or int16 (1 or 2 bytes) on both sides; output may be input where
 * these are equal. Block: int32 {input zero point; of inputs from the zero point on: multiplier, shift, sign;
 * of inputs below it: multiplier, shift, sign; output_min, output_max, both less the output zero point; output
 * zero point}. A sign is 0, or -1 to negate.
 */
void eqrl_rescale(const uint32_t *block, const void *input, void *output, uint32_t input_bytes,
                  uint32_t output_bytes, uint32_t size);

/* RSQRT. Block: int32 {multiplier, shift}. output may be input. */
void eqrl_rsqrt_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output, uint32_t size);

/* eqrl_softmax.c; output may be input in all but eqrl_arg_extreme */

/* SOFTMAX of num_rows rows of int8. Block: int32 table[256], exp of the difference to a row's maximum. */
void eqrl_softmax_s8(const uint32_t *block, const int8_t *input, int8_t *output, uint32_t num_rows,
                     uint32_t depth);

/* SOFTMAX of int16. Block: int32 {multiplier, shift}; int16 knots[513] of exp, padded to 4; int16 knots[513]
 * of 1 / (1 + x), padded to 4.
 */
void eqrl_softmax_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output, uint32_t num_rows,
                      uint32_t depth);

/* LOG_SOFTMAX of int8. Block: int32 {multiplier, shift, reverse multiplier, reverse shift, limit}; int32
 * table[256].
 */
void eqrl_log_softmax_s8(const uint32_t *block, const int8_t *input, int8_t *output, uint32_t num_rows,
                         uint32_t depth);

/* ARG_MAX, or ARG_MIN if is_minimum is 1, over the middle one of three axes; input_bytes is 1 or 2. */
void eqrl_arg_extreme(const void *input, eqrl_s32 *output, uint32_t input_bytes, uint32_t outer,
                      uint32_t size, uint32_t inner, uint32_t is_minimum);

/* eqrl_pairs.c */

/* Elementwise functions of `a` and `b`. `axes` are 1 to 6 loops over a and b, the innermost last; the output
 * has an element for each step, in order. It may be an input that is walked in the same order.
 * Blocks are int32; output_min and output_max are less the output zero point.
 */

/* a + b, or a - b if is_sub is 1. Block: {zero points of a, b and the output; output_min, output_max;
 * multiplier and shift of a, of b, of the sum; shift to the left of a and b before}.
 */
void eqrl_add_s8(const uint32_t *block, const int8_t *a, const int8_t *b, int8_t *output,
                 const eqrl_loop *axes, uint32_t num_axes, uint32_t is_sub);
void eqrl_add_s16(const uint32_t *block, const eqrl_s16 *a, const eqrl_s16 *b, eqrl_s16 *output,
                  const eqrl_loop *axes, uint32_t num_axes, uint32_t is_sub);

/* (a - b)^2. Block as for eqrl_add. */
void eqrl_squared_difference_s8(const uint32_t *block, const int8_t *a, const int8_t *b, int8_t *output,
                                const eqrl_loop *axes, uint32_t num_axes);
void eqrl_squared_difference_s16(const uint32_t *block, const eqrl_s16 *a, const eqrl_s16 *b, eqrl_s16 *output,
                                 const eqrl_loop *axes, uint32_t num_axes);

/* a * b. Block: {zero points of a, b and the output; output_min, output_max; multiplier, shift}. */
void eqrl_mul_s8(const uint32_t *block, const int8_t *a, const int8_t *b, int8_t *output,
                 const eqrl_loop *axes, uint32_t num_axes);
void eqrl_mul_s16(const uint32_t *block, const eqrl_s16 *a, const eqrl_s16 *b, eqrl_s16 *output,
                  const eqrl_loop *axes, uint32_t num_axes);

/* a where a is at least its zero point, else a * b; elements of b have b_bytes. Block: {zero points of a, b
 * and the output; output_min, output_max; multiplier and shift of a, of a * b}.
 */
void eqrl_prelu_s8(const uint32_t *block, const int8_t *a, const void *b, int8_t *output,
                   const eqrl_loop *axes, uint32_t num_axes, uint32_t b_bytes);
void eqrl_prelu_s16(const uint32_t *block, const eqrl_s16 *a, const void *b, eqrl_s16 *output,
                    const eqrl_loop *axes, uint32_t num_axes, uint32_t b_bytes);

/* The greater of a and b, or the lesser if is_minimum is 1. Block: {output_min, output_max}, as they are. */
void eqrl_maximum_s8(const uint32_t *block, const int8_t *a, const int8_t *b, int8_t *output,
                     const eqrl_loop *axes, uint32_t num_axes, uint32_t is_minimum);
void eqrl_maximum_s16(const uint32_t *block, const eqrl_s16 *a, const eqrl_s16 *b, eqrl_s16 *output,
                      const eqrl_loop *axes, uint32_t num_axes, uint32_t is_minimum);

/* eqrl_move.c */

/* Copy elements of 1, 2 or 4 bytes, aligned to their size. A piece is a header {number of axes (1 to 6), place
 * of its first element in the input, and in the output}, then so many loops over input and output, the
 * innermost last. A value to fill with is an input too: block: the value, repeated to 4 bytes.
 */
void eqrl_move(const void *input, void *output, uint32_t element_bytes, const eqrl_loop *pieces,
               uint32_t num_pieces);

#ifdef __cplusplus
}
#endif

#endif
