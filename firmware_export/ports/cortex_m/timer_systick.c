/* SPDX-License-Identifier: Apache-2.0
 * Time base of a Cortex-M: SysTick at the core's clock, with an interrupt a millisecond. For chips whose SysTick goes
 * on while the core sleeps. Registers: Armv6-M, Armv7-M and Armv8-M architecture, SysTick.
 *
 * A tick is 2^shift clocks of the core, between half a microsecond and one: 32 bits of the clocks themselves would
 * come round every few seconds.
 */
#include "cortex_m.h"

#define SYST_CSR 0xE000E010u
#define SYST_RVR 0xE000E014u
#define SYST_CVR 0xE000E018u
#define ICSR 0xE000ED04u

#define CSR_CORE_CLOCK_INTERRUPT_ENABLE 7u
#define ICSR_SYSTICK_PENDING (1u << 26)
#define MOST_TICK_HZ 2000000u

void SysTick_Handler(void);

static volatile uint32_t counted; /* clocks until SysTick last came to zero: the lower half, and */
static volatile uint32_t counted_high;
static uint32_t period;
static uint32_t shift;

void SysTick_Handler(void)
{
    const uint32_t before = counted;
    counted = before + period;
    if (before + period < before) {
        counted_high++;
    }
}

/* clock_hz / 1000, bit by bit: a Cortex-M0 cannot divide. */
static uint32_t clocks_in_a_millisecond(uint32_t clock_hz)
{
    uint32_t quotient = 0u;
    for (uint32_t bit = 1u << 21; bit != 0u; bit >>= 1) {
        if (clock_hz >= 1000u * bit) {
            clock_hz -= 1000u * bit;
            quotient |= bit;
        }
    }
    return quotient;
}

static int counts(void)
{
    uint32_t first = 0u; /* a zero is the one that was written: no period ends with it */
    for (uint32_t turn = 0u; turn < EQRL_WAIT_TURNS; turn++) {
        const uint32_t now = EQRL_REGISTER(SYST_CVR);
        if (first != 0u && now != first) {
            return 1;
        }
        first = now;
    }
    return 0;
}

uint32_t eqrl_port_timer_init(uint32_t clock_hz)
{
    EQRL_REGISTER(SYST_CSR) = 0u;
    counted = 0u;
    counted_high = 0u;
    period = clocks_in_a_millisecond(clock_hz);
    shift = 0u;
    while (clock_hz > MOST_TICK_HZ) {
        clock_hz >>= 1;
        shift++;
    }
    EQRL_REGISTER(SYST_RVR) = period - 1u;
    if (EQRL_REGISTER(SYST_RVR) != period - 1u) {
        return 0u; /* there is none: Armv6-M may leave it out */
    }
    EQRL_REGISTER(SYST_CVR) = 0u;
    EQRL_REGISTER(SYST_CSR) = CSR_CORE_CLOCK_INTERRUPT_ENABLE;
    if (!counts()) {
        EQRL_REGISTER(SYST_CSR) = 0u;
        return 0u;
    }
    return clock_hz;
}

/* SysTick counts down to zero, where it pends its interrupt, and goes on from period - 1. */
uint32_t eqrl_port_ticks(void)
{
    const uint32_t mask = cortex_m_mask();
    uint32_t left = EQRL_REGISTER(SYST_CVR);
    uint32_t since = 0u;
    if ((EQRL_REGISTER(ICSR) & ICSR_SYSTICK_PENDING) != 0u) {
        left = EQRL_REGISTER(SYST_CVR); /* certainly of the period that has not been counted yet */
        since = period;
    }
    since += period - left; /* an emulator may show the zero for a while before it pends the interrupt */
    const uint32_t low = counted + since;
    const uint32_t high = counted_high + (low < since ? 1u : 0u);
    cortex_m_restore(mask);
    return (high << 1 << (31u - shift)) | (low >> shift); /* shift may be 0: never by 32 at once */
}
