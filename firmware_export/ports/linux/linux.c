/* SPDX-License-Identifier: Apache-2.0
 * The policy as a library for a Raspberry Pi: plain functions for run.py, and the device of the other boards, whose
 * UART is run.py's socket. With EQRL_LINUX_PROGRAM a program that speaks on standard input and output.
 */
#define _POSIX_C_SOURCE 200112L

#include <time.h>

#include "eqrl_device.h"
#include "eqrl_guard.h"
#include "eqrl_port.h"

#define TICK_HZ 1000000u

void eqrl_linux_sizes(uint32_t sizes[8]);
int eqrl_linux_init(void);
int eqrl_linux_reset(void);
int eqrl_linux_seed(uint32_t low, uint32_t high);
int eqrl_linux_step(const eqrl_port_observation_t *observation, eqrl_port_action_t *action);
const void *eqrl_linux_output(void);
void eqrl_linux_values(float *values);
int eqrl_linux_encode(const eqrl_port_observation_t *observation, void *inputs);
int eqrl_linux_decode(const eqrl_port_observation_t *observation, const void *outputs,
                      eqrl_port_action_t *action);
uint32_t eqrl_linux_guard(const eqrl_port_observation_t *observation, int status, eqrl_port_action_t *action);
uint32_t eqrl_linux_guard_bad(int is_finite, eqrl_port_action_t *action);
uint32_t eqrl_linux_guard_idle(eqrl_port_action_t *action);
uint32_t eqrl_linux_received(uint8_t byte, uint8_t *reply);

/* Of run.py; the device has its own. */
static eqrl_port_state_t state;
static eqrl_guard guard;
static uint32_t held_action[sizeof(eqrl_port_action_t) / 4u];

uint32_t eqrl_port_ticks(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint32_t)now.tv_sec * TICK_HZ + (uint32_t)(now.tv_nsec / 1000);
}

void eqrl_port_watchdog_kick(void)
{
}

uint32_t eqrl_port_stack_free_bytes(void)
{
    return 0u; /* not known */
}

/* No outputs are driven from the device: a process that crashes must not leave them on. */
int eqrl_board_read(eqrl_port_observation_t *observation)
{
    (void)observation;
    return 0;
}

void eqrl_board_write(const eqrl_port_action_t *action, eqrl_status status)
{
    (void)action;
    (void)status;
}

void eqrl_board_stop(void)
{
}

#if EQRL_PORT_IS_STOCHASTIC
int eqrl_board_seed(uint32_t seed[2])
{
    (void)seed;
    return 0; /* the device's application is run.py's, which seeds by itself */
}
#endif

/* Bytes of observation, action, all inputs and all outputs that the policy has with the network, its first output;
 * longest reply; whether there are golden vectors; whether actions are drawn.
 */
void eqrl_linux_sizes(uint32_t sizes[8])
{
    sizes[0] = (uint32_t)sizeof(eqrl_port_observation_t);
    sizes[1] = (uint32_t)sizeof(eqrl_port_action_t);
    sizes[2] = EQRL_PORT_INPUTS_BYTES;
    sizes[3] = EQRL_PORT_OUTPUTS_BYTES;
    sizes[4] = EQRL_PORT_OUTPUT_BYTES;
    sizes[5] = 65536u + 16u;
    sizes[6] = EQRL_PORT_HAS_SELFTEST;
    sizes[7] = EQRL_PORT_IS_STOCHASTIC;
}

/* Also starts and self-tests the device. Returns a status: EQRL_ERROR_SELFTEST where a golden vector differs. */
int eqrl_linux_init(void)
{
    const eqrl_status status = EQRL_PORT_INIT(&state, NULL);
    if (status < 0) {
        return status;
    }
    return eqrl_device_start(0u, TICK_HZ, 0u) == (uint32_t)EQRL_START_OK ? EQRL_OK : EQRL_ERROR_SELFTEST;
}

int eqrl_linux_reset(void)
{
    const eqrl_status status = EQRL_PORT_RESET(&state);
    if (status >= 0 && EQRL_PORT_CONTRACT.fail_safe != (uint32_t)EQRL_FAIL_SAFE_NONE) {
        eqrl_guard_reset(&guard, &EQRL_PORT_CONTRACT, held_action, EQRL_PORT_CONTRACT.control_period_us,
                         EQRL_PORT_CONTRACT.timeout_us, eqrl_port_ticks());
    }
    return status;
}

