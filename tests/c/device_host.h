/* A port of the device core to the host: its time, its outputs and its application are variables. */
#ifndef DEVICE_HOST_H
#define DEVICE_HOST_H

#include <string.h>

#include "eqrl_device.h"
#include "eqrl_port.h"

static uint32_t host_ticks;
static uint32_t num_kicks;
static uint32_t num_written; /* by eqrl_board_write */
static uint32_t num_stopped;
static eqrl_port_action_t written;
static int due; /* what eqrl_board_read returns, once */
static eqrl_port_observation_t sensed;

uint32_t eqrl_port_ticks(void)
{
    return host_ticks;
}

void eqrl_port_watchdog_kick(void)
{
    num_kicks++;
}

uint32_t eqrl_port_stack_free_bytes(void)
{
    return 1234u;
}

int eqrl_board_read(eqrl_port_observation_t *observation)
{
    const int now = due;
    due = EQRL_BOARD_NOTHING;
    if (now != EQRL_BOARD_NOTHING) {
        *observation = sensed;
    }
    return now;
}

void eqrl_board_write(const eqrl_port_action_t *action, eqrl_status status)
{
    (void)status;
    written = *action;
    num_written++;
}

void eqrl_board_stop(void)
{
    num_stopped++;
}

#if EQRL_PORT_IS_STOCHASTIC
int eqrl_board_seed(uint32_t seed[2])
{
    seed[0] = host_ticks;
    seed[1] = 77u;
    return host_ticks != 0u;
}
#endif

#endif
