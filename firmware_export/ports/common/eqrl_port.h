/* SPDX-License-Identifier: Apache-2.0
 * eqrl_port.h - what a board gives to the device loop in main.c, and what an application gives to both.
 *
 * EQRL_UART_BASE, EQRL_UART_BAUD, EQRL_UART_CLOCK_HZ and EQRL_CLOCK_HZ come from the board file.
 */
#ifndef EQRL_PORT_H
#define EQRL_PORT_H

#include <stdint.h>

#include "eqrl_port_policy.h" /* generated: names this firmware's policy */

#define EQRL_REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))

/* Upper bound of every wait for hardware, in turns of a polling loop of at least four cycles. */
#define EQRL_WAIT_TURNS 100000u

/* Turn until (register & mask) == value, or EQRL_WAIT_TURNS times. Return 1 if it came true. */
int eqrl_port_wait(uint32_t address, uint32_t mask, uint32_t value);

/* Set the clocks of the board file; on a fault of the hardware stay at a safe clock. Returns the clock in Hz. */
uint32_t eqrl_port_clock_init(void);
void eqrl_port_uart_init(uint32_t clock_hz);
/* Send one byte. Gives up after EQRL_WAIT_TURNS: a dead UART must not stop a controller. */
void eqrl_port_uart_put(uint8_t byte);
/* Every unexpected exception ends here: stop the actuators, report, halt. Never returns. */
void eqrl_port_fault(uint32_t exception);

/* The application's part. The defaults are weak: read sleeps and has nothing, write and stop do nothing.
 *
 * eqrl_board_read   fill *observation, in the environment's units, and return 1 when a step is due, else 0.
 *                   It sets the control period: it must equal that of training.
 * eqrl_board_write  apply the action. status > 0 holds EQRL_SATURATED and EQRL_NOT_FINITE.
 * eqrl_board_stop   bring the actuators into a safe state: called after a fault, a failed self-test, or a step
 *                   that failed.
 */
int eqrl_board_read(eqrl_port_observation_t *observation);
void eqrl_board_write(const eqrl_port_action_t *action, eqrl_status status);
void eqrl_board_stop(void);

#endif
