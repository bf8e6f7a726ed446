/* SPDX-License-Identifier: Apache-2.0
 * Arm CMSDK APB UART (DDI 0479, APB UART programmers model). Its boards have one fixed clock.
 */
#include "cortex_m.h"

#define DATA (EQRL_UART_BASE + 0x00u)
#define STATE (EQRL_UART_BASE + 0x04u)
#define CTRL (EQRL_UART_BASE + 0x08u)
#define INTCLEAR (EQRL_UART_BASE + 0x0Cu)
#define BAUDDIV (EQRL_UART_BASE + 0x10u)

#define STATE_TX_FULL (1u << 0)
#define STATE_RX_FULL (1u << 1)
#define STATE_RX_OVERRUN (1u << 3) /* cleared by writing it */
#define CTRL_TX_RX ((1u << 0) | (1u << 1))
#define CTRL_RX_INTERRUPT (1u << 3)
#define INTCLEAR_RX (1u << 1)
#define MOST_BYTES 16u /* its buffer holds one; the next may be there at once */

uint32_t eqrl_port_clock_init(void)
{
    return EQRL_CLOCK_HZ;
}

void eqrl_port_uart_init(uint32_t clock_hz)
{
    (void)clock_hz;
    EQRL_REGISTER(BAUDDIV) = EQRL_UART_CLOCK_HZ / EQRL_UART_BAUD;
    EQRL_REGISTER(CTRL) = CTRL_TX_RX | CTRL_RX_INTERRUPT;
    cortex_m_enable_interrupt(EQRL_UART_IRQ);
}

int eqrl_port_uart_put(uint8_t byte)
{
    if (!eqrl_port_wait(STATE, STATE_TX_FULL, 0u)) {
        return 0;
    }
    EQRL_REGISTER(DATA) = byte;
    return 1;
}

void eqrl_port_uart_interrupt(void)
{
    EQRL_REGISTER(INTCLEAR) = INTCLEAR_RX; /* before the byte is fetched: one that comes now asks again */
    for (uint32_t turn = 0u; turn < MOST_BYTES; turn++) {
        const uint32_t state = EQRL_REGISTER(STATE);
        if ((state & STATE_RX_OVERRUN) != 0u) {
            EQRL_REGISTER(STATE) = STATE_RX_OVERRUN;
            eqrl_port_overrun();
        }
        if ((state & STATE_RX_FULL) == 0u) {
            return;
        }
        eqrl_port_received((uint8_t)EQRL_REGISTER(DATA));
    }
}
