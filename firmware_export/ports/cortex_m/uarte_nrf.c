/* SPDX-License-Identifier: Apache-2.0
 * UARTE of the nRF5340: a UART that reads and writes RAM by itself. It receives byte by byte: a buffer of one, which
 * starts again by itself, so each byte must be fetched before the next is there, 87 us later at 115200 baud.
 * Registers: nRF5340 product specification, UARTE.
 */
#include "chip_nrf.h"
#include "cortex_m.h"

#define UARTE_STARTRX (EQRL_UART_BASE + 0x000u)
#define UARTE_STARTTX (EQRL_UART_BASE + 0x008u)
#define UARTE_ENDRX (EQRL_UART_BASE + 0x110u)
#define UARTE_ENDTX (EQRL_UART_BASE + 0x120u)
#define UARTE_ERROR (EQRL_UART_BASE + 0x124u)
#define UARTE_SHORTS (EQRL_UART_BASE + 0x200u)
#define UARTE_INTENSET (EQRL_UART_BASE + 0x304u)
#define UARTE_INTENCLR (EQRL_UART_BASE + 0x308u)
#define UARTE_ERRORSRC (EQRL_UART_BASE + 0x480u)
#define UARTE_ENABLE (EQRL_UART_BASE + 0x500u)
#define UARTE_PSEL_TXD (EQRL_UART_BASE + 0x50Cu)
#define UARTE_PSEL_RXD (EQRL_UART_BASE + 0x514u)
#define UARTE_BAUDRATE (EQRL_UART_BASE + 0x524u)
#define UARTE_RXD_PTR (EQRL_UART_BASE + 0x534u)
#define UARTE_RXD_MAXCNT (EQRL_UART_BASE + 0x538u)
#define UARTE_TXD_PTR (EQRL_UART_BASE + 0x544u)
#define UARTE_TXD_MAXCNT (EQRL_UART_BASE + 0x548u)
#define UARTE_CONFIG (EQRL_UART_BASE + 0x56Cu)

#define ENABLE_UARTE 8u
#define BAUDRATE_115200 0x01D60000u
#define SHORT_ENDRX_STARTRX (1u << 5)
#define INTERRUPT_ENDRX (1u << 4)
#define INTERRUPT_ERROR (1u << 9)
#define ERROR_OVERRUN 1u

typedef char eqrl_baud_is_the_boards[EQRL_UART_BAUD == 115200u ? 1 : -1];

/* In RAM: the UARTE does not reach flash. */
static volatile uint8_t sent;
static volatile uint8_t received;

void eqrl_port_uart_init(uint32_t clock_hz)
{
    (void)clock_hz;
    EQRL_REGISTER(UARTE_ENABLE) = 0u; /* a bootloader may have left it on */
    EQRL_REGISTER(UARTE_INTENCLR) = 0xFFFFFFFFu;
    nrf_uart_pins(EQRL_UART_TX_PIN, EQRL_UART_RX_PIN);
    EQRL_REGISTER(UARTE_PSEL_TXD) = EQRL_UART_TX_PIN;
    EQRL_REGISTER(UARTE_PSEL_RXD) = EQRL_UART_RX_PIN;
    EQRL_REGISTER(UARTE_BAUDRATE) = BAUDRATE_115200;
    EQRL_REGISTER(UARTE_CONFIG) = 0u; /* no parity, no flow control */
    EQRL_REGISTER(UARTE_RXD_PTR) = (uint32_t)(uintptr_t)&received;
    EQRL_REGISTER(UARTE_RXD_MAXCNT) = 1u;
    EQRL_REGISTER(UARTE_TXD_PTR) = (uint32_t)(uintptr_t)&sent;
    EQRL_REGISTER(UARTE_TXD_MAXCNT) = 1u;
    EQRL_REGISTER(UARTE_SHORTS) = SHORT_ENDRX_STARTRX;
    EQRL_REGISTER(UARTE_ENABLE) = ENABLE_UARTE;
    EQRL_REGISTER(UARTE_ENDRX) = 0u;
    EQRL_REGISTER(UARTE_ERROR) = 0u;
    EQRL_REGISTER(UARTE_INTENSET) = INTERRUPT_ENDRX | INTERRUPT_ERROR;
    cortex_m_enable_interrupt(EQRL_UART_IRQ);
    EQRL_REGISTER(UARTE_STARTRX) = 1u;
}

int eqrl_port_uart_put(uint8_t byte)
{
    sent = byte;
    EQRL_REGISTER(UARTE_ENDTX) = 0u;
    EQRL_REGISTER(UARTE_STARTTX) = 1u;
    return eqrl_port_wait(UARTE_ENDTX, 1u, 1u);
}

void eqrl_port_uart_interrupt(void)
{
    if (EQRL_REGISTER(UARTE_ENDRX) != 0u) {
        EQRL_REGISTER(UARTE_ENDRX) = 0u;
        eqrl_port_received(received);
    }
    if (EQRL_REGISTER(UARTE_ERROR) != 0u) {
        EQRL_REGISTER(UARTE_ERROR) = 0u;
        const uint32_t errors = EQRL_REGISTER(UARTE_ERRORSRC);
        EQRL_REGISTER(UARTE_ERRORSRC) = errors;
        if ((errors & ERROR_OVERRUN) != 0u) {
            eqrl_port_overrun();
        }
    }
}
