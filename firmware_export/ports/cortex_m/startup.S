/* SPDX-License-Identifier: Apache-2.0
 * Vector table and reset of a Cortex-M, for GNU and LLVM assemblers.
 *
 * Assembler, because until the copy table is done there may be no code in RAM to call: a compiler is free to turn
 * a loop into a call of memcpy.
 *
 * EQRL_NUM_INTERRUPTS  external interrupts of the chip
 * EQRL_HAS_FPU         1: switch the FPU on
 */
    .file "startup.S" /* or the image would hold the name of a temporary object */
    .syntax unified
    .thumb

    .section .vectors, "a", %progbits
    .balign 4
    .global eqrl_vectors
    .type eqrl_vectors, %object
eqrl_vectors:
    .word __stack_top
    .word Reset_Handler
    .word NMI_Handler
    .word HardFault_Handler
    .word eqrl_default_handler      /* MemManage; reserved on ARMv6-M, as are the two below */
    .word eqrl_default_handler      /* BusFault */
    .word eqrl_default_handler      /* UsageFault */
    .word 0, 0, 0, 0
    .word SVC_Handler
    .word eqrl_default_handler      /* DebugMon */
    .word 0
    .word PendSV_Handler
    .word SysTick_Handler
    .rept EQRL_NUM_INTERRUPTS
    .word eqrl_default_handler
    .endr
    .size eqrl_vectors, . - eqrl_vectors

    .section .startup, "ax", %progbits
    .balign 4
    .global Reset_Handler
    .type Reset_Handler, %function
    .thumb_func
Reset_Handler:
    ldr     r0, =__stack_top        /* a debugger may jump here with any stack */
    msr     msp, r0
    ldr     r0, =0xE000ED08         /* VTOR */
    ldr     r1, =eqrl_vectors
    str     r1, [r0]
#if EQRL_HAS_FPU
    ldr     r0, =0xE000ED88         /* CPACR: full access to CP10 and CP11 */
    ldr     r1, [r0]
    ldr     r2, =0x00F00000
    orrs    r1, r2
    str     r1, [r0]
    dsb
    isb
#endif
    /* Copy table: rows of {load address, address, bytes}, each a multiple of four. */
    ldr     r4, =__copy_table_start
    ldr     r5, =__copy_table_end
1:  cmp     r4, r5
    bhs     4f
    ldmia   r4!, {r0, r1, r2}
2:  cmp     r2, #0
    beq     1b
    ldr     r3, [r0]
    str     r3, [r1]
    adds    r0, #4
    adds    r1, #4
    subs    r2, #4
    b       2b
4:  ldr     r0, =__bss_start
    ldr     r1, =__bss_end
    movs    r2, #0
5:  cmp     r0, r1
    bhs     6f
    str     r2, [r0]
    adds    r0, #4
    b       5b
6:  dsb
    isb
    ldr     r0, =main               /* may be farther than BL reaches: flash and RAM */
    bx      r0                      /* main never returns */
    .ltorg
    .size Reset_Handler, . - Reset_Handler

    .global eqrl_default_handler
    .type eqrl_default_handler, %function
    .thumb_func
eqrl_default_handler:
    mrs     r0, ipsr                /* number of the exception */
    ldr     r1, =eqrl_port_fault
    bx      r1
    .ltorg
    .size eqrl_default_handler, . - eqrl_default_handler

    .macro weak_handler name
    .weak \name
    .thumb_set \name, eqrl_default_handler
    .endm
    weak_handler NMI_Handler
    weak_handler HardFault_Handler
    weak_handler SVC_Handler
    weak_handler PendSV_Handler
    weak_handler SysTick_Handler
