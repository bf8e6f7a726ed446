/* SPDX-License-Identifier: Apache-2.0
 * What the start-up calls.
 */
#ifndef EQRL_RISCV32_H
#define EQRL_RISCV32_H

#include <stdint.h>

#define RISCV_INTERRUPT 0x80000000u

/* Serve the interrupt of mcause; one that nobody enabled is a fault. The chip's file has it. */
void eqrl_port_trap(uint32_t cause);

#endif
