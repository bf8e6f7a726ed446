/* SPDX-License-Identifier: Apache-2.0
 * NS16550A with byte registers, transmit only. Its boards have one fixed clock. Registers: PC16550D datasheet.
 */
#include "eqrl_port.h"

#define BYTE_REGISTER(address) (*(volatile uint8_t *)(uintptr_t)(address))

#define THR (EQRL_UART_BASE + 0u) /* data; with DLAB the divisor's low byte */
#define DLM (EQRL_UART_BASE + 1u) /* with DLAB the divisor's high byte */
#define FCR (EQRL_UART_BASE + 2u)
#define LCR (EQRL_UART_BASE + 3u)
#define LSR (EQRL_UART_BASE + 5u)

#define LCR_8_BITS 3u
#define LCR_DLAB 0x80u
#define FCR_ENABLE_FIFO 1u
#define LSR_THR_EMPTY 0x20u

#define DIVISOR (EQRL_UART_CLOCK_HZ / 16u / EQRL_UART_BAUD)

typedef char eqrl_divisor_fits[DIVISOR >= 1u && DIVISOR < 65536u ? 1 : -1];

uint32_t eqrl_port_clock_init(void)
{
    return EQRL_CLOCK_HZ;
}

void eqrl_port_uart_init(uint32_t clock_hz)
{
    (void)clock_hz;
    BYTE_REGISTER(LCR) = LCR_DLAB;
    BYTE_REGISTER(THR) = (uint8_t)(DIVISOR & 255u);
    BYTE_REGISTER(DLM) = (uint8_t)(DIVISOR >> 8);
    BYTE_REGISTER(LCR) = LCR_8_BITS;
    BYTE_REGISTER(FCR) = FCR_ENABLE_FIFO;
}

void eqrl_port_uart_put(uint8_t byte)
{
#ifdef __clang__
#pragma clang loop unroll(disable)
#endif
    for (uint32_t turn = 0u; turn < EQRL_WAIT_TURNS; turn++) {
        if ((BYTE_REGISTER(LSR) & LSR_THR_EMPTY) != 0u) {
            BYTE_REGISTER(THR) = byte;
            return;
        }
    }
}
