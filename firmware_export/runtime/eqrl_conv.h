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
    uint32_t above;
    uint32_t inside;
    uint32_t below;
    uint32_t row_weights; /* of one channel */
    uint32_t before;
    uint32_t run;
    uint32_t num_runs;
    uint32_t run_stride; /* from run to run in the input */
    uint32_t row_stride; /* from row to row of the window in the input */
    uint32_t start;      /* the first input, of the first group */
} eqrl_conv_place;

EQRL_OUTLINE void eqrl_find_conv_place(eqrl_conv_place *place, const eqrl_window *window, uint32_t depth,
                                       uint32_t y, uint32_t x)
{
    const eqrl_span rows = eqrl_span_at(&window->y, y);
    const eqrl_span columns = eqrl_span_at(&window->x, x);
    const uint32_t channels = window->input_channels;
    const uint32_t width = columns.last - columns.first;
    const uint32_t is_whole = window->x.dilation == 1u && depth == channels;
    place->above = rows.first;
    place->inside = rows.last - rows.first;
    place->below = window->y.kernel - rows.last;
    place->row_weights = window->x.kernel * depth;
    place->before = columns.first * depth;
    place->run = is_whole ? width * depth : depth;
    place->num_runs = is_whole ? 1u : width;
    place->run_stride = window->x.dilation * channels;
    place->row_stride = window->y.dilation * window->x.input * channels;
    place->start = (rows.start * window->x.input + columns.start) * channels;
}

EQRL_HELPER uint32_t eqrl_conv_weights(const eqrl_conv_place *place)
{
    return (place->above + place->inside + place->below) * place->row_weights;
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
