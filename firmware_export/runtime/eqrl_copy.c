/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_copy.c - the one copy loop that an image has. */
#include "eqrl_internal.h"

#if EQRL_HAS_MVE

EQRL_CODE void eqrl_copy(void *target, const void *source, uint32_t num_bytes)
{
    eqrl_copy_vectors(target, source, num_bytes);
}

#else

/* Addresses and sizes decide the way, never what is copied. Opaque: compilers would call memcpy(). */
EQRL_CODE void eqrl_copy(void *target, const void *source, uint32_t num_bytes)
{
    int8_t *to = (int8_t *)target;
    const int8_t *from = (const int8_t *)source;

    if ((((uintptr_t)target | (uintptr_t)source) & 3u) == 0u) {
        EQRL_ROLLED
        for (; num_bytes >= 4u; num_bytes -= 4u) {
            const uint32_t word = *(const eqrl_u32 *)(const void *)from;
            from += 4;
            *(eqrl_u32 *)(void *)to = (uint32_t)eqrl_opaque((int32_t)word);
            to += 4;
        }
    }
    EQRL_ROLLED
    for (; num_bytes > 0u; num_bytes--) {
        const int32_t value = *from;
        from++;
        *to = (int8_t)eqrl_opaque(value);
        to++;
    }
}

#endif
