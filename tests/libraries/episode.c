/* Drives the example's control loop through good, bad and missing observations; time wraps on the way. */
#include <math.h>
#include <stdio.h>

#include "lander_control.h"

#define CHECK(condition) \
    if (!(condition)) { \
        printf("line %d: %s; driven %d, stopped %d, guard 0x%X\n", __LINE__, #condition, num_driven, \
               num_stopped, (unsigned int)control_last()->guard); \
        return 1; \
    }

float sensor;
int is_there = 1;
int num_driven;
int num_stopped;

int main(void)
{
    uint32_t now = UINT32_MAX - 2u * CONTROL_PERIOD_US;
    CHECK(control_run(now) == CONTROL_PERIOD_US && num_driven == 0); /* nothing before begin */
    CHECK(control_begin(now) == EQRL_OK && num_driven == 0 && num_stopped == 1);
    CHECK(control_run(now) == CONTROL_PERIOD_US && num_driven == 1);
    now += 1000u;
    CHECK(control_run(now) == CONTROL_PERIOD_US - 1000u && num_driven == 1); /* before its time */
    for (int i = 2; i < 6; i++) {
        now += CONTROL_PERIOD_US; /* 1 ms late each time, and no later */
        CHECK(control_run(now) == CONTROL_PERIOD_US - 1000u && num_driven == i);
    }
    now += 10u * CONTROL_PERIOD_US; /* a hold-up: the guard's timeout, one step, and a new count of periods */
    CHECK(control_run(now) == CONTROL_PERIOD_US);
    CHECK((control_last()->guard & (uint32_t)EQRL_GUARD_LATCHED) != 0u);
    CHECK(control_begin(now) == EQRL_OK && num_stopped == 2);
    num_driven = 0;
    CHECK(control_run(now) == CONTROL_PERIOD_US && num_driven == 1);
    sensor = NAN;
    now += CONTROL_PERIOD_US;
    (void)control_run(now);
    CHECK(num_driven == 2 && (control_last()->guard & (uint32_t)EQRL_GUARD_NOT_FINITE) != 0u);
    CHECK((control_last()->guard & (uint32_t)EQRL_GUARD_FAIL_SAFE) != 0u);
    CHECK((control_last()->status & EQRL_NOT_FINITE) != 0);
    sensor = 0.0f;
    is_there = 0;
    now += CONTROL_PERIOD_US;
    (void)control_run(now);
    CHECK(num_driven == 2 && control_last()->guard == 0u); /* not yet lost */
    now += 2u * CONTROL_PERIOD_US;
    (void)control_run(now);
    CHECK(num_driven == 3 && (control_last()->guard & (uint32_t)EQRL_GUARD_LOST) != 0u);
    is_there = 1;
    now += CONTROL_PERIOD_US;
    (void)control_run(now);
    CHECK(num_driven == 3 && control_last()->is_driven == 0); /* latched */
    CHECK(control_begin(now) == EQRL_OK);
    (void)control_run(now);
    CHECK(num_driven == 4);
    printf("passed\n");
    return 0;
}
