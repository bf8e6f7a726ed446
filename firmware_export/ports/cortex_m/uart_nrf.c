/* SPDX-License-Identifier: Apache-2.0
 * UART of the nRF51, and of the nRF52, which still has it beside its UARTE. It always runs at 16 MHz. Registers:
 * nRF51 series reference manual v3.0, UART; nRF52833 and nRF52840 product specifications, UART.
 */
#include "chip_nrf.h"
#include "cortex_m.h"

#define UART_STARTRX (EQRL_UART_BASE + 0x000u)
#define UART_STARTTX (EQRL_UART_BASE + 0x008u)
#define UART_RXDRDY (EQRL_UART_BASE + 0x108u)
#define UART_TXDRDY (EQRL_UART_BASE + 0x11Cu)
#define UART_ERROR (EQRL_UART_BASE + 0x124u)
#define UART_INTENSET (EQRL_UART_BASE + 0x304u)
#define UART_INTENCLR (EQRL_UART_BASE + 0x308u)
#define UART_ERRORSRC (EQRL_UART_BASE + 0x480u)
#define UART_ENABLE (EQRL_UART_BASE + 0x500u)
#define UART_PSELTXD (EQRL_UART_BASE + 0x50Cu)
#define UART_PSELRXD (EQRL_UART_BASE + 0x514u)
#define UART_RXD (EQRL_UART_BASE + 0x518u)
#define UART_TXD (EQRL_UART_BASE + 0x51Cu)
#define UART_BAUDRATE (EQRL_UART_BASE + 0x524u)
#define UART_CONFIG (EQRL_UART_BASE + 0x56Cu)

#define ENABLE_UART 4u
#define BAUDRATE_115200 0x01D7E000u
#define INTERRUPT_RXDRDY (1u << 2)
#define INTERRUPT_ERROR (1u << 9)
#define ERROR_OVERRUN 1u
#define RX_FIFO_BYTES 6u

typedef char eqrl_baud_is_the_boards[EQRL_UART_BAUD == 115200u ? 1 : -1];

void eqrl_port_uart_init(uint32_t clock_hz)
{
    (void)clock_hz;
    EQRL_REGISTER(UART_ENABLE) = 0u; /* a bootloader may have left it on */
    EQRL_REGISTER(UART_INTENCLR) = 0xFFFFFFFFu;
    nrf_uart_pins(EQRL_UART_TX_PIN, EQRL_UART_RX_PIN);
    EQRL_REGISTER(UART_PSELTXD) = EQRL_UART_TX_PIN;
    EQRL_REGISTER(UART_PSELRXD) = EQRL_UART_RX_PIN;
    EQRL_REGISTER(UART_BAUDRATE) = BAUDRATE_115200;
    EQRL_REGISTER(UART_CONFIG) = 0u; /* no parity, no flow control */
    EQRL_REGISTER(UART_ENABLE) = ENABLE_UART;
    EQRL_REGISTER(UART_RXDRDY) = 0u;
    EQRL_REGISTER(UART_ERROR) = 0u;
    EQRL_REGISTER(UART_INTENSET) = INTERRUPT_RXDRDY | INTERRUPT_ERROR;
    cortex_m_enable_interrupt(EQRL_UART_IRQ);
    EQRL_REGISTER(UART_STARTTX) = 1u;
    EQRL_REGISTER(UART_STARTRX) = 1u;
}

int eqrl_port_uart_put(uint8_t byte)
{
    EQRL_REGISTER(UART_TXDRDY) = 0u;
    EQRL_REGISTER(UART_TXD) = byte;
    return eqrl_port_wait(UART_TXDRDY, 1u, 1u); /* sent: TXD has room for one more again */
}

void eqrl_port_uart_interrupt(void)
{
    for (uint32_t turn = 0u; turn < RX_FIFO_BYTES && EQRL_REGISTER(UART_RXDRDY) != 0u; turn++) {
        EQRL_REGISTER(UART_RXDRDY) = 0u; /* before RXD is read: that lets the next byte come */
        eqrl_port_received((uint8_t)EQRL_REGISTER(UART_RXD));
    }
    if (EQRL_REGISTER(UART_ERROR) != 0u) {
        EQRL_REGISTER(UART_ERROR) = 0u;
        const uint32_t errors = EQRL_REGISTER(UART_ERRORSRC);
        EQRL_REGISTER(UART_ERRORSRC) = errors;
        if ((errors & ERROR_OVERRUN) != 0u) {
            eqrl_port_overrun();
        }
    }
}
