/* SPDX-License-Identifier: Apache-2.0
 * Independent watchdog of an STM32. It runs on an RC oscillator of its own, so it ends even a core whose clock died.
 * Registers: IWDG in RM0041, RM0090, RM0433.
 */
#include "chip_stm32.h"
#include "eqrl_port.h"

#define KR (eqrl_stm32_iwdg.base + 0x00u)
#define PR (eqrl_stm32_iwdg.base + 0x04u)
#define RLR (eqrl_stm32_iwdg.base + 0x08u)
#define SR (eqrl_stm32_iwdg.base + 0x0Cu)

#define KR_START 0xCCCCu
#define KR_UNLOCK 0x5555u
#define KR_RELOAD 0xAAAAu
#define PR_256 6u
#define RLR_MAX 4095u
#define SR_UPDATING 3u

void eqrl_port_watchdog_start(uint32_t timeout_ms)
{
    /* Units of 256 periods of the fastest oscillator, rounded up: every other takes longer. */
    uint32_t units = (timeout_ms * eqrl_stm32_iwdg.fastest_hz + 255999u) / 256000u;
    if (units > RLR_MAX) {
        units = RLR_MAX;
    }
    EQRL_REGISTER(eqrl_stm32_iwdg.debug) |= eqrl_stm32_iwdg.debug_freeze;
    EQRL_REGISTER(KR) = KR_START; /* starts the oscillator, too, which the next two need */
    EQRL_REGISTER(KR) = KR_UNLOCK;
    EQRL_REGISTER(PR) = PR_256;
    EQRL_REGISTER(RLR) = units;
    (void)eqrl_port_wait(SR, SR_UPDATING, 0u); /* if it takes longer: the next kick takes the new values */
    EQRL_REGISTER(KR) = KR_RELOAD;
}

void eqrl_port_watchdog_kick(void)
{
    EQRL_REGISTER(KR) = KR_RELOAD;
}

int eqrl_port_watchdog_was_reset(void)
{
    const uint32_t flags = EQRL_REGISTER(eqrl_stm32_iwdg.reset_flags);
    EQRL_REGISTER(eqrl_stm32_iwdg.reset_flags) |= eqrl_stm32_iwdg.reset_flags_clear; /* or the next reset has them, too */
    return (flags & eqrl_stm32_iwdg.reset_by_watchdog) != 0u;
}
