/* SPDX-License-Identifier: Apache-2.0
 * RP2040 UART0 (Arm PL011) on GPIO0 and GPIO1, transmit only.
 */
#include "chip_rp2040.h"
#include "eqrl_port.h"

#define UARTDR (EQRL_UART_BASE + 0x00u)
#define UARTFR (EQRL_UART_BASE + 0x18u)
#define UARTIBRD (EQRL_UART_BASE + 0x24u)
#define UARTFBRD (EQRL_UART_BASE + 0x28u)
#define UARTLCR_H (EQRL_UART_BASE + 0x2Cu)
#define UARTCR (EQRL_UART_BASE + 0x30u)

#define FR_TX_FULL (1u << 5)
#define LCR_H_8_BITS_FIFO ((3u << 5) | (1u << 4))
#define CR_ENABLE_TX ((1u << 0) | (1u << 8))
#define NEEDED_RESETS (RESETS_IO_BANK0 | RESETS_PADS_BANK0 | RESETS_UART0)

/* Baud rate divisor in 64ths, rounded; by the preprocessor, because the core has no divide. */
#define DIVISOR(clock_hz) (((clock_hz) * 8u / EQRL_UART_BAUD + 1u) / 2u)

void eqrl_port_uart_init(uint32_t clock_hz)
{
    uint32_t divisor = DIVISOR(RP2040_PLL_HZ);
    if (clock_hz == RP2040_XOSC_HZ) {
        divisor = DIVISOR(RP2040_XOSC_HZ);
    }
    if (clock_hz == RP2040_ROSC_HZ) {
        divisor = DIVISOR(RP2040_ROSC_HZ);
    }
    EQRL_REGISTER(RESETS_RESET + RP2040_CLEAR) = NEEDED_RESETS;
    (void)eqrl_port_wait(RESETS_RESET_DONE, NEEDED_RESETS, NEEDED_RESETS);
    EQRL_REGISTER(IO_BANK0_GPIO0_CTRL) = IO_BANK0_FUNCTION_UART;
    EQRL_REGISTER(IO_BANK0_GPIO1_CTRL) = IO_BANK0_FUNCTION_UART;
    EQRL_REGISTER(UARTIBRD) = divisor >> 6;
    EQRL_REGISTER(UARTFBRD) = divisor & 63u;
    EQRL_REGISTER(UARTLCR_H) = LCR_H_8_BITS_FIFO; /* also latches the divisor */
    EQRL_REGISTER(UARTCR) = CR_ENABLE_TX;
}

void eqrl_port_uart_put(uint8_t byte)
{
    if (eqrl_port_wait(UARTFR, FR_TX_FULL, 0u)) {
        EQRL_REGISTER(UARTDR) = byte;
    }
}
