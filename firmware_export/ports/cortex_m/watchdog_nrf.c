/* SPDX-License-Identifier: Apache-2.0
 * Watchdog of the nRF51, nRF52 and nRF5340: at 32768 Hz, also while the core sleeps, not while a debugger has halted
 * it. Once started it cannot be set again until a reset. Registers: nRF51 series reference manual v3.0, WDT, POWER;
 * the later chips have the same.
 */
#include "chip_nrf.h"

#define WDT_START (NRF_WDT + 0x000u)
#define WDT_CRV (NRF_WDT + 0x504u)
#define WDT_RREN (NRF_WDT + 0x508u)
#define WDT_CONFIG (NRF_WDT + 0x50Cu)
#define WDT_RR0 (NRF_WDT + 0x600u)

#define CONFIG_RUN_IN_SLEEP_PAUSE_IN_HALT 1u
#define RELOAD 0x6E524635u
#define RESETREAS_WATCHDOG (1u << 1)

void eqrl_port_watchdog_start(uint32_t timeout_ms)
{
    EQRL_REGISTER(WDT_CONFIG) = CONFIG_RUN_IN_SLEEP_PAUSE_IN_HALT;
    EQRL_REGISTER(WDT_CRV) = 33u * timeout_ms; /* 32.768 a millisecond */
    EQRL_REGISTER(WDT_RREN) = 1u;              /* one reload register, the first */
    EQRL_REGISTER(WDT_START) = 1u;
}

void eqrl_port_watchdog_kick(void)
{
    EQRL_REGISTER(WDT_RR0) = RELOAD;
}

int eqrl_port_watchdog_was_reset(void)
{
    const uint32_t reasons = EQRL_REGISTER(NRF_RESETREAS);
    EQRL_REGISTER(NRF_RESETREAS) = reasons; /* they add up until they are cleared, by ones */
    return (reasons & RESETREAS_WATCHDOG) != 0u;
}
