/* SPDX-License-Identifier: Apache-2.0
 * STM32F405 with a 25 MHz crystal: 168 MHz from the PLL, USART1 on PA9, transmit only. Registers: RM0090, RCC, PWR,
 * FLASH, GPIO, USART. Where the crystal or the PLL does not come up the chip stays on its 16 MHz RC oscillator.
 */
#include "eqrl_port.h"

#define HSI_HZ 16000000u
#define PLL_HZ 168000000u
#define APB2_DIVIDER 2u /* 84 MHz is the most that APB2 stands */

typedef char eqrl_clock_is_the_boards[EQRL_CLOCK_HZ == PLL_HZ ? 1 : -1];

#define RCC_CR 0x40023800u
#define RCC_CR_HSE_ON (1u << 16)
#define RCC_CR_HSE_READY (1u << 17)
#define RCC_CR_PLL_ON (1u << 24)
#define RCC_CR_PLL_READY (1u << 25)
#define RCC_PLLCFGR 0x40023804u
#define RCC_CFGR 0x40023808u
#define RCC_CFGR_RESET 0u /* the RC oscillator, nothing divided */
#define RCC_CFGR_SW_HSI 0u
#define RCC_CFGR_SW_PLL 2u
#define RCC_CFGR_SW_MASK 3u
#define RCC_CFGR_SWS_MASK (3u << 2)
#define RCC_CFGR_SWS_PLL (2u << 2)
#define RCC_CFGR_APB1_4 (5u << 10) /* 42 MHz is the most that APB1 stands */
#define RCC_CFGR_APB2_2 (4u << 13)
#define RCC_AHB1ENR 0x40023830u
#define RCC_AHB1ENR_GPIOA (1u << 0)
#define RCC_APB1ENR 0x40023840u
#define RCC_APB1ENR_PWR (1u << 28)
#define RCC_APB2ENR 0x40023844u
#define RCC_APB2ENR_USART1 (1u << 4)

/* 25 MHz / 25 x 336 / 2; USB's divider 7; source: the crystal */
#define PLL_FACTORS (25u | (336u << 6) | (0u << 16) | (1u << 22) | (7u << 24))

#define PWR_CR 0x40007000u
#define PWR_CR_VOS (1u << 14) /* voltage scale 1, which 168 MHz needs */

#define FLASH_ACR 0x40023C00u
#define FLASH_ACR_5_WAIT_STATES 5u
#define FLASH_ACR_LATENCY_MASK 7u
#define FLASH_ACR_CACHES ((1u << 8) | (1u << 9) | (1u << 10))

#define GPIOA_MODER 0x40020000u
#define GPIOA_AFRH 0x40020024u

#define USART_SR (EQRL_UART_BASE + 0x00u)
#define USART_DR (EQRL_UART_BASE + 0x04u)
#define USART_BRR (EQRL_UART_BASE + 0x08u)
#define USART_CR1 (EQRL_UART_BASE + 0x0Cu)
#define USART_SR_TX_EMPTY (1u << 7)
#define USART_CR1_ENABLE_TX ((1u << 13) | (1u << 3))

#define DIVISOR(clock_hz) (((clock_hz) + EQRL_UART_BAUD / 2u) / EQRL_UART_BAUD)

uint32_t eqrl_port_clock_init(void)
{
    /* A debugger may restart us at full speed: go back to the RC oscillator before the PLL is touched. */
    EQRL_REGISTER(RCC_CFGR) &= ~RCC_CFGR_SW_MASK;
    (void)eqrl_port_wait(RCC_CFGR, RCC_CFGR_SWS_MASK, RCC_CFGR_SW_HSI);
    EQRL_REGISTER(RCC_CFGR) = RCC_CFGR_RESET; /* only now: the buses could not stand the PLL undivided */
    EQRL_REGISTER(RCC_CR) &= ~RCC_CR_PLL_ON;
    EQRL_REGISTER(RCC_CR) |= RCC_CR_HSE_ON;
    if (!eqrl_port_wait(RCC_CR, RCC_CR_HSE_READY, RCC_CR_HSE_READY)) {
        return HSI_HZ;
    }
    EQRL_REGISTER(RCC_APB1ENR) |= RCC_APB1ENR_PWR;
    EQRL_REGISTER(PWR_CR) |= PWR_CR_VOS;
    EQRL_REGISTER(RCC_PLLCFGR) = PLL_FACTORS;
    EQRL_REGISTER(RCC_CR) |= RCC_CR_PLL_ON;
    if (!eqrl_port_wait(RCC_CR, RCC_CR_PLL_READY, RCC_CR_PLL_READY)) {
        return HSI_HZ;
    }
    EQRL_REGISTER(FLASH_ACR) = FLASH_ACR_CACHES | FLASH_ACR_5_WAIT_STATES;
    if (!eqrl_port_wait(FLASH_ACR, FLASH_ACR_LATENCY_MASK, FLASH_ACR_5_WAIT_STATES)) {
        return HSI_HZ;
    }
    EQRL_REGISTER(RCC_CFGR) = RCC_CFGR_APB1_4 | RCC_CFGR_APB2_2;
    EQRL_REGISTER(RCC_CFGR) |= RCC_CFGR_SW_PLL;
    if (!eqrl_port_wait(RCC_CFGR, RCC_CFGR_SWS_MASK, RCC_CFGR_SWS_PLL)) {
        EQRL_REGISTER(RCC_CFGR) = RCC_CFGR_SW_HSI; /* buses at 16 MHz, too */
        return HSI_HZ;
    }
    return PLL_HZ;
}

void eqrl_port_uart_init(uint32_t clock_hz)
{
    EQRL_REGISTER(RCC_AHB1ENR) |= RCC_AHB1ENR_GPIOA;
    EQRL_REGISTER(RCC_APB2ENR) |= RCC_APB2ENR_USART1;
    EQRL_REGISTER(GPIOA_MODER) = (EQRL_REGISTER(GPIOA_MODER) & ~(3u << 18)) | (2u << 18); /* PA9: alternate */
    EQRL_REGISTER(GPIOA_AFRH) = (EQRL_REGISTER(GPIOA_AFRH) & ~(15u << 4)) | (7u << 4);    /* AF7: USART1 */
    EQRL_REGISTER(USART_BRR) = clock_hz == PLL_HZ ? DIVISOR(PLL_HZ / APB2_DIVIDER) : DIVISOR(HSI_HZ);
    EQRL_REGISTER(USART_CR1) = USART_CR1_ENABLE_TX;
}

void eqrl_port_uart_put(uint8_t byte)
{
    if (eqrl_port_wait(USART_SR, USART_SR_TX_EMPTY, USART_SR_TX_EMPTY)) {
        EQRL_REGISTER(USART_DR) = byte;
    }
}
