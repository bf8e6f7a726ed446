/* SPDX-License-Identifier: Apache-2.0
 * eqrl_device.h - the device: requests in, replies out, and the guard between every action and the outputs.
 *
 * docs/protocol.md says what the requests mean. One device an image; its policy is that of eqrl_port_policy.h.
 */
#ifndef EQRL_DEVICE_H
#define EQRL_DEVICE_H

#include <stdint.h>

#define EQRL_PROTOCOL_VERSION 2u

/* Requests; a reply has bit 7 set. */
enum {
    EQRL_REQUEST_HELLO = 1,
    EQRL_REQUEST_RESET = 2,
    EQRL_REQUEST_STEP = 3,
    EQRL_REQUEST_BATCH = 4,
    EQRL_REQUEST_STATS = 5,
    EQRL_REQUEST_SELFTEST = 6,
    EQRL_REPLY = 0x80 /* alone: to what could not be read as a request */
};

/* The first byte of a reply. */
enum {
    EQRL_RESULT_OK = 0,
    EQRL_RESULT_UNKNOWN_TYPE = 1,
    EQRL_RESULT_BAD_LENGTH = 2,
    EQRL_RESULT_BAD_CRC = 3,
    EQRL_RESULT_TOO_LONG = 4,
    EQRL_RESULT_NEEDS_RESET = 5,
    EQRL_RESULT_NOT_ACTUATING = 6,
    EQRL_RESULT_STEP_FAILED = 7,
    EQRL_RESULT_SELFTEST_FAILED = 8,
    EQRL_RESULT_BUSY = 9,
    EQRL_RESULT_HALTED = 10,
    EQRL_RESULT_BAD_ARGUMENT = 11
};

/* Flags of HELLO. */
enum {
    EQRL_HELLO_DISCRETE = 1,
    EQRL_HELLO_MASKED = 2,
    EQRL_HELLO_HAS_MEMORY = 4,
    EQRL_HELLO_HAS_SELFTEST = 8,
    EQRL_HELLO_HAS_FAIL_SAFE = 16,
    EQRL_HELLO_WATCHDOG_RESET = 32,
    EQRL_HELLO_RUNS_SLOWLY = 64,
    EQRL_HELLO_STOCHASTIC = 128
};

enum { EQRL_RESET_SEED = 1 };                                             /* flags of RESET */
enum { EQRL_STEP_DRIVE = 1, EQRL_STEP_OUTPUTS = 2, EQRL_STEP_VALUES = 4 }; /* flags of STEP */
enum { EQRL_STATS_CLEAR = 1 };                                            /* flags of STATS */

/* The words of STATS, in their order. */
enum {
    EQRL_STAT_FRAMES,
    EQRL_STAT_BAD_CRC,
    EQRL_STAT_BAD_HEADER,
    EQRL_STAT_BAD_LENGTH,
    EQRL_STAT_TIMEOUTS,
    EQRL_STAT_REPEATED,
    EQRL_STAT_OVERRUNS,
    EQRL_STAT_STEPS,
    EQRL_STAT_DRIVEN,
    EQRL_STAT_GUARD_LATE,
    EQRL_STAT_GUARD_LOST,
    EQRL_STAT_GUARD_RANGE,
    EQRL_STAT_GUARD_NOT_FINITE,
    EQRL_STAT_GUARD_HELD,
    EQRL_STAT_GUARD_LATCHED,
    EQRL_STAT_TICKS_LAST,
    EQRL_STAT_TICKS_MIN,
    EQRL_STAT_TICKS_MAX,
    EQRL_STAT_STACK_FREE,
    EQRL_STAT_UPTIME_MS,
    EQRL_NUM_STATS
};

enum { EQRL_START_OK = 0, EQRL_START_INIT_FAILED = 1, EQRL_START_SELFTEST_FAILED = 2 };

/* Make the policy ready and prove it; on a failure the device is halted. Returns EQRL_START_...
 *
 * clock_hz, tick_hz  what the port reached; tick_hz 0: no time base, and nothing is ever driven
 * flags              EQRL_HELLO_WATCHDOG_RESET, EQRL_HELLO_RUNS_SLOWLY
 */
uint32_t eqrl_device_start(uint32_t clock_hz, uint32_t tick_hz, uint32_t flags);

/* The longest of the self-test's steps, in ms, rounded up. */
uint32_t eqrl_device_slowest_step_ms(void);

/* How long the contract lets an action be held without a good observation, in ms, rounded up. */
uint32_t eqrl_device_longest_hold_ms(void);

/* Take a byte that came. Returns the bytes of the reply that it led to, 0 for none; eqrl_device_reply has them
 * until the next call.
 */
uint32_t eqrl_device_take(uint8_t byte);
const uint8_t *eqrl_device_reply(void);

/* Look at the time: drop an unfinished frame, judge missing observations. overruns: bytes lost so far. */
void eqrl_device_poll(uint32_t overruns);

/* Step if the application has an observation. Returns 0 if the step failed, which halts the device. */
int eqrl_device_run_application(void);

/* Stop the actuators and answer HELLO, STATS and SELFTEST only. */
void eqrl_device_halt(void);

/* For emulators and debuggers, in every image: whole frames in, whole frames out. Starts a device that has not
 * booted, without its port: no clock, no watchdog. Returns the bytes of the replies; those that do not fit
 * `reply_capacity` are left out.
 */
uint32_t eqrl_device_exchange(const uint8_t *request, uint32_t request_bytes, uint8_t *reply,
                              uint32_t reply_capacity);

#endif
