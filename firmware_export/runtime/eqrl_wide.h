/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl_wide.h - what of eqrl_wide.c differs from processor to processor. For the runtime, not for callers. */
#ifndef EQRL_WIDE_H
#define EQRL_WIDE_H

#include "eqrl_internal.h"

#if defined(__x86_64__) || defined(_M_X64)
#define IS_X64 1
#include <immintrin.h>
#else
#define IS_X64 0
#if defined(__ARM_NEON)
#include <arm_neon.h>
#endif
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define LANES 16u
#define FOUR 4u

#if IS_X64
typedef uint8_t wide_value;
#define RAISED_BY 128
#else
typedef int8_t wide_value;
#define RAISED_BY 0
#endif

#if defined(__GNUC__) || defined(__clang__)
typedef int32_t __attribute__((may_alias, aligned(1))) wide_four;
#else
typedef int32_t wide_four;
#endif

EQRL_INLINE int32_t load_four(const wide_value *values)
{
    return *(const wide_four *)(const void *)values;
}

/* Of a tile of 16 channels i and four inputs k:
 *
 *     add_four    sums[i] += sum over k of weights[i][k] * values[k], modulo 2^32; values may lie anywhere
 *     TILES       how many tiles share inputs, where there are many
 *     PLACES      how many positions share weights, where there are many
 *
 * The last variant defines the others. Compilers make no such vectors of it, of four bytes' products a lane: GCC's
 * code of it for AVX-512 takes 10 to 25 times as long as the first variant.
 */
#if IS_X64 && defined(__AVX512F__) && defined(__AVX512VNNI__)
#define TILES 4u
#define PLACES 4u
typedef __m512i wide_weights;
typedef __m512i wide_sums;

EQRL_INLINE void clear_sums(wide_sums *sums)
{
    *sums = _mm512_setzero_si512();
}

EQRL_INLINE void load_weights(wide_weights *to, const int8_t *weights)
{
    *to = _mm512_loadu_si512(weights);
}

EQRL_INLINE void add_four(wide_sums *sums, const wide_weights *weights, const wide_value *values)
{
    *sums = _mm512_dpbusd_epi32(*sums, _mm512_set1_epi32(load_four(values)), *weights);
}

EQRL_INLINE void store_sums(const wide_sums *sums, eqrl_s32 *target)
{
    _mm512_storeu_si512(target, *sums);
}
#elif IS_X64 && defined(__AVX2__)
#define TILES 1u
#define PLACES 2u
typedef struct {
    __m256i of[4]; /* of four channels each, as int16 */
} wide_weights;
typedef struct {
    __m256i of[4]; /* two a channel */
} wide_sums;

EQRL_INLINE void clear_sums(wide_sums *sums)
{
    sums->of[0] = _mm256_setzero_si256();
    sums->of[1] = _mm256_setzero_si256();
    sums->of[2] = _mm256_setzero_si256();
    sums->of[3] = _mm256_setzero_si256();
}

EQRL_INLINE __m256i load_channels(const int8_t *weights)
{
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)weights));
}

EQRL_INLINE void load_weights(wide_weights *to, const int8_t *weights)
{
    to->of[0] = load_channels(weights);
    to->of[1] = load_channels(weights + 16);
    to->of[2] = load_channels(weights + 32);
    to->of[3] = load_channels(weights + 48);
}

EQRL_INLINE void add_four(wide_sums *sums, const wide_weights *weights, const wide_value *values)
{
    const __m256i four = _mm256_cvtepu8_epi16(_mm_set1_epi32(load_four(values)));
    sums->of[0] = _mm256_add_epi32(sums->of[0], _mm256_madd_epi16(weights->of[0], four));
    sums->of[1] = _mm256_add_epi32(sums->of[1], _mm256_madd_epi16(weights->of[1], four));
    sums->of[2] = _mm256_add_epi32(sums->of[2], _mm256_madd_epi16(weights->of[2], four));
    sums->of[3] = _mm256_add_epi32(sums->of[3], _mm256_madd_epi16(weights->of[3], four));
}

