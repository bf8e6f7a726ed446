/* SPDX-License-Identifier: Apache-2.0
 * Vector table and reset of a Cortex-M, for GNU and LLVM assemblers.
 *
 * Assembler, because until the copy table is done there may be no code in RAM to call: a compiler is free to turn
 * a loop into a call of memcpy.
 *
 * EQRL_NUM_INTERRUPTS  external interrupts of the chip
 * EQRL_UART_IRQ        the one that goes to eqrl_port_uart_interrupt
 * EQRL_TIMER_IRQ       the one that goes to eqrl_port_timer_interrupt, where the time base is not SysTick
 * EQRL_HAS_FPU         1: switch the FPU on
 */
#ifndef EQRL_UART_IRQ
#define EQRL_UART_IRQ -1
#endif
#ifndef EQRL_TIMER_IRQ
#define EQRL_TIMER_IRQ -1
#endif
#define PAINTED_BYTES 8192              /* of the stack at most, from its top */
#define PAINT 0xA5A5A5A5

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
    .set interrupt, 0
    .rept EQRL_NUM_INTERRUPTS
    .if interrupt == EQRL_UART_IRQ
    .word eqrl_port_uart_interrupt
    .elseif interrupt == EQRL_TIMER_IRQ
    .word eqrl_port_timer_interrupt
    .else
    .word eqrl_default_handler
    .endif
    .set interrupt, interrupt + 1
    .endr
    .size eqrl_vectors, . - eqrl_vectors

    .section .startup, "ax", %progbits
    .balign 4
    .global Reset_Handler
    .type Reset_Handler, %function
    .thumb_func
Reset_Handler:
    /* A debugger or a bootloader may jump here with any stack, and with interrupts on or waiting. */
    cpsid   i
    movs    r1, #0
    msr     control, r1             /* privileged, on the main stack */
    isb
#if __ARM_ARCH >= 8
    msr     msplim, r1
#endif
    ldr     r0, =__stack_top
    msr     msp, r0
#if __ARM_ARCH >= 8
    ldr     r0, =__free_start       /* a stack that grows into the data is a fault */
    msr     msplim, r0
#endif
    ldr     r0, =0xE000E010         /* SysTick: off */
    str     r1, [r0]
    ldr     r0, =0xE000ED04         /* ICSR: neither SysTick nor PendSV waits */
    ldr     r1, =0x0A000000
    str     r1, [r0]
    ldr     r0, =0xE000E180         /* NVIC_ICER, and 0x100 behind it NVIC_ICPR */
    movs    r2, #1
    lsls    r2, r2, #8
    adds    r2, r0
    movs    r3, #0
    mvns    r3, r3
    movs    r4, #((EQRL_NUM_INTERRUPTS + 32) / 32)
7:  stmia   r0!, {r3}
    stmia   r2!, {r3}
    subs    r4, #1
    bne     7b
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
    /* Memories that the chip starts without: rows of {register, bits to set}. Read back: a clock takes two cycles. */
    ldr     r4, =__enable_table_start
    ldr     r5, =__enable_table_end
10: cmp     r4, r5
    bhs     11f
    ldmia   r4!, {r0, r1}
    ldr     r2, [r0]
    orrs    r2, r1
    str     r2, [r0]
    ldr     r2, [r0]
    b       10b
11: dsb
    isb
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
    /* Clear table: rows of {address, bytes}. */
4:  ldr     r4, =__clear_table_start
    ldr     r5, =__clear_table_end
    movs    r2, #0
5:  cmp     r4, r5
    bhs     6f
    ldmia   r4!, {r0, r1}
12: cmp     r1, #0
    beq     5b
    str     r2, [r0]
    adds    r0, #4
    subs    r1, #4
    b       12b
6:  ldr     r0, =__free_start
    ldr     r1, =__stack_top
    ldr     r3, =PAINTED_BYTES
    subs    r3, r1, r3
    cmp     r0, r3
    bhs     8f
    movs    r0, r3
8:  ldr     r2, =PAINT
9:  stmia   r0!, {r2}
    cmp     r0, r1
    blo     9b
    dsb
    isb
    cpsie   i
    ldr     r0, =main               /* may be farther than BL reaches: flash and RAM */
    bx      r0                      /* main never returns */
    .ltorg
    .size Reset_Handler, . - Reset_Handler

    .section .text.eqrl_port_interrupts, "ax", %progbits /* where their callers are: no veneer */
    .balign 4
    .global eqrl_port_interrupts_off
    .type eqrl_port_interrupts_off, %function
    .thumb_func
eqrl_port_interrupts_off:
    cpsid   i
    bx      lr
    .size eqrl_port_interrupts_off, . - eqrl_port_interrupts_off

    .global eqrl_port_interrupts_on
    .type eqrl_port_interrupts_on, %function
    .thumb_func
eqrl_port_interrupts_on:
    cpsie   i
    isb                             /* what waits is handled now */
    bx      lr
    .size eqrl_port_interrupts_on, . - eqrl_port_interrupts_on

    .global eqrl_port_sleep
    .type eqrl_port_sleep, %function
    .thumb_func
eqrl_port_sleep:
    dsb
    wfi                             /* ends when an interrupt waits, also while PRIMASK is set */
    bx      lr
    .size eqrl_port_sleep, . - eqrl_port_sleep

    .balign 4
    /* Bytes between static data and the deepest that the stack has been; 0 if that is below what was painted. */
    .global eqrl_port_stack_free_bytes
    .type eqrl_port_stack_free_bytes, %function
    .thumb_func
eqrl_port_stack_free_bytes:
    push    {r4, r5}
    mov     r5, sp
    ldr     r1, =__stack_top
    ldr     r2, =PAINTED_BYTES
    subs    r1, r1, r2
    ldr     r2, =__free_start
    cmp     r1, r2
    bhs     1f
    movs    r1, r2
1:  movs    r0, r1
    ldr     r3, =PAINT
2:  cmp     r0, r5
    bhs     3f
    ldr     r4, [r0]
    cmp     r4, r3
    bne     3f
    adds    r0, #4
    b       2b
3:  cmp     r0, r1
    bne     4f
    movs    r2, r0                  /* nothing of the paint is left: unknown */
4:  subs    r0, r0, r2
    pop     {r4, r5}
    bx      lr
    .ltorg
    .size eqrl_port_stack_free_bytes, . - eqrl_port_stack_free_bytes

    .section .startup, "ax", %progbits
    .balign 4
    .global eqrl_default_handler
    .type eqrl_default_handler, %function
    .thumb_func
eqrl_default_handler:
    mrs     r0, ipsr                /* number of the exception */
    ldr     r1, =__stack_top        /* the stack may be the fault, and nothing goes back to where it was */
    msr     msp, r1
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
    weak_handler eqrl_port_uart_interrupt
    weak_handler eqrl_port_timer_interrupt
