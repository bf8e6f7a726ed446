/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_guard.c - which action may be driven: a state machine in integers. */
#include "eqrl_guard.h"

#include "eqrl_internal.h"

#define LONGEST 0x40000000u /* ticks: sums and differences of two such times do not wrap */

EQRL_CODE static uint32_t at_most(uint32_t value, uint32_t high)
{
    return value < high ? value : high;
}

/* a * b, at most LONGEST. */
EQRL_CODE static uint32_t product(uint32_t a, uint32_t b)
{
    return eqrl_high_multiply(a, b) != 0u ? LONGEST : at_most(a * b, LONGEST);
}

/* IEEE bits as an integer of the same order; -0 is below +0. */
EQRL_CODE static int32_t ordered(uint32_t bits)
{
    return (int32_t)(bits ^ ((uint32_t)eqrl_is_negative((int32_t)bits) >> 1));
}

/* Zero of either sign is the same number. */
EQRL_CODE static uint32_t plain(uint32_t bits)
{
    return bits == 0x80000000u ? 0u : bits;
}

EQRL_CODE static uint32_t check_float(uint32_t bits, uint32_t low, uint32_t high)
{
    if (((bits >> 23) & 0xFFu) == 0xFFu) {
        return EQRL_GUARD_NOT_FINITE;
    }
    const int32_t value = ordered(plain(bits));
    const int is_inside = value >= ordered(plain(low)) && value <= ordered(plain(high));
    return is_inside ? 0u : (uint32_t)EQRL_GUARD_RANGE;
}

EQRL_CODE static uint32_t check_integer(uint32_t bits, uint32_t low, uint32_t high)
{
    const int is_inside = (int32_t)bits >= (int32_t)low && (int32_t)bits <= (int32_t)high;
    return is_inside ? 0u : (uint32_t)EQRL_GUARD_RANGE;
}

#define MINUS_INFINITY 0xFF800000u
#define INFINITY_BITS 0x7F800000u

EQRL_CODE static uint32_t check_action(const eqrl_contract *contract, const uint8_t *action)
{
    uint32_t found = 0;
    for (uint32_t i = 0; 4u * i < contract->action_bytes; i++) {
        const uint32_t bits = eqrl_load_word(action + 4u * i);
        const int is_bounded = contract->action_low != NULL && contract->action_high != NULL;
        if (contract->is_discrete != 0u) {
            found |= is_bounded ? check_integer(bits, contract->action_low[i], contract->action_high[i]) : 0u;
        } else {
            found |= check_float(bits, is_bounded ? contract->action_low[i] : MINUS_INFINITY,
                                 is_bounded ? contract->action_high[i] : INFINITY_BITS);
        }
    }
    return found;
}

EQRL_CODE static void copy_words(void *target, const void *source, uint32_t num_bytes)
{
    for (uint32_t i = 0; i < num_bytes; i += 4u) {
        eqrl_store_word((uint8_t *)target + i, eqrl_load_word((const uint8_t *)source + i));
    }
}

EQRL_CODE static uint32_t latch(eqrl_guard *guard)
{
    guard->is_armed = 0;
    guard->is_driving = 0;
    guard->has_good = 0;
    return EQRL_GUARD_LATCHED;
}

EQRL_CODE static uint32_t fail_safe_value(const eqrl_contract *contract, void *action)
{
    copy_words(action, contract->fail_safe_action, contract->action_bytes);
    return (uint32_t)EQRL_GUARD_DRIVE | (uint32_t)EQRL_GUARD_FAIL_SAFE;
}

EQRL_CODE static int has_value(const eqrl_contract *contract)
{
    return contract->fail_safe == (uint32_t)EQRL_FAIL_SAFE_VALUE && contract->fail_safe_action != NULL;
}

/* The last good action has been held for as long as the contract lets it, whatever has come since. */
EQRL_CODE static int is_stale(const eqrl_guard *guard, uint32_t now)
{
    return guard->timeout != 0u && now - guard->good > guard->timeout + guard->hold;
}

/* An observation came, but its action may not be driven. */
EQRL_CODE static uint32_t stand_in(eqrl_guard *guard, const eqrl_contract *contract, uint32_t now, void *action)
{
    if (has_value(contract)) {
        guard->is_driving = 1;
        return fail_safe_value(contract, action);
    }
    if (contract->fail_safe == (uint32_t)EQRL_FAIL_SAFE_HOLD && guard->has_good != 0u &&
        guard->num_held < contract->hold_steps && !is_stale(guard, now)) {
        guard->num_held++;
        copy_words(action, guard->held, contract->action_bytes);
        return (uint32_t)EQRL_GUARD_DRIVE | (uint32_t)EQRL_GUARD_HELD;
    }
    return (uint32_t)EQRL_GUARD_DISABLE | latch(guard);
}

