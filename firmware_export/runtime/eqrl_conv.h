/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_conv.h - where the window of a CONV_2D lies. For generated code and the runtime, not for callers.
 *
 * Inputs and weights of one row of the window lie side by side, unless it is dilated or sees one group of
 * several: so inner loops go over whole rows where they can.
 */
#ifndef EQRL_CONV_H
#define EQRL_CONV_H

#include "eqrl_linear.h"
#include "eqrl_shapes.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A position of the window. Of its rows, `above` lie over the input and `below` under it; of the weights of
 * a row, `before` lie left of the input, then come `num_runs` runs that have inputs, the rest lies right.
 */
typedef struct {
    /* In an order in which no compiler makes vectors of what is found at once, by way of the stack. */
    uint32_t above;
    uint32_t before;
    uint32_t inside;
    uint32_t run;
    uint32_t below;
    uint32_t num_runs;
    uint32_t row_weights;   /* of one channel */
    uint32_t run_stride;    /* from run to run in the input */
    uint32_t row_stride;    /* from row to row of the window in the input */
    uint32_t start;         /* the first input, of the first group */
    uint32_t is_everywhere; /* whether positions differ by `start` only; see eqrl_begin_conv_place */
} eqrl_conv_place;

/* A window that lies inside the input wherever it stands needs no search. Not inlined: twice in its callers it takes
 * registers that they need, and so stack.
 */
EQRL_OUTLINE uint32_t eqrl_is_inside(const eqrl_axis *axis)
{
    const uint32_t last = (axis->output - 1u) * axis->stride + (axis->kernel - 1u) * axis->dilation;
    return axis->padding == 0u && last < axis->input ? 1u : 0u;
}

/* Not inlined, as it is needed twice. */
EQRL_OUTLINE void eqrl_find_conv_span(eqrl_span *span, const eqrl_axis *axis, uint32_t output)
{
    eqrl_find_span(span, axis, output);
}

EQRL_OUTLINE void eqrl_find_conv_place(eqrl_conv_place *place, const eqrl_window *window, uint32_t depth,
                                       uint32_t y, uint32_t x)
{
    const uint32_t channels = window->input_channels;
    eqrl_span span;
    eqrl_find_conv_span(&span, &window->y, y);
    place->above = span.first;
    place->inside = span.last - span.first;
    place->below = window->y.kernel - span.last;
    place->row_weights = window->x.kernel * depth;
    place->row_stride = window->y.dilation * window->x.input * channels;
    place->start = span.start * window->x.input;
    eqrl_find_conv_span(&span, &window->x, x);
    place->before = span.first * depth;
    place->run = depth;
    place->num_runs = span.last - span.first;
    place->run_stride = window->x.dilation * channels;
    if (window->x.dilation == 1u && depth == channels) {
        place->run = place->num_runs * depth;
        place->num_runs = 1u;
    }
    place->start = (place->start + span.start) * channels;
}

/* Find the first position, and whether it is like all others. */
EQRL_HELPER void eqrl_begin_conv_place(eqrl_conv_place *place, const eqrl_window *window, uint32_t depth)
{
    place->is_everywhere = eqrl_is_inside(&window->y) & eqrl_is_inside(&window->x);
    eqrl_find_conv_place(place, window, depth, 0u, 0u);
}

EQRL_HELPER void eqrl_move_conv_place(eqrl_conv_place *place, const eqrl_window *window, uint32_t depth,
                                      uint32_t y, uint32_t x)
{
    if (place->is_everywhere != 0u) {
        const uint32_t row = y * window->y.stride * window->x.input;
        place->start = (row + x * window->x.stride) * window->input_channels;
    } else {
        eqrl_find_conv_place(place, window, depth, y, x);
    }
}

EQRL_HELPER uint32_t eqrl_conv_weights(const eqrl_conv_place *place)
{
    return (place->above + place->inside + place->below) * place->row_weights;
}

