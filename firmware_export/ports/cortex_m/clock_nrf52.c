/* SPDX-License-Identifier: Apache-2.0
 * nRF52833 and nRF52840 clock. Registers: nRF52833 and nRF52840 product specifications, CLOCK and NVMC.
 */
#include "chip_nrf.h"

typedef char eqrl_clock_is_the_boards[EQRL_CLOCK_HZ == 64000000u ? 1 : -1];

#define NVMC_ICACHECNF (NRF_PERIPHERAL(30u) + 0x540u)

uint32_t eqrl_port_clock_init(void)
{
    EQRL_REGISTER(NVMC_ICACHECNF) = 1u; /* without it each fetch from flash waits two cycles */
    /* The core always has 64 MHz; from the RC oscillator they are less exact, and it stays there if the crystal
     * never comes up. */
    EQRL_REGISTER(NRF_HFCLKSTARTED) = 0u;
    EQRL_REGISTER(NRF_HFCLKSTART) = 1u;
    (void)eqrl_port_wait(NRF_HFCLKSTARTED, 1u, 1u);
    return EQRL_CLOCK_HZ;
}
