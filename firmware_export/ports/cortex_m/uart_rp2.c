/* SPDX-License-Identifier: Apache-2.0
 * RP2040 and RP2350: UART0 (Arm PL011) on GPIO0 and GPIO1.
 */
#include "chip_rp2.h"
#include "cortex_m.h"

#define UARTDR (EQRL_UART_BASE + 0x00u)
#define UARTFR (EQRL_UART_BASE + 0x18u)
#define UARTIBRD (EQRL_UART_BASE + 0x24u)
#define UARTFBRD (EQRL_UART_BASE + 0x28u)
#define UARTLCR_H (EQRL_UART_BASE + 0x2Cu)
#define UARTCR (EQRL_UART_BASE + 0x30u)
#define UARTIFLS (EQRL_UART_BASE + 0x34u)
#define UARTIMSC (EQRL_UART_BASE + 0x38u)
#define UARTICR (EQRL_UART_BASE + 0x44u)

#define TX_PIN 0u
#define RX_PIN 1u
#define DR_ERRORS (7u << 8) /* framing, parity, break */
#define DR_OVERRUN (1u << 11)
#define FR_RX_EMPTY (1u << 4)
#define FR_TX_FULL (1u << 5)
#define LCR_H_8_BITS_FIFO ((3u << 5) | (1u << 4))
#define CR_ENABLE_TX_RX ((1u << 0) | (1u << 8) | (1u << 9))
#define IFLS_RX_FROM_AN_EIGHTH (0u << 3)
#define INTERRUPT_RX_AND_ITS_TIMEOUT ((1u << 4) | (1u << 6))
#define ALL_INTERRUPTS 0x7FFu
#define FIFO_BYTES 32u
#define NEEDED_RESETS (RESETS_IO_BANK0 | RESETS_PADS_BANK0 | RESETS_UART0)

/* Baud rate divisor in 64ths, rounded; by the preprocessor, because a Cortex-M0+ has no divide. */
#define DIVISOR(clock_hz) (((clock_hz) * 8u / EQRL_UART_BAUD + 1u) / 2u)

static void connect(uint32_t pin)
{
    EQRL_REGISTER(IO_BANK0_CTRL(pin)) = IO_BANK0_FUNCTION_UART;
    EQRL_REGISTER(PADS_BANK0_PAD(pin)) = PAD_UART; /* last: it ends the isolation of an RP2350's pad */
}

void eqrl_port_uart_init(uint32_t clock_hz)
{
    uint32_t divisor = DIVISOR(RP2_PLL_HZ);
    if (clock_hz == RP2_XOSC_HZ) {
        divisor = DIVISOR(RP2_XOSC_HZ);
    }
    if (clock_hz == RP2_ROSC_HZ) {
        divisor = DIVISOR(RP2_ROSC_HZ);
    }
    EQRL_REGISTER(RESETS_RESET + RP2_CLEAR) = NEEDED_RESETS;
    (void)eqrl_port_wait(RESETS_RESET_DONE, NEEDED_RESETS, NEEDED_RESETS);
    connect(TX_PIN);
    connect(RX_PIN);
    EQRL_REGISTER(UARTIBRD) = divisor >> 6;
    EQRL_REGISTER(UARTFBRD) = divisor & 63u;
    EQRL_REGISTER(UARTLCR_H) = LCR_H_8_BITS_FIFO; /* also latches the divisor */
    EQRL_REGISTER(UARTIFLS) = IFLS_RX_FROM_AN_EIGHTH;
    EQRL_REGISTER(UARTICR) = ALL_INTERRUPTS;
    EQRL_REGISTER(UARTIMSC) = INTERRUPT_RX_AND_ITS_TIMEOUT;
    EQRL_REGISTER(UARTCR) = CR_ENABLE_TX_RX;
    cortex_m_enable_interrupt(EQRL_UART_IRQ);
}

int eqrl_port_uart_put(uint8_t byte)
{
    if (!eqrl_port_wait(UARTFR, FR_TX_FULL, 0u)) {
        return 0;
    }
    EQRL_REGISTER(UARTDR) = byte;
    return 1;
}

void eqrl_port_uart_interrupt(void)
{
    EQRL_REGISTER(UARTICR) = ALL_INTERRUPTS; /* before the bytes are fetched: one that comes now asks again */
    for (uint32_t turn = 0u; turn < FIFO_BYTES && (EQRL_REGISTER(UARTFR) & FR_RX_EMPTY) == 0u; turn++) {
        const uint32_t data = EQRL_REGISTER(UARTDR);
        if ((data & DR_OVERRUN) != 0u) {
            eqrl_port_overrun();
        }
        if ((data & DR_ERRORS) == 0u) {
            eqrl_port_received((uint8_t)data);
        }
    }
}
