/* SPDX-License-Identifier: Apache-2.0
 * STM32H743: 400 MHz from the 64 MHz RC oscillator by PLL1, USART3 on PD8 and PD9. Registers: RM0433, RCC, PWR, FLASH,
 * GPIO.
 *
 * 400 MHz is what every revision of the silicon reaches, at voltage scale 1; 480 MHz needs revision V, scale 0 and the
 * core's supply by the LDO. The RC oscillator needs nothing on the board; it is exact to about 1 %. The UART has its
 * clock from it directly, so its baud rate is the same whether the PLL runs or not.
 */
#include "cache_m7.h"
#include "chip_stm32.h"
#include "eqrl_port.h"

#define HSI_HZ 64000000u
#define PLL_HZ 400000000u

typedef char eqrl_clock_is_the_boards[EQRL_CLOCK_HZ == PLL_HZ ? 1 : -1];
typedef char eqrl_uart_is_usart3[EQRL_UART_BASE == 0x40004800u ? 1 : -1];

#define RCC_CR 0x58024400u
#define RCC_CR_HSI_ON (1u << 0)
#define RCC_CR_HSI_READY (1u << 2)
#define RCC_CR_HSI_DIVIDER (3u << 3) /* 0: 64 MHz */
#define RCC_CR_PLL1_ON (1u << 24)
#define RCC_CR_PLL1_READY (1u << 25)
#define RCC_CFGR 0x58024410u
#define RCC_CFGR_SW_MASK 7u
#define RCC_CFGR_SW_PLL1 3u
#define RCC_CFGR_SWS_MASK (7u << 3)
#define RCC_CFGR_SWS_PLL1 (3u << 3)
#define RCC_D1CFGR 0x58024418u
#define RCC_D1CFGR_AHB_2_APB3_2 (8u | (4u << 4)) /* AXI and AHB 200 MHz, each APB 100 MHz */
#define RCC_D2CFGR 0x5802441Cu
#define RCC_D2CFGR_APB1_2_APB2_2 ((4u << 4) | (4u << 8))
#define RCC_D3CFGR 0x58024420u
#define RCC_D3CFGR_APB4_2 (4u << 4)
#define RCC_PLLCKSELR 0x58024428u
#define RCC_PLLCKSELR_HSI_10 (10u << 4) /* PLL1: 6.4 MHz from the RC oscillator */
#define RCC_PLLCFGR 0x5802442Cu
#define RCC_PLLCFGR_WIDE_4_8_MHZ_P ((2u << 2) | (1u << 16))
#define RCC_PLL1DIVR 0x58024430u
#define RCC_PLL1DIVR_125_2 (124u | (1u << 9) | (1u << 16) | (1u << 24)) /* x 125 = 800 MHz, / 2 */
#define RCC_D2CCIP2R 0x58024454u
#define RCC_D2CCIP2R_USART3_MASK 7u
#define RCC_D2CCIP2R_USART3_HSI 3u
#define RCC_AHB4ENR 0x580244E0u
#define RCC_AHB4ENR_GPIOD (1u << 3)
#define RCC_APB1LENR 0x580244E8u
#define RCC_APB1LENR_USART3 (1u << 18)

#define PWR_CSR1 0x58024804u
#define PWR_CSR1_VOS_READY (1u << 13)
#define PWR_CR3 0x5802480Cu
#define PWR_CR3_BYPASS (1u << 0)
#define PWR_CR3_LDO (1u << 1)
#define PWR_CR3_MAY_WRITE (1u << 2)
#define PWR_CR3_MASK 7u
#define PWR_D3CR 0x58024818u
#define PWR_D3CR_VOS_READY (1u << 13)
#define PWR_D3CR_VOS_1 (3u << 14)

#define FLASH_ACR 0x52002000u
#define FLASH_ACR_MASK 0x3Fu
#define FLASH_ACR_200_MHZ ((2u << 4) | 2u) /* 2 wait states at voltage scale 1 */

#define GPIOD_MODER 0x58020C00u
#define GPIOD_PUPDR 0x58020C0Cu
#define GPIOD_AFRH 0x58020C24u

/* The supply is chosen by the first write after power-on, and only that: the LDO, as the chip starts. Where something
 * before us has chosen, its choice stays: it knew the board.
 */
