/* SPDX-License-Identifier: Apache-2.0
 * RP2350 image definition: the boot ROM looks for this block in the first 4 KiB of flash and then starts the vector
 * table at the image's beginning, on an Arm core in the secure state. RP2350 datasheet, Bootrom concepts: minimum
 * viable image metadata. It lies in .startup, which follows the vectors directly.
 */
    .file "image_def_rp2350.S" /* or the image would hold the name of a temporary object */
    .syntax unified
    .thumb

    .section .startup, "ax", %progbits
    .balign 4
    .global eqrl_image_def
    .type eqrl_image_def, %object
eqrl_image_def:
    .word 0xFFFFDED3                /* marks the start */
    .word 0x10210142                /* image type, one word: executable, secure, Arm, RP2350 */
    .word 0x000001FF                /* last item; one word before it */
    .word 0x00000000                /* a loop of blocks with this one only */
    .word 0xAB123579                /* marks the end */
    .size eqrl_image_def, . - eqrl_image_def
