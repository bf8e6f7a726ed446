/* SPDX-License-Identifier: Apache-2.0
 * eqrl_transport.h - bytes from and to the host. An image has one: UART, or semihosting in an emulator's twin.
 */
#ifndef EQRL_TRANSPORT_H
#define EQRL_TRANSPORT_H

#include <stdint.h>

void eqrl_transport_init(uint32_t clock_hz);

/* Take a byte that came; returns 0 if there is none. */
int eqrl_transport_receive(uint8_t *byte);

/* Whether receive has a byte. Called with interrupts off, before a sleep. */
int eqrl_transport_is_pending(void);

/* Bytes lost since the last call. */
uint32_t eqrl_transport_overruns(void);

/* Bounded, also where the host is gone. Returns 0 where the byte could not be sent. */
int eqrl_transport_send(uint8_t byte);

#endif
