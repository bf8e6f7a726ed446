/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_shapes.h - how kernels walk: windows over images, loops over two arrays. For generated code and the runtime, not for callers. */
#ifndef EQRL_SHAPES_H
#define EQRL_SHAPES_H

#include "eqrl_internal.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Windows (convolutions and pooling). */

/* One axis of a window: element k at output i is input `stride * i + dilation * k - padding`. */
typedef struct {
    uint32_t input; /* sizes */
    uint32_t output;
    uint32_t kernel;
    uint32_t stride;
    uint32_t dilation;
    uint32_t padding; /* before the first input */
} eqrl_axis;

typedef struct {
    uint32_t num_images;
    uint32_t input_channels;
    uint32_t output_channels;
    eqrl_axis y;
    eqrl_axis x;
} eqrl_window;

/* Which elements of a window lie inside the input. */
typedef struct {
    uint32_t first;
    uint32_t last;  /* one past it */
    uint32_t start; /* input of element `first`, if there is one */
} eqrl_span;

EQRL_HELPER void eqrl_find_span(eqrl_span *span, const eqrl_axis *axis, uint32_t output)
{
    const uint32_t end = axis->input + axis->padding;
    uint32_t place = output * axis->stride;
    span->first = 0u;
    span->last = axis->kernel;
    span->start = place;
    place += (axis->kernel - 1u) * axis->dilation;
    EQRL_ROLLED
    while (span->first < span->last && place >= end) {
        span->last--;
        place -= axis->dilation;
    }
    EQRL_ROLLED
    while (span->first < span->last && span->start < axis->padding) {
        span->first++;
        span->start += axis->dilation;
    }
    span->start -= axis->padding;
    span->start = span->first < span->last ? span->start : 0u;
}

EQRL_HELPER eqrl_span eqrl_span_at(const eqrl_axis *axis, uint32_t output)
{
    eqrl_span span;
    eqrl_find_span(&span, axis, output);
    return span;
}

/* Loops over two arrays at once (copies and broadcasts). */

#define EQRL_MAX_LOOPS 6

/* One axis: how many elements, and the way from each to the next in both arrays. */
typedef struct {
    int32_t size;
    int32_t first;
    int32_t second;
} eqrl_loop;

/* Where a walk is. The innermost axis is for its user to loop over. */
typedef struct {
    int32_t first;
    int32_t second;
    int32_t left[EQRL_MAX_LOOPS]; /* steps to go, of each outer axis */
} eqrl_walk;

EQRL_HELPER void eqrl_walk_start(eqrl_walk *walk, const eqrl_loop *axes, int32_t num_axes)
{
    for (int32_t axis = 0; axis < num_axes; axis++) {
        walk->left[axis] = axes[axis].size;
    }
}

/* Go to the next row; 0 after the last. */
EQRL_HELPER int eqrl_walk_next(eqrl_walk *walk, const eqrl_loop *axes, int32_t num_axes)
{
    for (int32_t axis = num_axes - 2; axis >= 0; axis--) {
        const eqrl_loop *const loop = &axes[axis];
        walk->first += loop->first;
        walk->second += loop->second;
        walk->left[axis]--;
        if (walk->left[axis] > 0) {
            return 1;
        }
        walk->left[axis] = loop->size;
        walk->first -= loop->size * loop->first;
        walk->second -= loop->size * loop->second;
    }
    return 0;
}

#ifdef __cplusplus
}
#endif

#endif
