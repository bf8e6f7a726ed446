/* SPDX-License-Identifier: Apache-2.0
 * eqrl_port.h - what a board gives to the device loop in main.c, and what an application gives to both.
 *
 * From the board file: EQRL_CLOCK_HZ, EQRL_UART_BASE, EQRL_UART_IRQ, EQRL_UART_BAUD, EQRL_UART_CLOCK_HZ,
 * EQRL_TIMER_IRQ (where the timer is not the core's own), EQRL_BOARD_NAME, EQRL_WATCHDOG_MS,
 * EQRL_RESTART_AFTER_WATCHDOG.
 */
#ifndef EQRL_PORT_H
#define EQRL_PORT_H

#include <stdint.h>

#include "eqrl_port_policy.h" /* generated: names this firmware's policy */

#define EQRL_REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))

/* Upper bound of every wait for hardware, in turns of a polling loop of at least four cycles. */
#define EQRL_WAIT_TURNS 100000u

/* The least that the watchdog waits, in ms. It waits longer where the contract lets an action be held for longer, or
 * where four of the slowest steps take longer, 30 s at most. Where a step takes more than 7.5 s, or there is no time
 * base to measure it with, there is no watchdog. A dead UART stops the main loop for EQRL_WAIT_TURNS, which must fit
 * in, as must the application's functions.
 */
#ifndef EQRL_WATCHDOG_MS
#define EQRL_WATCHDOG_MS 250u
#endif

/* 1: after a reset by the watchdog the application may begin an episode by itself. 0: not before a host's RESET. */
#ifndef EQRL_RESTART_AFTER_WATCHDOG
#define EQRL_RESTART_AFTER_WATCHDOG 0
#endif

/* Turn until (register & mask) == value, or EQRL_WAIT_TURNS times. Return 1 if it came true. */
int eqrl_port_wait(uint32_t address, uint32_t mask, uint32_t value);

/* The chip's part. ------------------------------------------------------------------------------------------ */

/* Set the clocks of the board file; on a fault of the hardware stay at a safe clock. Returns the clock in Hz. */
uint32_t eqrl_port_clock_init(void);

/* Switch on the UART, both ways, and its receive interrupt, at the UART and at the interrupt controller. */
void eqrl_port_uart_init(uint32_t clock_hz);
/* Send one byte. Gives up after EQRL_WAIT_TURNS and returns 0: a dead UART must not stop a controller. */
int eqrl_port_uart_put(uint8_t byte);
/* Handler of EQRL_UART_IRQ: pass on every byte that is there and every overrun, and clear the errors. */
void eqrl_port_uart_interrupt(void);

/* Start a free-running time base, and an interrupt of about 1 kHz that does nothing but wake the core. Returns
 * the time base's ticks in a second, 0 if it does not run.
 */
uint32_t eqrl_port_timer_init(uint32_t clock_hz);
/* Wraps at 2^32. Called from the main loop only. */
uint32_t eqrl_port_ticks(void);

/* Once started nothing stops it. timeout_ms is what the chip should come near to, and not fall below. */
void eqrl_port_watchdog_start(uint32_t timeout_ms);
void eqrl_port_watchdog_kick(void);
int eqrl_port_watchdog_was_reset(void); /* whether the last reset was the watchdog's; asked once, before its start */

/* The core's part. sleep returns when an interrupt is pending, also while interrupts are off: no wake-up is lost
 * between a check and the sleep.
 */
void eqrl_port_interrupts_off(void);
void eqrl_port_interrupts_on(void);
void eqrl_port_sleep(void);

/* main.c's part, called by the chip's. -------------------------------------------------------------------- */

/* A byte came / bytes were lost, from the interrupt handler. */
void eqrl_port_received(uint8_t byte);
void eqrl_port_overrun(void);

/* Bytes of stack that were never used, where start-up painted it; else 0. */
uint32_t eqrl_port_stack_free_bytes(void);

/* Every unexpected exception ends here: stop the actuators, report, halt. Never returns. */
void eqrl_port_fault(uint32_t exception);

/* The application's part. --------------------------------------------------------------------------------
 *
 * The defaults are weak: read has nothing, the others do nothing. Their stack comes on top of the bound that
 * `edgeqrl build` tells, and their time on top of the step's.
 *
 * At boot: clock, eqrl_board_stop, UART, time base, eqrl_board_init, self-test, watchdog, main loop.
 *
 * eqrl_board_init   set up the application's hardware; drive nothing. Called once, with interrupts on.
 * eqrl_board_read   fill *observation, in the environment's units, when a step is due, and return at once.
 *                   It sets the control period: it must equal that of training. Called about once a millisecond
 *                   and after every request; what it writes while it returns EQRL_BOARD_NOTHING is not kept.
 *                   An episode that it began is its own: a host's RESET, STEP and BATCH are answered BUSY, also
 *                   after the guard has latched. EQRL_BOARD_EPISODE begins another one: it stops the outputs,
 *                   resets the policy, takes over from a host and UN-LATCHES the guard, so return it only when it
 *                   is known that driving is safe again. Outside an episode of its own its steps are not made.
 *                   After a reset by the watchdog its episodes wait for a host's RESET, unless
 *                   EQRL_RESTART_AFTER_WATCHDOG is 1.
 * eqrl_board_write  apply the action. It has passed the guard: it lies within the contract's bounds, or is the
 *                   fail-safe's. status >= 0 holds EQRL_SATURATED and EQRL_NOT_FINITE. Never called where the
 *                   contract has no fail-safe, nor before an episode has begun.
 * eqrl_board_seed   of a policy that draws: put two words of chance, from the chip's own source, into *seed and return
 *                   1, when an episode of the application begins. By default (0) the draws go on from those of the
 *                   episode before, and after each boot they are the same ones.
 * eqrl_board_stop   bring the actuators into a safe state: called at boot, when an episode begins over one that
 *                   still drives, after a fault, a failed self-test, a step or reset that failed, and where the
 *                   guard says so. It must be callable at any time: before eqrl_board_init, from the handler of
 *                   a fault, and when they are stopped already; and without printing: the UART may not be up.
 */
enum {
    EQRL_BOARD_NOTHING = 0,
    EQRL_BOARD_STEP = 1,   /* a step is due */
    EQRL_BOARD_EPISODE = 2 /* the same, and an episode begins with it: resets the policy, arms or unlatches the guard */
};

void eqrl_board_init(void);
int eqrl_board_read(eqrl_port_observation_t *observation);
void eqrl_board_write(const eqrl_port_action_t *action, eqrl_status status);
int eqrl_board_seed(uint32_t seed[2]);
void eqrl_board_stop(void);

#endif