/* No observation came within the timeout. */
EQRL_CODE static uint32_t lost(eqrl_guard *guard, const eqrl_contract *contract, uint32_t now, void *action)
{
    if (has_value(contract)) {
        return (uint32_t)EQRL_GUARD_LOST | fail_safe_value(contract, action) | latch(guard);
    }
    const int may_hold = contract->fail_safe == (uint32_t)EQRL_FAIL_SAFE_HOLD && guard->has_good != 0u;
    if (may_hold && !is_stale(guard, now)) {
        return (uint32_t)EQRL_GUARD_LOST | (uint32_t)EQRL_GUARD_HELD;
    }
    return (uint32_t)EQRL_GUARD_LOST | (uint32_t)EQRL_GUARD_DISABLE | latch(guard);
}

EQRL_CODE void eqrl_guard_reset(eqrl_guard *guard, const eqrl_contract *contract, uint32_t *held,
                                uint32_t ticks_per_period, uint32_t timeout_ticks, uint32_t now)
{
    guard->is_armed = contract->fail_safe != (uint32_t)EQRL_FAIL_SAFE_NONE && held != NULL ? 1u : 0u;
    guard->has_good = 0;
    guard->num_held = 0;
    guard->last = guard->is_driving != 0u ? guard->last : now; /* a reset makes no held action younger */
    guard->good = guard->last;
    guard->period = at_most(ticks_per_period, LONGEST);
    guard->timeout = at_most(timeout_ticks, LONGEST);
    guard->hold = product(guard->period, contract->hold_steps);
    guard->held = held;
}

/* The elements of one part; low and high are its features'. */
EQRL_CODE static uint32_t check_part(const eqrl_contract_part *part, const uint32_t *low, const uint32_t *high,
                                     const uint8_t *observation)
{
    const uint8_t *const values = observation + part->offset;
    uint32_t found = 0;
    uint32_t feature = 0;
    for (uint32_t i = 0; i < part->num_inputs; i++) {
        if (part->type == (uint32_t)EQRL_ELEMENT_F32) {
            found |= check_float(eqrl_load_word(values + 4u * i), low[feature], high[feature]);
        } else {
            const uint32_t bits = part->type == (uint32_t)EQRL_ELEMENT_U8 ? values[i] : eqrl_load_word(values + 4u * i);
            found |= check_integer(bits, low[feature], high[feature]);
        }
        feature = feature + 1u == part->num_features ? 0u : feature + 1u;
    }
    return found;
}

EQRL_CODE uint32_t eqrl_guard_check(const eqrl_contract *contract, const void *observation)
{
    const uint8_t *const values = (const uint8_t *)observation;
    const eqrl_contract_part whole = {EQRL_ELEMENT_F32, 0u, contract->num_inputs, contract->num_features};
    if (contract->num_parts == 0u) {
        return check_part(&whole, contract->low, contract->high, values);
    }
    uint32_t found = 0;
    uint32_t feature = 0;
    for (uint32_t i = 0; i < contract->num_parts; i++) {
        const eqrl_contract_part *const part = &contract->parts[i];
        found |= check_part(part, contract->low + feature, contract->high + feature, values);
        feature += part->num_features;
    }
    return found;
}

EQRL_CODE uint32_t eqrl_guard_step(eqrl_guard *guard, const eqrl_contract *contract, uint32_t now,
                                   const void *observation, eqrl_status status, void *action)
{
    if (guard->is_armed == 0u) {
        return EQRL_GUARD_LATCHED;
    }
    uint32_t found = eqrl_guard_check(contract, observation);
    if (status < 0) {
        return found | (uint32_t)EQRL_GUARD_DISABLE | latch(guard);
    }
    const uint32_t elapsed = now - guard->last;
    if (guard->is_driving != 0u && guard->timeout != 0u && elapsed > guard->timeout) {
        const uint32_t flags = lost(guard, contract, now, action);
        if (guard->is_armed == 0u) {
            return found | flags;
        }
        found |= EQRL_GUARD_LOST; /* it came while the last action was held: go on */
    } else if (guard->is_driving != 0u && guard->period != 0u && elapsed > guard->period + (guard->period >> 1)) {
        found |= EQRL_GUARD_LATE;
    } else {
        /* It is in time, or there is no time to be in. */
    }
    guard->last = now;
    const uint32_t of_action = check_action(contract, (const uint8_t *)action);
    if (((found & ((uint32_t)EQRL_GUARD_RANGE | (uint32_t)EQRL_GUARD_NOT_FINITE)) | of_action) != 0u) {
        return found | of_action | stand_in(guard, contract, now, action);
    }
    copy_words(guard->held, action, contract->action_bytes);
    guard->has_good = 1;
    guard->good = now;
    guard->num_held = 0;
    guard->is_driving = 1;
    return found | (uint32_t)EQRL_GUARD_DRIVE;
}

EQRL_CODE uint32_t eqrl_guard_idle(eqrl_guard *guard, const eqrl_contract *contract, uint32_t now, void *action)
{
    if (guard->is_driving == 0u || guard->timeout == 0u) {
        return 0;
    }
    const int is_held_too_long = contract->fail_safe == (uint32_t)EQRL_FAIL_SAFE_HOLD && is_stale(guard, now);
    return now - guard->last > guard->timeout || is_held_too_long ? lost(guard, contract, now, action) : 0u;
}

EQRL_CODE void eqrl_guard_disarm(eqrl_guard *guard)
{
    (void)latch(guard);
}
