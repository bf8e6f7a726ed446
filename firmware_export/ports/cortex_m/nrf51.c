/* SPDX-License-Identifier: Apache-2.0
 * nRF51: clock and UART, transmit only. Registers: nRF51 series reference manual v3.0, CLOCK and UART.
 */
#include "eqrl_port.h"

#define CLOCK_HFCLKSTART 0x40000000u
#define CLOCK_HFCLKSTARTED 0x40000100u

#define UART_STARTTX (EQRL_UART_BASE + 0x008u)
#define UART_TXDRDY (EQRL_UART_BASE + 0x11Cu)
#define UART_ENABLE (EQRL_UART_BASE + 0x500u)
#define UART_PSELTXD (EQRL_UART_BASE + 0x50Cu)
#define UART_TXD (EQRL_UART_BASE + 0x51Cu)
#define UART_BAUDRATE (EQRL_UART_BASE + 0x524u)
#define UART_CONFIG (EQRL_UART_BASE + 0x56Cu)

#define GPIO_DIRSET 0x50000518u
#define GPIO_OUTSET 0x50000508u

#define PIN_TX 24u
#define ENABLE_UART 4u
#define BAUDRATE_115200 0x01D7E000u

typedef char eqrl_baud_is_the_boards[EQRL_UART_BAUD == 115200u ? 1 : -1];

uint32_t eqrl_port_clock_init(void)
{
    /* The chip starts on its RC oscillator, which has the same 16 MHz, only less exact, and stays on it if the
     * crystal never comes up. */
    EQRL_REGISTER(CLOCK_HFCLKSTARTED) = 0u;
    EQRL_REGISTER(CLOCK_HFCLKSTART) = 1u;
    (void)eqrl_port_wait(CLOCK_HFCLKSTARTED, 1u, 1u);
    return EQRL_CLOCK_HZ;
}

void eqrl_port_uart_init(uint32_t clock_hz)
{
    (void)clock_hz;
    EQRL_REGISTER(GPIO_OUTSET) = 1u << PIN_TX; /* idle level while the UART is off */
    EQRL_REGISTER(GPIO_DIRSET) = 1u << PIN_TX;
    EQRL_REGISTER(UART_PSELTXD) = PIN_TX;
    EQRL_REGISTER(UART_BAUDRATE) = BAUDRATE_115200;
    EQRL_REGISTER(UART_CONFIG) = 0u; /* no parity, no flow control */
    EQRL_REGISTER(UART_ENABLE) = ENABLE_UART;
    EQRL_REGISTER(UART_STARTTX) = 1u;
}

void eqrl_port_uart_put(uint8_t byte)
{
    EQRL_REGISTER(UART_TXDRDY) = 0u;
    EQRL_REGISTER(UART_TXD) = byte;
    (void)eqrl_port_wait(UART_TXDRDY, 1u, 1u); /* sent: TXD has room for one more again */
}
