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

/* eqrl_observe.c: the other kinds of observations, as edgeqrl/network/edges/observation.py says what they mean. */

/* clip(gain * x + offset, low, high) of float32, in fixed point; flags and counters as eqrl_observation_f32,
 * for what the input's own range cuts. Block: uint32 fraction bits; int32 zero point; then num_rows rows
 * {uint32 multiplier; int32 (exponent bias * 8 + flags); int32 offset; int32 (low, high << 16)}. Flags: 1 the
 * gain is negative, 2 and 4: below low and above high is outside the range. Element i has row i % num_rows.
 */
eqrl_status eqrl_observation_affine_f32(const uint32_t *block, const float *observation, void *input,
                                        uint32_t element_bytes, uint32_t size, uint16_t *saturated,
                                        uint32_t num_counters, uint32_t num_rows);

/* uint8 by a table. Block: int8 or int16 table[256]. */
void eqrl_observation_u8(const uint32_t *block, const uint8_t *observation, void *input,
                         uint32_t element_bytes, uint32_t size);

/* eqrl_image.c: how an image becomes grey and smaller, as edgeqrl/network/images.py says. */
typedef struct {
    uint32_t width; /* of the raw image, in pixels */
    uint32_t depth; /* numbers of a pixel when it is resized */
    uint32_t new_height;
    uint32_t new_width;
    uint32_t row_pixel; /* parts of a raw pixel's height, and of a new one's; and so for the width */
    uint32_t row_span;
    uint32_t column_pixel;
    uint32_t column_span;
    uint32_t area; /* row_span * column_span, below 2^31 / 255 */
    uint32_t inverse; /* floor((2^32 - 1) / area) */
    uint32_t is_half_up; /* halves are rounded up; else to even */
    uint32_t grey; /* 0: no, 1: before resizing, 2: after it */
} eqrl_image;

/* uint8 images, converted, by a table. Block: int8 or int16 table[256]. */
void eqrl_observation_image(const uint32_t *block, const uint8_t *observation, void *input,
                            uint32_t element_bytes, const eqrl_image *image);

/* eqrl_observe.c again. */

/* Indices -> 1 among 0s, counts[i] elements for index i. Block: int32 {1, 0} of the input; int32 start[size].
 * An index of no class takes the nearest, is counted and gives EQRL_SATURATED.
 */
eqrl_status eqrl_observation_one_hot(const uint32_t *block, const int32_t *observation, void *input,
                                     uint32_t element_bytes, uint32_t size, uint16_t *saturated,
                                     uint32_t num_counters, const uint32_t *counts);

/* eqrl_frames.c: what survives a step. */

/* Set all of a ring of frames, or of a recurrent state, to one value. Block: int32 value. */
void eqrl_fill(const uint32_t *block, void *target, uint32_t element_bytes, uint32_t size);

/* Put a frame into slot *next of a ring of num_frames; *next goes on, *filled counts to num_frames. Any
 * numbers may be there: a *next beyond the ring is taken for 0, a *filled beyond it for all of it.
 */
void eqrl_frames_push(const void *frame, void *ring, uint32_t element_bytes, uint32_t num_frames,
                      uint32_t frame_size, uint32_t *next, uint32_t *filled);

/* Stack a ring into target[outer][num_frames][inner], the oldest frame first, after at least one push. What is
 * older than `filled` frames is the oldest of them. A frame is outer * inner elements.
 */
void eqrl_frames_gather(const void *ring, uint32_t next, uint32_t filled, void *target, uint32_t element_bytes,
                        uint32_t num_frames, uint32_t outer, uint32_t inner);

/* eqrl_random.c: xoshiro128**. */

/* Set four words by a seed of 64 bits; they are never all 0. */
void eqrl_random_seed(uint32_t *random, uint32_t low, uint32_t high);
uint32_t eqrl_draw_word(uint32_t *random);

/* eqrl_heads.c: several discrete actions, and such as are drawn; edgeqrl/network/edges/decode.py is the twin. */

/* num_actions discrete actions, action i from counts[i] outputs. action_mask has a byte an output, or is NULL;
 * where it allows nothing of an action it is ignored there. Block: int32 start[num_actions].
 */
void eqrl_multi_argmax(const uint32_t *block, const void *output, uint32_t element_bytes,
                       const uint8_t *action_mask, int32_t *action, const uint32_t *counts,
                       uint32_t num_actions);

/* The same drawn by the softmax, one word an action. Block: int32 start[num_actions]; uint32 exponentials[256],
 * and 256 more for int16.
 */
void eqrl_categorical(const uint32_t *block, const void *output, uint32_t element_bytes,
                      const uint8_t *action_mask, int32_t *action, const uint32_t *counts,
                      uint32_t num_actions, uint32_t *random);

