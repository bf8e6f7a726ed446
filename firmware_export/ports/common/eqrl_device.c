/* SPDX-License-Identifier: Apache-2.0
 * The device: requests in, replies out, and the guard between every action and the outputs.
 */
#include "eqrl_device.h"

#include "eqrl_frame.h"
#include "eqrl_guard.h"
#include "eqrl_internal.h"
#include "eqrl_port.h"

#define OBSERVATION_BYTES ((uint32_t)sizeof(eqrl_port_observation_t))
#define ACTION_BYTES ((uint32_t)sizeof(eqrl_port_action_t))

#define LARGER(a, b) ((a) > (b) ? (a) : (b))
#define SMALLER(a, b) ((a) < (b) ? (a) : (b))

/* An observation lies where it is received, behind the four bytes of the request's argument. */
#define BODY_BYTES LARGER(OBSERVATION_BYTES, EQRL_PAYLOAD_BYTES - 4u)
#define MAX_PAYLOAD SMALLER(BODY_BYTES + 4u, EQRL_FRAME_MAX_PAYLOAD)

/* Outputs larger than this are not to be had. */
#define OUTPUT_BYTES (EQRL_PORT_OUTPUT_BYTES <= 4096u ? EQRL_PORT_OUTPUT_BYTES : 0u)

#define MAX_NAME_BYTES 63u
#define HELLO_WORDS 14u
#define HELLO_BYTES (4u + 4u * HELLO_WORDS + 2u * 32u + 2u * (1u + MAX_NAME_BYTES))
#define STATS_BYTES (4u + 4u * (uint32_t)EQRL_NUM_STATS + 2u * EQRL_PORT_NUM_COUNTERS)
#define VALUES_BYTES (4u * EQRL_PORT_NUM_VALUES)
#define STEP_BYTES (16u + ACTION_BYTES + VALUES_BYTES + OUTPUT_BYTES)
#define SELFTEST_BYTES 16u
#define BATCH_BYTES MAX_PAYLOAD
#define MAX_ROWS ((MAX_PAYLOAD - 4u) / OBSERVATION_BYTES)
#define REPLY_BYTES LARGER(LARGER(HELLO_BYTES, STATS_BYTES), LARGER(STEP_BYTES, BATCH_BYTES))
#define ROUNDED_REPLY_BYTES ((REPLY_BYTES + 3u) & ~3u)

typedef char eqrl_reply_fits_a_frame[REPLY_BYTES <= EQRL_FRAME_MAX_PAYLOAD ? 1 : -1];
typedef char eqrl_actions_are_words[sizeof(eqrl_port_action_t) % 4u == 0u ? 1 : -1];
typedef char eqrl_observations_are_words[sizeof(eqrl_port_observation_t) % 4u == 0u ? 1 : -1];

#define UNFINISHED_MS 100u
#define REPEATABLE_MS 2000u /* how long a reply is kept for a request that comes again, but see moves_memory */
#define SEED_BYTES 8u       /* of a RESET that carries one */
#define LONGEST_TICKS 0x40000000u
#define SLOWEST_GUARD_HZ 2000u

enum { OFF = 0, READY = 1, HALTED = 2 };
enum { NOBODY = 0, HOST = 1, APPLICATION = 2 };

typedef union {
    eqrl_port_observation_t observation;
    uint8_t bytes[BODY_BYTES];
} body;

/* Reached by name from the emulator and a debugger. */
EQRL_ARENA eqrl_port_state_t eqrl_port_state;
body eqrl_port_observation;
eqrl_port_action_t eqrl_port_action;

static struct {
    uint32_t state;
    uint32_t clock_hz;
    uint32_t tick_hz;
    uint32_t ticks_per_ms;
    uint32_t has_port; /* else the port is never called */
    uint32_t guard_shift; /* the guard counts units of 2^guard_shift ticks: its longest time fits 32 bits */
    uint32_t guard_now;
    uint32_t guard_tick; /* the ticks up to which guard_now has counted */
    uint32_t units_per_period;
    uint32_t timeout_units;
    uint32_t flags;
    uint32_t owner;       /* who began the episode: nobody else drives in it, steps or resets the policy */
    uint32_t is_distrusted; /* the watchdog has ended the application: it begins nothing until a host's RESET */
    uint32_t is_lost;     /* the missing observation has been counted */
    uint32_t byte_time;
    uint32_t millisecond; /* the ticks of the last one counted */
    uint32_t slowest;
    uint32_t test_rows;
    uint32_t test_crc;
    uint32_t stats[EQRL_NUM_STATS];
    uint32_t last_type; /* of the stored reply */
    uint32_t last_sequence;
    uint32_t last_crc;
    uint32_t last_bytes; /* 0: none is stored */
    uint32_t last_ms;    /* when it was made */
    const uint8_t *reply;
} device;