EQRL_INLINE void store_channels(__m256i halves, eqrl_s32 *target)
{
    const __m256i sums = _mm256_permute4x64_epi64(_mm256_hadd_epi32(halves, halves), 0x08);
    _mm_storeu_si128((__m128i *)(void *)target, _mm256_castsi256_si128(sums));
}

EQRL_INLINE void store_sums(const wide_sums *sums, eqrl_s32 *target)
{
    store_channels(sums->of[0], target);
    store_channels(sums->of[1], target + 4);
    store_channels(sums->of[2], target + 8);
    store_channels(sums->of[3], target + 12);
}
#elif IS_X64
#define TILES 1u
#define PLACES 1u
typedef struct {
    const int8_t *of; /* as registers are few */
} wide_weights;
typedef struct {
    __m128i of[8]; /* two a channel */
} wide_sums;

EQRL_INLINE void clear_sums(wide_sums *sums)
{
    for (uint32_t i = 0; i < 8u; i++) {
        sums->of[i] = _mm_setzero_si128();
    }
}

EQRL_INLINE void load_weights(wide_weights *to, const int8_t *weights)
{
    to->of = weights;
}

EQRL_INLINE void add_channels(__m128i *sums, const int8_t *weights, __m128i four)
{
    const __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)weights);
    const __m128i first = _mm_srai_epi16(_mm_unpacklo_epi8(bytes, bytes), 8); /* with their signs */
    const __m128i second = _mm_srai_epi16(_mm_unpackhi_epi8(bytes, bytes), 8);
    sums[0] = _mm_add_epi32(sums[0], _mm_madd_epi16(first, four));
    sums[1] = _mm_add_epi32(sums[1], _mm_madd_epi16(second, four));
}

EQRL_INLINE void add_four(wide_sums *sums, const wide_weights *weights, const wide_value *values)
{
    const __m128i four = _mm_unpacklo_epi8(_mm_set1_epi32(load_four(values)), _mm_setzero_si128());
    add_channels(&sums->of[0], weights->of, four);
    add_channels(&sums->of[2], weights->of + 16, four);
    add_channels(&sums->of[4], weights->of + 32, four);
    add_channels(&sums->of[6], weights->of + 48, four);
}

EQRL_INLINE void store_channels(const __m128i *halves, eqrl_s32 *target)
{
    const __m128i low = _mm_unpacklo_epi32(halves[0], halves[1]); /* channels 0, 2, 0, 2 */
    const __m128i high = _mm_unpackhi_epi32(halves[0], halves[1]);
    const __m128i even = _mm_add_epi32(low, _mm_srli_si128(low, 8));
    const __m128i odd = _mm_add_epi32(high, _mm_srli_si128(high, 8));
    _mm_storeu_si128((__m128i *)(void *)target, _mm_unpacklo_epi32(even, odd));
}

EQRL_INLINE void store_sums(const wide_sums *sums, eqrl_s32 *target)
{
    store_channels(&sums->of[0], target);
    store_channels(&sums->of[2], target + 4);
    store_channels(&sums->of[4], target + 8);
    store_channels(&sums->of[6], target + 12);
}
#elif defined(__ARM_NEON)
#define TILES 1u
typedef int8x16x4_t wide_weights; /* four channels each */

EQRL_INLINE void load_weights(wide_weights *to, const int8_t *weights)
{
    to->val[0] = vld1q_s8(weights);
    to->val[1] = vld1q_s8(weights + 16);
    to->val[2] = vld1q_s8(weights + 32);
    to->val[3] = vld1q_s8(weights + 48);
}
#if defined(__ARM_FEATURE_DOTPROD)
#define PLACES 4u
typedef int32x4x4_t wide_sums;

EQRL_INLINE void clear_sums(wide_sums *sums)
{
    sums->val[0] = vdupq_n_s32(0);
    sums->val[1] = vdupq_n_s32(0);
    sums->val[2] = vdupq_n_s32(0);
    sums->val[3] = vdupq_n_s32(0);
}

