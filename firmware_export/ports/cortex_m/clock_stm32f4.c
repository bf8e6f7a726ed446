/* SPDX-License-Identifier: Apache-2.0
 * STM32F405 and STM32F407: 168 MHz from the crystal by the PLL; USART1 on PA9 and PA10, USART2 on PA2 and PA3, or USART3
 * on PC10 and PC11.
 * Registers: RM0090, RCC, PWR, FLASH, GPIO. Where the crystal or the PLL does not come up the chip stays on its
 * 16 MHz RC oscillator.
 */
#include "chip_stm32.h"
#include "eqrl_port.h"

#define HSI_HZ 16000000u
#define PLL_HZ 168000000u
#define CRYSTAL_MHZ (EQRL_CRYSTAL_HZ / 1000000u)

typedef char eqrl_clock_is_the_boards[EQRL_CLOCK_HZ == PLL_HZ ? 1 : -1];
typedef char eqrl_crystal_has_whole_mhz[CRYSTAL_MHZ * 1000000u == EQRL_CRYSTAL_HZ && CRYSTAL_MHZ >= 4u ? 1 : -1];

#define RCC_CR 0x40023800u
#define RCC_CR_HSI_ON (1u << 0)
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
#define RCC_CFGR_APB2_2 (4u << 13) /* and APB2 84 MHz */
#define RCC_AHB1ENR 0x40023830u
#define RCC_APB1ENR 0x40023840u
#define RCC_APB1ENR_USART2 (1u << 17)
#define RCC_APB1ENR_USART3 (1u << 18)
#define RCC_APB1ENR_PWR (1u << 28)
#define RCC_APB2ENR 0x40023844u
#define RCC_APB2ENR_USART1 (1u << 4)

/* crystal / its MHz x 336 / 2; USB's divider 7; source: the crystal */
#define PLL_FACTORS (CRYSTAL_MHZ | (336u << 6) | (0u << 16) | (1u << 22) | (7u << 24))

#define PWR_CR 0x40007000u
#define PWR_CR_VOS (1u << 14) /* voltage scale 1, which 168 MHz needs */

#define FLASH_ACR 0x40023C00u
#define FLASH_ACR_5_WAIT_STATES 5u
#define FLASH_ACR_LATENCY_MASK 7u
#define FLASH_ACR_CACHES ((1u << 8) | (1u << 9) | (1u << 10))

#define AF_USART 7u

#if EQRL_UART_BASE == 0x40011000u
#define UART_CLOCK RCC_APB2ENR
#define UART_CLOCK_BIT RCC_APB2ENR_USART1
#define UART_DIVIDER 2u
#define GPIO_PORT 0u /* A */
#define PIN_TX 9u
#elif EQRL_UART_BASE == 0x40004400u
#define UART_CLOCK RCC_APB1ENR
#define UART_CLOCK_BIT RCC_APB1ENR_USART2
#define UART_DIVIDER 4u
#define GPIO_PORT 0u
#define PIN_TX 2u
#elif EQRL_UART_BASE == 0x40004800u
#define UART_CLOCK RCC_APB1ENR
#define UART_CLOCK_BIT RCC_APB1ENR_USART3
#define UART_DIVIDER 4u
#define GPIO_PORT 2u /* C */
#define PIN_TX 10u
#else
#error "the board's UART must be USART1, USART2 or USART3"
#endif
#define PIN_RX (PIN_TX + 1u)
#define GPIO (0x40020000u + 0x400u * GPIO_PORT)
#define GPIO_MODER (GPIO + 0x00u)
#define GPIO_PUPDR (GPIO + 0x0Cu)
#define GPIO_AFR (GPIO + 0x20u)

static void set_field(uint32_t address, uint32_t shift, uint32_t mask, uint32_t value)
{
    EQRL_REGISTER(address) = (EQRL_REGISTER(address) & ~(mask << shift)) | (value << shift);
}

uint32_t eqrl_port_clock_init(void)
{
    /* A debugger or a bootloader may start us at full speed: go back to the RC oscillator before the PLL is touched. */
    EQRL_REGISTER(RCC_CR) |= RCC_CR_HSI_ON;
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

uint32_t eqrl_stm32_uart_connect(uint32_t clock_hz)
{
    EQRL_REGISTER(RCC_AHB1ENR) |= 1u << GPIO_PORT;
    EQRL_REGISTER(UART_CLOCK) |= UART_CLOCK_BIT;
    set_field(GPIO_AFR + PIN_TX / 8u * 4u, PIN_TX % 8u * 4u, 15u, AF_USART);
    set_field(GPIO_AFR + PIN_RX / 8u * 4u, PIN_RX % 8u * 4u, 15u, AF_USART);
    set_field(GPIO_PUPDR, PIN_RX * 2u, 3u, 1u); /* up */
    set_field(GPIO_MODER, PIN_TX * 2u, 15u, 10u);   /* both pins: alternate */
    return clock_hz == PLL_HZ ? PLL_HZ / UART_DIVIDER : HSI_HZ;
}

/* IWDG, RCC_CSR, DBGMCU_APB1_FZ; DS8626, LSI oscillator: up to 47 kHz */
const eqrl_stm32_watchdog eqrl_stm32_iwdg = {
    0x40003000u, 47000u, 0x40023874u, 1u << 29, 1u << 24, 0xE0042008u, 1u << 12,
};