static eqrl_frame_parser parser;
static eqrl_guard guard;
static uint32_t held_action[sizeof(eqrl_port_action_t) / 4u];

/* Header, payload, CRC; the payload is aligned. The stored reply outlives a refusal of what cannot be read. */
static uint32_t reply_frame[(EQRL_FRAME_HEADER_BYTES + ROUNDED_REPLY_BYTES + EQRL_FRAME_CRC_BYTES) / 4u];
static uint32_t refusal_frame[(EQRL_FRAME_HEADER_BYTES + 4u + EQRL_FRAME_CRC_BYTES) / 4u];
static uint32_t *const payload = reply_frame + EQRL_FRAME_HEADER_BYTES / 4u;

/* Time ------------------------------------------------------------------------------------------------------ */

/* By shifts: a core without division would call its library. */
static uint32_t quotient(uint32_t dividend, uint32_t divisor)
{
    uint32_t rest = 0;
    uint32_t result = 0;
    for (uint32_t bit = 0x80000000u; bit != 0u; bit >>= 1) {
        const uint32_t carry = rest >> 31;
        rest = rest << 1 | ((dividend & bit) != 0u ? 1u : 0u);
        if (carry != 0u || rest >= divisor) {
            rest -= divisor;
            result |= bit;
        }
    }
    return result;
}

/* microseconds * hz / 10^6, at most LONGEST_TICKS. */
static uint32_t ticks_of(uint32_t microseconds, uint32_t hz)
{
    const uint32_t million = 1000000u;
    const uint32_t whole = quotient(hz, million);
    const uint32_t fraction = hz - whole * million;
    uint32_t result = 0;
    uint32_t rest = 0;
    if (whole != 0u && microseconds > quotient(LONGEST_TICKS, whole)) {
        return LONGEST_TICKS;
    }
    /* microseconds * fraction / 10^6, a bit of the microseconds at a time; it is below 2^32. */
    for (uint32_t bit = 0x80000000u; bit != 0u; bit >>= 1) {
        result <<= 1;
        rest = (rest << 1) + ((microseconds & bit) != 0u ? fraction : 0u);
        for (uint32_t turn = 0; turn < 2u; turn++) { /* it was below 10^6: twice that and a fraction is below 3 */
            const uint32_t is_above = rest >= million ? 1u : 0u;
            rest -= is_above * million;
            result += is_above;
        }
    }
    if (result > LONGEST_TICKS) {
        return LONGEST_TICKS;
    }
    return SMALLER(microseconds * whole + result, LONGEST_TICKS);
}

static uint32_t ticks(void)
{
    return device.tick_hz != 0u ? eqrl_port_ticks() : 0u;
}

static void kick(void)
{
    if (device.has_port != 0u) {
        eqrl_port_watchdog_kick();
    }
}

static void count_time(uint32_t now)
{
    const uint32_t passed = now - device.millisecond;
    if (passed >= device.ticks_per_ms) {
        const uint32_t whole = quotient(passed, device.ticks_per_ms);
        device.stats[EQRL_STAT_UPTIME_MS] += whole;
        device.millisecond += whole * device.ticks_per_ms;
    }
}

static uint32_t guard_units(uint32_t microseconds)
{
    return ticks_of(microseconds, device.tick_hz >> device.guard_shift);
}

/* How long the last good action may be held beyond the timeout, in the guard's units. */
static uint32_t hold_units(void)
{
    const uint32_t steps = EQRL_PORT_CONTRACT.hold_steps;
    const uint32_t period = device.units_per_period;
    return eqrl_high_multiply(period, steps) != 0u ? LONGEST_TICKS : SMALLER(period * steps, LONGEST_TICKS);
}

/* Find the finest units in which the contract's times fit. */
static void set_guard_times(void)
{
    device.guard_shift = 0;
    for (;;) {
        device.units_per_period = guard_units(EQRL_PORT_CONTRACT.control_period_us);
        device.timeout_units = guard_units(EQRL_PORT_CONTRACT.timeout_us);
        if (LARGER(device.timeout_units, hold_units()) < LONGEST_TICKS ||
            device.tick_hz >> device.guard_shift < 2u * SLOWEST_GUARD_HZ) {
            break;
        }
        device.guard_shift++;
    }
    if (EQRL_PORT_CONTRACT.timeout_us != 0u) {
        device.timeout_units = LARGER(device.timeout_units, 1u); /* 0 would be no timeout */
    }
}

