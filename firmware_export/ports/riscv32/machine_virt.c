/* SPDX-License-Identifier: Apache-2.0
 * QEMU's machine virt: one fixed clock, interrupts by the PLIC, time by the CLINT. Registers: RISC-V PLIC specification,
 * memory map; SiFive FU540-C000 manual, CLINT; QEMU, hw/riscv/virt.c, addresses.
 */
#include "machine_virt.h"
#include "eqrl_port.h"
#include "riscv32.h"

#define PLIC_PRIORITY(irq) (0x0C000000u + 4u * (irq))
#define PLIC_ENABLE(irq) (0x0C002000u + (irq) / 32u * 4u) /* of machine mode */
#define PLIC_THRESHOLD 0x0C200000u
#define PLIC_CLAIM 0x0C200004u
#define CLINT_MTIMECMP 0x02004000u
#define CLINT_MTIMECMP_HIGH 0x02004004u
#define CLINT_MTIME 0x0200BFF8u
#define CLINT_MTIME_HIGH 0x0200BFFCu

#define MACHINE_TIMER 7u
#define MACHINE_EXTERNAL 11u
#define PERIOD (EQRL_CLOCK_HZ / 1000u)

static void enable(uint32_t interrupt)
{
    __asm__ volatile("csrs mie, %0" : : "r"(1u << interrupt));
}

/* The next interrupt comes a millisecond from now. The time base itself runs on: nothing adds up. */
static void set_alarm(void)
{
    const uint32_t high = EQRL_REGISTER(CLINT_MTIME_HIGH);
    const uint32_t low = EQRL_REGISTER(CLINT_MTIME) + PERIOD;
    EQRL_REGISTER(CLINT_MTIMECMP_HIGH) = 0xFFFFFFFFu; /* none in between */
    EQRL_REGISTER(CLINT_MTIMECMP) = low;
    EQRL_REGISTER(CLINT_MTIMECMP_HIGH) = low < PERIOD ? high + 1u : high;
}

uint32_t eqrl_port_clock_init(void)
{
    return EQRL_CLOCK_HZ;
}

void eqrl_virt_enable_interrupt(uint32_t irq)
{
    EQRL_REGISTER(PLIC_PRIORITY(irq)) = 1u;
    EQRL_REGISTER(PLIC_ENABLE(irq)) |= 1u << (irq % 32u);
    EQRL_REGISTER(PLIC_THRESHOLD) = 0u;
    enable(MACHINE_EXTERNAL);
}

uint32_t eqrl_port_timer_init(uint32_t clock_hz)
{
    const uint32_t first = eqrl_port_ticks();
    for (uint32_t turn = 0u; turn < EQRL_WAIT_TURNS; turn++) {
        if (eqrl_port_ticks() != first) {
            set_alarm();
            enable(MACHINE_TIMER);
            return clock_hz;
        }
    }
    return 0u;
}

uint32_t eqrl_port_ticks(void)
{
    return EQRL_REGISTER(CLINT_MTIME);
}

void eqrl_port_trap(uint32_t cause)
{
    if (cause == (RISCV_INTERRUPT | MACHINE_TIMER)) {
        set_alarm();
    } else if (cause == (RISCV_INTERRUPT | MACHINE_EXTERNAL)) {
        const uint32_t irq = EQRL_REGISTER(PLIC_CLAIM);
        if (irq == EQRL_UART_IRQ) {
            eqrl_port_uart_interrupt();
        }
        EQRL_REGISTER(PLIC_CLAIM) = irq; /* served; 0 is none, and no harm */
    } else {
        eqrl_port_fault(cause);
    }
}