/* 1 where the output is above its threshold. Block: int32 threshold[size]. */
void eqrl_multi_binary(const uint32_t *block, const void *output, uint32_t element_bytes, int32_t *action,
                       uint32_t size);

/* The same drawn by the logistic, one word an action. Block: int32 threshold[size]; exponentials as above. */
void eqrl_bernoulli(const uint32_t *block, const void *output, uint32_t element_bytes, int32_t *action,
                    uint32_t size, uint32_t *random);

/* eqrl_gaussian.c */

/* A standard normal from a word, with 16 fraction bits; |z| < 6.5. */
int32_t eqrl_normal(uint32_t word);

/* tanh with 30 fraction bits, of a value with 20. */
int32_t eqrl_squash(int32_t value);

/* float32 actions drawn around the outputs, one word an action; by way of tanh if is_squashed is 1. log_std is
 * another output, or NULL. Block: int32 {gain, offset, std, fraction bits, and behind the tanh gain, offset;
 * low, high, fraction bits} an action; with log_std: int32 {lowest, highest} of it, exponentials as above for
 * its log_std_bytes.
 */
void eqrl_gaussian_f32(const uint32_t *block, const void *output, uint32_t element_bytes, const void *log_std,
                       uint32_t log_std_bytes, float *action, uint32_t size, uint32_t is_squashed,
                       uint32_t *random);

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

/* The same where weights have zero points: sums of q * (w - zero point). Behind the shifts, the block has int8
 * zero_points[num_outputs], padded to 4; the biases have them folded in, too.
 */
void eqrl_dense_asymmetric_s8(const uint32_t *block, const int8_t *input, int8_t *output, uint32_t num_rows,
                              uint32_t num_inputs, uint32_t num_outputs);
void eqrl_dense_asymmetric_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                               uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs);

/* eqrl_dense_packed.c */

/* The same with weights of 4, 3 or 2 bits, in units of some output channels as eqrl_packed.h has them: units
 * [channels][num_inputs], padded to 4. The zero points are in the block if has_zero_points is 1.
 */
void eqrl_dense_p4_s8(const uint32_t *block, const int8_t *input, int8_t *output, uint32_t num_rows,
                      uint32_t num_inputs, uint32_t num_outputs, uint32_t has_zero_points);
void eqrl_dense_p3_s8(const uint32_t *block, const int8_t *input, int8_t *output, uint32_t num_rows,
                      uint32_t num_inputs, uint32_t num_outputs, uint32_t has_zero_points);
void eqrl_dense_p2_s8(const uint32_t *block, const int8_t *input, int8_t *output, uint32_t num_rows,
                      uint32_t num_inputs, uint32_t num_outputs, uint32_t has_zero_points);
void eqrl_dense_p4_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output, uint32_t num_rows,
                       uint32_t num_inputs, uint32_t num_outputs, uint32_t has_zero_points);
void eqrl_dense_p3_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output, uint32_t num_rows,
                       uint32_t num_inputs, uint32_t num_outputs, uint32_t has_zero_points);
void eqrl_dense_p2_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output, uint32_t num_rows,
                       uint32_t num_inputs, uint32_t num_outputs, uint32_t has_zero_points);

/* eqrl_quads.c, eqrl_biased.c, eqrl_lanes.c, eqrl_vectors.c: the same with weights in the order of a core. */

/* FULLY_CONNECTED. Block: eqrl_tiles, then tiles, as eqrl_tiles.h has them: of usual layers, or for `any` of others.
 * `input` is 4-aligned; `output` has room behind it for what the last tile of four channels computes
 * beyond the last one, and overlaps neither input nor column.
 * `column` is 4-aligned and has room for the order's column, for CONV_2D of vectors for two; where that is the input
 * itself, it may be NULL: quads and vectors of whole columns.
 */
void eqrl_dense_quads_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                         uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs);
void eqrl_dense_quads_any_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                             uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs);
void eqrl_dense_biased_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                          uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs);
void eqrl_dense_biased_any_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                              uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs);
void eqrl_dense_lanes_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                         uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs);
void eqrl_dense_lanes_any_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                             uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs);
void eqrl_dense_vectors_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                           uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs);

/* CONV_2D: tiles of each group, one after another; the inputs of a channel are [ky][kx][depth]. */
void eqrl_conv_quads_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                        const eqrl_window *window, uint32_t depth, uint32_t group_outputs);
void eqrl_conv_quads_any_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                            const eqrl_window *window, uint32_t depth, uint32_t group_outputs);
void eqrl_conv_biased_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                         const eqrl_window *window, uint32_t depth, uint32_t group_outputs);
void eqrl_conv_biased_any_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                             const eqrl_window *window, uint32_t depth, uint32_t group_outputs);
void eqrl_conv_lanes_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                        const eqrl_window *window, uint32_t depth, uint32_t group_outputs);
void eqrl_conv_lanes_any_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                            const eqrl_window *window, uint32_t depth, uint32_t group_outputs);
void eqrl_conv_vectors_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                          const eqrl_window *window, uint32_t depth, uint32_t group_outputs);

