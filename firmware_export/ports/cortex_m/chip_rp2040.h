/* SPDX-License-Identifier: Apache-2.0
 * Registers of the RP2040 that the port touches; names as in the datasheet's lists of registers.
 */
#ifndef CHIP_RP2040_H
#define CHIP_RP2040_H

#define RP2040_SET 0x2000u   /* atomic alias: set the bits written */
#define RP2040_CLEAR 0x3000u /* atomic alias: clear the bits written */

#define CLOCKS_CLK_REF_CTRL 0x40008030u
#define CLOCKS_CLK_REF_SELECTED 0x40008038u
#define CLOCKS_CLK_SYS_CTRL 0x4000803Cu
#define CLOCKS_CLK_SYS_SELECTED 0x40008044u
#define CLOCKS_CLK_PERI_CTRL 0x40008048u

#define RESETS_RESET 0x4000C000u
#define RESETS_RESET_DONE 0x4000C008u
#define RESETS_IO_BANK0 (1u << 5)
#define RESETS_PADS_BANK0 (1u << 8)
#define RESETS_PLL_SYS (1u << 12)
#define RESETS_UART0 (1u << 22)

#define IO_BANK0_GPIO0_CTRL 0x40014004u
#define IO_BANK0_GPIO1_CTRL 0x4001400Cu
#define IO_BANK0_FUNCTION_UART 2u

#define XOSC_CTRL 0x40024000u
#define XOSC_STATUS 0x40024004u
#define XOSC_STARTUP 0x4002400Cu

#define PLL_SYS_CS 0x40028000u
#define PLL_SYS_PWR 0x40028004u
#define PLL_SYS_FBDIV_INT 0x40028008u
#define PLL_SYS_PRIM 0x4002800Cu

/* The clock in Hz after each way that starting it can end. */
#define RP2040_ROSC_HZ 6500000u /* ring oscillator: nominal, 1.8 to 12 MHz */
#define RP2040_XOSC_HZ 12000000u
#define RP2040_PLL_HZ 125000000u

#endif