/* What is drawn follows from these; a reset keeps it. */
int eqrl_linux_seed(uint32_t low, uint32_t high)
{
#if EQRL_PORT_IS_STOCHASTIC
    return EQRL_PORT_SEED(&state, low, high);
#else
    (void)low;
    (void)high;
    return EQRL_OK;
#endif
}

int eqrl_linux_step(const eqrl_port_observation_t *observation, eqrl_port_action_t *action)
{
    return EQRL_PORT_STEP(&state, observation, action);
}

/* The network's first output of the last step. */
const void *eqrl_linux_output(void)
{
    return EQRL_PORT_OUTPUT(&state);
}

/* What the last step gave beside the action. */
void eqrl_linux_values(float *values)
{
#if EQRL_PORT_NUM_VALUES
    EQRL_PORT_VALUES(&state, values);
#else
    (void)values;
#endif
}

/* The network's inputs, one after another, each at a multiple of 4. */
int eqrl_linux_encode(const eqrl_port_observation_t *observation, void *inputs)
{
    uint8_t *const row = (uint8_t *)inputs;
    return EQRL_PORT_ENCODE(&state, observation, row);
}

/* The outputs in the same way. */
int eqrl_linux_decode(const eqrl_port_observation_t *observation, const void *outputs,
                      eqrl_port_action_t *action)
{
    const uint8_t *const row = (const uint8_t *)outputs;
    (void)observation;
    return EQRL_PORT_DECODE(&state, observation, row, action);
}

uint32_t eqrl_linux_guard(const eqrl_port_observation_t *observation, int status, eqrl_port_action_t *action)
{
    return eqrl_guard_step(&guard, &EQRL_PORT_CONTRACT, eqrl_port_ticks(), observation, status, action);
}

/* An observation came that no NAME_observation can hold, such as NaN for a byte: the policy is not asked, and the
 * guard judges one float32 in its place, which is not finite or out of its bounds.
 */
uint32_t eqrl_linux_guard_bad(int is_finite, eqrl_port_action_t *action)
{
    static const uint32_t bound = 0u;
    const uint32_t observation = is_finite != 0 ? 0x3F800000u : 0x7FC00000u; /* 1, NaN */
    eqrl_contract contract = EQRL_PORT_CONTRACT;
    contract.num_parts = 0u;
    contract.num_inputs = 1u;
    contract.num_features = 1u;
    contract.low = &bound;
    contract.high = &bound;
    contract.action_low = NULL;
    contract.action_high = NULL;
    return eqrl_guard_step(&guard, &contract, eqrl_port_ticks(), &observation, EQRL_OK, action);
}

uint32_t eqrl_linux_guard_idle(eqrl_port_action_t *action)
{
    return eqrl_guard_idle(&guard, &EQRL_PORT_CONTRACT, eqrl_port_ticks(), action);
}

/* Give the device a byte; its reply, if there is one, goes to `reply`. Returns the bytes of it. */
uint32_t eqrl_linux_received(uint8_t byte, uint8_t *reply)
{
    eqrl_device_poll(0u);
    const uint32_t size = eqrl_device_take(byte);
    const uint8_t *const from = eqrl_device_reply();
    for (uint32_t i = 0; i < size; i++) {
        reply[i] = from[i];
    }
    return size;
}

#ifdef EQRL_LINUX_PROGRAM
#include <unistd.h>

static int send_all(const uint8_t *bytes, uint32_t size)
{
    for (uint32_t sent = 0; sent < size;) {
        const ssize_t written = write(STDOUT_FILENO, bytes + sent, size - sent);
        if (written <= 0) {
            return 0;
        }
        sent += (uint32_t)written;
    }
    return 1;
}

int main(void)
{
    static uint8_t bytes[4096];
    if (eqrl_device_start(0u, TICK_HZ, 0u) == (uint32_t)EQRL_START_INIT_FAILED) {
        return 1;
    }
    for (;;) {
        const ssize_t size = read(STDIN_FILENO, bytes, sizeof bytes);
        if (size <= 0) {
            return 0;
        }
        for (ssize_t i = 0; i < size; i++) {
            eqrl_device_poll(0u);
            const uint32_t reply_bytes = eqrl_device_take(bytes[i]);
            if (reply_bytes != 0u && !send_all(eqrl_device_reply(), reply_bytes)) {
                return 0;
            }
        }
    }
}
#endif
