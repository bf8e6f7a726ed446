/* SPDX-License-Identifier: Apache-2.0
 * Reset and the one trap handler of a 32-bit RISC-V core in machine mode, for GNU and LLVM assemblers.
 *
 * Assembler, because until the copy table is done there may be no code in RAM to call: a compiler is free to turn
 * a loop into a call of memcpy. The linker script puts .vectors first: the core begins there.
 */
    .file "startup.S" /* or the image would hold the name of a temporary object */
    .option norelax   /* gp is not used */

    .section .vectors, "ax", %progbits
    .balign 4
    .global Reset_Handler
    .type Reset_Handler, %function
Reset_Handler:
    csrci   mstatus, 8              /* interrupts off */
    la      t0, eqrl_default_handler
    csrw    mtvec, t0               /* direct mode */
    la      sp, __stack_top         /* a debugger may jump here with any stack */
    /* Copy table: rows of {load address, address, bytes}, each a multiple of four. */
    la      s0, __copy_table_start
    la      s1, __copy_table_end
1:  bgeu    s0, s1, 4f
    lw      a0, 0(s0)
    lw      a1, 4(s0)
    lw      a2, 8(s0)
    addi    s0, s0, 12
2:  beqz    a2, 1b
    lw      a3, 0(a0)
    sw      a3, 0(a1)
    addi    a0, a0, 4
    addi    a1, a1, 4
    addi    a2, a2, -4
    j       2b
4:  la      a0, __bss_start
    la      a1, __bss_end
5:  bgeu    a0, a1, 6f
    sw      zero, 0(a0)
    addi    a0, a0, 4
    j       5b
6:  fence
    fence.i
    la      t0, main                /* may be farther than JAL reaches: flash and RAM */
    jr      t0                      /* main never returns */
    .size Reset_Handler, . - Reset_Handler

    .balign 4                       /* mtvec needs it */
    .global eqrl_default_handler
    .type eqrl_default_handler, %function
eqrl_default_handler:
    csrr    a0, mcause              /* number of the exception */
    andi    sp, sp, -16             /* whatever it was */
    la      t0, eqrl_port_fault
    jr      t0
    .size eqrl_default_handler, . - eqrl_default_handler
