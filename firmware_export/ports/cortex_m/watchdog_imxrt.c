/* SPDX-License-Identifier: Apache-2.0
 * WDOG1 of an i.MX RT, on the 32 kHz clock. Registers, of 16 bits: i.MX RT1060 reference manual, WDOG, CCM.
 */
#include "eqrl_port.h"

#define HALF_REGISTER(address) (*(volatile uint16_t *)(uintptr_t)(address))
#define WDOG_WCR 0x400B8000u
#define WDOG_WSR 0x400B8002u
#define WDOG_WRSR 0x400B8004u
#define WDOG_WMCR 0x400B8008u
#define WCR_DEBUG_STOPS (1u << 1)
#define WCR_ENABLE (1u << 2)
#define WCR_NO_SOFTWARE_RESET (3u << 4) /* ones: these two act when cleared */
#define WCR_TIMEOUT_MAX 255u
#define WRSR_TIMEOUT (1u << 1)
#define CCM_CCGR3 0x400FC074u
#define CCM_CCGR3_WDOG1 (3u << 16)

void eqrl_port_watchdog_start(uint32_t timeout_ms)
{
    uint32_t halves = (timeout_ms + 499u) / 500u; /* it counts half seconds, of which 0 is one */
    if (halves > WCR_TIMEOUT_MAX) {
        halves = WCR_TIMEOUT_MAX;
    }
    EQRL_REGISTER(CCM_CCGR3) |= CCM_CCGR3_WDOG1;
    HALF_REGISTER(WDOG_WMCR) = 0u; /* the power-down counter, which runs since reset, would pull its pin */
    HALF_REGISTER(WDOG_WCR) = (uint16_t)((halves << 8) | WCR_NO_SOFTWARE_RESET | WCR_DEBUG_STOPS);
    HALF_REGISTER(WDOG_WCR) = (uint16_t)((halves << 8) | WCR_NO_SOFTWARE_RESET | WCR_DEBUG_STOPS | WCR_ENABLE);
    eqrl_port_watchdog_kick();
}

void eqrl_port_watchdog_kick(void)
{
    HALF_REGISTER(WDOG_WSR) = 0x5555u;
    HALF_REGISTER(WDOG_WSR) = 0xAAAAu;
}

int eqrl_port_watchdog_was_reset(void)
{
    return (HALF_REGISTER(WDOG_WRSR) & WRSR_TIMEOUT) != 0u;
}
