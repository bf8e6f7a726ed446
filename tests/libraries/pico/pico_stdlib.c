/* Stands in for the Pico SDK: time passes in sleep_us only, and ends after 0.2 s. */
#include <stdio.h>
#include <stdlib.h>

#include "pico/stdlib.h"

static uint32_t now;
extern int num_driven;

bool stdio_init_all(void)
{
    return true;
}

uint32_t time_us_32(void)
{
    return now;
}

void sleep_us(uint64_t us)
{
    now += (uint32_t)us;
    if (now >= 200000u) {
        printf("driven %d\n", num_driven);
        exit(0);
    }
}

void tight_loop_contents(void)
{
    exit(1);
}
