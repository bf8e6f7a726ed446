/* SPDX-License-Identifier: Apache-2.0
 * RP2040 and RP2350: ring oscillator -> 12 MHz crystal -> PLL at 125 or 150 MHz. Where a stage does not come up the
 * chip stays at the stage before: slow, and told to main.c, but never hung.
 */
#include "chip_rp2.h"

typedef char eqrl_clock_is_the_boards[EQRL_CLOCK_HZ == RP2_PLL_HZ ? 1 : -1];

#define XOSC_RANGE_1_15_MHZ 0xAA0u
#define XOSC_ENABLE (0xFABu << 12)
#define XOSC_STABLE (1u << 31)
#define XOSC_STARTUP_1_MS 47u /* in units of 256 crystal periods */

#define CLK_REF_SRC_MASK 3u
#define CLK_SYS_SRC_AUX 1u
#define CLK_SYS_AUXSRC_MASK (7u << 5) /* 0: PLL_SYS */
#define CLK_PERI_ENABLE (1u << 11)    /* AUXSRC 0: clk_sys */

#define PLL_LOCK (1u << 31)
#define PLL_POWER_DOWN (1u << 0)
#define PLL_POSTDIV_DOWN (1u << 3)
#define PLL_VCO_DOWN (1u << 5)
#define PLL_FEEDBACK 125u /* VCO: 12 MHz x 125 = 1500 MHz */

static int start_crystal(void)
{
    EQRL_REGISTER(XOSC_CTRL) = XOSC_RANGE_1_15_MHZ;
    EQRL_REGISTER(XOSC_STARTUP) = XOSC_STARTUP_1_MS;
    EQRL_REGISTER(XOSC_CTRL + RP2_SET) = XOSC_ENABLE;
    if (!eqrl_port_wait(XOSC_STATUS, XOSC_STABLE, XOSC_STABLE)) {
        return 0;
    }
    EQRL_REGISTER(CLOCKS_CLK_REF_CTRL) = CLK_REF_SRC_XOSC;
    if (!eqrl_port_wait(CLOCKS_CLK_REF_SELECTED, 1u << CLK_REF_SRC_XOSC, 1u << CLK_REF_SRC_XOSC)) {
        EQRL_REGISTER(CLOCKS_CLK_REF_CTRL + RP2_CLEAR) = CLK_REF_SRC_MASK;
        return 0;
    }
    return 1;
}

static int start_pll(void)
{
    EQRL_REGISTER(RESETS_RESET + RP2_SET) = RESETS_PLL_SYS;
    EQRL_REGISTER(RESETS_RESET + RP2_CLEAR) = RESETS_PLL_SYS;
    if (!eqrl_port_wait(RESETS_RESET_DONE, RESETS_PLL_SYS, RESETS_PLL_SYS)) {
        return 0;
    }
    EQRL_REGISTER(PLL_SYS_CS) = 1u; /* reference divider */
    EQRL_REGISTER(PLL_SYS_FBDIV_INT) = PLL_FEEDBACK;
    EQRL_REGISTER(PLL_SYS_PWR + RP2_CLEAR) = PLL_POWER_DOWN | PLL_VCO_DOWN;
    if (!eqrl_port_wait(PLL_SYS_CS, PLL_LOCK, PLL_LOCK)) {
        return 0;
    }
    EQRL_REGISTER(PLL_SYS_PRIM) = RP2_PLL_POSTDIV;
    EQRL_REGISTER(PLL_SYS_PWR + RP2_CLEAR) = PLL_POSTDIV_DOWN;
    EQRL_REGISTER(CLOCKS_CLK_SYS_CTRL + RP2_CLEAR) = CLK_SYS_AUXSRC_MASK;
    EQRL_REGISTER(CLOCKS_CLK_SYS_CTRL + RP2_SET) = CLK_SYS_SRC_AUX;
    if (!eqrl_port_wait(CLOCKS_CLK_SYS_SELECTED, 1u << CLK_SYS_SRC_AUX, 1u << CLK_SYS_SRC_AUX)) {
        EQRL_REGISTER(CLOCKS_CLK_SYS_CTRL + RP2_CLEAR) = CLK_SYS_SRC_AUX;
        return 0;
    }
    return 1;
}

uint32_t eqrl_port_clock_init(void)
{
    uint32_t clock_hz = RP2_ROSC_HZ;
    /* A debugger may restart us at full speed: go back to clk_ref before its sources and the PLL are touched. */
    EQRL_REGISTER(CLOCKS_CLK_SYS_CTRL + RP2_CLEAR) = CLK_SYS_SRC_AUX;
    (void)eqrl_port_wait(CLOCKS_CLK_SYS_SELECTED, 1u, 1u);
    if (start_crystal()) {
        clock_hz = start_pll() ? RP2_PLL_HZ : RP2_XOSC_HZ;
    }
    EQRL_REGISTER(CLOCKS_CLK_PERI_CTRL) = CLK_PERI_ENABLE;
    return clock_hz;
}
