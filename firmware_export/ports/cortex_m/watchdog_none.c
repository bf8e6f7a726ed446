/* SPDX-License-Identifier: Apache-2.0
 * For boards without a watchdog that could reset them; the board file says so.
 */
#include "eqrl_port.h"

void eqrl_port_watchdog_start(uint32_t timeout_ms)
{
    (void)timeout_ms;
}

void eqrl_port_watchdog_kick(void)
{
}

int eqrl_port_watchdog_was_reset(void)
{
    return 0;
}
