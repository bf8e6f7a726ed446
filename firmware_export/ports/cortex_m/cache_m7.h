/* SPDX-License-Identifier: Apache-2.0
 * Caches of a Cortex-M7 and the little of its MPU that they need.
 */
#ifndef EQRL_CACHE_M7_H
#define EQRL_CACHE_M7_H

#include <stdint.h>

/* Switch both caches on. The core reads ahead of the program, also from 0x60000000 to 0x9FFFFFFF, where external
 * memories are that may not be there: the MPU forbids it, save in 8 MB of flash at `flash`, unless that is 0.
 * Memory that code was copied to must have been written before, with the data cache off.
 */
void eqrl_m7_caches_on(uint32_t flash);

#endif
