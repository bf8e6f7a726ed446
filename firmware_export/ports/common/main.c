/* SPDX-License-Identifier: Apache-2.0
 * The device loop: start the policy, prove it, then step it for as long as there is power.
 */
#include "eqrl_port.h"

#include <stddef.h>

/* Reached by name from the emulator and a debugger. */
eqrl_port_state_t eqrl_port_state;
eqrl_port_observation_t eqrl_port_observation;
eqrl_port_action_t eqrl_port_action;

int eqrl_port_wait(uint32_t address, uint32_t mask, uint32_t value)
{
#ifdef __clang__
#pragma clang loop unroll(disable)
#endif
    for (uint32_t turn = 0u; turn < EQRL_WAIT_TURNS; turn++) {
        if ((EQRL_REGISTER(address) & mask) == value) {
            return 1;
        }
    }
    return 0;
}

static void print(const char *text)
{
    while (*text != '\0') {
        eqrl_port_uart_put((uint8_t)*text);
        text++;
    }
}

static void report(const char *text)
{
    print("edgeqrl " EQRL_PORT_POLICY_NAME " ");
    print(text);
    print("\r\n");
}

static void idle(void)
{
    __asm__ volatile("wfi" ::: "memory");
}

__attribute__((noreturn)) static void halt(const char *reason)
{
    eqrl_board_stop();
    report(reason);
    for (;;) {
        idle();
    }
}

__attribute__((noreturn)) void eqrl_port_fault(uint32_t exception)
{
    static const char digits[] = "0123456789ABCDEF";
    char text[] = "fault, exception 0x00"; /* 3 is HardFault */
    text[sizeof text - 3u] = digits[(exception >> 4) & 15u];
    text[sizeof text - 2u] = digits[exception & 15u];
    halt(text);
}

__attribute__((weak)) int eqrl_board_read(eqrl_port_observation_t *observation)
{
    (void)observation;
    idle();
    return 0;
}

__attribute__((weak)) void eqrl_board_write(const eqrl_port_action_t *action, eqrl_status status)
{
    (void)action;
    (void)status;
}

__attribute__((weak)) void eqrl_board_stop(void)
{
}

int main(void)
{
    const uint32_t clock_hz = eqrl_port_clock_init();
    eqrl_port_uart_init(clock_hz);
    if (clock_hz != EQRL_CLOCK_HZ) {
        report("clock fault, running slowly");
    }
    if (EQRL_PORT_INIT(&eqrl_port_state, NULL) < 0) {
        halt("init FAILED");
    }
#if EQRL_PORT_HAS_SELFTEST
    if (EQRL_PORT_SELFTEST(&eqrl_port_state) != EQRL_OK || EQRL_PORT_RESET(&eqrl_port_state) < 0) {
        halt("self-test FAILED");
    }
    report("self-test OK");
#else
    report("ready");
#endif
    for (;;) {
        if (eqrl_board_read(&eqrl_port_observation) == 0) {
            continue;
        }
        const eqrl_status status =
            EQRL_PORT_STEP(&eqrl_port_state, &eqrl_port_observation, &eqrl_port_action);
        if (status < 0) {
            halt("step FAILED");
        }
        eqrl_board_write(&eqrl_port_action, status);
    }
}
