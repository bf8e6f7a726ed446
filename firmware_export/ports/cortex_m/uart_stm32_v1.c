/* SPDX-License-Identifier: Apache-2.0
 * USART of STM32F1 and STM32F4, eight bits, no parity. Registers: RM0041 and RM0090, USART.
 */
#include "chip_stm32.h"
#include "cortex_m.h"

#define USART_SR (EQRL_UART_BASE + 0x00u)
#define USART_DR (EQRL_UART_BASE + 0x04u)
#define USART_BRR (EQRL_UART_BASE + 0x08u)
#define USART_CR1 (EQRL_UART_BASE + 0x0Cu)

#define SR_FRAMING (1u << 1)
#define SR_NOISE (1u << 2)
#define SR_OVERRUN (1u << 3)
#define SR_RX_FULL (1u << 5)
#define SR_TX_EMPTY (1u << 7)
#define CR1_RX (1u << 2)
#define CR1_TX (1u << 3)
#define CR1_RX_INTERRUPT (1u << 5) /* of an overrun, too */
#define CR1_ENABLE (1u << 13)

void eqrl_port_uart_init(uint32_t clock_hz)
{
    const uint32_t uart_hz = eqrl_stm32_uart_connect(clock_hz);
    EQRL_REGISTER(USART_CR1) = 0u;
    EQRL_REGISTER(USART_BRR) = (uart_hz + EQRL_UART_BAUD / 2u) / EQRL_UART_BAUD;
    EQRL_REGISTER(USART_CR1) = CR1_ENABLE | CR1_TX | CR1_RX | CR1_RX_INTERRUPT;
    cortex_m_enable_interrupt(EQRL_UART_IRQ);
}

int eqrl_port_uart_put(uint8_t byte)
{
    if (!eqrl_port_wait(USART_SR, SR_TX_EMPTY, SR_TX_EMPTY)) {
        return 0;
    }
    EQRL_REGISTER(USART_DR) = byte;
    return 1;
}

void eqrl_port_uart_interrupt(void)
{
    const uint32_t status = EQRL_REGISTER(USART_SR);
    if ((status & (SR_RX_FULL | SR_OVERRUN | SR_NOISE | SR_FRAMING)) == 0u) {
        return;
    }
    const uint8_t byte = (uint8_t)EQRL_REGISTER(USART_DR); /* after SR: clears every flag that was set there */
    if ((status & SR_OVERRUN) != 0u) {
        eqrl_port_overrun(); /* a later byte is lost, this one is not */
    }
    if ((status & (SR_RX_FULL | SR_FRAMING)) == SR_RX_FULL) {
        eqrl_port_received(byte);
    }
}