static int raise_voltage(void)
{
    if ((EQRL_REGISTER(PWR_CR3) & PWR_CR3_MASK) == (PWR_CR3_LDO | PWR_CR3_MAY_WRITE)) {
        EQRL_REGISTER(PWR_CR3) = (EQRL_REGISTER(PWR_CR3) & ~PWR_CR3_MASK) | PWR_CR3_LDO;
    }
    if (!eqrl_port_wait(PWR_CSR1, PWR_CSR1_VOS_READY, PWR_CSR1_VOS_READY)) {
        return 0;
    }
    EQRL_REGISTER(PWR_D3CR) = PWR_D3CR_VOS_1;
    return eqrl_port_wait(PWR_D3CR, PWR_D3CR_VOS_READY, PWR_D3CR_VOS_READY);
}

static int start_pll(void)
{
    EQRL_REGISTER(RCC_PLLCKSELR) = RCC_PLLCKSELR_HSI_10;
    EQRL_REGISTER(RCC_PLLCFGR) = RCC_PLLCFGR_WIDE_4_8_MHZ_P;
    EQRL_REGISTER(RCC_PLL1DIVR) = RCC_PLL1DIVR_125_2;
    EQRL_REGISTER(RCC_CR) |= RCC_CR_PLL1_ON;
    return eqrl_port_wait(RCC_CR, RCC_CR_PLL1_READY, RCC_CR_PLL1_READY);
}

uint32_t eqrl_port_clock_init(void)
{
    eqrl_m7_caches_on(0u);
    /* A debugger or a bootloader may start us at full speed: back to the RC oscillator before the PLL is touched. */
    EQRL_REGISTER(RCC_CR) = (EQRL_REGISTER(RCC_CR) & ~RCC_CR_HSI_DIVIDER) | RCC_CR_HSI_ON;
    (void)eqrl_port_wait(RCC_CR, RCC_CR_HSI_READY, RCC_CR_HSI_READY);
    EQRL_REGISTER(RCC_CFGR) &= ~RCC_CFGR_SW_MASK;
    (void)eqrl_port_wait(RCC_CFGR, RCC_CFGR_SWS_MASK, 0u);
    EQRL_REGISTER(RCC_CR) &= ~RCC_CR_PLL1_ON;
    (void)eqrl_port_wait(RCC_CR, RCC_CR_PLL1_READY, 0u);
    if (!raise_voltage() || !start_pll()) {
        return HSI_HZ;
    }
    EQRL_REGISTER(FLASH_ACR) = FLASH_ACR_200_MHZ;
    if (!eqrl_port_wait(FLASH_ACR, FLASH_ACR_MASK, FLASH_ACR_200_MHZ)) {
        return HSI_HZ;
    }
    EQRL_REGISTER(RCC_D1CFGR) = RCC_D1CFGR_AHB_2_APB3_2;
    EQRL_REGISTER(RCC_D2CFGR) = RCC_D2CFGR_APB1_2_APB2_2;
    EQRL_REGISTER(RCC_D3CFGR) = RCC_D3CFGR_APB4_2;
    EQRL_REGISTER(RCC_CFGR) |= RCC_CFGR_SW_PLL1;
    if (!eqrl_port_wait(RCC_CFGR, RCC_CFGR_SWS_MASK, RCC_CFGR_SWS_PLL1)) {
        EQRL_REGISTER(RCC_CFGR) &= ~RCC_CFGR_SW_MASK;
        return HSI_HZ;
    }
    return PLL_HZ;
}

uint32_t eqrl_stm32_uart_connect(uint32_t clock_hz)
{
    (void)clock_hz;
    EQRL_REGISTER(RCC_D2CCIP2R) =
        (EQRL_REGISTER(RCC_D2CCIP2R) & ~RCC_D2CCIP2R_USART3_MASK) | RCC_D2CCIP2R_USART3_HSI;
    EQRL_REGISTER(RCC_AHB4ENR) |= RCC_AHB4ENR_GPIOD;
    EQRL_REGISTER(RCC_APB1LENR) |= RCC_APB1LENR_USART3;
    EQRL_REGISTER(GPIOD_AFRH) = (EQRL_REGISTER(GPIOD_AFRH) & ~0xFFu) | 0x77u;              /* AF7: USART3 */
    EQRL_REGISTER(GPIOD_PUPDR) = (EQRL_REGISTER(GPIOD_PUPDR) & ~(3u << 18)) | (1u << 18);  /* PD9: up */
    EQRL_REGISTER(GPIOD_MODER) = (EQRL_REGISTER(GPIOD_MODER) & ~(15u << 16)) | (10u << 16); /* alternate */
    return HSI_HZ;
}

/* IWDG1, RCC_RSR, DBGMCU_APB4FZ1; DS12110, LSI oscillator: up to 33.6 kHz */
const eqrl_stm32_watchdog eqrl_stm32_iwdg = {
    0x58004800u, 33600u, 0x580244D0u, 1u << 26, 1u << 16, 0x5C001054u, 1u << 18,
};
