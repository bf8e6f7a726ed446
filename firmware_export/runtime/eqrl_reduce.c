/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_reduce.c - MEAN, SUM, REDUCE_MAX and REDUCE_MIN over any axes. Portable C. */
#include "eqrl_kernels.h"

/* `result` and the inputs of one output, the first of which is element `start`. flag: -1 for the least. */
EQRL_INLINE int32_t gather(const void *input, uint32_t element_bytes, int32_t start, const eqrl_loop *loops,
                           uint32_t num_loops, int is_sum, int32_t flag, int32_t result)
{
    const eqrl_loop *const innermost = loops + num_loops - 1u;
    eqrl_walk walk;

    walk.first = start;
    walk.second = 0;
    eqrl_walk_start(&walk, loops, (int32_t)num_loops);
    do {
        int32_t at = walk.first;
        for (int32_t i = 0; i < innermost->size; i++) {
            const int32_t value = eqrl_load(input, element_bytes, at);
            result = is_sum ? result + value : eqrl_larger(result, value ^ flag);
            at += innermost->first;
        }
    } while (eqrl_walk_next(&walk, loops, (int32_t)num_loops));
    return result;
}

/* block: of a sum, else not used */
EQRL_INLINE void reduce(const uint32_t *block, const void *input, void *output, uint32_t element_bytes,
                        const eqrl_loop *kept, uint32_t num_kept, const eqrl_loop *reduced,
                        uint32_t num_reduced, int is_sum, int32_t flag)
{
    const int32_t highest = element_bytes == 1u ? 127 : 32767;
    const int32_t *const numbers = (const int32_t *)block;
    const int32_t first = is_sum ? numbers[0] : ~highest;
    const eqrl_loop *const innermost = kept + num_kept - 1u;
    int32_t place = 0;
    eqrl_walk walk;

    walk.first = 0;
    walk.second = 0;
    eqrl_walk_start(&walk, kept, (int32_t)num_kept);
    do {
        int32_t at = walk.first;
        for (int32_t i = 0; i < innermost->size; i++) {
            int32_t value = gather(input, element_bytes, at, reduced, num_reduced, is_sum, flag, first);
            if (is_sum) {
                const int32_t scaled = eqrl_requantize(value, numbers[1], numbers[2]);
                value = eqrl_saturate(scaled + numbers[3], ~highest, highest);
            } else {
                value ^= flag;
            }
            eqrl_store(output, element_bytes, place, value);
            place++;
            at += innermost->first;
        }
    } while (eqrl_walk_next(&walk, kept, (int32_t)num_kept));
}

EQRL_CODE void eqrl_reduce_sum_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                                  const eqrl_loop *kept, uint32_t num_kept, const eqrl_loop *reduced,
                                  uint32_t num_reduced)
{
    reduce(block, input, output, 1u, kept, num_kept, reduced, num_reduced, 1, 0);
}

EQRL_CODE void eqrl_reduce_sum_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                                   const eqrl_loop *kept, uint32_t num_kept, const eqrl_loop *reduced,
                                   uint32_t num_reduced)
{
    reduce(block, input, output, 2u, kept, num_kept, reduced, num_reduced, 1, 0);
}

/* The least is the greatest of the complements. */
EQRL_CODE void eqrl_reduce_max_s8(const int8_t *input, int8_t *output, const eqrl_loop *kept,
                                  uint32_t num_kept, const eqrl_loop *reduced, uint32_t num_reduced,
                                  uint32_t is_minimum)
{
    reduce(NULL, input, output, 1u, kept, num_kept, reduced, num_reduced, 0, -(int32_t)is_minimum);
}

EQRL_CODE void eqrl_reduce_max_s16(const eqrl_s16 *input, eqrl_s16 *output, const eqrl_loop *kept,
                                   uint32_t num_kept, const eqrl_loop *reduced, uint32_t num_reduced,
                                   uint32_t is_minimum)
{
    reduce(NULL, input, output, 2u, kept, num_kept, reduced, num_reduced, 0, -(int32_t)is_minimum);
}
