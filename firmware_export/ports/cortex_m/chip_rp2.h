/* SPDX-License-Identifier: Apache-2.0
 * Registers of the RP2040 and the RP2350 that the port touches; names as in the datasheets' lists of registers. The
 * two have the same blocks, at different places and with their reset bits in another order.
 */
#ifndef CHIP_RP2_H
#define CHIP_RP2_H

#include "eqrl_port.h"

#define RP2_SET 0x2000u   /* atomic alias: set the bits written */
#define RP2_CLEAR 0x3000u /* atomic alias: clear the bits written */

#define RP2_XOSC_HZ 12000000u

#if EQRL_UART_BASE < 0x40070000u /* RP2040 */

#define CLOCKS_CLK_REF 0x40008030u
#define RESETS 0x4000C000u
#define PSM 0x40010000u
#define IO_BANK0 0x40014000u
#define PADS_BANK0 0x4001C000u
#define XOSC 0x40024000u
#define PLL_SYS 0x40028000u
#define WATCHDOG 0x40058000u
#define WATCHDOG_TICK (WATCHDOG + 0x2Cu)

#define RESETS_IO_BANK0 (1u << 5)
#define RESETS_PADS_BANK0 (1u << 8)
#define RESETS_PLL_SYS (1u << 12)
#define RESETS_UART0 (1u << 22)
#define PSM_ALL_BUT_OSCILLATORS 0x0001FFFCu

#define RP2_ROSC_HZ 6500000u /* ring oscillator: nominal, 1.8 to 12 MHz */
#define RP2_PLL_HZ 125000000u
#define RP2_PLL_POSTDIV ((6u << 16) | (2u << 12)) /* 1500 / 6 / 2 = 125 MHz */

#else /* RP2350, secure, Arm */

#define CLOCKS_CLK_REF 0x40010030u
#define PSM 0x40018000u
#define RESETS 0x40020000u
#define IO_BANK0 0x40028000u
#define PADS_BANK0 0x40038000u
#define XOSC 0x40048000u
#define PLL_SYS 0x40050000u
#define WATCHDOG 0x400D8000u
#define TICKS_WATCHDOG_CTRL 0x40108030u
#define TICKS_WATCHDOG_CYCLES 0x40108034u

#define RESETS_IO_BANK0 (1u << 6)
#define RESETS_PADS_BANK0 (1u << 9)
#define RESETS_PLL_SYS (1u << 14)
#define RESETS_UART0 (1u << 26)
#define PSM_ALL_BUT_OSCILLATORS 0x01FFFFF3u

#define RP2_ROSC_HZ 11000000u /* ring oscillator: nominal, 4.6 to 19.6 MHz */
#define RP2_PLL_HZ 150000000u
#define RP2_PLL_POSTDIV ((5u << 16) | (2u << 12)) /* 1500 / 5 / 2 = 150 MHz */

#endif

#define CLOCKS_CLK_REF_CTRL (CLOCKS_CLK_REF + 0x00u)
#define CLOCKS_CLK_REF_SELECTED (CLOCKS_CLK_REF + 0x08u)
#define CLOCKS_CLK_SYS_CTRL (CLOCKS_CLK_REF + 0x0Cu)
#define CLOCKS_CLK_SYS_SELECTED (CLOCKS_CLK_REF + 0x14u)
#define CLOCKS_CLK_PERI_CTRL (CLOCKS_CLK_REF + 0x18u)
#define CLK_REF_SRC_XOSC 2u

#define RESETS_RESET (RESETS + 0x0u)
#define RESETS_RESET_DONE (RESETS + 0x8u)
#define PSM_WDSEL (PSM + 0x8u)

#define IO_BANK0_CTRL(pin) (IO_BANK0 + 0x04u + 8u * (pin))
#define IO_BANK0_FUNCTION_UART 2u
#define PADS_BANK0_PAD(pin) (PADS_BANK0 + 0x04u + 4u * (pin))
#define PAD_UART 0x5Au /* input on, 4 mA, pulled up, Schmitt trigger; on the RP2350 not isolated */

#define XOSC_CTRL (XOSC + 0x0u)
#define XOSC_STATUS (XOSC + 0x4u)
#define XOSC_STARTUP (XOSC + 0xCu)

#define PLL_SYS_CS (PLL_SYS + 0x0u)
#define PLL_SYS_PWR (PLL_SYS + 0x4u)
#define PLL_SYS_FBDIV_INT (PLL_SYS + 0x8u)
#define PLL_SYS_PRIM (PLL_SYS + 0xCu)

#define WATCHDOG_CTRL (WATCHDOG + 0x00u)
#define WATCHDOG_LOAD (WATCHDOG + 0x04u)
#define WATCHDOG_REASON (WATCHDOG + 0x08u)
#define WATCHDOG_SCRATCH4 (WATCHDOG + 0x1Cu)

#endif
