/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_frames.c - the memory of a policy: frames in a ring, recurrent state. The twin of edgeqrl/network/memory.py. */
#include "eqrl_kernels.h"

EQRL_CODE void eqrl_fill(const uint32_t *block, void *target, uint32_t element_bytes, uint32_t size)
{
    for (uint32_t i = 0; i < size; i++) {
        eqrl_store(target, element_bytes, (int32_t)i, (int32_t)block[0]);
    }
}

/* All ones where count < limit, else 0; limit is at most 2^31. */
EQRL_HELPER int32_t is_within(uint32_t count, uint32_t limit)
{
    return eqrl_is_negative((int32_t)((count - limit) & ~count));
}

EQRL_CODE void eqrl_frames_push(const void *frame, void *ring, uint32_t element_bytes, uint32_t num_frames,
                                uint32_t frame_size, uint32_t *next, uint32_t *filled)
{
    const uint32_t frame_bytes = frame_size * element_bytes;
    const uint32_t slot = *next & (uint32_t)is_within(*next, num_frames);
    const int32_t is_filling = is_within(*filled, num_frames);
    eqrl_copy_bytes((int8_t *)ring + slot * frame_bytes, frame, frame_bytes);
    *next = (slot + 1u) & (uint32_t)is_within(slot + 1u, num_frames);
    *filled = (uint32_t)eqrl_select(is_filling, (int32_t)(*filled + 1u), (int32_t)num_frames);
}

EQRL_CODE void eqrl_frames_gather(const void *ring, uint32_t next, uint32_t filled, void *target,
                                  uint32_t element_bytes, uint32_t num_frames, uint32_t outer, uint32_t inner)
{
    const uint32_t piece = inner * element_bytes;
    for (uint32_t k = 0; k < num_frames; k++) {
        const int32_t age = (int32_t)(num_frames - 1u - k);
        const int32_t beyond = age - ((int32_t)filled - 1);
        const int32_t limited = age - (beyond & ~eqrl_is_negative(beyond));
        const int32_t slot = (int32_t)next - 1 - limited;
        const uint32_t wrapped = (uint32_t)(slot + ((int32_t)num_frames & eqrl_is_negative(slot)));
        const int8_t *from = (const int8_t *)ring + wrapped * outer * piece;
        int8_t *to = (int8_t *)target + k * piece;
        for (uint32_t i = 0; i < outer; i++) {
            eqrl_copy_bytes(to, from, piece);
            from += piece;
            to += num_frames * piece;
        }
    }
}
