/* SPDX-License-Identifier: Apache-2.0
 * Registers of Nordic's nRF51, nRF52 and nRF5340 (application core, secure) that more than one file touches.
 *
 * A peripheral's number is its interrupt and its place on the bus: base = bus + 4096 x number. The GPIO ports, the
 * watchdog and what tells the reason of a reset lie elsewhere on the nRF5340.
 */
#ifndef CHIP_NRF_H
#define CHIP_NRF_H

#include "eqrl_port.h"

#define NRF_BUS (EQRL_UART_BASE & 0xF0000000u)
#define NRF_PERIPHERAL(number) (NRF_BUS + 0x1000u * (number))

#if EQRL_UART_BASE >= 0x50000000u /* nRF5340 */
#define NRF_CLOCK NRF_PERIPHERAL(5u)
#define NRF_WDT NRF_PERIPHERAL(24u)
#define NRF_GPIO 0x50842500u
#else
#define NRF_CLOCK NRF_PERIPHERAL(0u)
#define NRF_WDT NRF_PERIPHERAL(16u)
#define NRF_GPIO 0x50000500u
#endif

#define NRF_HFCLKSTART (NRF_CLOCK + 0x000u)
#define NRF_HFCLKSTARTED (NRF_CLOCK + 0x100u)
#define NRF_RESETREAS (NRF_CLOCK + 0x400u) /* of POWER or RESET, which share CLOCK's place */

/* A pin as PSEL registers want it: 32 x port + pin. */
#define NRF_GPIO_PORT(pin) (NRF_GPIO + 0x300u * ((pin) >> 5))
#define NRF_GPIO_OUTSET(pin) (NRF_GPIO_PORT(pin) + 0x008u)
#define NRF_GPIO_PIN_CNF(pin) (NRF_GPIO_PORT(pin) + 0x200u + 4u * ((pin) & 31u))
#define NRF_PIN_OUTPUT 3u         /* its input buffer off */
#define NRF_PIN_INPUT_PULLED_UP 12u /* a line that hangs free is an idle one */

static inline void nrf_uart_pins(uint32_t tx, uint32_t rx)
{
    EQRL_REGISTER(NRF_GPIO_OUTSET(tx)) = 1u << (tx & 31u); /* idle level while the UART is off */
    EQRL_REGISTER(NRF_GPIO_PIN_CNF(tx)) = NRF_PIN_OUTPUT;
    EQRL_REGISTER(NRF_GPIO_PIN_CNF(rx)) = NRF_PIN_INPUT_PULLED_UP;
}

#endif