/* The guard's time; ticks must not wrap between two calls. */
static uint32_t guard_time(uint32_t now)
{
    const uint32_t units = (now - device.guard_tick) >> device.guard_shift;
    device.guard_now += units;
    device.guard_tick += units << device.guard_shift;
    return device.guard_now;
}

/* Steps, guarded -------------------------------------------------------------------------------------------- */

static eqrl_status timed_step(const eqrl_port_observation_t *observation, eqrl_port_action_t *action)
{
    uint32_t *const stats = device.stats;
    const uint32_t before = ticks();
    const eqrl_status status = EQRL_PORT_STEP(&eqrl_port_state, observation, action);
    const uint32_t taken = ticks() - before;
    stats[EQRL_STAT_TICKS_LAST] = taken;
    if (stats[EQRL_STAT_STEPS] == 0u || taken < stats[EQRL_STAT_TICKS_MIN]) {
        stats[EQRL_STAT_TICKS_MIN] = taken;
    }
    if (taken > stats[EQRL_STAT_TICKS_MAX]) {
        stats[EQRL_STAT_TICKS_MAX] = taken;
    }
    stats[EQRL_STAT_STEPS]++;
    return status;
}

static void count_if(uint32_t flags, uint32_t flag, uint32_t stat)
{
    if ((flags & flag) != 0u) {
        device.stats[stat]++;
    }
}

/* Do what the guard said, and count it. */
static void obey(uint32_t flags, int was_armed, eqrl_status status)
{
    count_if(flags, EQRL_GUARD_LATE, EQRL_STAT_GUARD_LATE);
    count_if(flags, EQRL_GUARD_RANGE, EQRL_STAT_GUARD_RANGE);
    count_if(flags, EQRL_GUARD_NOT_FINITE, EQRL_STAT_GUARD_NOT_FINITE);
    if (device.is_lost == 0u) {
        count_if(flags, EQRL_GUARD_LOST, EQRL_STAT_GUARD_LOST);
    }
    device.is_lost = (flags & (uint32_t)EQRL_GUARD_LOST) != 0u ? 1u : 0u;
    if (was_armed != 0 && guard.is_armed == 0u) {
        device.stats[EQRL_STAT_GUARD_LATCHED]++;
        device.last_bytes = 0; /* what it says is no longer so */
    }
    if ((flags & (uint32_t)EQRL_GUARD_DISABLE) != 0u) {
        eqrl_board_stop();
    } else if ((flags & (uint32_t)EQRL_GUARD_DRIVE) != 0u) {
        count_if(flags, EQRL_GUARD_HELD, EQRL_STAT_GUARD_HELD);
        device.stats[EQRL_STAT_DRIVEN]++;
        eqrl_board_write(&eqrl_port_action, status);
    } else {
        /* The outputs stay as they are. */
    }
}

/* Judge and drive eqrl_port_action, which is the owner's. */
static uint32_t drive(eqrl_status status)
{
    const int was_armed = guard.is_armed != 0u;
    const uint32_t flags = eqrl_guard_step(&guard, &EQRL_PORT_CONTRACT, guard_time(ticks()),
                                           &eqrl_port_observation.observation, status, &eqrl_port_action);
    obey(flags, was_armed, status);
    return flags;
}

/* An action may be driven only where its growing old is noticed. */
static int may_actuate(void)
{
    return EQRL_PORT_CONTRACT.fail_safe != (uint32_t)EQRL_FAIL_SAFE_NONE &&
           EQRL_PORT_CONTRACT.timeout_us != 0u && device.tick_hz != 0u;
}

/* Whether the episode, also a latched one, is the application's: a host neither drives in it nor begins another. */
static int is_application_s(void)
{
    return device.owner == (uint32_t)APPLICATION && may_actuate();
}

/* Before an episode, or work that takes long: no output may hold an action meanwhile. */
static void stop_driving(void)
{
    if (guard.is_driving != 0u) {
        eqrl_board_stop();
    }
    eqrl_guard_disarm(&guard);
}

