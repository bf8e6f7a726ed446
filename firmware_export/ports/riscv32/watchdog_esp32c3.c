/* SPDX-License-Identifier: Apache-2.0
 * ESP32-C3: watchdog of timer group 0, in milliseconds of the crystal. Registers: ESP32-C3 technical reference manual,
 * Watchdog timers.
 */
#include "chip_esp32c3.h"
#include "eqrl_port.h"

#define CONFIG0_RESET_CHIP ((1u << 31) | (3u << 29) | (1u << 22) | (1u << 21) | (1u << 18) | (1u << 15))
#define CONFIG1_1_MS ((EQRL_CRYSTAL_HZ / 1000u) << 16)
#define RESET_BY_TIMG0_WDT 0x07u

typedef char eqrl_prescaler_fits[EQRL_CRYSTAL_HZ / 1000u < 65536u ? 1 : -1];

void eqrl_port_watchdog_start(uint32_t timeout_ms)
{
    EQRL_REGISTER(SYSTEM_PERIP_CLK_EN0) |= PERIP_TIMG0;
    EQRL_REGISTER(TIMG_WDTWPROTECT(TIMG0)) = WDT_KEY;
    EQRL_REGISTER(TIMG_WDTCONFIG1(TIMG0)) = CONFIG1_1_MS;
    EQRL_REGISTER(TIMG_WDTCONFIG2(TIMG0)) = timeout_ms;
    EQRL_REGISTER(TIMG_WDTFEED(TIMG0)) = 1u;
    EQRL_REGISTER(TIMG_WDTCONFIG0(TIMG0)) = CONFIG0_RESET_CHIP;
    EQRL_REGISTER(TIMG_WDTWPROTECT(TIMG0)) = 0u;
}

void eqrl_port_watchdog_kick(void)
{
    EQRL_REGISTER(TIMG_WDTWPROTECT(TIMG0)) = WDT_KEY;
    EQRL_REGISTER(TIMG_WDTFEED(TIMG0)) = 1u;
    EQRL_REGISTER(TIMG_WDTWPROTECT(TIMG0)) = 0u;
}

int eqrl_port_watchdog_was_reset(void)
{
    return (EQRL_REGISTER(RTC_CNTL_RESET_STATE) & RESET_CAUSE_MASK) == RESET_BY_TIMG0_WDT;
}
