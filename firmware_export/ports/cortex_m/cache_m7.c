/* SPDX-License-Identifier: Apache-2.0
 * Caches and MPU of a Cortex-M7. Registers: Arm DDI 0403 (ARMv7-M), B3.2 and B3.5, and DDI 0489 (Cortex-M7).
 */
#include "cache_m7.h"

#include "eqrl_port.h"

#define CCR 0xE000ED14u
#define CCR_DATA_CACHE (1u << 16)
#define CCR_INSTRUCTION_CACHE (1u << 17)
#define CCSIDR 0xE000ED80u
#define CSSELR 0xE000ED84u
#define MPU_CTRL 0xE000ED94u
#define MPU_CTRL_ENABLE_WITH_DEFAULT 5u /* what no region covers is as without an MPU */
#define MPU_RBAR 0xE000ED9Cu
#define MPU_RBAR_VALID (1u << 4)
#define MPU_RASR 0xE000EDA0u
#define ICIALLU 0xE000EF50u
#define DCISW 0xE000EF60u

#define RASR_ENABLE 1u
#define RASR_512_MB (28u << 1)
#define RASR_8_MB (22u << 1)
#define RASR_NORMAL_WRITE_THROUGH (2u << 16)
#define RASR_DEVICE (1u << 16)
#define RASR_READ_ONLY (6u << 24)
#define RASR_NO_EXECUTE (1u << 28)

static void barrier(void)
{
    __asm__ volatile("dsb\n\tisb" ::: "memory");
}

static void set_region(uint32_t number, uint32_t start, uint32_t attributes)
{
    EQRL_REGISTER(MPU_RBAR) = start | MPU_RBAR_VALID | number;
    EQRL_REGISTER(MPU_RASR) = attributes | RASR_ENABLE;
}

static void invalidate_data_cache(void)
{
    EQRL_REGISTER(CSSELR) = 0u;
    barrier();
    const uint32_t geometry = EQRL_REGISTER(CCSIDR);
    const uint32_t last_set = (geometry >> 13) & 0x7FFFu;
    const uint32_t last_way = (geometry >> 3) & 3u; /* M7: four ways */
    for (uint32_t set = 0u; set <= last_set; set++) {
        for (uint32_t way = 0u; way <= last_way; way++) {
            EQRL_REGISTER(DCISW) = (way << 30) | (set << 5);
        }
    }
    barrier();
}

void eqrl_m7_caches_on(uint32_t flash)
{
    barrier();
    EQRL_REGISTER(MPU_CTRL) = 0u;
    set_region(0u, 0x60000000u, RASR_512_MB | RASR_DEVICE | RASR_NO_EXECUTE);
    set_region(1u, 0x80000000u, RASR_512_MB | RASR_DEVICE | RASR_NO_EXECUTE);
    if (flash != 0u) {
        set_region(2u, flash, RASR_8_MB | RASR_NORMAL_WRITE_THROUGH | RASR_READ_ONLY);
    }
    EQRL_REGISTER(MPU_CTRL) = MPU_CTRL_ENABLE_WITH_DEFAULT;
    barrier();
    if ((EQRL_REGISTER(CCR) & CCR_DATA_CACHE) == 0u) { /* else what it holds is ours already */
        invalidate_data_cache();
    }
    EQRL_REGISTER(ICIALLU) = 0u;
    barrier();
    EQRL_REGISTER(CCR) |= CCR_DATA_CACHE | CCR_INSTRUCTION_CACHE;
    barrier();
}
