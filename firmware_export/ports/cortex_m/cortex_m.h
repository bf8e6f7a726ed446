/* SPDX-License-Identifier: Apache-2.0
 * What every Cortex-M has: its interrupt controller and the mask of all interrupts.
 */
#ifndef CORTEX_M_H
#define CORTEX_M_H

#include "eqrl_port.h"

#define NVIC_ENABLE 0xE000E100u
#define NVIC_UNPEND 0xE000E280u

/* Let an interrupt of the chip through, without one that came before. */
static inline void cortex_m_enable_interrupt(uint32_t number)
{
    EQRL_REGISTER(NVIC_UNPEND + 4u * (number >> 5)) = 1u << (number & 31u);
    EQRL_REGISTER(NVIC_ENABLE + 4u * (number >> 5)) = 1u << (number & 31u);
}

/* Mask all interrupts; returns what cortex_m_restore needs to undo it. */
static inline uint32_t cortex_m_mask(void)
{
    uint32_t primask;
    __asm__ volatile("mrs %0, primask\n\tcpsid i" : "=r"(primask) : : "memory");
    return primask;
}

static inline void cortex_m_restore(uint32_t primask)
{
    __asm__ volatile("msr primask, %0" : : "r"(primask) : "memory");
}

#endif