EQRL_INLINE void add_four(wide_sums *sums, const wide_weights *weights, const wide_value *values)
{
    const int8x16_t four = vreinterpretq_s8_s32(vdupq_n_s32(load_four(values)));
    sums->val[0] = vdotq_s32(sums->val[0], weights->val[0], four);
    sums->val[1] = vdotq_s32(sums->val[1], weights->val[1], four);
    sums->val[2] = vdotq_s32(sums->val[2], weights->val[2], four);
    sums->val[3] = vdotq_s32(sums->val[3], weights->val[3], four);
}

EQRL_INLINE void store_sums(const wide_sums *sums, eqrl_s32 *target)
{
    vst1q_s32(target, sums->val[0]);
    vst1q_s32(target + 4, sums->val[1]);
    vst1q_s32(target + 8, sums->val[2]);
    vst1q_s32(target + 12, sums->val[3]);
}
#else
#define PLACES 2u
typedef struct {
    int32x4_t of[8]; /* two a channel */
} wide_sums;

EQRL_INLINE void clear_sums(wide_sums *sums)
{
    for (uint32_t i = 0; i < 8u; i++) {
        sums->of[i] = vdupq_n_s32(0);
    }
}

EQRL_INLINE void add_channels(int32x4_t *sums, int8x16_t weights, int8x8_t four)
{
    sums[0] = vpadalq_s16(sums[0], vmull_s8(vget_low_s8(weights), four));
    sums[1] = vpadalq_s16(sums[1], vmull_s8(vget_high_s8(weights), four));
}

EQRL_INLINE void add_four(wide_sums *sums, const wide_weights *weights, const wide_value *values)
{
    const int8x8_t four = vreinterpret_s8_s32(vdup_n_s32(load_four(values)));
    add_channels(&sums->of[0], weights->val[0], four);
    add_channels(&sums->of[2], weights->val[1], four);
    add_channels(&sums->of[4], weights->val[2], four);
    add_channels(&sums->of[6], weights->val[3], four);
}

EQRL_INLINE void store_channels(const int32x4_t *halves, eqrl_s32 *target)
{
    vst1_s32(target, vpadd_s32(vget_low_s32(halves[0]), vget_high_s32(halves[0])));
    vst1_s32(target + 2, vpadd_s32(vget_low_s32(halves[1]), vget_high_s32(halves[1])));
}

EQRL_INLINE void store_sums(const wide_sums *sums, eqrl_s32 *target)
{
    store_channels(&sums->of[0], target);
    store_channels(&sums->of[2], target + 4);
    store_channels(&sums->of[4], target + 8);
    store_channels(&sums->of[6], target + 12);
}
#endif
#else
#define TILES 1u
#define PLACES 1u
typedef struct {
    const int8_t *of;
} wide_weights;
typedef struct {
    int32_t of[LANES];
} wide_sums;

EQRL_INLINE void clear_sums(wide_sums *sums)
{
    for (uint32_t i = 0; i < LANES; i++) {
        sums->of[i] = eqrl_opaque(0); /* no memset */
    }
}

EQRL_INLINE void load_weights(wide_weights *to, const int8_t *weights)
{
    to->of = weights;
}

EQRL_INLINE void add_four(wide_sums *sums, const wide_weights *weights, const wide_value *values)
{
    const int8_t *four = weights->of;
    for (uint32_t i = 0; i < LANES; i++) {
        sums->of[i] += four[0] * values[0] + four[1] * values[1] + four[2] * values[2] + four[3] * values[3];
        four += 4;
    }
}

EQRL_INLINE void store_sums(const wide_sums *sums, eqrl_s32 *target)
{
    for (uint32_t i = 0; i < LANES; i++) {
        target[i] = eqrl_opaque(sums->of[i]); /* no memcpy */
    }
}
#endif

#ifdef __cplusplus
}
#endif

#endif
