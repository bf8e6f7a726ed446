/* SPDX-License-Identifier: Apache-2.0
 * The least around a bare engine on an emulated RISC-V core: it is called from outside, with the core at main.
 * Nothing here is counted.
 */
    .file "riscv32.S" /* or the image would hold the name of a temporary object */
    .option norelax   /* gp is not used */

    .section .harness.text, "ax", %progbits
    .balign 4
    .global Reset_Handler
    .type Reset_Handler, %function
Reset_Handler:
    la      t0, eqrl_default_handler
    csrw    mtvec, t0
    la      sp, __stack_top
    j       main
    .size Reset_Handler, . - Reset_Handler

    .balign 4
    .global main
    .type main, %function
main:
    j       main
    .size main, . - main

    .balign 4
    .global eqrl_default_handler
    .type eqrl_default_handler, %function
eqrl_default_handler:
    j       eqrl_default_handler
    .size eqrl_default_handler, . - eqrl_default_handler
