/* SPDX-License-Identifier: Apache-2.0
 * STM32F100 with an 8 MHz crystal: 24 MHz from the PLL, USART1 on PA9 and PA10. Registers: RM0041, RCC, GPIO. Where
 * the crystal or the PLL does not come up the chip stays on its 8 MHz RC oscillator.
 */
#include "chip_stm32.h"
#include "eqrl_port.h"

#define HSI_HZ 8000000u

typedef char eqrl_clock_is_the_boards[EQRL_CLOCK_HZ == 3u * EQRL_CRYSTAL_HZ && EQRL_CLOCK_HZ == 24000000u ? 1 : -1];
typedef char eqrl_uart_is_usart1[EQRL_UART_BASE == 0x40013800u ? 1 : -1];

#define RCC_CR 0x40021000u
#define RCC_CR_HSI_ON (1u << 0)
#define RCC_CR_HSE_ON (1u << 16)
#define RCC_CR_HSE_READY (1u << 17)
#define RCC_CR_PLL_ON (1u << 24)
#define RCC_CR_PLL_READY (1u << 25)
#define RCC_CFGR 0x40021004u
#define RCC_CFGR_SW_MASK 3u
#define RCC_CFGR_SW_PLL 2u
#define RCC_CFGR_SWS_MASK (3u << 2)
#define RCC_CFGR_SWS_PLL (2u << 2)
#define RCC_CFGR_PLL_CRYSTAL_X3 ((1u << 16) | (1u << 18)) /* buses undivided: each stands 24 MHz */
#define RCC_CFGR2 0x4002102Cu
#define RCC_APB2ENR 0x40021018u
#define RCC_APB2ENR_AFIO (1u << 0)
#define RCC_APB2ENR_GPIOA (1u << 2)
#define RCC_APB2ENR_USART1 (1u << 14)

#define GPIOA_CRH 0x40010804u
#define GPIOA_CRH_PA9_PA10 (0xFFu << 4)
#define GPIOA_CRH_PA9_ALTERNATE (0x9u << 4) /* push-pull, 10 MHz */
#define GPIOA_CRH_PA10_PULLED (0x8u << 8)
#define GPIOA_BSRR 0x40010810u

uint32_t eqrl_port_clock_init(void)
{
    /* A debugger may restart us at full speed: go back to the RC oscillator before the PLL is touched. */
    EQRL_REGISTER(RCC_CR) |= RCC_CR_HSI_ON;
    EQRL_REGISTER(RCC_CFGR) &= ~RCC_CFGR_SW_MASK;
    (void)eqrl_port_wait(RCC_CFGR, RCC_CFGR_SWS_MASK, 0u);
    EQRL_REGISTER(RCC_CR) &= ~RCC_CR_PLL_ON;
    EQRL_REGISTER(RCC_CFGR) = 0u;
    EQRL_REGISTER(RCC_CR) |= RCC_CR_HSE_ON;
    if (!eqrl_port_wait(RCC_CR, RCC_CR_HSE_READY, RCC_CR_HSE_READY)) {
        return HSI_HZ;
    }
    EQRL_REGISTER(RCC_CFGR2) = 0u; /* the crystal, undivided */
    EQRL_REGISTER(RCC_CFGR) = RCC_CFGR_PLL_CRYSTAL_X3;
    EQRL_REGISTER(RCC_CR) |= RCC_CR_PLL_ON;
    if (!eqrl_port_wait(RCC_CR, RCC_CR_PLL_READY, RCC_CR_PLL_READY)) {
        return HSI_HZ;
    }
    EQRL_REGISTER(RCC_CFGR) = RCC_CFGR_PLL_CRYSTAL_X3 | RCC_CFGR_SW_PLL; /* flash needs no wait state */
    if (!eqrl_port_wait(RCC_CFGR, RCC_CFGR_SWS_MASK, RCC_CFGR_SWS_PLL)) {
        EQRL_REGISTER(RCC_CFGR) = RCC_CFGR_PLL_CRYSTAL_X3;
        return HSI_HZ;
    }
    return EQRL_CLOCK_HZ;
}

uint32_t eqrl_stm32_uart_connect(uint32_t clock_hz)
{
    EQRL_REGISTER(RCC_APB2ENR) |= RCC_APB2ENR_AFIO | RCC_APB2ENR_GPIOA | RCC_APB2ENR_USART1;
    EQRL_REGISTER(GPIOA_BSRR) = 1u << 10; /* PA10 is pulled up, not down */
    EQRL_REGISTER(GPIOA_CRH) =
        (EQRL_REGISTER(GPIOA_CRH) & ~GPIOA_CRH_PA9_PA10) | GPIOA_CRH_PA9_ALTERNATE | GPIOA_CRH_PA10_PULLED;
    return clock_hz;
}

/* IWDG, RCC_CSR, DBGMCU_CR; DS6517 (STM32F100x4/6/8/B), LSI oscillator: up to 60 kHz */
const eqrl_stm32_watchdog eqrl_stm32_iwdg = {
    0x40003000u, 60000u, 0x40021024u, 1u << 29, 1u << 24, 0xE0042004u, 1u << 8,
};
