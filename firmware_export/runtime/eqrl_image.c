/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_image.c - images that become grey and smaller, in integers.
 *
 * The twin of edgeqrl/network/images.py, which says what the numbers mean. Each new pixel is made from the raw
 * bytes at once, so that nothing is stored in between.
 */
#include "eqrl_kernels.h"

enum { NO_GREY = 0, GREY_FIRST = 1, GREY_LAST = 2 };

#define GREY_BIAS 839u /* makes the floor of the sum that of the exact numbers, for every colour */

static const uint32_t grey_weights[3] = {3565158u, 12002420u, 1209637u}; /* 24 fraction bits */

/* The whole parts of an axis that are left of the pixel `index`. */
typedef struct {
    uint32_t index;
    uint32_t left;
} eqrl_place;

EQRL_HELPER uint32_t smaller(uint32_t a, uint32_t b)
{
    return a < b ? a : b; /* of shapes alone */
}

/* Go on by `span` parts, where a pixel has `pixel` of them. */
EQRL_HELPER void advance(eqrl_place *place, uint32_t span, uint32_t pixel)
{
    while (span >= place->left) {
        span -= place->left;
        place->index++;
        place->left = pixel;
    }
    place->left -= span;
}

/* A byte, or what three of them are in grey. */
EQRL_INLINE uint32_t brightness(const uint8_t *bytes, uint32_t is_grey)
{
    if (is_grey == 0u) {
        return bytes[0];
    }
    const uint32_t red = grey_weights[0] * bytes[0];
    const uint32_t green = grey_weights[1] * bytes[1];
    const uint32_t blue = grey_weights[2] * bytes[2];
    return (red + green + blue + GREY_BIAS) >> 24;
}

/* The sum over a line of a new pixel, from `bytes` on, each pixel as often as it has parts in it. */
EQRL_INLINE uint32_t line_sum(const uint8_t *bytes, uint32_t left, const eqrl_image *image, uint32_t is_grey)
{
    const uint32_t stride = is_grey == 0u ? image->depth : 3u * image->depth;
    uint32_t missing = image->column_span;
    uint32_t parts = smaller(left, missing);
    uint32_t sum = 0u;

    for (;;) {
        sum += parts * brightness(bytes, is_grey);
        missing -= parts;
        if (missing == 0u) {
            return sum;
        }
        bytes += stride;
        parts = smaller(image->column_pixel, missing);
    }
}

EQRL_INLINE uint32_t area_sum(const uint8_t *bytes, uint32_t left, uint32_t column_left,
                              const eqrl_image *image, uint32_t is_grey)
{
    const uint32_t stride = (is_grey == 0u ? image->depth : 3u * image->depth) * image->width;
    uint32_t missing = image->row_span;
    uint32_t parts = smaller(left, missing);
    uint32_t sum = 0u;

    for (;;) {
        sum += parts * line_sum(bytes, column_left, image, is_grey);
        missing -= parts;
        if (missing == 0u) {
            return sum;
        }
        bytes += stride;
        parts = smaller(image->row_pixel, missing);
    }
}

/* sum / area to the nearest. */
EQRL_HELPER uint32_t mean_of(uint32_t sum, const eqrl_image *image)
{
    const uint32_t area = image->area;
    const uint32_t cut = eqrl_high_multiply(sum, image->inverse); /* the quotient, or one less */
    const int32_t over = (int32_t)(sum - cut * area - area);
    const uint32_t is_more = ~(uint32_t)eqrl_is_negative(over) & 1u;
    const uint32_t quotient = cut + is_more;
    const uint32_t rest = sum - quotient * area;
    /* A half goes up from odd numbers, or from all. */
    const uint32_t above = 2u * rest + ((quotient | image->is_half_up) & 1u);
    return quotient + ((uint32_t)eqrl_is_negative((int32_t)(area - above)) & 1u);
}

EQRL_OUTLINE uint32_t area_of_bytes(const uint8_t *bytes, uint32_t left, uint32_t column_left,
                                    const eqrl_image *image)
{
    return mean_of(area_sum(bytes, left, column_left, image, 0u), image);
}

EQRL_OUTLINE uint32_t area_of_colours(const uint8_t *bytes, uint32_t left, uint32_t column_left,
                                      const eqrl_image *image)
{
    return mean_of(area_sum(bytes, left, column_left, image, 1u), image);
}

/* Where nothing is resized. */
EQRL_OUTLINE void grey_all(const uint32_t *block, const uint8_t *observation, void *input,
                           uint32_t element_bytes, uint32_t size)
{
    for (uint32_t i = 0; i < size; i++) {
        const int32_t value = (int32_t)brightness(observation + 3u * i, 1u);
        eqrl_store(input, element_bytes, (int32_t)i, eqrl_load(block, element_bytes, value));
    }
}

EQRL_CODE void eqrl_observation_image(const uint32_t *block, const uint8_t *observation, void *input,
                                      uint32_t element_bytes, const eqrl_image *image)
{
    const uint32_t grey = image->grey;
    const uint32_t channels = grey == (uint32_t)GREY_LAST ? 1u : image->depth;
    const uint32_t raw = grey == (uint32_t)GREY_FIRST ? 3u : 1u; /* bytes of a channel */
    eqrl_place row = {0u, image->row_pixel};
    int32_t target = 0;

    if (grey == (uint32_t)GREY_FIRST && image->area == 1u) {
        grey_all(block, observation, input, element_bytes, image->new_height * image->new_width * image->depth);
        return;
    }
    for (uint32_t y = 0; y < image->new_height; y++) {
        eqrl_place column = {0u, image->column_pixel};
        for (uint32_t x = 0; x < image->new_width; x++) {
            const uint8_t *bytes = observation;
            bytes += (row.index * image->width + column.index) * image->depth * raw;
            for (uint32_t c = 0; c < channels; c++) {
                uint32_t value;
                if (grey == (uint32_t)GREY_FIRST) {
                    value = area_of_colours(bytes, row.left, column.left, image);
                } else if (grey == (uint32_t)GREY_LAST) {
                    value = GREY_BIAS;
                    for (uint32_t k = 0; k < 3u; k++) {
                        value += grey_weights[k] * area_of_bytes(bytes + k, row.left, column.left, image);
                    }
                    value >>= 24;
                } else {
                    value = area_of_bytes(bytes, row.left, column.left, image);
                }
                eqrl_store(input, element_bytes, target, eqrl_load(block, element_bytes, (int32_t)value));
                target++;
                bytes += raw;
            }
            advance(&column, image->column_span, image->column_pixel);
        }
        advance(&row, image->row_span, image->row_pixel);
    }
}
