/* SPDX-License-Identifier: Apache-2.0
 * LPUART6 of an i.MX RT1062 on GPIO_AD_B0_02 (TX) and GPIO_AD_B0_03 (RX), eight bits, no parity. Its clock is the 24
 * MHz crystal, whatever the core runs at. Registers: i.MX RT1060 reference manual, LPUART, IOMUXC, CCM.
 */
#include "cortex_m.h"

typedef char eqrl_uart_is_lpuart6[EQRL_UART_BASE == 0x40198000u ? 1 : -1];

#define LPUART_BAUD (EQRL_UART_BASE + 0x10u)
#define LPUART_STAT (EQRL_UART_BASE + 0x14u)
#define LPUART_CTRL (EQRL_UART_BASE + 0x18u)
#define LPUART_DATA (EQRL_UART_BASE + 0x1Cu)

#define BAUD_OVERSAMPLE_16 (15u << 24)
#define BAUD_DIVISOR ((EQRL_CRYSTAL_HZ / 16u + EQRL_UART_BAUD / 2u) / EQRL_UART_BAUD)
#define STAT_FRAMING (1u << 17)
#define STAT_ERRORS (15u << 16) /* parity, framing, noise, overrun: cleared by writing ones */
#define STAT_OVERRUN (1u << 19)
#define STAT_RX_FULL (1u << 21)
#define STAT_TX_EMPTY (1u << 23)
#define STAT_CLEARED_BY_ONES (STAT_ERRORS | (1u << 31) | (1u << 30) | (1u << 20) | (3u << 14))
#define CTRL_RX (1u << 18)
#define CTRL_TX (1u << 19)
#define CTRL_RX_INTERRUPT (1u << 21)
#define CTRL_OVERRUN_INTERRUPT (1u << 27)

typedef char eqrl_divisor_fits[BAUD_DIVISOR >= 1u && BAUD_DIVISOR < 8192u ? 1 : -1];

#define CCM_CSCDR1 0x400FC024u
#define CCM_CSCDR1_UART_MASK 0x7Fu
#define CCM_CSCDR1_UART_CRYSTAL (1u << 6)
#define CCM_CCGR3 0x400FC074u
#define CCM_CCGR3_LPUART6 (3u << 6)
#define CCM_CCGR4 0x400FC078u
#define CCM_CCGR4_IOMUXC (3u << 2)
#define MUX_AD_B0_02 0x401F80C4u
#define MUX_AD_B0_03 0x401F80C8u
#define MUX_LPUART6 2u
#define PAD_AD_B0_02 0x401F82B4u
#define PAD_AD_B0_03 0x401F82B8u
#define PAD_DRIVE ((6u << 3) | (2u << 6))
#define PAD_PULLED_UP ((1u << 12) | (1u << 13) | (3u << 14) | (1u << 16)) /* 22 kOhm, with hysteresis */
#define LPUART6_RX_SELECT 0x401F8550u
#define LPUART6_TX_SELECT 0x401F8554u
#define SELECT_AD_B0 1u

void eqrl_port_uart_init(uint32_t clock_hz)
{
    (void)clock_hz;
    EQRL_REGISTER(CCM_CSCDR1) = (EQRL_REGISTER(CCM_CSCDR1) & ~CCM_CSCDR1_UART_MASK) | CCM_CSCDR1_UART_CRYSTAL;
    EQRL_REGISTER(CCM_CCGR3) |= CCM_CCGR3_LPUART6;
    EQRL_REGISTER(CCM_CCGR4) |= CCM_CCGR4_IOMUXC;
    EQRL_REGISTER(MUX_AD_B0_02) = MUX_LPUART6;
    EQRL_REGISTER(MUX_AD_B0_03) = MUX_LPUART6;
    EQRL_REGISTER(PAD_AD_B0_02) = PAD_DRIVE;
    EQRL_REGISTER(PAD_AD_B0_03) = PAD_PULLED_UP;
    EQRL_REGISTER(LPUART6_RX_SELECT) = SELECT_AD_B0;
    EQRL_REGISTER(LPUART6_TX_SELECT) = SELECT_AD_B0;
    EQRL_REGISTER(LPUART_CTRL) = 0u;
    EQRL_REGISTER(LPUART_BAUD) = BAUD_OVERSAMPLE_16 | BAUD_DIVISOR;
    EQRL_REGISTER(LPUART_STAT) = STAT_CLEARED_BY_ONES;
    EQRL_REGISTER(LPUART_CTRL) = CTRL_TX | CTRL_RX | CTRL_RX_INTERRUPT | CTRL_OVERRUN_INTERRUPT;
    cortex_m_enable_interrupt(EQRL_UART_IRQ);
}

int eqrl_port_uart_put(uint8_t byte)
{
    if (!eqrl_port_wait(LPUART_STAT, STAT_TX_EMPTY, STAT_TX_EMPTY)) {
        return 0;
    }
    EQRL_REGISTER(LPUART_DATA) = byte;
    return 1;
}

void eqrl_port_uart_interrupt(void)
{
    const uint32_t status = EQRL_REGISTER(LPUART_STAT);
    if ((status & STAT_RX_FULL) != 0u) {
        const uint8_t byte = (uint8_t)EQRL_REGISTER(LPUART_DATA); /* clears STAT_RX_FULL */
        if ((status & STAT_FRAMING) == 0u) {
            eqrl_port_received(byte);
        }
    }
    if ((status & STAT_OVERRUN) != 0u) {
        eqrl_port_overrun();
    }
    EQRL_REGISTER(LPUART_STAT) = status & STAT_ERRORS;
}
