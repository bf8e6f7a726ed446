/* SPDX-License-Identifier: Apache-2.0
 * Time base of a Cortex-M: SysTick at the core's clock, with an interrupt a millisecond. For chips whose SysTick goes
 * on while the core sleeps. Registers: Armv6-M, Armv7-M and Armv8-M architecture, SysTick.
 */
#include "cortex_m.h"

#define SYST_CSR 0xE000E010u
#define SYST_RVR 0xE000E014u
#define SYST_CVR 0xE000E018u
#define ICSR 0xE000ED04u

#define CSR_CORE_CLOCK_INTERRUPT_ENABLE 7u
#define ICSR_SYSTICK_PENDING (1u << 26)

void SysTick_Handler(void);

static volatile uint32_t counted; /* ticks until SysTick last came to zero */
static uint32_t period;

void SysTick_Handler(void)
{
    counted += period;
}

/* clock_hz / 1000, bit by bit: a Cortex-M0 cannot divide. */
static uint32_t ticks_in_a_millisecond(uint32_t clock_hz)
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

uint32_t eqrl_port_timer_init(uint32_t clock_hz)
{
    EQRL_REGISTER(SYST_CSR) = 0u;
    counted = 0u;
    period = ticks_in_a_millisecond(clock_hz);
    EQRL_REGISTER(SYST_RVR) = period - 1u;
    if (EQRL_REGISTER(SYST_RVR) != period - 1u) {
        return 0u; /* there is none: Armv6-M may leave it out */
    }
    EQRL_REGISTER(SYST_CVR) = 0u;
    EQRL_REGISTER(SYST_CSR) = CSR_CORE_CLOCK_INTERRUPT_ENABLE;
    for (uint32_t turn = 0u; turn < EQRL_WAIT_TURNS && EQRL_REGISTER(SYST_CVR) == 0u; turn++) {
        /* the first zero is the one written here: no period ends with it */
    }
    return clock_hz;
}

/* SysTick counts down to zero, where it pends its interrupt, and goes on from period - 1. */
uint32_t eqrl_port_ticks(void)
{
    const uint32_t mask = cortex_m_mask();
    uint32_t left = EQRL_REGISTER(SYST_CVR);
    uint32_t ticks = counted;
    if ((EQRL_REGISTER(ICSR) & ICSR_SYSTICK_PENDING) != 0u) {
        left = EQRL_REGISTER(SYST_CVR); /* certainly of the period that has not been counted yet */
        ticks += period;
    }
    cortex_m_restore(mask);
    return ticks + (period - left); /* an emulator may show the zero for a while before it pends the interrupt */
}
