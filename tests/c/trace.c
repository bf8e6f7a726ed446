/* The blocks that a step executes, hashed: everything but this file is compiled with
 * -fsanitize-coverage=trace-pc, which calls us at the start of each block. stdin: observations as raw bytes.
 */
#include <stdio.h>

#include "alpha.h"

void __sanitizer_cov_trace_pc(void);
static uint64_t trace;
static unsigned long blocks;

void __sanitizer_cov_trace_pc(void)
{
    const uint64_t where = (uint64_t)(uintptr_t)__builtin_return_address(0);
    trace = (trace ^ where) * 0x100000001B3u;
    blocks++;
}

static alpha_state state;
static alpha_observation observation;

int main(void)
{
    alpha_action action;
    uint64_t expected = 0;
    unsigned long rows = 0;
    if (alpha_init(&state, NULL) != EQRL_OK) {
        return 1;
    }
    while (fread(&observation, sizeof observation, 1, stdin) == 1) {
        trace = 0;
        blocks = 0;
        if (alpha_step(&state, &observation, &action) < 0) {
            return 1;
        }
        if (rows > 0 && trace != expected) {
            printf("row %lu took another way\n", rows);
            return 1;
        }
        expected = trace;
        rows++;
    }
    printf("%lu rows, %lu blocks\n", rows, blocks);
    return 0;
}
