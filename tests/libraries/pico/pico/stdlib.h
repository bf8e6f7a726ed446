/* Stands in for the Pico SDK. */
#ifndef PICO_STDLIB_H
#define PICO_STDLIB_H

#include <stdbool.h>
#include <stdint.h>

bool stdio_init_all(void);
uint32_t time_us_32(void);
void sleep_us(uint64_t us);
void tight_loop_contents(void);

#endif
