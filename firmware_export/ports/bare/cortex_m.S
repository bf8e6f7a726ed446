/* SPDX-License-Identifier: Apache-2.0
 * The least around a bare engine on an emulated Cortex-M: it is called from outside, with the core at main.
 * Nothing here is counted.
 *
 * EQRL_HAS_FPU         1: switch the FPU on
 */
    .file "cortex_m.S" /* or the image would hold the name of a temporary object */
    .syntax unified
    .thumb

    .section .harness.vectors, "a", %progbits
    .balign 4
    .global eqrl_vectors
    .type eqrl_vectors, %object
eqrl_vectors:
    .word __stack_top
    .word Reset_Handler
    .rept 14
    .word eqrl_default_handler
    .endr
    .size eqrl_vectors, . - eqrl_vectors

    .section .harness.text, "ax", %progbits
    .balign 4
    .global Reset_Handler
    .type Reset_Handler, %function
    .thumb_func
Reset_Handler:
#if EQRL_HAS_FPU
    ldr     r0, =0xE000ED88         /* CPACR: full access to CP10 and CP11 */
    ldr     r1, =0x00F00000
    str     r1, [r0]
    dsb
    isb
#endif
    b       main
    .ltorg
    .size Reset_Handler, . - Reset_Handler

    .balign 4
    .global main
    .type main, %function
    .thumb_func
main:
    b       main
    .size main, . - main

    .balign 4
    .global eqrl_default_handler
    .type eqrl_default_handler, %function
    .thumb_func
eqrl_default_handler:
    b       eqrl_default_handler
    .size eqrl_default_handler, . - eqrl_default_handler
