/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_guard.h - what stands between a policy's action and the actuators.
 *
 *   static eqrl_guard guard;                          zeroed: nothing may be driven
 *   static uint32_t held[sizeof(NAME_action) / 4u];
 *   eqrl_guard_reset(&guard, contract, held, ticks_per_period, timeout_ticks, now);   when an episode begins
 *   flags = eqrl_guard_step(&guard, contract, now, &observation, status, &action);   after each NAME_step
 *   flags = eqrl_guard_idle(&guard, contract, now, &action);   often, while no observation comes
 *
 * Integers only; the caller gives the time, in ticks that wrap at 2^32. Actions are driven where flags hold
 * EQRL_GUARD_DRIVE, actuators stopped where they hold EQRL_GUARD_DISABLE.
 */
#ifndef EQRL_GUARD_H
#define EQRL_GUARD_H

#include "eqrl.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    EQRL_GUARD_DRIVE = 1,       /* the action, as it is now, may be driven */
    EQRL_GUARD_HELD = 2,        /* the last good action stands in; where DRIVE is set it was written to *action */
    EQRL_GUARD_FAIL_SAFE = 4,   /* the fail-safe action was written to *action */
    EQRL_GUARD_DISABLE = 8,     /* stop the actuators */
    EQRL_GUARD_LATE = 16,       /* a warning: later than one and a half periods, within the timeout; it is driven */
    EQRL_GUARD_LOST = 32,       /* later than the timeout: the fail-safe takes over */
    EQRL_GUARD_RANGE = 64,      /* an observation outside its bounds, or an action */
    EQRL_GUARD_NOT_FINITE = 128,
    EQRL_GUARD_LATCHED = 256 /* nothing is driven until eqrl_guard_reset */
};

typedef struct {
    uint32_t is_armed;   /* by reset, until latched */
    uint32_t is_driving; /* the actuators hold an action: it must not grow old */
    uint32_t has_good;   /* held is a good action of this episode */
    uint32_t num_held;   /* steps in a row with the held action */
    uint32_t last;       /* when the last observation came */
    uint32_t good;       /* when the last good one did */
    uint32_t period;     /* ticks; 0: unknown, nothing is late */
    uint32_t timeout;    /* ticks; 0: unknown, nothing is lost */
    uint32_t hold;       /* ticks beyond the timeout for which an action is held */
    uint32_t *held;      /* words of an action */
} eqrl_guard;

/* Begin an episode: arm the guard. Drives nothing. held: room for one action, which stays in place. Times beyond
 * 2^30 ticks count as 2^30. Where an action of an episode before is still held, its time goes on: stop the
 * actuators and call eqrl_guard_disarm before this, or have an observation in time.
 */
void eqrl_guard_reset(eqrl_guard *guard, const eqrl_contract *contract, uint32_t *held,
                      uint32_t ticks_per_period, uint32_t timeout_ticks, uint32_t now);

/* Judge a step. observation: a NAME_observation; status: what NAME_step returned; action: its action, replaced
 * where the fail-safe or a held action stands in. Returns a sum of EQRL_GUARD_... flags.
 */
uint32_t eqrl_guard_step(eqrl_guard *guard, const eqrl_contract *contract, uint32_t now,
                         const void *observation, eqrl_status status, void *action);

/* Judge the time when no observation came. action: where a fail-safe action is written. Returns 0 while all is
 * well, else flags.
 */
uint32_t eqrl_guard_idle(eqrl_guard *guard, const eqrl_contract *contract, uint32_t now, void *action);

/* EQRL_GUARD_RANGE and EQRL_GUARD_NOT_FINITE of an observation alone. */
uint32_t eqrl_guard_check(const eqrl_contract *contract, const void *observation);

/* The actuators were stopped by other means: forget what they held, and need a reset. */
void eqrl_guard_disarm(eqrl_guard *guard);

#ifdef __cplusplus
}
#endif

#endif
