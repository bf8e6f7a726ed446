/* SPDX-License-Identifier: Apache-2.0
 * Time base of the nRF51, nRF52 and nRF5340: TIMER0 at 16 MHz in 32 bits, because SysTick stands still there while
 * the core sleeps. Registers: nRF51 series reference manual v3.0, TIMER; the later chips have the same.
 */
#include "chip_nrf.h"
#include "cortex_m.h"

#define TIMER NRF_PERIPHERAL(EQRL_TIMER_IRQ + 0u)
#define TIMER_START (TIMER + 0x000u)
#define TIMER_STOP (TIMER + 0x004u)
#define TIMER_CLEAR (TIMER + 0x00Cu)
#define TIMER_CAPTURE(index) (TIMER + 0x040u + 4u * (index))
#define TIMER_COMPARE(index) (TIMER + 0x140u + 4u * (index))
#define TIMER_SHORTS (TIMER + 0x200u)
#define TIMER_INTENSET (TIMER + 0x304u)
#define TIMER_INTENCLR (TIMER + 0x308u)
#define TIMER_MODE (TIMER + 0x504u)
#define TIMER_BITMODE (TIMER + 0x508u)
#define TIMER_PRESCALER (TIMER + 0x510u)
#define TIMER_CC(index) (TIMER + 0x540u + 4u * (index))

#define TIMER_HZ 16000000u
#define MILLISECOND (TIMER_HZ / 1000u)
#define MODE_TIMER 0u
#define BITMODE_32 3u
#define TURNS_UNTIL_IT_COUNTS 1000u /* a few would do */
#define INTERRUPT_COMPARE_0 (1u << 16)
#define WAKE 0u /* which of the compare registers */
#define NOW_OF_MAIN 1u
#define NOW_OF_INTERRUPT 2u

void eqrl_port_timer_interrupt(void);

static uint32_t captured(uint32_t index)
{
    EQRL_REGISTER(TIMER_CAPTURE(index)) = 1u;
    return EQRL_REGISTER(TIMER_CC(index));
}

/* A compare value that was set too late, or that an emulator's timer has stepped over, would let the core sleep until
 * the timer comes round again, minutes later. */
uint32_t eqrl_port_ticks(void)
{
    const uint32_t now = captured(NOW_OF_MAIN);
    const uint32_t late = now - EQRL_REGISTER(TIMER_CC(WAKE));
    if (late < 1u << 31 && EQRL_REGISTER(TIMER_COMPARE(WAKE)) == 0u) {
        EQRL_REGISTER(TIMER_CC(WAKE)) = now + MILLISECOND;
    }
    return now;
}

void eqrl_port_timer_interrupt(void)
{
    EQRL_REGISTER(TIMER_COMPARE(WAKE)) = 0u;
    EQRL_REGISTER(TIMER_CC(WAKE)) = captured(NOW_OF_INTERRUPT) + MILLISECOND;
}

uint32_t eqrl_port_timer_init(uint32_t clock_hz)
{
    (void)clock_hz;
    EQRL_REGISTER(TIMER_STOP) = 1u;
    EQRL_REGISTER(TIMER_INTENCLR) = 0xFFFFFFFFu;
    EQRL_REGISTER(TIMER_SHORTS) = 0u;
    EQRL_REGISTER(TIMER_MODE) = MODE_TIMER;
    EQRL_REGISTER(TIMER_BITMODE) = BITMODE_32;
    EQRL_REGISTER(TIMER_PRESCALER) = 0u;
    EQRL_REGISTER(TIMER_CLEAR) = 1u;
    EQRL_REGISTER(TIMER_COMPARE(WAKE)) = 0u;
    EQRL_REGISTER(TIMER_CC(WAKE)) = MILLISECOND;
    EQRL_REGISTER(TIMER_INTENSET) = INTERRUPT_COMPARE_0;
    cortex_m_enable_interrupt(EQRL_TIMER_IRQ);
    EQRL_REGISTER(TIMER_START) = 1u;
    const uint32_t first = eqrl_port_ticks();
    for (uint32_t turn = 0u; turn < TURNS_UNTIL_IT_COUNTS; turn++) {
        if (eqrl_port_ticks() != first) {
            return TIMER_HZ;
        }
    }
    EQRL_REGISTER(TIMER_STOP) = 1u;
    return 0u;
}
