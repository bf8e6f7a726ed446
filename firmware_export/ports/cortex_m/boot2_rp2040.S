/* SPDX-License-Identifier: Apache-2.0
 * RP2040 second stage. The boot ROM copies these 256 bytes to the top of SRAM, checks the CRC-32 in the last four
 * and calls the first; the code must not care where it lies. It makes the flash readable at 0x10000000 by the
 * serial read command 03h, which every flash chip knows, at clk_sys / 4 (31.25 MHz at 125 MHz), then starts the
 * image behind it. Slow, and enough: boards that use it run from RAM.
 * Registers: RP2040 datasheet, SSI, list of registers.
 */
    .file "boot2_rp2040.S" /* or the image would hold the name of a temporary object */
    .syntax unified
    .thumb

    .section .boot2, "ax", %progbits
    .balign 4
    .global eqrl_boot2
    .type eqrl_boot2, %function
    .thumb_func
eqrl_boot2:
    ldr     r3, =0x18000000         /* SSI */
    movs    r1, #0
    str     r1, [r3, #0x08]         /* SSIENR: off, or nothing can be set */
    movs    r1, #4
    str     r1, [r3, #0x14]         /* BAUDR: clk_sys / 4; must be even */
    ldr     r1, =0x001F0300         /* CTRLR0: DFS_32 = 32 bits, TMOD = EEPROM read, plain SPI */
    str     r1, [r3, #0x00]
    movs    r1, #0
    str     r1, [r3, #0x04]         /* CTRLR1: one frame a read */
    ldr     r2, =0x180000F4
    ldr     r1, =0x03000218         /* SPI_CTRLR0: command 03h of 8 bits, address of 24, no wait cycles */
    str     r1, [r2]
    movs    r1, #1
    str     r1, [r3, #0x10]         /* SER: the one chip select */
    str     r1, [r3, #0x08]         /* SSIENR: on */
    ldr     r0, =0x10000100         /* vectors */
    ldr     r1, =0xE000ED08         /* VTOR */
    str     r0, [r1]
    ldmia   r0!, {r1, r2}
    msr     msp, r1
    bx      r2
    .ltorg
    .org    252                     /* fails if the code has grown beyond it */
    .word   0                       /* CRC-32, written after linking */
    .size eqrl_boot2, . - eqrl_boot2