/* seed: two words, or NULL: the generator goes on from where it is. */
static eqrl_status begin_episode(uint32_t owner, const uint32_t *seed)
{
    stop_driving();
    const eqrl_status status = EQRL_PORT_RESET(&eqrl_port_state);
#if EQRL_PORT_IS_STOCHASTIC
    if (status == EQRL_OK && seed != NULL) {
        (void)EQRL_PORT_SEED(&eqrl_port_state, seed[0], seed[1]);
    }
#else
    (void)seed;
#endif
    device.owner = status == EQRL_OK ? owner : (uint32_t)NOBODY;
    device.is_lost = 0;
    if (status == EQRL_OK && may_actuate()) {
        eqrl_guard_reset(&guard, &EQRL_PORT_CONTRACT, held_action, device.units_per_period, device.timeout_units,
                         guard_time(ticks()));
    }
    return status;
}

void eqrl_device_halt(void)
{
    device.state = HALTED;
    device.last_bytes = 0;
    eqrl_guard_disarm(&guard);
    eqrl_board_stop();
}

/* Self-test ------------------------------------------------------------------------------------------------- */

/* The observation's place is free: a request for this has no body. The test runs in a memory of its own making; the
 * generator is put back, so that what an application draws does not begin anew after each test.
 */
static eqrl_status selftest(void)
{
    eqrl_status status = EQRL_OK;
    uint32_t crc = 0xFFFFFFFFu;
    device.test_rows = 0;
#if EQRL_PORT_IS_STOCHASTIC
    uint32_t random[4];
    eqrl_copy(random, eqrl_port_state.memory.random, (uint32_t)sizeof random);
#endif
#if EQRL_PORT_HAS_SELFTEST
    for (uint32_t row = 0; row < EQRL_PORT_SELFTEST_ROWS && status == EQRL_OK; row++) {
        const uint32_t before = ticks();
        kick();
        status = EQRL_PORT_SELFTEST_ROW(&eqrl_port_state, row, &eqrl_port_observation.observation, &crc);
        device.test_rows++;
        const uint32_t taken = ticks() - before;
        device.slowest = LARGER(device.slowest, taken);
    }
#endif
    device.test_crc = ~crc;
    if (status == EQRL_OK && device.test_crc != EQRL_PORT_SELFTEST_CRC) {
        status = EQRL_ERROR_SELFTEST;
    }
#if EQRL_PORT_IS_STOCHASTIC
    eqrl_copy(eqrl_port_state.memory.random, random, (uint32_t)sizeof random);
#endif
    (void)EQRL_PORT_RESET(&eqrl_port_state);
    return status;
}

static uint32_t start(uint32_t clock_hz, uint32_t tick_hz, uint32_t flags)
{
    device.state = READY;
    device.clock_hz = clock_hz;
    device.tick_hz = tick_hz;
    device.ticks_per_ms = LARGER(ticks_of(1000u, tick_hz), 1u);
    set_guard_times();
    device.flags = flags;
    device.is_distrusted =
        EQRL_RESTART_AFTER_WATCHDOG != 0 ? 0u : flags & (uint32_t)EQRL_HELLO_WATCHDOG_RESET;
    device.millisecond = ticks();
    device.guard_tick = device.millisecond;
    eqrl_frame_start(&parser, eqrl_port_observation.bytes, BODY_BYTES);
    if (EQRL_PORT_INIT(&eqrl_port_state, NULL) < 0) {
        eqrl_device_halt();
        return EQRL_START_INIT_FAILED;
    }
    if (selftest() != EQRL_OK) {
        eqrl_device_halt();
        return EQRL_START_SELFTEST_FAILED;
    }
    return EQRL_START_OK;
}

uint32_t eqrl_device_start(uint32_t clock_hz, uint32_t tick_hz, uint32_t flags)
{
    device.has_port = 1;
    return start(clock_hz, tick_hz, flags);
}

uint32_t eqrl_device_slowest_step_ms(void)
{
    return quotient(device.slowest, device.ticks_per_ms) + 1u;
}

uint32_t eqrl_device_longest_hold_ms(void)
{
    const uint32_t period = EQRL_PORT_CONTRACT.control_period_us;
    const uint32_t timeout = EQRL_PORT_CONTRACT.timeout_us;
    const uint32_t steps = EQRL_PORT_CONTRACT.hold_steps;
    const uint32_t hold = period * steps;
    const int is_endless = eqrl_high_multiply(period, steps) != 0u || timeout + hold < hold;
    return quotient(is_endless ? 0xFFFFFFFFu : timeout + hold, 1000u) + 1u;
}

/* Requests -------------------------------------------------------------------------------------------------- */

