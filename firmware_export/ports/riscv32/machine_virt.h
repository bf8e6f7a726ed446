/* SPDX-License-Identifier: Apache-2.0
 * What the machine gives to its UART's file.
 */
#ifndef EQRL_MACHINE_VIRT_H
#define EQRL_MACHINE_VIRT_H

#include <stdint.h>

void eqrl_virt_enable_interrupt(uint32_t irq);

#endif
