/* SPDX-License-Identifier: Apache-2.0
 * ESP32-C3: time base by SYSTIMER, 16 MHz from the crystal whatever the core runs at, and who serves the interrupts.
 * Registers: ESP32-C3 technical reference manual, System timer.
 */
#include "chip_esp32c3.h"
#include "eqrl_port.h"
#include "riscv32.h"

#define SYSTIMER_CONF 0x60023000u
#define SYSTIMER_UNIT0_OP 0x60023004u
#define SYSTIMER_TARGET0_CONF 0x60023034u
#define SYSTIMER_UNIT0_VALUE_LO 0x60023044u
#define SYSTIMER_COMP0_LOAD 0x60023050u
#define SYSTIMER_INT_ENA 0x60023064u
#define SYSTIMER_INT_CLR 0x6002306Cu

#define CONF_CLOCK (1u << 31)
#define CONF_UNIT0 (1u << 30)
#define CONF_TARGET0 (1u << 24)
#define UNIT0_OP_UPDATE (1u << 30)
#define UNIT0_OP_VALID (1u << 29)
#define TARGET0_CONF_PERIODIC (1u << 30)
#define TARGET0 1u
#define SOURCE_TARGET0 37u

#define TICK_HZ 16000000u

static int read_count(uint32_t *ticks)
{
    EQRL_REGISTER(SYSTIMER_UNIT0_OP) = UNIT0_OP_UPDATE;
    if (!eqrl_port_wait(SYSTIMER_UNIT0_OP, UNIT0_OP_VALID, UNIT0_OP_VALID)) {
        return 0;
    }
    *ticks = EQRL_REGISTER(SYSTIMER_UNIT0_VALUE_LO);
    return 1;
}

uint32_t eqrl_port_timer_init(uint32_t clock_hz)
{
    uint32_t first = 0u;
    uint32_t now = 0u;
    (void)clock_hz;
    EQRL_REGISTER(SYSTEM_PERIP_CLK_EN0) |= PERIP_SYSTIMER;
    EQRL_REGISTER(SYSTEM_PERIP_RST_EN0) &= ~PERIP_SYSTIMER;
    EQRL_REGISTER(SYSTIMER_CONF) = CONF_CLOCK | CONF_UNIT0; /* it goes on while the core sleeps */
    if (!read_count(&first)) {
        return 0u;
    }
    for (uint32_t turn = 0u; turn < EQRL_WAIT_TURNS; turn++) {
        if (!read_count(&now)) {
            return 0u;
        }
        if (now != first) {
            break;
        }
    }
    if (now == first) {
        return 0u;
    }
    EQRL_REGISTER(SYSTIMER_TARGET0_CONF) = TICK_HZ / 1000u; /* the period is taken over where the mode comes after it */
    EQRL_REGISTER(SYSTIMER_COMP0_LOAD) = 1u;
    EQRL_REGISTER(SYSTIMER_TARGET0_CONF) = TARGET0_CONF_PERIODIC | TICK_HZ / 1000u;
    EQRL_REGISTER(SYSTIMER_CONF) = CONF_CLOCK | CONF_UNIT0 | CONF_TARGET0;
    EQRL_REGISTER(SYSTIMER_INT_CLR) = TARGET0;
    EQRL_REGISTER(SYSTIMER_INT_ENA) = TARGET0;
    esp32c3_route(SOURCE_TARGET0, ESP32C3_LINE_TIMER);
    return TICK_HZ;
}

uint32_t eqrl_port_ticks(void)
{
    static uint32_t ticks; /* where it cannot be read the last one stays */
    (void)read_count(&ticks);
    return ticks;
}

void eqrl_port_trap(uint32_t cause)
{
    if (cause == (RISCV_INTERRUPT | ESP32C3_LINE_TIMER)) {
        EQRL_REGISTER(SYSTIMER_INT_CLR) = TARGET0;
    } else if (cause == (RISCV_INTERRUPT | ESP32C3_LINE_UART)) {
        eqrl_port_uart_interrupt();
    } else {
        eqrl_port_fault(cause);
    }
}
