/* SPDX-License-Identifier: Apache-2.0
 * ESP32-C3: UART0 on GPIO21 (TX) and GPIO20 (RX), eight bits, no parity. Its clock is the 40 MHz crystal, whatever the
 * core runs at. Registers: ESP32-C3 technical reference manual, UART controller, IO MUX.
 */
#include "chip_esp32c3.h"
#include "eqrl_port.h"

typedef char eqrl_uart_is_uart0[EQRL_UART_BASE == 0x60000000u ? 1 : -1];

#define UART_FIFO (EQRL_UART_BASE + 0x00u)
#define UART_INT_ST (EQRL_UART_BASE + 0x08u)
#define UART_INT_ENA (EQRL_UART_BASE + 0x0Cu)
#define UART_INT_CLR (EQRL_UART_BASE + 0x10u)
#define UART_CLKDIV (EQRL_UART_BASE + 0x14u)
#define UART_STATUS (EQRL_UART_BASE + 0x1Cu)
#define UART_CONF0 (EQRL_UART_BASE + 0x20u)
#define UART_CONF1 (EQRL_UART_BASE + 0x24u)
#define UART_CLK_CONF (EQRL_UART_BASE + 0x78u)
#define UART_ID (EQRL_UART_BASE + 0x80u)

#define INT_RX_FULL (1u << 0)
#define INT_FRAMING (1u << 3)
#define INT_OVERFLOW (1u << 4)
#define CONF0_8_BITS_1_STOP ((1u << 28) | (3u << 2) | (1u << 4)) /* and the FIFO's clock */
#define CONF0_RESET_FIFOS ((1u << 17) | (1u << 18))
#define CONF1_FROM_1_BYTE 1u
#define CLK_CONF_CRYSTAL ((3u << 20) | (1u << 22) | (1u << 24) | (1u << 25))
#define ID_UPDATE (1u << 31)
#define STATUS_RX_COUNT 0x3FFu
#define STATUS_TX_64 (0x3C0u << 16) /* 64 bytes or more of the 128 */

/* In 16ths, rounded: 12 bits and 4 of fraction. */
#define DIVISOR ((EQRL_CRYSTAL_HZ * 16u + EQRL_UART_BAUD / 2u) / EQRL_UART_BAUD)

typedef char eqrl_divisor_fits[DIVISOR >= 16u && DIVISOR < 65536u ? 1 : -1];

#define IO_MUX_GPIO20 0x60009054u
#define IO_MUX_GPIO21 0x60009058u
#define IO_MUX_UART0 (2u << 10) /* function 0; usual drive */
#define IO_MUX_INPUT_PULLED_UP ((1u << 9) | (1u << 8))

#define MOST_BYTES 128u /* that one interrupt takes: whatever the registers say, it ends */

void eqrl_port_uart_init(uint32_t clock_hz)
{
    (void)clock_hz;
    EQRL_REGISTER(SYSTEM_PERIP_CLK_EN0) |= PERIP_UART0 | PERIP_UART_MEMORY;
    EQRL_REGISTER(SYSTEM_PERIP_RST_EN0) &= ~(PERIP_UART0 | PERIP_UART_MEMORY);
    EQRL_REGISTER(IO_MUX_GPIO20) = IO_MUX_UART0 | IO_MUX_INPUT_PULLED_UP;
    EQRL_REGISTER(IO_MUX_GPIO21) = IO_MUX_UART0;
    EQRL_REGISTER(UART_INT_ENA) = 0u;
    EQRL_REGISTER(UART_CLK_CONF) = CLK_CONF_CRYSTAL;
    EQRL_REGISTER(UART_CLKDIV) = (DIVISOR >> 4) | ((DIVISOR & 15u) << 20);
    EQRL_REGISTER(UART_CONF0) = CONF0_8_BITS_1_STOP | CONF0_RESET_FIFOS;
    EQRL_REGISTER(UART_CONF0) = CONF0_8_BITS_1_STOP;
    EQRL_REGISTER(UART_CONF1) = CONF1_FROM_1_BYTE;
    EQRL_REGISTER(UART_ID) |= ID_UPDATE;
    EQRL_REGISTER(UART_INT_CLR) = 0xFFFFFFFFu;
    EQRL_REGISTER(UART_INT_ENA) = INT_RX_FULL | INT_OVERFLOW | INT_FRAMING;
    esp32c3_route(EQRL_UART_IRQ, ESP32C3_LINE_UART);
}

int eqrl_port_uart_put(uint8_t byte)
{
    if (!eqrl_port_wait(UART_STATUS, STATUS_TX_64, 0u)) {
        return 0;
    }
    EQRL_REGISTER(UART_FIFO) = byte;
    return 1;
}

void eqrl_port_uart_interrupt(void)
{
    const uint32_t status = EQRL_REGISTER(UART_INT_ST);
    for (uint32_t turn = 0u; turn < MOST_BYTES; turn++) {
        if ((EQRL_REGISTER(UART_STATUS) & STATUS_RX_COUNT) == 0u) {
            break;
        }
        eqrl_port_received((uint8_t)EQRL_REGISTER(UART_FIFO));
    }
    if ((status & INT_OVERFLOW) != 0u) {
        eqrl_port_overrun();
    }
    EQRL_REGISTER(UART_INT_CLR) = status; /* only now: the first is there again while the FIFO holds bytes */
}
