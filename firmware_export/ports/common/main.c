/* SPDX-License-Identifier: Apache-2.0
 * Start the policy, prove it, then answer the host and step for the application for as long as there is power.
 */
#include "eqrl_device.h"
#include "eqrl_port.h"
#include "eqrl_transport.h"

#define LONGEST_WATCHDOG_MS 30000u
#define SENT_IN_A_TURN 4u /* bytes: 0.35 ms at 115200 baud, after which the guard and the application have theirs */

#define LARGER(a, b) ((a) > (b) ? (a) : (b))
#define SMALLER(a, b) ((a) < (b) ? (a) : (b))

/* What is left of a reply. */
static struct {
    const uint8_t *bytes;
    uint32_t left;
} unsent;

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

/* Gives up where a byte cannot be sent: a dead UART makes every one slow. */
static int print(const char *text)
{
    while (*text != '\0' && eqrl_transport_send((uint8_t)*text)) {
        text++;
    }
    return *text == '\0';
}

static void report(const char *text)
{
    if (print("edgeqrl " EQRL_PORT_POLICY_NAME " ") && print(text)) {
        (void)print("\r\n");
    }
}

__attribute__((noreturn)) void eqrl_port_fault(uint32_t exception)
{
    static const char digits[] = "0123456789ABCDEF";
    char text[] = "fault, exception 0x00"; /* 3 is HardFault */
    text[sizeof text - 3u] = digits[(exception >> 4) & 15u];
    text[sizeof text - 2u] = digits[exception & 15u];
    eqrl_board_stop();
    report(text);
    for (;;) { /* until the watchdog, if there is one */
        eqrl_port_sleep();
    }
}

__attribute__((weak)) void eqrl_board_init(void)
{
}

__attribute__((weak)) int eqrl_board_read(eqrl_port_observation_t *observation)
{
    (void)observation;
    return EQRL_BOARD_NOTHING;
}

__attribute__((weak)) void eqrl_board_write(const eqrl_port_action_t *action, eqrl_status status)
{
    (void)action;
    (void)status;
}

__attribute__((weak)) void eqrl_board_stop(void)
{
}

#if EQRL_PORT_IS_STOCHASTIC
__attribute__((weak)) int eqrl_board_seed(uint32_t seed[2])
{
    (void)seed;
    return 0;
}
#endif

__attribute__((weak)) uint32_t eqrl_port_stack_free_bytes(void)
{
    return 0;
}

static void report_start(uint32_t outcome)
{
    if (outcome == (uint32_t)EQRL_START_INIT_FAILED) {
        report("init FAILED");
    } else if (outcome == (uint32_t)EQRL_START_SELFTEST_FAILED) {
        report("self-test FAILED");
    } else {
        report(EQRL_PORT_HAS_SELFTEST != 0 ? "self-test OK" : "ready");
    }
}

/* A few bytes; all of a reply that cannot be sent is dropped. */
static void send_some(void)
{
    for (uint32_t i = 0; i < SENT_IN_A_TURN && unsent.left != 0u; i++) {
        unsent.left = eqrl_transport_send(*unsent.bytes) ? unsent.left - 1u : 0u;
        unsent.bytes++;
    }
}

/* Answer what has come, at most one request: the application is not to wait for the next. */
static void serve(void)
{
    uint8_t byte = 0;
    uint32_t left = EQRL_PAYLOAD_BYTES; /* an endless stream of anything is not to hold the loop */
#ifndef EQRL_UART_IRQ
    eqrl_port_uart_interrupt(); /* it has none */
#endif
    while (unsent.left == 0u && left != 0u && eqrl_transport_receive(&byte)) { /* a next reply takes its place */
        unsent.left = eqrl_device_take(byte);
        unsent.bytes = eqrl_device_reply();
        left--;
    }
    send_some();
}

/* Without a time base nothing would end the sleep. */
static void sleep_if_idle(uint32_t tick_hz)
{
    if (unsent.left != 0u || tick_hz == 0u) {
        return;
    }
    eqrl_port_interrupts_off();
    if (!eqrl_transport_is_pending()) {
        eqrl_port_sleep();
    }
    eqrl_port_interrupts_on();
}

/* As short as the contract's hold, but longer than any step: a policy that is slow on this chip is no fault. Where
 * even the longest would be too short, or no step could be timed, there is none.
 */
static void start_watchdog(uint32_t tick_hz)
{
    const uint32_t slowest = eqrl_device_slowest_step_ms();
    const uint32_t hold = SMALLER(eqrl_device_longest_hold_ms(), LONGEST_WATCHDOG_MS);
    if (tick_hz != 0u && slowest <= LONGEST_WATCHDOG_MS / 4u) {
        eqrl_port_watchdog_start(LARGER(LARGER(4u * slowest, hold), EQRL_WATCHDOG_MS));
    }
}

int main(void)
{
    const uint32_t clock_hz = eqrl_port_clock_init();
    eqrl_board_stop(); /* a reset may have come while they were driven */
    uint32_t flags = eqrl_port_watchdog_was_reset() ? (uint32_t)EQRL_HELLO_WATCHDOG_RESET : 0u;
    eqrl_port_watchdog_kick(); /* it may be running since before this start */
    eqrl_transport_init(clock_hz);
    if (clock_hz != EQRL_CLOCK_HZ) {
        flags |= (uint32_t)EQRL_HELLO_RUNS_SLOWLY;
        report("clock fault, running slowly");
    }
    const uint32_t tick_hz = eqrl_port_timer_init(clock_hz);
    eqrl_port_interrupts_on();
    eqrl_board_init();
    report_start(eqrl_device_start(clock_hz, tick_hz, flags));
    start_watchdog(tick_hz);
    for (;;) {
        eqrl_port_watchdog_kick();
        serve();
        eqrl_device_poll(eqrl_transport_overruns());
        if (!eqrl_device_run_application()) {
            report("step FAILED");
        }
        sleep_if_idle(tick_hz);
    }
}
