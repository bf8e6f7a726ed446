/* SPDX-License-Identifier: Apache-2.0
 * Reset, the trap handler and the interrupt mask of a 32-bit RISC-V core in machine mode, for GNU and LLVM assemblers.
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
    la      t0, eqrl_trap_table + 1 /* vectored mode: the only one that an ESP32-C3 has */
    csrw    mtvec, t0
    la      sp, __stack_top         /* a debugger may jump here with any stack */
    /* Memories that the chip starts without: rows of {register, bits to set}. */
    la      s0, __enable_table_start
    la      s1, __enable_table_end
7:  bgeu    s0, s1, 8f
    lw      a0, 0(s0)
    lw      a1, 4(s0)
    addi    s0, s0, 8
    lw      a2, 0(a0)
    or      a2, a2, a1
    sw      a2, 0(a0)
    j       7b
8:  fence
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
    /* Clear table: rows of {address, bytes}. */
4:  la      s0, __clear_table_start
    la      s1, __clear_table_end
5:  bgeu    s0, s1, 6f
    lw      a0, 0(s0)
    lw      a1, 4(s0)
    addi    s0, s0, 8
9:  beqz    a1, 5b
    sw      zero, 0(a0)
    addi    a0, a0, 4
    addi    a1, a1, -4
    j       9b
6:  fence
    fence.i
    la      t0, main                /* may be farther than JAL reaches: flash and RAM */
    jr      t0                      /* main never returns */
    .size Reset_Handler, . - Reset_Handler

/* An exception enters at row 0, interrupt n at row n; all are told apart by mcause. */
    .balign 256
    .global eqrl_trap_table
    .type eqrl_trap_table, %function
eqrl_trap_table:
    .option push
    .option norvc
    .rept 32
    j       eqrl_default_handler
    .endr
    .option pop
    .size eqrl_trap_table, . - eqrl_trap_table

    .global eqrl_default_handler
    .type eqrl_default_handler, %function
eqrl_default_handler:
    csrw    mscratch, t0
    csrr    t0, mcause
    bgez    t0, 1f                  /* an exception; else an interrupt */
    csrr    t0, mscratch
    addi    sp, sp, -64             /* what a called function may change */
    sw      ra, 0(sp)
    sw      t0, 4(sp)
    sw      t1, 8(sp)
    sw      t2, 12(sp)
    sw      t3, 16(sp)
    sw      t4, 20(sp)
    sw      t5, 24(sp)
    sw      t6, 28(sp)
    sw      a0, 32(sp)
    sw      a1, 36(sp)
    sw      a2, 40(sp)
    sw      a3, 44(sp)
    sw      a4, 48(sp)
    sw      a5, 52(sp)
    sw      a6, 56(sp)
    sw      a7, 60(sp)
    csrr    a0, mcause
    call    eqrl_port_trap
    lw      ra, 0(sp)
    lw      t0, 4(sp)
    lw      t1, 8(sp)
    lw      t2, 12(sp)
    lw      t3, 16(sp)
    lw      t4, 20(sp)
    lw      t5, 24(sp)
    lw      t6, 28(sp)
    lw      a0, 32(sp)
    lw      a1, 36(sp)
    lw      a2, 40(sp)
    lw      a3, 44(sp)
    lw      a4, 48(sp)
    lw      a5, 52(sp)
    lw      a6, 56(sp)
    lw      a7, 60(sp)
    addi    sp, sp, 64
    mret
1:  la      sp, __stack_top         /* it may be the fault, and nothing goes back to where it was */
    mv      a0, t0
    la      t0, eqrl_port_fault
    jr      t0
    .size eqrl_default_handler, . - eqrl_default_handler

    .balign 4
    .global eqrl_port_interrupts_off
    .type eqrl_port_interrupts_off, %function
eqrl_port_interrupts_off:
    csrci   mstatus, 8
    ret
    .size eqrl_port_interrupts_off, . - eqrl_port_interrupts_off

    .global eqrl_port_interrupts_on
    .type eqrl_port_interrupts_on, %function
eqrl_port_interrupts_on:
    csrsi   mstatus, 8
    ret
    .size eqrl_port_interrupts_on, . - eqrl_port_interrupts_on

/* Ends at once where an enabled interrupt is pending, also while mstatus masks them all (privileged architecture, WFI). */
    .global eqrl_port_sleep
    .type eqrl_port_sleep, %function
eqrl_port_sleep:
    wfi
    ret
    .size eqrl_port_sleep, . - eqrl_port_sleep
