/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_pool.c - MAX_POOL_2D and AVERAGE_POOL_2D with strides and padding. Portable C. */
#include "eqrl_kernels.h"

/* The part of a window that lies inside the input. */
typedef struct {
    uint32_t height;
    uint32_t width;
    uint32_t row_stride;
    uint32_t column_stride;
} pool_part;

/* sum / count to nearest, halves away from zero, without a division: not every core has one. There is a
 * divisor for each count, and the exporter has proved that it is exact.
 */
EQRL_CODE static int32_t divide(int32_t sum, uint32_t count, const eqrl_divisor *divisor)
{
    while (divisor->count != count) {
        divisor++;
    }
    const int32_t sign = eqrl_is_negative(sum);
    const uint32_t magnitude = (uint32_t)((sum ^ sign) - sign) + (count >> 1);
    const int32_t mean = (int32_t)(eqrl_high_multiply(magnitude * 2u, divisor->multiplier) >> divisor->shift);
    return (mean ^ sign) - sign;
}

/* The sum or the largest of the part's elements of one channel, from element `at` on. */
EQRL_INLINE int32_t gather(const pool_part *part, const void *input, uint32_t element_bytes, uint32_t at,
                           int is_max)
{
    int32_t result = is_max ? -32768 : 0;
    for (uint32_t y = 0; y < part->height; y++) {
        uint32_t from = at;
        for (uint32_t x = 0; x < part->width; x++) {
            const int32_t value = eqrl_load(input, element_bytes, (int32_t)from);
            result = is_max ? eqrl_larger(result, value) : result + value;
            from += part->column_stride;
        }
        at += part->row_stride;
    }
    return result;
}

/* divisors: of the average; else not used */
EQRL_INLINE void pool(const uint32_t *block, const void *input, void *output, uint32_t element_bytes,
                      const eqrl_window *window, int is_max, const eqrl_divisor *divisors)
{
    const int32_t output_min = (int32_t)block[0];
    const int32_t output_max = (int32_t)block[1];
    const uint32_t channels = window->input_channels;
    uint32_t index = 0;
    uint32_t row = 0; /* of the input, all images in one */
    pool_part part;

    part.row_stride = window->x.input * channels;
    part.column_stride = channels;
    for (uint32_t image = 0; image < window->num_images; image++, row += window->y.input) {
        for (uint32_t y = 0; y < window->y.output; y++) {
            const eqrl_span rows = eqrl_span_at(&window->y, y);
            for (uint32_t x = 0; x < window->x.output; x++) {
                const eqrl_span columns = eqrl_span_at(&window->x, x);
                const uint32_t at = (row + rows.start) * part.row_stride + columns.start * channels;
                part.height = rows.last - rows.first;
                part.width = columns.last - columns.first;
                for (uint32_t channel = 0; channel < channels; channel++) {
                    int32_t value = gather(&part, input, element_bytes, at + channel, is_max);
                    if (!is_max) {
                        value = divide(value, part.height * part.width, divisors);
                    }
                    value = eqrl_clamp(value, output_min, output_max);
                    eqrl_store(output, element_bytes, (int32_t)index, value);
                    index++;
                }
            }
        }
    }
}

EQRL_CODE void eqrl_max_pool_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                                const eqrl_window *window)
{
    pool(block, input, output, 1u, window, 1, NULL);
}

EQRL_CODE void eqrl_max_pool_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                                 const eqrl_window *window)
{
    pool(block, input, output, 2u, window, 1, NULL);
}

EQRL_CODE void eqrl_average_pool_s8(const uint32_t *block, const int8_t *input, int8_t *output,
                                    const eqrl_window *window, const eqrl_divisor *divisors)
{
    pool(block, input, output, 1u, window, 0, divisors);
}

EQRL_CODE void eqrl_average_pool_s16(const uint32_t *block, const eqrl_s16 *input, eqrl_s16 *output,
                                     const eqrl_window *window, const eqrl_divisor *divisors)
{
    pool(block, input, output, 2u, window, 0, divisors);
}
