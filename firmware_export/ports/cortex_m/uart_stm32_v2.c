/* SPDX-License-Identifier: Apache-2.0
 * USART of STM32H7, eight bits, no parity, its FIFO off. Registers: RM0433, USART.
 */
#include "chip_stm32.h"
#include "cortex_m.h"

#define USART_CR1 (EQRL_UART_BASE + 0x00u)
#define USART_BRR (EQRL_UART_BASE + 0x0Cu)
#define USART_ISR (EQRL_UART_BASE + 0x1Cu)
#define USART_ICR (EQRL_UART_BASE + 0x20u)
#define USART_RDR (EQRL_UART_BASE + 0x24u)
#define USART_TDR (EQRL_UART_BASE + 0x28u)

#define CR1_ENABLE (1u << 0)
#define CR1_RX (1u << 2)
#define CR1_TX (1u << 3)
#define CR1_RX_INTERRUPT (1u << 5) /* of an overrun, too */
#define ISR_FRAMING (1u << 1)
#define ISR_NOISE (1u << 2)
#define ISR_OVERRUN (1u << 3)
#define ISR_RX_FULL (1u << 5)
#define ISR_TX_EMPTY (1u << 7)
#define ISR_ERRORS (ISR_FRAMING | ISR_NOISE | ISR_OVERRUN)

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
    if (!eqrl_port_wait(USART_ISR, ISR_TX_EMPTY, ISR_TX_EMPTY)) {
        return 0;
    }
    EQRL_REGISTER(USART_TDR) = byte;
    return 1;
}

void eqrl_port_uart_interrupt(void)
{
    const uint32_t status = EQRL_REGISTER(USART_ISR);
    if ((status & ISR_RX_FULL) != 0u) {
        const uint8_t byte = (uint8_t)EQRL_REGISTER(USART_RDR); /* clears ISR_RX_FULL */
        if ((status & ISR_FRAMING) == 0u) {
            eqrl_port_received(byte);
        }
    }
    if ((status & ISR_OVERRUN) != 0u) {
        eqrl_port_overrun();
    }
    EQRL_REGISTER(USART_ICR) = status & ISR_ERRORS;
}