/* eqrl_wide.c: the same for computers, in tiles of eight channels, as it says. */
void eqrl_dense_wide_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                        uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs);
void eqrl_conv_wide_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                       const eqrl_window *window, uint32_t depth, uint32_t group_outputs);

/* eqrl_lanes_packed.c, eqrl_vectors_packed.c: the same with weights of 4, 3 or 2 bits, as these files have them. */
void eqrl_dense_lanes_p4_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                            uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs);
void eqrl_dense_lanes_p3_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                            uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs);
void eqrl_dense_lanes_p2_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                            uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs);
void eqrl_dense_vectors_p4_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                              uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs);
void eqrl_dense_vectors_p3_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                              uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs);
void eqrl_dense_vectors_p2_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                              uint32_t num_rows, uint32_t num_inputs, uint32_t num_outputs);
void eqrl_conv_lanes_p4_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                           const eqrl_window *window, uint32_t depth, uint32_t group_outputs);
void eqrl_conv_lanes_p3_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                           const eqrl_window *window, uint32_t depth, uint32_t group_outputs);
void eqrl_conv_lanes_p2_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                           const eqrl_window *window, uint32_t depth, uint32_t group_outputs);
void eqrl_conv_vectors_p4_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                             const eqrl_window *window, uint32_t depth, uint32_t group_outputs);
void eqrl_conv_vectors_p3_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                             const eqrl_window *window, uint32_t depth, uint32_t group_outputs);
void eqrl_conv_vectors_p2_s8(const uint32_t *block, const int8_t *input, int8_t *output, void *column,
                             const eqrl_window *window, uint32_t depth, uint32_t group_outputs);

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

/* The same where weights have zero points, as eqrl_dense_asymmetric. */
void eqrl_conv_asymmetric_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                             const eqrl_window *window, uint32_t depth, uint32_t group_outputs);
void eqrl_conv_asymmetric_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                              const eqrl_window *window, uint32_t depth, uint32_t group_outputs);

/* eqrl_conv_packed.c */

/* The same with weights of 4, 3 or 2 bits, as eqrl_dense_p4: units [group][channels][ky][kx][depth]. */
void eqrl_conv_p4_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                     const eqrl_window *window, uint32_t depth, uint32_t group_outputs,
                     uint32_t has_zero_points);
void eqrl_conv_p3_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                     const eqrl_window *window, uint32_t depth, uint32_t group_outputs,
                     uint32_t has_zero_points);
void eqrl_conv_p2_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                     const eqrl_window *window, uint32_t depth, uint32_t group_outputs,
                     uint32_t has_zero_points);
void eqrl_conv_p4_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                      const eqrl_window *window, uint32_t depth, uint32_t group_outputs,
                      uint32_t has_zero_points);
void eqrl_conv_p3_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                      const eqrl_window *window, uint32_t depth, uint32_t group_outputs,
                      uint32_t has_zero_points);
void eqrl_conv_p2_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                      const eqrl_window *window, uint32_t depth, uint32_t group_outputs,
                      uint32_t has_zero_points);

/* eqrl_depthwise.c */

/* DEPTHWISE_CONV_2D: int8 weights[ky][kx][output channel]. Each input channel has `multiplier` output
 * channels.
 */
void eqrl_depthwise_s8(const uint32_t *block, const int8_t *input, int8_t *output, const eqrl_window *window,
                       uint32_t multiplier);
void eqrl_depthwise_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                        const eqrl_window *window, uint32_t multiplier);

/* The same where weights have zero points, as eqrl_dense_asymmetric. */
void eqrl_depthwise_asymmetric_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                                  const eqrl_window *window, uint32_t multiplier);
void eqrl_depthwise_asymmetric_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                                   const eqrl_window *window, uint32_t multiplier);

/* eqrl_transpose_conv.c */

/* TRANSPOSE_CONV: int8 weights[output channel][ky][kx][input channel], the input zero point not folded into
 * the bias. In `window` the axes' input is added to output `stride * input + k - padding`; dilation is 1.
 */
void eqrl_transpose_conv_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                            const eqrl_window *window);
void eqrl_transpose_conv_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                             const eqrl_window *window);

/* The same where weights have zero points, as eqrl_dense_asymmetric; these are not folded either. */
void eqrl_transpose_conv_asymmetric_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                                       const eqrl_window *window);
void eqrl_transpose_conv_asymmetric_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
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
