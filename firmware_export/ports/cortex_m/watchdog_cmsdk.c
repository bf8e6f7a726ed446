/* SPDX-License-Identifier: Apache-2.0
 * Arm CMSDK APB watchdog (DDI 0479, APB watchdog programmers model). When it first comes to zero it raises NMI, which
 * ends in eqrl_port_fault: the actuators are stopped. When it comes to zero again it resets the chip.
 *
 * AN385, AN386 and AN500 have it on the APB, with CMSDK's register of reset reasons; AN505's IoT kit has a secure one
 * at the system clock; AN547's SSE-300 has this kind at 32768 Hz only.
 */
#include "eqrl_port.h"

#if EQRL_UART_BASE == 0x40004000u
#define WATCHDOG 0x40008000u
#define COUNTS_A_MILLISECOND (EQRL_CLOCK_HZ / 1000u)
#define RESET_REASON 0x4001F010u
#define RESET_REASON_WATCHDOG (1u << 1)
#elif EQRL_UART_BASE == 0x50200000u
#define WATCHDOG 0x50081000u
#define COUNTS_A_MILLISECOND (EQRL_CLOCK_HZ / 1000u)
#define RESET_REASON 0x50021100u
#define RESET_REASON_WATCHDOG (1u << 2)
#else
#define WATCHDOG 0x5802E000u
#define COUNTS_A_MILLISECOND 33u /* 32.768 */
#define RESET_REASON 0x58021100u
#define RESET_REASON_WATCHDOG (1u << 3)
#endif

#define WDOGLOAD (WATCHDOG + 0x000u)
#define WDOGCONTROL (WATCHDOG + 0x008u)
#define WDOGINTCLR (WATCHDOG + 0x00Cu)
#define WDOGLOCK (WATCHDOG + 0xC00u)

#define CONTROL_INTERRUPT_RESET 3u
#define UNLOCK 0x1ACCE551u
#define LOCK 0u

void eqrl_port_watchdog_start(uint32_t timeout_ms)
{
    EQRL_REGISTER(WDOGLOCK) = UNLOCK;
    EQRL_REGISTER(WDOGLOAD) = timeout_ms * COUNTS_A_MILLISECOND;
    EQRL_REGISTER(WDOGCONTROL) = CONTROL_INTERRUPT_RESET;
    EQRL_REGISTER(WDOGLOCK) = LOCK;
}

void eqrl_port_watchdog_kick(void)
{
    EQRL_REGISTER(WDOGLOCK) = UNLOCK;
    EQRL_REGISTER(WDOGINTCLR) = 1u; /* also loads it again */
    EQRL_REGISTER(WDOGLOCK) = LOCK;
}

int eqrl_port_watchdog_was_reset(void)
{
    const uint32_t reasons = EQRL_REGISTER(RESET_REASON);
    EQRL_REGISTER(RESET_REASON) = EQRL_UART_BASE == 0x40004000u ? reasons : 0u; /* cleared by ones or by zeros */
    return (reasons & RESET_REASON_WATCHDOG) != 0u;
}
