/* SPDX-License-Identifier: Apache-2.0
 * The three functions that a freestanding compiler may call on its own. Built with -fno-builtin and without loop
 * recognition, or they would call themselves. Words where both ends are aligned, else bytes.
 */
#include <stddef.h>
#include <stdint.h>

void *memcpy(void *target, const void *source, size_t size);
void *memmove(void *target, const void *source, size_t size);
void *memset(void *target, int value, size_t size);

void *memcpy(void *target, const void *source, size_t size)
{
    uint8_t *to = target;
    const uint8_t *from = source;
    if ((((uintptr_t)to | (uintptr_t)from) & 3u) == 0u) {
        for (; size >= 4u; size -= 4u, to += 4, from += 4) {
            *(uint32_t *)(void *)to = *(const uint32_t *)(const void *)from;
        }
    }
    for (; size != 0u; size--) {
        *to++ = *from++;
    }
    return target;
}

void *memmove(void *target, const void *source, size_t size)
{
    uint8_t *to = target;
    const uint8_t *from = source;
    if ((uintptr_t)to <= (uintptr_t)from) {
        return memcpy(target, source, size);
    }
    while (size != 0u) {
        size--;
        to[size] = from[size];
    }
    return target;
}

void *memset(void *target, int value, size_t size)
{
    uint8_t *to = target;
    const uint32_t byte = (uint8_t)value;
    const uint32_t word = byte | byte << 8 | byte << 16 | byte << 24;
    for (; size != 0u && ((uintptr_t)to & 3u) != 0u; size--) {
        *to++ = (uint8_t)byte;
    }
    for (; size >= 4u; size -= 4u, to += 4) {
        *(uint32_t *)(void *)to = word;
    }
    for (; size != 0u; size--) {
        *to++ = (uint8_t)byte;
    }
    return target;
}