/* Copy runs that lie `stride` apart, side by side; returns the end of the copy. */
EQRL_OUTLINE int8_t *eqrl_copy_runs(int8_t *target, const int8_t *source, uint32_t run, uint32_t num_runs,
                                    uint32_t stride)
{
#if EQRL_HAS_MVE
    if (run <= 16u) { /* a vector each, and one mask for all */
        __asm__ volatile("vctp.8 %[run]\n\t"
                         "wls lr, %[num_runs], 2f\n\t"
                         "1:\n\t"
                         "vpstt\n\t"
                         "vldrbt.u8 q0, [%[source]]\n\t"
                         "vstrbt.8 q0, [%[target]]\n\t"
                         "add %[source], %[stride]\n\t"
                         "add %[target], %[run]\n\t"
                         "le lr, 1b\n\t"
                         "2:"
                         : [target] "+&r"(target), [source] "+&r"(source)
                         : [run] "r"(run), [num_runs] "r"(num_runs), [stride] "r"(stride)
                         : "lr", "q0", "memory"); /* and the mask, which no caller keeps */
        return target;
    }
    for (uint32_t i = 0; i < num_runs; i++) {
        eqrl_copy_vectors(target, source, run);
        target += run;
        source += stride;
    }
#else
    if ((((uintptr_t)target | (uintptr_t)source | run | stride) & 3u) == 0u) { /* as in eqrl_copy */
        for (uint32_t i = 0; i < num_runs; i++) {
            EQRL_ROLLED
            for (uint32_t j = 0; j < run; j += 4u) {
                const uint32_t word = *(const eqrl_u32 *)(const void *)(source + j);
                *(eqrl_u32 *)(void *)(target + j) = (uint32_t)eqrl_opaque((int32_t)word);
            }
            target += run;
            source += stride;
        }
        return target;
    }
    for (uint32_t i = 0; i < num_runs; i++) {
        EQRL_ROLLED
        for (uint32_t j = 0; j < run; j++) {
            target[j] = (int8_t)eqrl_opaque(source[j]);
        }
        target += run;
        source += stride;
    }
#endif
    return target;
}

EQRL_OUTLINE int8_t *eqrl_fill_run(int8_t *target, int8_t value, uint32_t count)
{
#if EQRL_HAS_MVE
    int8_t *to = target;
    __asm__ volatile("vdup.8 q0, %[value]\n\t"
                     "wlstp.8 lr, %[count], 2f\n\t"
                     "1:\n\t"
                     "vstrb.8 q0, [%[to]], #16\n\t"
                     "letp lr, 1b\n\t"
                     "2:"
                     : [to] "+&r"(to)
                     : [value] "r"(value), [count] "r"(count)
                     : "lr", "q0", "memory");
#else
    EQRL_ROLLED
    for (uint32_t i = 0; i < count; i++) {
        target[i] = (int8_t)eqrl_opaque(value);
    }
#endif
    return target + count;
}

/* The inputs of a window side by side in the order of the weights, padding as an input of `zero_point`. */
EQRL_OUTLINE void eqrl_fill_column(const eqrl_conv_place *place, const int8_t *input, int8_t zero_point,
                                   int8_t *values)
{
    const int8_t *row = input + place->start;
    if (place->is_everywhere != 0u && place->num_runs == 1u) { /* whole rows, and no others */
        (void)eqrl_copy_runs(values, row, place->run, place->inside, place->row_stride);
        return;
    }
    const uint32_t after = place->row_weights - place->before - place->run * place->num_runs;
    values = eqrl_fill_run(values, zero_point, place->above * place->row_weights);
    for (uint32_t i = 0; i < place->inside; i++) {
        values = eqrl_fill_run(values, zero_point, place->before);
        values = eqrl_copy_runs(values, row, place->run, place->num_runs, place->run_stride);
        values = eqrl_fill_run(values, zero_point, after);
        row += place->row_stride;
    }
    (void)eqrl_fill_run(values, zero_point, place->below * place->row_weights);
}

/* The sum of a window's inputs, where padding is an input of `zero_point`. */
EQRL_OUTLINE int32_t eqrl_sum_window_s8(const eqrl_conv_place *place, const int8_t *input, int32_t zero_point)
{
    const uint32_t num_inputs = place->inside * place->num_runs * place->run;
    int32_t sum = (int32_t)(eqrl_conv_weights(place) - num_inputs) * zero_point;
    uint32_t row = place->start;

    for (uint32_t i = 0; i < place->inside; i++) {
        uint32_t from = row;
        for (uint32_t j = 0; j < place->num_runs; j++) {
            sum += eqrl_sum_s8(input + from, place->run);
            from += place->run_stride;
        }
        row += place->row_stride;
    }
    return sum;
}

/* int16 has no zero point. */
EQRL_OUTLINE int64_t eqrl_sum_window_s16(const eqrl_conv_place *place, const eqrl_s16 *input)
{
    int64_t sum = 0;
    uint32_t row = place->start;

    for (uint32_t i = 0; i < place->inside; i++) {
        uint32_t from = row;
        for (uint32_t j = 0; j < place->num_runs; j++) {
            sum += eqrl_sum_s16(input + from, place->run);
            from += place->run_stride;
        }
        row += place->row_stride;
    }
    return sum;
}

#ifdef __cplusplus
}
#endif

#endif
