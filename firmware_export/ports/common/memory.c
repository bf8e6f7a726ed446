/* SPDX-License-Identifier: Apache-2.0
 * The functions that a freestanding compiler may call on its own. Built with -fno-builtin and without loop
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

#if defined(__ARM_EABI__)
/* clang calls these where the run-time ABI for Arm lets it (IHI 0043, section 5.3.4): their arguments have
 * another order, they return nothing, and the number is the alignment that the caller promises.
 * NOLINTBEGIN(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp): the ABI's names */
void __aeabi_memcpy(void *target, const void *source, size_t size);
void __aeabi_memcpy4(void *target, const void *source, size_t size);
void __aeabi_memcpy8(void *target, const void *source, size_t size);
void __aeabi_memmove(void *target, const void *source, size_t size);
void __aeabi_memmove4(void *target, const void *source, size_t size);
void __aeabi_memmove8(void *target, const void *source, size_t size);
void __aeabi_memset(void *target, size_t size, int value);
void __aeabi_memset4(void *target, size_t size, int value);
void __aeabi_memset8(void *target, size_t size, int value);
void __aeabi_memclr(void *target, size_t size);
void __aeabi_memclr4(void *target, size_t size);
void __aeabi_memclr8(void *target, size_t size);

void __aeabi_memcpy(void *target, const void *source, size_t size)
{
    (void)memcpy(target, source, size);
}

void __aeabi_memcpy4(void *target, const void *source, size_t size)
{
    (void)memcpy(target, source, size);
}

void __aeabi_memcpy8(void *target, const void *source, size_t size)
{
    (void)memcpy(target, source, size);
}

void __aeabi_memmove(void *target, const void *source, size_t size)
{
    (void)memmove(target, source, size);
}

void __aeabi_memmove4(void *target, const void *source, size_t size)
{
    (void)memmove(target, source, size);
}

void __aeabi_memmove8(void *target, const void *source, size_t size)
{
    (void)memmove(target, source, size);
}

void __aeabi_memset(void *target, size_t size, int value)
{
    (void)memset(target, value, size);
}

void __aeabi_memset4(void *target, size_t size, int value)
{
    (void)memset(target, value, size);
}

void __aeabi_memset8(void *target, size_t size, int value)
{
    (void)memset(target, value, size);
}

void __aeabi_memclr(void *target, size_t size)
{
    (void)memset(target, 0, size);
}

void __aeabi_memclr4(void *target, size_t size)
{
    (void)memset(target, 0, size);
}

void __aeabi_memclr8(void *target, size_t size)
{
    (void)memset(target, 0, size);
}
/* NOLINTEND(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp) */
#endif