static uint32_t argument(void)
{
    const uint8_t *const bytes = parser.argument;
    return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

/* Begin a reply; returns its bytes so far. */
static uint32_t begin_reply(uint32_t code)
{
    payload[0] = code;
    return 4u;
}

static uint32_t bad_length(void)
{
    device.stats[EQRL_STAT_BAD_LENGTH]++;
    return begin_reply(EQRL_RESULT_BAD_LENGTH);
}

static void put_hash(uint8_t *target, const uint8_t *hash)
{
    for (uint32_t i = 0; i < 32u; i++) {
        target[i] = hash != NULL ? hash[i] : (uint8_t)0;
    }
}

/* A length and its text; returns the bytes written. */
static uint32_t put_text(uint8_t *target, const char *text)
{
    const char *from = text;
    uint32_t size = 0;
    while (*from != '\0' && size < MAX_NAME_BYTES) {
        size++;
        target[size] = (uint8_t)*from;
        from++;
    }
    target[0] = (uint8_t)size;
    return 1u + size;
}

static uint32_t hello_flags(void)
{
    uint32_t flags = device.flags;
    flags |= EQRL_PORT_CONTRACT.is_discrete != 0u ? (uint32_t)EQRL_HELLO_DISCRETE : 0u;
    flags |= EQRL_PORT_CONTRACT.mask_bytes != 0u ? (uint32_t)EQRL_HELLO_MASKED : 0u;
    flags |= EQRL_PORT_HAS_MEMORY != 0 ? (uint32_t)EQRL_HELLO_HAS_MEMORY : 0u;
    flags |= EQRL_PORT_IS_STOCHASTIC != 0 ? (uint32_t)EQRL_HELLO_STOCHASTIC : 0u;
    flags |= EQRL_PORT_HAS_SELFTEST != 0 ? (uint32_t)EQRL_HELLO_HAS_SELFTEST : 0u;
    flags |= may_actuate() != 0 ? (uint32_t)EQRL_HELLO_HAS_FAIL_SAFE : 0u;
    return flags;
}

static uint32_t params_sequence(void)
{
    const void *const params = eqrl_port_state.params;
    return params != NULL ? ((const eqrl_params_header *)params)->sequence : 0u;
}

static uint32_t answer_hello(void)
{
    if (parser.length != 4u) {
        return bad_length();
    }
    const uint32_t words[HELLO_WORDS] = {
        EQRL_PROTOCOL_VERSION,
        hello_flags(),
        MAX_PAYLOAD,
        OBSERVATION_BYTES,
        ACTION_BYTES,
        OUTPUT_BYTES,
        EQRL_PORT_NUM_COUNTERS,
        EQRL_PORT_CONTRACT.control_period_us,
        device.tick_hz,
        device.clock_hz,
        params_sequence(),
        EQRL_PORT_CONTRACT.fail_safe,
        EQRL_PORT_CONTRACT.memory_bytes,
        EQRL_PORT_NUM_VALUES,
    };
    uint32_t size = begin_reply(EQRL_RESULT_OK);
    for (uint32_t i = 0; i < HELLO_WORDS; i++) {
        payload[1u + i] = words[i];
    }
    uint8_t *const bytes = (uint8_t *)payload;
    size += (uint32_t)sizeof words;
    put_hash(bytes + size, EQRL_PORT_CONTRACT.model_sha256);
    put_hash(bytes + size + 32u, EQRL_PORT_CONTRACT.contract_sha256);
    size += 64u;
    size += put_text(bytes + size, EQRL_PORT_POLICY_NAME);
    return size + put_text(bytes + size, EQRL_BOARD_NAME);
}

/* The seed lies where an observation would. */
static uint32_t answer_reset(void)
{
    const uint32_t flags = argument();
    const int has_seed = flags == (uint32_t)EQRL_RESET_SEED;
    const int is_known = flags == 0u || (has_seed && EQRL_PORT_IS_STOCHASTIC != 0);
    if (parser.length < 4u || (is_known && parser.length != 4u + (has_seed ? SEED_BYTES : 0u))) {
        return bad_length();
    }
    if (!is_known) {
        return begin_reply(EQRL_RESULT_BAD_ARGUMENT);
    }
    if (is_application_s() || (has_seed && parser.keeps_body == 0)) {
        return begin_reply(EQRL_RESULT_BUSY);
    }
    const uint32_t seed[2] = {eqrl_load_word(eqrl_port_observation.bytes),
                              eqrl_load_word(eqrl_port_observation.bytes + 4)};
    device.is_distrusted = 0;
    const eqrl_status status = begin_episode(HOST, has_seed ? seed : NULL);
    return begin_reply(status == EQRL_OK ? EQRL_RESULT_OK : EQRL_RESULT_STEP_FAILED);
}

/* Why a step may not be made, or EQRL_RESULT_OK. */
static uint32_t step_refusal(uint32_t flags)
{
    const int drives = (flags & (uint32_t)EQRL_STEP_DRIVE) != 0u;
    const uint32_t known = (uint32_t)EQRL_STEP_DRIVE | (uint32_t)EQRL_STEP_OUTPUTS | (uint32_t)EQRL_STEP_VALUES;
    if ((flags & ~known) != 0u || ((flags & (uint32_t)EQRL_STEP_OUTPUTS) != 0u && OUTPUT_BYTES == 0u) ||
        ((flags & (uint32_t)EQRL_STEP_VALUES) != 0u && EQRL_PORT_NUM_VALUES == 0u)) {
        return EQRL_RESULT_BAD_ARGUMENT;
    }
    if (drives && !may_actuate()) {
        return EQRL_RESULT_NOT_ACTUATING;
    }
    if (is_application_s()) {
        return EQRL_RESULT_BUSY;
    }
    const int is_ready = device.owner == (uint32_t)HOST && (!drives || guard.is_armed != 0u);
    return is_ready ? EQRL_RESULT_OK : EQRL_RESULT_NEEDS_RESET;
}

static uint32_t answer_step(void)
{
    if (parser.length != 4u + OBSERVATION_BYTES) {
        return bad_length();
    }
    const uint32_t flags = argument();
    const uint32_t refusal = step_refusal(flags);
    if (refusal != (uint32_t)EQRL_RESULT_OK) {
        return begin_reply(refusal);
    }
    eqrl_port_action_t *const action = (eqrl_port_action_t *)(void *)(payload + 4);
    const eqrl_status status = timed_step(&eqrl_port_observation.observation, action);
    uint32_t judged = 0;
    if ((flags & (uint32_t)EQRL_STEP_DRIVE) != 0u) {
        eqrl_port_action = *action;
        judged = drive(status);
    } else {
        judged = eqrl_guard_check(&EQRL_PORT_CONTRACT, &eqrl_port_observation.observation);
    }
    if (status < 0) {
        eqrl_device_halt();
        return begin_reply(EQRL_RESULT_STEP_FAILED);
    }
    payload[1] = (uint32_t)status;
    payload[2] = judged;
    payload[3] = device.stats[EQRL_STAT_TICKS_LAST];
    uint32_t size = begin_reply(EQRL_RESULT_OK) + 12u + ACTION_BYTES;
#if EQRL_PORT_NUM_VALUES
    if ((flags & (uint32_t)EQRL_STEP_VALUES) != 0u) {
        EQRL_PORT_VALUES(&eqrl_port_state, (float *)(void *)((uint8_t *)payload + size));
        size += VALUES_BYTES;
    }
#endif
    if ((flags & (uint32_t)EQRL_STEP_OUTPUTS) == 0u) {
        return size;
    }
    eqrl_copy((uint8_t *)payload + size, EQRL_PORT_OUTPUT(&eqrl_port_state), OUTPUT_BYTES);
    return size + OUTPUT_BYTES;
}

static uint32_t answer_batch(void)
{
    const uint32_t rows = argument();
    if (parser.length < 4u || rows > MAX_ROWS || parser.length != 4u + rows * OBSERVATION_BYTES) {
        return bad_length();
    }
    const uint32_t size = 8u + rows * (4u + ACTION_BYTES);
    if (EQRL_PORT_HAS_MEMORY != 0 || rows == 0u || size > BATCH_BYTES) {
        return begin_reply(EQRL_RESULT_BAD_ARGUMENT);
    }
    if (is_application_s()) {
        return begin_reply(EQRL_RESULT_BUSY);
    }
    stop_driving();
    uint32_t *const statuses = payload + 2;
    uint8_t *const actions = (uint8_t *)(statuses + rows);
    const uint32_t before = ticks();
    for (uint32_t row = 0; row < rows; row++) {
        const void *const observation = eqrl_port_observation.bytes + row * OBSERVATION_BYTES;
        void *const action = actions + row * ACTION_BYTES;
        kick();
        const eqrl_status status =
            timed_step((const eqrl_port_observation_t *)observation, (eqrl_port_action_t *)action);
        if (status < 0) {
            eqrl_device_halt();
            return begin_reply(EQRL_RESULT_STEP_FAILED);
        }
        statuses[row] = (uint32_t)status;
    }
    payload[1] = ticks() - before;
    (void)begin_reply(EQRL_RESULT_OK);
    return size;
}

static uint32_t answer_stats(void)
{
    if (parser.length != 4u) {
        return bad_length();
    }
    const uint32_t flags = argument();
    if ((flags & ~(uint32_t)EQRL_STATS_CLEAR) != 0u) {
        return begin_reply(EQRL_RESULT_BAD_ARGUMENT);
    }
    const int clears = flags != 0u;
    device.stats[EQRL_STAT_STACK_FREE] = eqrl_port_stack_free_bytes();
    for (uint32_t i = 0; i < (uint32_t)EQRL_NUM_STATS; i++) {
        payload[1u + i] = device.stats[i];
        device.stats[i] = clears && i != (uint32_t)EQRL_STAT_UPTIME_MS ? 0u : device.stats[i];
    }
    uint32_t size = 4u + 4u * (uint32_t)EQRL_NUM_STATS;
    uint8_t *const bytes = (uint8_t *)payload;
    for (uint32_t i = 0; i < EQRL_PORT_NUM_COUNTERS; i++) {
        const uint32_t count = eqrl_port_state.saturated[i];
        bytes[size] = (uint8_t)count;
        bytes[size + 1u] = (uint8_t)(count >> 8);
        eqrl_port_state.saturated[i] = clears ? (uint16_t)0 : eqrl_port_state.saturated[i];
        size += 2u;
    }
    (void)begin_reply(EQRL_RESULT_OK);
    return size;
}

static uint32_t answer_selftest(void)
{
    if (parser.length != 0u) {
        return bad_length();
    }
    if (is_application_s() && guard.is_armed != 0u) {
        return begin_reply(EQRL_RESULT_BUSY);
    }
    stop_driving();
    device.owner = NOBODY;
    const int is_passed = selftest() == EQRL_OK;
    if (!is_passed) {
        eqrl_device_halt();
    }
    payload[1] = device.test_rows;
    payload[2] = device.test_crc;
    payload[3] = EQRL_PORT_SELFTEST_CRC;
    (void)begin_reply(is_passed ? EQRL_RESULT_OK : EQRL_RESULT_SELFTEST_FAILED);
    return SELFTEST_BYTES;
}

/* Do what the frame in the parser asks; returns the bytes of the reply's payload. */
static uint32_t execute(uint32_t type)
{
    switch (type) {
    case EQRL_REQUEST_HELLO:
        return answer_hello();
    case EQRL_REQUEST_STATS:
        return answer_stats();
    case EQRL_REQUEST_SELFTEST:
        return answer_selftest();
    case EQRL_REQUEST_RESET:
        return device.state == (uint32_t)HALTED ? begin_reply(EQRL_RESULT_HALTED) : answer_reset();
    case EQRL_REQUEST_STEP:
    case EQRL_REQUEST_BATCH:
        if (device.state == (uint32_t)HALTED) {
            return begin_reply(EQRL_RESULT_HALTED);
        }
        if (parser.keeps_body == 0) {
            return begin_reply(EQRL_RESULT_BUSY); /* its observations were not kept */
        }
        return type == (uint32_t)EQRL_REQUEST_STEP ? answer_step() : answer_batch();
    default:
        return begin_reply(EQRL_RESULT_UNKNOWN_TYPE);
    }
}

/* Frames ---------------------------------------------------------------------------------------------------- */

/* A step that is made twice would leave another memory: its reply is kept as long as the episode may go on. */
static int moves_memory(uint32_t type)
{
    return EQRL_PORT_HAS_MEMORY != 0 && type == (uint32_t)EQRL_REQUEST_STEP;
}

static uint32_t answer(void)
{
    const uint8_t type = eqrl_frame_type(&parser);
    const uint8_t sequence = eqrl_frame_sequence(&parser);
    device.stats[EQRL_STAT_FRAMES]++;
    if ((type & (uint8_t)EQRL_REPLY) != 0u) {
        return 0; /* never answer a reply: an echo would go on for ever */
    }
    device.reply = (const uint8_t *)reply_frame;
    const uint32_t now_ms = device.stats[EQRL_STAT_UPTIME_MS];
    if (device.last_bytes != 0u && device.last_type == type && device.last_sequence == sequence &&
        device.last_crc == parser.crc && (moves_memory(type) || now_ms - device.last_ms < REPEATABLE_MS)) {
        device.stats[EQRL_STAT_REPEATED]++;
        return device.last_bytes;
    }
    const uint32_t size = execute(type);
    device.last_type = type;
    device.last_sequence = sequence;
    device.last_crc = parser.crc;
    device.last_ms = now_ms;
    device.last_bytes =
        eqrl_frame_finish((uint8_t *)reply_frame, (uint8_t)(type | (uint8_t)EQRL_REPLY), sequence, size);
    return device.last_bytes;
}

static uint32_t refuse(uint32_t code, uint32_t stat)
{
    device.stats[stat]++;
    refusal_frame[EQRL_FRAME_HEADER_BYTES / 4u] = code;
    device.reply = (const uint8_t *)refusal_frame;
    return eqrl_frame_finish((uint8_t *)refusal_frame, (uint8_t)EQRL_REPLY, eqrl_frame_sequence(&parser), 4u);
}

const uint8_t *eqrl_device_reply(void)
{
    return device.reply;
}

uint32_t eqrl_device_take(uint8_t byte)
{
    device.byte_time = ticks();
    parser.keeps_bodies = !is_application_s(); /* whose observation lies there */
    switch (eqrl_frame_take(&parser, byte)) {
    case EQRL_FRAME_WHOLE:
        return answer();
    case EQRL_FRAME_BAD_CRC:
        return refuse(EQRL_RESULT_BAD_CRC, EQRL_STAT_BAD_CRC);
    case EQRL_FRAME_TOO_LONG:
        return refuse(EQRL_RESULT_TOO_LONG, EQRL_STAT_BAD_LENGTH);
    case EQRL_FRAME_BAD_HEADER:
        device.stats[EQRL_STAT_BAD_HEADER]++;
        return 0;
    default:
        return 0;
    }
}

void eqrl_device_poll(uint32_t overruns)
{
    device.stats[EQRL_STAT_OVERRUNS] += overruns;
    if (device.tick_hz == 0u) {
        return;
    }
    const uint32_t now = ticks();
    count_time(now);
    if (parser.taken != 0u && now - device.byte_time >= UNFINISHED_MS * device.ticks_per_ms) {
        eqrl_frame_drop(&parser);
        device.stats[EQRL_STAT_TIMEOUTS]++;
    }
    const int was_armed = guard.is_armed != 0u;
    const uint32_t flags = eqrl_guard_idle(&guard, &EQRL_PORT_CONTRACT, guard_time(now), &eqrl_port_action);
    if (flags != 0u) {
        obey(flags, was_armed, EQRL_OK);
    }
}

static eqrl_status begin_application_s_episode(void)
{
#if EQRL_PORT_IS_STOCHASTIC
    uint32_t seed[2] = {0u, 0u};
    const int has_seed = eqrl_board_seed(seed);
    return begin_episode(APPLICATION, has_seed != 0 ? seed : NULL);
#else
    return begin_episode(APPLICATION, NULL);
#endif
}

int eqrl_device_run_application(void)
{
    /* An observation that is being received would be overwritten. */
    if (device.state != (uint32_t)READY || eqrl_frame_fills_body(&parser)) {
        return 1;
    }
    const int due = eqrl_board_read(&eqrl_port_observation.observation);
    if (due == EQRL_BOARD_NOTHING) {
        return 1;
    }
    eqrl_status status = EQRL_OK;
    if (due == EQRL_BOARD_EPISODE && device.is_distrusted == 0u) {
        status = begin_application_s_episode();
    } else if (device.owner != (uint32_t)APPLICATION) {
        return 1; /* it has begun none, or a host has begun another since */
    } else {
        /* The next step of its episode. */
    }
    if (status >= 0) {
        status = timed_step(&eqrl_port_observation.observation, &eqrl_port_action);
        (void)drive(status);
    }
    if (status < 0) {
        eqrl_device_halt();
        return 0;
    }
    return 1;
}

uint32_t eqrl_device_exchange(const uint8_t *request, uint32_t request_bytes, uint8_t *reply,
                              uint32_t reply_capacity)
{
    uint32_t total = 0;
    if (device.state == (uint32_t)OFF) {
        (void)start(0u, 0u, 0u);
    }
    eqrl_frame_drop(&parser);
    for (uint32_t i = 0; i < request_bytes; i++) {
        const uint32_t size = eqrl_device_take(request[i]);
        if (size <= reply_capacity - total) {
            eqrl_copy(reply + total, device.reply, size);
            total += size;
        }
    }
    return total;
}
