/* SPDX-License-Identifier: Apache-2.0
 * Bytes over the board's UART. The interrupt handler alone writes `filled`, the main loop alone `emptied`.
 */
#include "eqrl_port.h"
#include "eqrl_transport.h"

#define RING_BYTES EQRL_PAYLOAD_BYTES

typedef char eqrl_ring_is_a_power_of_two[(RING_BYTES & (RING_BYTES - 1u)) == 0u ? 1 : -1];

static volatile uint8_t ring[RING_BYTES];
static volatile uint32_t filled;
static volatile uint32_t emptied;
static volatile uint32_t lost;
static uint32_t lost_before;

void eqrl_port_received(uint8_t byte)
{
    const uint32_t place = filled;
    if (place - emptied >= RING_BYTES) {
        lost++;
        return;
    }
    ring[place & (RING_BYTES - 1u)] = byte;
    filled = place + 1u;
}

void eqrl_port_overrun(void)
{
    lost++;
}

void eqrl_transport_init(uint32_t clock_hz)
{
    eqrl_port_uart_init(clock_hz);
}

int eqrl_transport_receive(uint8_t *byte)
{
    const uint32_t place = emptied;
    if (place == filled) {
        return 0;
    }
    *byte = ring[place & (RING_BYTES - 1u)];
    emptied = place + 1u;
    return 1;
}

int eqrl_transport_is_pending(void)
{
    const uint32_t place = emptied;
    return place != filled;
}

uint32_t eqrl_transport_overruns(void)
{
    const uint32_t now = lost;
    const uint32_t more = now - lost_before;
    lost_before = now;
    return more;
}

int eqrl_transport_send(uint8_t byte)
{
    return eqrl_port_uart_put(byte);
}
