/* SPDX-License-Identifier: Apache-2.0
 * i.MX RT1062: 600 MHz from the 24 MHz crystal by the Arm PLL. Registers: i.MX RT1060 reference manual, CCM, DCDC,
 * RTWDOG. The boot ROM has started the crystal; where the voltage or the PLL does not come up the core runs from it
 * directly.
 */
#include "cache_m7.h"
#include "eqrl_port.h"

#define CRYSTAL_HZ 24000000u
#define PLL_HZ 600000000u

typedef char eqrl_clock_is_the_boards[EQRL_CLOCK_HZ == PLL_HZ && EQRL_CRYSTAL_HZ == CRYSTAL_HZ ? 1 : -1];

#define FLASH 0x60000000u

#define CCM_CACRR 0x400FC010u
#define CCM_CACRR_2 1u /* 1200 MHz / 2 */
#define CCM_CBCDR 0x400FC014u
#define CCM_CBCDR_PERIPH_CLK2 (1u << 25)
#define CCM_CBCDR_PERIPH_CLK2_DIVIDER (7u << 27)
#define CCM_CBCDR_AHB_DIVIDER (7u << 10)
#define CCM_CBCDR_IPG_4 (3u << 8) /* 150 MHz is the most that IPG stands */
#define CCM_CBCMR 0x400FC018u
#define CCM_CBCMR_PERIPH_CLK2_MASK (3u << 12)
#define CCM_CBCMR_PERIPH_CLK2_CRYSTAL (1u << 12)
#define CCM_CBCMR_PRE_PERIPH_ARM_PLL (3u << 18)
#define CCM_CDHIPR 0x400FC048u
#define CCM_CDHIPR_PERIPH (1u << 5)
#define CCM_CDHIPR_ARM (1u << 16)
#define CCM_CDHIPR_AHB (1u << 1)
#define CCM_CLPCR 0x400FC054u
#define CCM_CLPCR_MODE_MASK 3u /* 0: run. Out of reset, WAIT: a WFI would stop the clock of the core and of SysTick */
#define CCM_CCGR6 0x400FC080u
#define CCM_CCGR6_DCDC (3u << 6)
#define PLL_ARM 0x400D8000u
#define PLL_ARM_FACTOR_100 100u /* 24 MHz x 100 / 2 */
#define PLL_ARM_ENABLE (1u << 13)
#define PLL_ARM_BYPASS (1u << 16)
#define PLL_ARM_LOCK (1u << 31)
#define DCDC_REG0 0x40080000u
#define DCDC_REG0_OK (1u << 31)
#define DCDC_REG3 0x4008000Cu
#define DCDC_REG3_TARGET_MASK 0x1Fu
#define DCDC_REG3_1_25_V 18u /* 0.8 V + 18 x 25 mV, which 600 MHz needs */

#define RTWDOG_CS 0x400BC000u
#define RTWDOG_CS_ENABLE (1u << 7)
#define RTWDOG_CS_UPDATE (1u << 5)
#define RTWDOG_COUNT 0x400BC004u
#define RTWDOG_UNLOCK 0xD928C520u
#define RTWDOG_LIMIT 0x400BC008u

/* The third watchdog runs from reset on, unless the ROM has stopped it; ours is another one. */
static void stop_rtwdog(void)
{
    const uint32_t status = EQRL_REGISTER(RTWDOG_CS);
    if ((status & RTWDOG_CS_ENABLE) != 0u) {
        EQRL_REGISTER(RTWDOG_COUNT) = RTWDOG_UNLOCK;
        EQRL_REGISTER(RTWDOG_LIMIT) = 0xFFFFu;
        EQRL_REGISTER(RTWDOG_CS) = (status & ~RTWDOG_CS_ENABLE) | RTWDOG_CS_UPDATE;
    }
}

/* Let the core run from the crystal while what it ran from is changed. Returns 0 if it cannot be told. */
static int select_crystal(void)
{
    EQRL_REGISTER(CCM_CBCDR) &= ~CCM_CBCDR_PERIPH_CLK2_DIVIDER;
    EQRL_REGISTER(CCM_CBCMR) =
        (EQRL_REGISTER(CCM_CBCMR) & ~CCM_CBCMR_PERIPH_CLK2_MASK) | CCM_CBCMR_PERIPH_CLK2_CRYSTAL;
    EQRL_REGISTER(CCM_CBCDR) |= CCM_CBCDR_PERIPH_CLK2;
    return eqrl_port_wait(CCM_CDHIPR, CCM_CDHIPR_PERIPH, 0u);
}

static int start_pll(void)
{
    EQRL_REGISTER(CCM_CCGR6) |= CCM_CCGR6_DCDC;
    EQRL_REGISTER(DCDC_REG3) = (EQRL_REGISTER(DCDC_REG3) & ~DCDC_REG3_TARGET_MASK) | DCDC_REG3_1_25_V;
    if (!eqrl_port_wait(DCDC_REG0, DCDC_REG0_OK, DCDC_REG0_OK)) {
        return 0;
    }
    EQRL_REGISTER(PLL_ARM) = PLL_ARM_BYPASS | PLL_ARM_ENABLE | PLL_ARM_FACTOR_100; /* powered up */
    if (!eqrl_port_wait(PLL_ARM, PLL_ARM_LOCK, PLL_ARM_LOCK)) {
        return 0;
    }
    EQRL_REGISTER(PLL_ARM) = PLL_ARM_ENABLE | PLL_ARM_FACTOR_100;
    EQRL_REGISTER(CCM_CACRR) = CCM_CACRR_2;
    return eqrl_port_wait(CCM_CDHIPR, CCM_CDHIPR_ARM, 0u);
}

uint32_t eqrl_port_clock_init(void)
{
    stop_rtwdog();
    EQRL_REGISTER(CCM_CLPCR) &= ~CCM_CLPCR_MODE_MASK;
    eqrl_m7_caches_on(FLASH);
    const int on_crystal = select_crystal();
    EQRL_REGISTER(CCM_CBCDR) = (EQRL_REGISTER(CCM_CBCDR) & ~CCM_CBCDR_AHB_DIVIDER) | CCM_CBCDR_IPG_4;
    if (!on_crystal || !eqrl_port_wait(CCM_CDHIPR, CCM_CDHIPR_AHB, 0u) || !start_pll()) {
        return CRYSTAL_HZ;
    }
    EQRL_REGISTER(CCM_CBCMR) |= CCM_CBCMR_PRE_PERIPH_ARM_PLL;
    EQRL_REGISTER(CCM_CBCDR) &= ~CCM_CBCDR_PERIPH_CLK2;
    if (!eqrl_port_wait(CCM_CDHIPR, CCM_CDHIPR_PERIPH, 0u)) {
        (void)select_crystal();
        return CRYSTAL_HZ;
    }
    return PLL_HZ;
}
