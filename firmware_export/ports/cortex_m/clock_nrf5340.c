/* SPDX-License-Identifier: Apache-2.0
 * nRF5340 application core: 128 MHz. Registers: nRF5340 product specification, CLOCK and CACHE.
 */
#include "chip_nrf.h"

#define FULL_HZ 128000000u
#define HALF_HZ 64000000u

typedef char eqrl_clock_is_the_boards[EQRL_CLOCK_HZ == FULL_HZ ? 1 : -1];

#define CLOCK_HFCLKCTRL (NRF_CLOCK + 0x558u)
#define HFCLKCTRL_DIVIDE_BY_1 0u /* after a reset: by 2 */
#define CACHE_ENABLE (NRF_PERIPHERAL(1u) + 0x500u)

uint32_t eqrl_port_clock_init(void)
{
    EQRL_REGISTER(CACHE_ENABLE) = 1u;
    /* The RC oscillator has the same frequency as the crystal, only less exact, and serves if that never comes up. */
    EQRL_REGISTER(NRF_HFCLKSTARTED) = 0u;
    EQRL_REGISTER(NRF_HFCLKSTART) = 1u;
    (void)eqrl_port_wait(NRF_HFCLKSTARTED, 1u, 1u);
    EQRL_REGISTER(CLOCK_HFCLKCTRL) = HFCLKCTRL_DIVIDE_BY_1;
    return eqrl_port_wait(CLOCK_HFCLKCTRL, 3u, HFCLKCTRL_DIVIDE_BY_1) ? FULL_HZ : HALF_HZ;
}
