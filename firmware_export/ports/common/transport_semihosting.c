/* SPDX-License-Identifier: Apache-2.0
 * Bytes over semihosting: a debugger or an emulator serves them. Without one the first call is a fault, so this is
 * linked into emulators' twins only, never into what is flashed. The end of the input ends the emulator.
 * Operations: Arm, Semihosting for AArch32 and AArch64; RISC-V takes the same by a sequence of its own.
 */
#include "eqrl_port.h"
#include "eqrl_transport.h"

#define SYS_OPEN 0x01u
#define SYS_WRITE 0x05u
#define SYS_READ 0x06u
#define SYS_EXIT_EXTENDED 0x20u
#define APPLICATION_EXIT 0x20026u
#define MODE_READ 0u
#define MODE_WRITE 4u
#define CONSOLE_NAME_BYTES 3u
#define INPUT_BYTES 64u
#define OUTPUT_BYTES 64u

static const char console[] = ":tt";
static uint32_t input_handle;
static uint32_t output_handle;
static uint8_t input[INPUT_BYTES];
static uint32_t num_input;
static uint32_t next_input;
static uint8_t output[OUTPUT_BYTES];
static uint32_t num_output;

static uint32_t call(uint32_t operation, const uint32_t *arguments)
{
#if defined(__riscv)
    register uint32_t result __asm__("a0") = operation;
    register const uint32_t *parameters __asm__("a1") = arguments;
    __asm__ volatile(".balign 16\n\t.option push\n\t.option norvc\n\tslli x0, x0, 0x1f\n\tebreak\n\t"
                     "srai x0, x0, 7\n\t.option pop"
                     : "+r"(result)
                     : "r"(parameters)
                     : "memory");
#else
    register uint32_t result __asm__("r0") = operation;
    register const uint32_t *parameters __asm__("r1") = arguments;
    __asm__ volatile("bkpt 0xab" : "+r"(result) : "r"(parameters) : "memory");
#endif
    return result;
}

static uint32_t address_of(const void *place)
{
    return (uint32_t)(uintptr_t)place;
}

static uint32_t open_console(uint32_t mode)
{
    const uint32_t arguments[3] = {address_of(console), mode, CONSOLE_NAME_BYTES};
    return call(SYS_OPEN, arguments);
}

static void leave(void)
{
    const uint32_t arguments[2] = {APPLICATION_EXIT, 0u};
    (void)call(SYS_EXIT_EXTENDED, arguments);
}

/* An emulator's UART is not used; its interrupt handler is linked all the same. */
void eqrl_port_received(uint8_t byte)
{
    (void)byte;
}

void eqrl_port_overrun(void)
{
}

void eqrl_transport_init(uint32_t clock_hz)
{
    (void)clock_hz;
    input_handle = open_console(MODE_READ);
    output_handle = open_console(MODE_WRITE);
}

static void flush(void)
{
    const uint32_t arguments[3] = {output_handle, address_of(output), num_output};
    if (num_output != 0u) {
        (void)call(SYS_WRITE, arguments);
    }
    num_output = 0;
}

/* Waits for the host: an application's loop stands still meanwhile. */
int eqrl_transport_receive(uint8_t *byte)
{
    if (next_input == num_input) {
        const uint32_t arguments[3] = {input_handle, address_of(input), INPUT_BYTES};
        flush();
        const uint32_t missing = call(SYS_READ, arguments);
        if (missing >= INPUT_BYTES) {
            leave();
            return 0;
        }
        num_input = INPUT_BYTES - missing;
        next_input = 0;
    }
    *byte = input[next_input];
    next_input++;
    return 1;
}

int eqrl_transport_is_pending(void)
{
    return 1;
}

uint32_t eqrl_transport_overruns(void)
{
    return 0;
}

int eqrl_transport_send(uint8_t byte)
{
    if (num_output == OUTPUT_BYTES) {
        flush();
    }
    output[num_output] = byte;
    num_output++;
    return 1;
}
