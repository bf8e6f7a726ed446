/* SPDX-License-Identifier: Apache-2.0
 * ESP32-C3: what its files share. Registers: ESP32-C3 technical reference manual.
 */
#ifndef EQRL_CHIP_ESP32C3_H
#define EQRL_CHIP_ESP32C3_H

#include <stdint.h>

/* Lines of the core, 1 to 31, to which the interrupt matrix connects sources. */
#define ESP32C3_LINE_UART 1u
#define ESP32C3_LINE_TIMER 2u

#define SYSTEM_PERIP_CLK_EN0 0x600C0010u
#define SYSTEM_PERIP_RST_EN0 0x600C0018u
#define PERIP_UART0 (1u << 2)
#define PERIP_TIMG0 (1u << 13)
#define PERIP_UART_MEMORY (1u << 24)
#define PERIP_SYSTIMER (1u << 29)

#define RTC_CNTL_RESET_STATE 0x60008038u
#define RESET_CAUSE_MASK 0x3Fu

#define TIMG_WDTCONFIG0(base) ((base) + 0x48u)
#define TIMG_WDTCONFIG1(base) ((base) + 0x4Cu)
#define TIMG_WDTCONFIG2(base) ((base) + 0x50u)
#define TIMG_WDTFEED(base) ((base) + 0x60u)
#define TIMG_WDTWPROTECT(base) ((base) + 0x64u)
#define TIMG0 0x6001F000u
#define TIMG1 0x60020000u
#define WDT_KEY 0x50D83AA1u

void esp32c3_route(uint32_t source, uint32_t line);

#endif
