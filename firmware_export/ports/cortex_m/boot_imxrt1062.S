/* SPDX-License-Identifier: Apache-2.0
 * What the boot ROM of an i.MX RT1062 wants to find at the start of its serial flash: how to read the flash, and
 * where the program is. For Teensy 4.1 (W25Q64JV, 8 MB on FlexSPI A1, four data lines).
 *
 * Facts: i.MX RT1060 reference manual, System boot, FlexSPI serial NOR flash boot, and image vector table; FlexSPI, look up
 * table; W25Q64JV datasheet, Fast Read Quad I/O.
 */
    .file "boot_imxrt1062.S"
    .syntax unified
    .thumb
#ifdef __ARM_PCS_VFP
    .eabi_attribute 28, 1           /* Tag_ABI_VFP_args: lld believes the first object of all */
#endif

#define FLASH_BYTES 0x00800000
/* An instruction of the look up table: what, on how many lines (0: 1, 2: 4), with which operand. Two a word. */
#define SEQUENCE(code, pads, operand) (((code) << 10) | ((pads) << 8) | (operand))
#define COMMAND 0x01
#define ADDRESS 0x02
#define MODE8 0x07
#define READ 0x09
#define DUMMY 0x0C

    .section .boot2, "a", %progbits
eqrl_flash_configuration:
    .word 0x42464346                /* "FCFB" */
    .word 0x56010000                /* version 1.0 of the block */
    .word 0
    .byte 0, 3, 3, 0                /* sample by the internal loopback; hold and setup of CS; no columns */
    .org 0x44
    .byte 1, 4, 2, 0                /* serial NOR; four lines; 50 MHz, what the internal loopback allows; ROM's table */
    .org 0x50
    .word FLASH_BYTES, 0, 0, 0
    .org 0x80                       /* look up table, entry 0: read */
    .hword SEQUENCE(COMMAND, 0, 0xEB), SEQUENCE(ADDRESS, 2, 24)
    .hword SEQUENCE(MODE8, 2, 0x00), SEQUENCE(DUMMY, 2, 4)  /* 0x00: the next read begins with a command, too */
    .hword SEQUENCE(READ, 2, 4), 0
    .org 0x1C0
    .word 256                       /* bytes of a page */
    .word 4096                      /* and of a sector */
    .word 1                         /* 30 MHz for other commands */
    .org 0x1D0
    .word 0x10000                   /* bytes of a block */
    .org 0x1000
eqrl_image_vector_table:
    .word 0x432000D1                /* tag D1, 32 bytes, version 4.3 */
    .word eqrl_boot_entry           /* its bit 0 is set: Thumb */
    .word 0
    .word 0                         /* no device configuration data */
    .word eqrl_boot_data
    .word eqrl_image_vector_table
    .word 0                         /* not signed */
    .word 0
eqrl_boot_data:
    .word eqrl_flash_configuration
    .word FLASH_BYTES               /* the image ends somewhere in there */
    .word 0                         /* not a plug-in */
    .balign 4

/* The ROM may leave caches on. What they hold is the ROM's, and code is about to be copied past them. */
    .section .startup, "ax", %progbits
    .balign 4
    .global eqrl_boot_entry
    .type eqrl_boot_entry, %function
    .thumb_func
eqrl_boot_entry:
    cpsid   i
    ldr     r0, =0xE000ED14         /* CCR */
    ldr     r1, [r0]
    bic     r1, r1, #0x30000        /* both caches off */
    str     r1, [r0]
    dsb
    isb
    ldr     r0, =0xE000ED84         /* CSSELR: the data cache, level 1 */
    movs    r1, #0
    str     r1, [r0]
    dsb
    ldr     r0, =0xE000EF60         /* DCISW: drop a line of 32 bytes; 4 ways of 256 sets */
    ldr     r2, =0xC0000000         /* way 3 */
1:  ldr     r3, =0x1FE0             /* set 255 */
2:  orr     r1, r2, r3
    str     r1, [r0]
    subs    r3, r3, #0x20
    bpl     2b
    cbz     r2, 3f
    sub     r2, r2, #0x40000000
    b       1b
3:  movs    r1, #0
    ldr     r0, =0xE000EF50         /* ICIALLU */
    str     r1, [r0]
    dsb
    isb
    ldr     r0, =Reset_Handler
    bx      r0
    .ltorg
    .size eqrl_boot_entry, . - eqrl_boot_entry
