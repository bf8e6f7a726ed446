/* SPDX-License-Identifier: Apache-2.0
 * NS16550A with byte registers, eight bits, no parity. Its boards have one fixed clock. Registers: PC16550D datasheet.
 */
#include "eqrl_port.h"
#include "machine_virt.h"

#define BYTE_REGISTER(address) (*(volatile uint8_t *)(uintptr_t)(address))

#define DATA (EQRL_UART_BASE + 0u) /* with DLAB the divisor's low byte */
#define IER (EQRL_UART_BASE + 1u)  /* with DLAB the divisor's high byte */
#define FCR (EQRL_UART_BASE + 2u)
#define LCR (EQRL_UART_BASE + 3u)
#define LSR (EQRL_UART_BASE + 5u)

#define LCR_8_BITS 3u
#define LCR_DLAB 0x80u
#define FCR_ENABLE_CLEAR 7u /* both FIFOs; an interrupt from the first byte on */
#define IER_RECEIVED_OR_ERROR 5u
#define LSR_RECEIVED 1u
#define LSR_OVERRUN 2u
#define LSR_FRAMING 8u
#define LSR_THR_EMPTY 0x20u

#define DIVISOR (EQRL_UART_CLOCK_HZ / 16u / EQRL_UART_BAUD)
#define MOST_BYTES 64u /* that one interrupt takes: whatever the registers say, it ends */

typedef char eqrl_divisor_fits[DIVISOR >= 1u && DIVISOR < 65536u ? 1 : -1];

void eqrl_port_uart_init(uint32_t clock_hz)
{
    (void)clock_hz;
    BYTE_REGISTER(LCR) = LCR_DLAB;
    BYTE_REGISTER(DATA) = (uint8_t)(DIVISOR & 255u);
    BYTE_REGISTER(IER) = (uint8_t)(DIVISOR >> 8);
    BYTE_REGISTER(LCR) = LCR_8_BITS;
    BYTE_REGISTER(FCR) = FCR_ENABLE_CLEAR;
    BYTE_REGISTER(IER) = IER_RECEIVED_OR_ERROR;
    eqrl_virt_enable_interrupt(EQRL_UART_IRQ);
}

int eqrl_port_uart_put(uint8_t byte)
{
#ifdef __clang__
#pragma clang loop unroll(disable)
#endif
    for (uint32_t turn = 0u; turn < EQRL_WAIT_TURNS; turn++) {
        if ((BYTE_REGISTER(LSR) & LSR_THR_EMPTY) != 0u) {
            BYTE_REGISTER(DATA) = byte;
            return 1;
        }
    }
    return 0;
}

void eqrl_port_uart_interrupt(void)
{
    for (uint32_t turn = 0u; turn < MOST_BYTES; turn++) {
        const uint32_t status = BYTE_REGISTER(LSR); /* read: its errors are cleared */
        if ((status & LSR_OVERRUN) != 0u) {
            eqrl_port_overrun();
        }
        if ((status & LSR_RECEIVED) == 0u) {
            return;
        }
        const uint8_t byte = BYTE_REGISTER(DATA);
        if ((status & LSR_FRAMING) == 0u) {
            eqrl_port_received(byte);
        }
    }
}
