/* SPDX-License-Identifier: Apache-2.0
 * What the clock file of an STM32 family gives to the UART file of its USART's generation, and to the watchdog.
 */
#ifndef EQRL_CHIP_STM32_H
#define EQRL_CHIP_STM32_H

#include <stdint.h>

/* Feed EQRL_UART_BASE with a clock and connect its pins, RX pulled up: an open wire must not send. Returns the
 * clock in Hz from which the baud rate is divided.
 */
uint32_t eqrl_stm32_uart_connect(uint32_t clock_hz);

/* The independent watchdog and what belongs to it: addresses, and bits in them. */
typedef struct {
    uint32_t base;
    uint32_t fastest_hz; /* most that its RC oscillator may run at */
    uint32_t reset_flags;
    uint32_t reset_by_watchdog;
    uint32_t reset_flags_clear;
    uint32_t debug; /* where it is told to stand still while a debugger halts the core: it must not reset a */
    uint32_t debug_freeze; /* chip whose flash is being written */
} eqrl_stm32_watchdog;

extern const eqrl_stm32_watchdog eqrl_stm32_iwdg;

#endif
