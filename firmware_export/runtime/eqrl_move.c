/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_move.c - strided copies: CONCATENATION, SPLIT, PAD, TRANSPOSE, STRIDED_SLICE and their kin. */
#include "eqrl_kernels.h"

EQRL_INLINE void copy_run(const void *input, int32_t from, void *output, int32_t to, const eqrl_loop *loop,
                          uint32_t element_bytes)
{
    const eqrl_loop run = *loop;

    for (int32_t i = 0; i < run.size; i++) {
        eqrl_store(output, element_bytes, to, eqrl_load(input, element_bytes, from));
        from += run.first;
        to += run.second;
    }
}

EQRL_CODE static void copy_piece(const void *input, void *output, uint32_t element_bytes,
                                 const eqrl_loop *piece)
{
    const int32_t num_axes = piece->size;
    const eqrl_loop *const axes = piece + 1;
    const eqrl_loop *const innermost = piece + num_axes;
    eqrl_walk walk;

    walk.first = piece->first;
    walk.second = piece->second;
    eqrl_walk_start(&walk, axes, num_axes);
    do {
        if (element_bytes == 4u) {
            copy_run(input, walk.first, output, walk.second, innermost, 4u);
        } else if (element_bytes == 2u) {
            copy_run(input, walk.first, output, walk.second, innermost, 2u);
        } else {
            copy_run(input, walk.first, output, walk.second, innermost, 1u);
        }
    } while (eqrl_walk_next(&walk, axes, num_axes));
}

EQRL_CODE void eqrl_move(const void *input, void *output, uint32_t element_bytes, const eqrl_loop *pieces,
                         uint32_t num_pieces)
{
    for (uint32_t i = 0; i < num_pieces; i++) {
        copy_piece(input, output, element_bytes, pieces);
        pieces += 1 + pieces->size;
    }
}
