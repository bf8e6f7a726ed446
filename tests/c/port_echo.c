/* SPDX-License-Identifier: Apache-2.0
 * Firmware that tests a port from the other end of its UART: linked with all of the port, in the place of main.c.
 *
 * It says "ready CLOCK TICKS RESET" (hexadecimal), then answers each byte:
 * t  the time base        s  ticks that 100 wake-ups took        o  overruns seen
 * w  starts the watchdog (250 ms)        k  kicks it for a second        h  goes on without kicking
 * p  bytes of stack that were never used
 * x  pushes to where no memory is        y  pushes below the stack's least address
 * anything else: the byte with bit 5 turned round
 */
#include "eqrl_port.h"

#define RING_BYTES 64u
#define WATCHDOG_MS 250u
#ifdef __riscv
#define NO_MEMORY 0xA0000000u
#else
#define NO_MEMORY 0x48000000u
#endif

static volatile uint8_t ring[RING_BYTES];
static volatile uint32_t put_at;
static volatile uint32_t overruns;
static uint32_t got_at;
static uint32_t tick_hz;

int eqrl_port_wait(uint32_t address, uint32_t mask, uint32_t value)
{
    for (uint32_t turn = 0u; turn < EQRL_WAIT_TURNS; turn++) {
        if ((EQRL_REGISTER(address) & mask) == value) {
            return 1;
        }
    }
    return 0;
}

void eqrl_port_received(uint8_t byte)
{
    ring[put_at % RING_BYTES] = byte;
    put_at++;
}

void eqrl_port_overrun(void)
{
    overruns++;
}

static void print(char letter, uint32_t value)
{
    eqrl_port_uart_put((uint8_t)letter);
    for (uint32_t place = 0u; place < 8u; place++) {
        const uint32_t digit = value >> 28;
        eqrl_port_uart_put((uint8_t)(digit < 10u ? '0' + digit : 'A' + digit - 10u));
        value <<= 4;
    }
    eqrl_port_uart_put((uint8_t)'\n');
}

void eqrl_port_fault(uint32_t exception)
{
    print('f', exception);
    for (;;) {
        eqrl_port_sleep();
    }
}

__attribute__((weak)) uint32_t eqrl_port_stack_free_bytes(void)
{
    return 0;
}

extern uint32_t __free_start;

static void push_at(uint32_t stack)
{
#ifdef __riscv
    __asm__ volatile("mv sp, %0\n\tsw zero, -4(sp)" : : "r"(stack) : "memory");
#else
    __asm__ volatile("mov sp, %0\n\tpush {r0-r3}" : : "r"(stack) : "memory");
#endif
}

static uint32_t ticks_of_wakes(uint32_t wakes)
{
    const uint32_t start = eqrl_port_ticks();
    for (; wakes != 0u; wakes--) {
        eqrl_port_sleep();
    }
    return eqrl_port_ticks() - start;
}

static void kick_for_a_second(void)
{
    const uint32_t start = eqrl_port_ticks();
    while (eqrl_port_ticks() - start < tick_hz) {
        eqrl_port_watchdog_kick();
        eqrl_port_sleep();
    }
}

static uint8_t next_byte(void)
{
    eqrl_port_interrupts_off();
    while (got_at == put_at) {
        eqrl_port_sleep();
        eqrl_port_interrupts_on();
        eqrl_port_interrupts_off();
    }
    eqrl_port_interrupts_on();
    const uint8_t byte = ring[got_at % RING_BYTES];
    got_at++;
    return byte;
}

int main(void)
{
    const uint32_t clock_hz = eqrl_port_clock_init();
    eqrl_port_uart_init(clock_hz);
    tick_hz = eqrl_port_timer_init(clock_hz);
    print('c', clock_hz);
    print('t', tick_hz);
    print('r', (uint32_t)eqrl_port_watchdog_was_reset());
    for (;;) {
        const uint8_t byte = next_byte();
        if (byte == 't') {
            print('t', eqrl_port_ticks());
        } else if (byte == 's') {
            print('s', ticks_of_wakes(100u));
        } else if (byte == 'p') {
            print('p', eqrl_port_stack_free_bytes());
        } else if (byte == 'o') {
            print('o', overruns);
        } else if (byte == 'w') {
            eqrl_port_watchdog_start(WATCHDOG_MS);
            print('w', WATCHDOG_MS);
        } else if (byte == 'k') {
            kick_for_a_second();
            print('k', 0u);
        } else if (byte == 'x') {
            push_at(NO_MEMORY);
        } else if (byte == 'y') {
            push_at((uint32_t)(uintptr_t)&__free_start);
        } else if (byte == 'h') {
            continue;
        } else {
            eqrl_port_uart_put((uint8_t)(byte ^ 0x20u));
        }
    }
}
