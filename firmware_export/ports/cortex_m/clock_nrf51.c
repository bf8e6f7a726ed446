/* SPDX-License-Identifier: Apache-2.0
 * nRF51 clock. Registers: nRF51 series reference manual v3.0, CLOCK.
 */
#include "chip_nrf.h"

typedef char eqrl_clock_is_the_boards[EQRL_CLOCK_HZ == 16000000u ? 1 : -1];

uint32_t eqrl_port_clock_init(void)
{
    /* The chip starts on its RC oscillator, which has the same 16 MHz, only less exact, and stays on it if the
     * crystal never comes up. */
    EQRL_REGISTER(NRF_HFCLKSTARTED) = 0u;
    EQRL_REGISTER(NRF_HFCLKSTART) = 1u;
    (void)eqrl_port_wait(NRF_HFCLKSTARTED, 1u, 1u);
    return EQRL_CLOCK_HZ;
}
