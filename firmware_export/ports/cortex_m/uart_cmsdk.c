/* SPDX-License-Identifier: Apache-2.0
 * Arm CMSDK APB UART (DDI 0479, APB UART programmers model), transmit only. Its boards have one fixed clock.
 */
#include "eqrl_port.h"

#define DATA (EQRL_UART_BASE + 0x00u)
#define STATE (EQRL_UART_BASE + 0x04u)
#define CTRL (EQRL_UART_BASE + 0x08u)
#define BAUDDIV (EQRL_UART_BASE + 0x10u)

#define STATE_TX_FULL 1u
#define CTRL_TX_ENABLE 1u

uint32_t eqrl_port_clock_init(void)
{
    return EQRL_CLOCK_HZ;
}

void eqrl_port_uart_init(uint32_t clock_hz)
{
    (void)clock_hz;
    EQRL_REGISTER(BAUDDIV) = EQRL_UART_CLOCK_HZ / EQRL_UART_BAUD;
    EQRL_REGISTER(CTRL) = CTRL_TX_ENABLE;
}

void eqrl_port_uart_put(uint8_t byte)
{
    if (eqrl_port_wait(STATE, STATE_TX_FULL, 0u)) {
        EQRL_REGISTER(DATA) = byte;
    }
}
