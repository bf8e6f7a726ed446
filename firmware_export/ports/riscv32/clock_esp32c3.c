/* SPDX-License-Identifier: Apache-2.0
 * ESP32-C3: the watchdogs that the ROM leaves running, the clock, the interrupt matrix. Registers: ESP32-C3 technical
 * reference manual, Reset and clock, Watchdog timers, Interrupt matrix, Low-power management.
 *
 * The 40 MHz crystal runs since reset, or the ROM would not have loaded us. 160 MHz come from the PLL as the ROM has set
 * it up; whether it runs cannot be read. So the switch is made under the RTC's watchdog, which has an oscillator of
 * its own: if the core stands still it resets the chip, and after such a reset we stay on the crystal. UART, time base
 * and watchdog run from the crystal either way.
 */
#include "chip_esp32c3.h"
#include "eqrl_port.h"
#include "riscv32.h"

#define PLL_HZ 160000000u

typedef char eqrl_clock_is_the_boards[EQRL_CLOCK_HZ == PLL_HZ && EQRL_CRYSTAL_HZ == 40000000u ? 1 : -1];

#define SYSTEM_CPU_PER_CONF 0x600C0008u
#define CPU_PER_CONF_PERIOD_MASK 3u
#define CPU_PER_CONF_160_MHZ 1u
#define CPU_PER_CONF_PLL_480_MHZ (1u << 2)
#define SYSTEM_SYSCLK_CONF 0x600C0058u
#define SYSCLK_CONF_MASK 0xFFFu    /* divider of the crystal, less 1, and which clock */
#define SYSCLK_CONF_PLL (1u << 10) /* 0: the crystal */

#define RTC_CNTL_OPTIONS0 0x60008000u
#define OPTIONS0_PLL_POWERED_DOWN ((1u << 6) | (1u << 8) | (1u << 10))
#define RTC_CNTL_WDTCONFIG0 0x60008090u
#define RTC_CNTL_WDTCONFIG1 0x60008094u
#define RTC_CNTL_WDTFEED 0x600080A4u
#define RTC_CNTL_WDTWPROTECT 0x600080A8u
#define RTC_CNTL_SWD_CONF 0x600080ACu
#define RTC_CNTL_SWD_WPROTECT 0x600080B0u
#define RTC_WDT_RESETS_CHIP ((1u << 31) | (4u << 28) | (1u << 16) | (1u << 13))
#define RTC_WDT_TURNS 17000u /* about 1/8 s of its 136 kHz, or a few times that, by eFuse */
#define RTC_WDT_FED (1u << 31)
#define RESET_BY_RTC_WDT 0x10u
#define RESET_BY_RTC_WDT_SYSTEM 0x09u
#define SWD_KEY 0x8F1D312Au
#define SWD_FEEDS_ITSELF (1u << 31)

#define INTERRUPT_MAP(source) (0x600C2000u + 4u * (source))
#define INTERRUPT_ENABLE 0x600C2104u
#define INTERRUPT_TYPE 0x600C2108u
#define INTERRUPT_PRIORITY(line) (0x600C2114u + 4u * (line))
#define INTERRUPT_THRESHOLD 0x600C2194u

#define SETTLING_TURNS 4000u /* at least 200 us at 40 MHz */

static void set_rtc_watchdog(uint32_t configuration)
{
    EQRL_REGISTER(RTC_CNTL_WDTWPROTECT) = WDT_KEY;
    EQRL_REGISTER(RTC_CNTL_WDTFEED) = RTC_WDT_FED;
    EQRL_REGISTER(RTC_CNTL_WDTCONFIG1) = RTC_WDT_TURNS;
    EQRL_REGISTER(RTC_CNTL_WDTCONFIG0) = configuration;
    EQRL_REGISTER(RTC_CNTL_WDTWPROTECT) = 0u;
}

static void stop_group_watchdog(uint32_t base)
{
    EQRL_REGISTER(TIMG_WDTWPROTECT(base)) = WDT_KEY;
    EQRL_REGISTER(TIMG_WDTCONFIG0(base)) = 0u;
    EQRL_REGISTER(TIMG_WDTWPROTECT(base)) = 0u;
}

/* The ROM lets them watch the start of what it loads; we start our own when all is set up. */
static void stop_watchdogs(void)
{
    set_rtc_watchdog(0u);
    stop_group_watchdog(TIMG0);
    stop_group_watchdog(TIMG1);
    EQRL_REGISTER(RTC_CNTL_SWD_WPROTECT) = SWD_KEY;
    EQRL_REGISTER(RTC_CNTL_SWD_CONF) |= SWD_FEEDS_ITSELF;
    EQRL_REGISTER(RTC_CNTL_SWD_WPROTECT) = 0u;
}

static void select_clock(uint32_t value)
{
    EQRL_REGISTER(SYSTEM_SYSCLK_CONF) = (EQRL_REGISTER(SYSTEM_SYSCLK_CONF) & ~SYSCLK_CONF_MASK) | value;
}

static void settle(void)
{
#ifdef __clang__
#pragma clang loop unroll(disable)
#endif
    for (uint32_t turn = 0u; turn < SETTLING_TURNS; turn++) {
        (void)EQRL_REGISTER(SYSTEM_SYSCLK_CONF);
    }
}

uint32_t eqrl_port_clock_init(void)
{
    stop_watchdogs();
    select_clock(0u);
    const uint32_t cause = EQRL_REGISTER(RTC_CNTL_RESET_STATE) & RESET_CAUSE_MASK;
    if (cause == RESET_BY_RTC_WDT || cause == RESET_BY_RTC_WDT_SYSTEM) {
        return EQRL_CRYSTAL_HZ;
    }
    EQRL_REGISTER(RTC_CNTL_OPTIONS0) &= ~OPTIONS0_PLL_POWERED_DOWN;
    EQRL_REGISTER(SYSTEM_CPU_PER_CONF) = (EQRL_REGISTER(SYSTEM_CPU_PER_CONF) & ~CPU_PER_CONF_PERIOD_MASK) |
                                         CPU_PER_CONF_PLL_480_MHZ | CPU_PER_CONF_160_MHZ;
    settle();
    set_rtc_watchdog(RTC_WDT_RESETS_CHIP);
    select_clock(SYSCLK_CONF_PLL);
    settle();
    const int is_on = eqrl_port_wait(SYSTEM_SYSCLK_CONF, SYSCLK_CONF_MASK, SYSCLK_CONF_PLL);
    if (!is_on) {
        select_clock(0u);
    }
    set_rtc_watchdog(0u);
    return is_on ? PLL_HZ : EQRL_CRYSTAL_HZ;
}

void esp32c3_route(uint32_t source, uint32_t line)
{
    EQRL_REGISTER(INTERRUPT_MAP(source)) = line;
    EQRL_REGISTER(INTERRUPT_PRIORITY(line)) = 1u;
    EQRL_REGISTER(INTERRUPT_TYPE) &= ~(1u << line); /* by level */
    EQRL_REGISTER(INTERRUPT_THRESHOLD) = 1u;        /* priorities from 1 on pass */
    EQRL_REGISTER(INTERRUPT_ENABLE) |= 1u << line;
}
