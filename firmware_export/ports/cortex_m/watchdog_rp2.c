/* SPDX-License-Identifier: Apache-2.0
 * Watchdog of the RP2040 and the RP2350. It counts microseconds, which a divider makes of clk_ref, and stops while a
 * debugger has halted a core. It can wait 8.3 s at most on the RP2040 (which counts by two: erratum RP2040-E1), 16.7 s
 * on the RP2350.
 */
#include "chip_rp2.h"

#define CTRL_PAUSE_FOR_DEBUG (7u << 24)
#define CTRL_ENABLE (1u << 30)
#define REASON_TIMER 1u
#define OURS 0x4C525145u /* the boot ROM restarts by the watchdog, too, after a UF2 copy: with another word */
#define LOAD_MOST 0x00FFFFFFu
#define XOSC_MHZ (RP2_XOSC_HZ / 1000000u)
#define ROSC_MHZ (RP2_ROSC_HZ / 1000000u + 1u) /* rather too long */

#ifdef WATCHDOG_TICK
#define COUNTS_A_MICROSECOND 2u
#define TICK_ENABLE (1u << 9)
#else
#define COUNTS_A_MICROSECOND 1u
#endif

static uint32_t load = LOAD_MOST; /* a kick before the start is for a watchdog that runs since before */

void eqrl_port_watchdog_start(uint32_t timeout_ms)
{
    const uint32_t is_crystal = EQRL_REGISTER(CLOCKS_CLK_REF_SELECTED) & (1u << CLK_REF_SRC_XOSC);
    const uint32_t cycles = is_crystal != 0u ? XOSC_MHZ : ROSC_MHZ;
#ifdef WATCHDOG_TICK
    EQRL_REGISTER(WATCHDOG_TICK) = TICK_ENABLE | cycles;
#else
    EQRL_REGISTER(TICKS_WATCHDOG_CTRL) = 0u; /* its cycles can be set only while it is off */
    EQRL_REGISTER(TICKS_WATCHDOG_CYCLES) = cycles;
    EQRL_REGISTER(TICKS_WATCHDOG_CTRL) = 1u;
#endif
    load = LOAD_MOST;
    if (timeout_ms <= LOAD_MOST / (1000u * COUNTS_A_MICROSECOND)) {
        load = timeout_ms * (1000u * COUNTS_A_MICROSECOND);
    }
    EQRL_REGISTER(WATCHDOG_CTRL + RP2_CLEAR) = CTRL_ENABLE;
    EQRL_REGISTER(PSM_WDSEL) = PSM_ALL_BUT_OSCILLATORS; /* what its reset resets */
    EQRL_REGISTER(WATCHDOG_SCRATCH4) = OURS;            /* no address for the boot ROM to jump to */
    EQRL_REGISTER(WATCHDOG_LOAD) = load;
    EQRL_REGISTER(WATCHDOG_CTRL + RP2_SET) = CTRL_ENABLE | CTRL_PAUSE_FOR_DEBUG;
}

void eqrl_port_watchdog_kick(void)
{
    EQRL_REGISTER(WATCHDOG_LOAD) = load;
}

int eqrl_port_watchdog_was_reset(void)
{
    const uint32_t by_timer = EQRL_REGISTER(WATCHDOG_REASON) & REASON_TIMER;
    return by_timer != 0u && EQRL_REGISTER(WATCHDOG_SCRATCH4) == OURS;
}
