/* SPDX-License-Identifier: Apache-2.0 */
/* eqrl.h - what every exported policy shares: status values, placement macros, the params header.
 *
 * C99, C11 or C++17. No heap, no stdio, no floating-point arithmetic, no mutable globals.
 */
#ifndef EQRL_H
#define EQRL_H

#include <stddef.h>
#include <stdint.h>

/* A header of yours that defines the macros below, e.g. -DEQRL_CONFIG_FILE='"eqrl_config.h"'. */
#ifdef EQRL_CONFIG_FILE
#include EQRL_CONFIG_FILE
#endif

/* Where things are placed. Define any of them as an attribute of your compiler, for example
 *   #define EQRL_CODE __attribute__((section(".itcm")))
 * Empty means: wherever the linker puts code, constants and variables.
 */
#ifndef EQRL_CODE
#define EQRL_CODE /* functions that run in a step */
#endif
#ifndef EQRL_WEIGHTS
#define EQRL_WEIGHTS /* the linked-in params blob */
#endif
#ifndef EQRL_ARENA
#define EQRL_ARENA /* for your own state objects: static EQRL_ARENA mypolicy_state state; */
#endif

#define EQRL_ABI 2u /* of the params blob and the kernels; another number needs a new export */

#ifdef __cplusplus
extern "C" {
#endif

/* EQRL_OK, a sum of flags (> 0: the result is valid), or one error (< 0: nothing was computed). */
typedef int eqrl_status;

enum {
    EQRL_OK = 0,
    EQRL_SATURATED = 1,              /* an observation lay outside the calibrated range */
    EQRL_NOT_FINITE = 2,             /* an observation was NaN (taken as 0) or infinite */
    EQRL_ERROR_PARAMS = -1,          /* not a params blob of this ABI and length, or not 4-aligned */
    EQRL_ERROR_CONTRACT = -2,        /* of other shapes, or exported for other code */
    EQRL_ERROR_CRC = -3,             /* params damaged */
    EQRL_ERROR_NOT_INITIALISED = -4, /* the state has not passed its init function */
    EQRL_ERROR_ARGUMENT = -5,        /* a null pointer, or layers out of range */
    EQRL_ERROR_SELFTEST = -6         /* a golden vector gave another answer */
};

/* The first bytes of a params blob; little endian. The blob is relocatable: it holds no address.
 *
 * After the header: one eqrl_params_entry for the observation edge, for each layer, for each constant
 * and for the action edge; then their blocks. The generated code takes no offset from the blob: its offsets follow from
 * the shapes, and `contract` proves that the blob was laid out for the same ones.
 */
typedef struct {
    uint32_t magic;         /* "EQRP" */
    uint32_t abi;           /* EQRL_ABI */
    uint32_t header_bytes;  /* of this struct */
    uint32_t total_bytes;   /* header, entries and blocks */
    uint32_t sequence;      /* higher is newer; for your updater, unused here */
    uint32_t contract[8];   /* SHA-256 of everything that the generated code relies on */
    uint32_t num_entries;
    uint32_t crc32;         /* IEEE, of all bytes before this field and all bytes after signature */
    uint32_t reserved;      /* 0 */
    uint32_t signature[16]; /* 0; room for your updater's signature of all other bytes */
} eqrl_params_header;

typedef struct {
    uint32_t kernel;      /* EQRL_KERNEL_... */
    uint32_t offset;      /* of the block, in bytes from the start of the blob; 4-aligned */
    uint32_t num_bytes;   /* of the block; a multiple of 4 */
} eqrl_params_entry;

/* How a block is laid out, and so which function reads it. */
enum {
    EQRL_KERNEL_OBSERVATION_F32 = 1,
    EQRL_KERNEL_DENSE_S8 = 2,
    EQRL_KERNEL_LOOKUP_S8 = 3,
    EQRL_KERNEL_ARGMAX = 4,
    EQRL_KERNEL_ARGMAX_MASKED = 5,
    EQRL_KERNEL_AFFINE_F32 = 6,
    EQRL_KERNEL_CONSTANT = 7, /* read like an activation */
    EQRL_KERNEL_DENSE_S16 = 10,
    EQRL_KERNEL_CONV_S8 = 11,
    EQRL_KERNEL_CONV_S16 = 12,
    EQRL_KERNEL_DEPTHWISE_S8 = 13,
    EQRL_KERNEL_DEPTHWISE_S16 = 14,
    EQRL_KERNEL_TRANSPOSE_CONV_S8 = 15,
    EQRL_KERNEL_TRANSPOSE_CONV_S16 = 16,
    EQRL_KERNEL_POOL = 17,
    EQRL_KERNEL_REDUCE_SUM = 18,
    EQRL_KERNEL_REDUCE_MAX = 19,
    EQRL_KERNEL_DENSE_P4_S8 = 20, /* weights of 4 bits */
    EQRL_KERNEL_DENSE_P3_S8 = 21,
    EQRL_KERNEL_DENSE_P2_S8 = 22,
    EQRL_KERNEL_DENSE_P4_S16 = 23,
    EQRL_KERNEL_DENSE_P3_S16 = 24,
    EQRL_KERNEL_DENSE_P2_S16 = 25,
    EQRL_KERNEL_CONV_P4_S8 = 26,
    EQRL_KERNEL_CONV_P3_S8 = 27,
    EQRL_KERNEL_CONV_P2_S8 = 28,
    EQRL_KERNEL_CONV_P4_S16 = 29,
    EQRL_KERNEL_CONV_P3_S16 = 30,
    EQRL_KERNEL_CONV_P2_S16 = 31,
    EQRL_KERNEL_DENSE_ASYMMETRIC_S8 = 32, /* weights have zero points */
    EQRL_KERNEL_DENSE_ASYMMETRIC_S16 = 33,
    EQRL_KERNEL_CONV_ASYMMETRIC_S8 = 34,
    EQRL_KERNEL_CONV_ASYMMETRIC_S16 = 35,
    EQRL_KERNEL_DEPTHWISE_ASYMMETRIC_S8 = 36,
    EQRL_KERNEL_DEPTHWISE_ASYMMETRIC_S16 = 37,
    EQRL_KERNEL_TRANSPOSE_CONV_ASYMMETRIC_S8 = 38,
    EQRL_KERNEL_TRANSPOSE_CONV_ASYMMETRIC_S16 = 39,
    EQRL_KERNEL_RESCALE = 40,
    EQRL_KERNEL_INTERPOLATE_S16 = 41,
    EQRL_KERNEL_SIGMOID_S16 = 42,
    EQRL_KERNEL_RSQRT_S16 = 43,
    EQRL_KERNEL_ADD = 44,
    EQRL_KERNEL_SQUARED_DIFFERENCE = 45,
    EQRL_KERNEL_MUL = 46,
    EQRL_KERNEL_PRELU = 47,
    EQRL_KERNEL_MAXIMUM = 48,
    EQRL_KERNEL_SOFTMAX_S8 = 50,
    EQRL_KERNEL_SOFTMAX_S16 = 51,
    EQRL_KERNEL_LOG_SOFTMAX_S8 = 52,
    EQRL_KERNEL_ARG_EXTREME = 53,
    EQRL_KERNEL_MOVE = 60,
    EQRL_KERNEL_OBSERVATION_AFFINE_F32 = 70,
    EQRL_KERNEL_OBSERVATION_U8 = 71,
    EQRL_KERNEL_OBSERVATION_ONE_HOT = 72,
    EQRL_KERNEL_FILL = 73, /* what a ring of frames or a recurrent state is filled with */
    EQRL_KERNEL_MULTI_ARGMAX = 74,
    EQRL_KERNEL_CATEGORICAL = 75,
    EQRL_KERNEL_MULTI_BINARY = 76,
    EQRL_KERNEL_BERNOULLI = 77,
    EQRL_KERNEL_GAUSSIAN_F32 = 78,
    EQRL_KERNEL_DENSE_QUADS_S8 = 80, /* weights in the order of a core */
    EQRL_KERNEL_CONV_QUADS_S8 = 81,
    EQRL_KERNEL_DENSE_QUADS_ANY_S8 = 82,
    EQRL_KERNEL_CONV_QUADS_ANY_S8 = 83,
    EQRL_KERNEL_DENSE_BIASED_S8 = 84,
    EQRL_KERNEL_CONV_BIASED_S8 = 85,
    EQRL_KERNEL_DENSE_BIASED_ANY_S8 = 86,
    EQRL_KERNEL_CONV_BIASED_ANY_S8 = 87,
    EQRL_KERNEL_DENSE_LANES_S8 = 88,
    EQRL_KERNEL_CONV_LANES_S8 = 89,
    EQRL_KERNEL_DENSE_LANES_ANY_S8 = 90,
    EQRL_KERNEL_CONV_LANES_ANY_S8 = 91,
    EQRL_KERNEL_DENSE_VECTORS_S8 = 92,
    EQRL_KERNEL_CONV_VECTORS_S8 = 93,
    EQRL_KERNEL_DENSE_LANES_P4_S8 = 100,
    EQRL_KERNEL_CONV_LANES_P4_S8 = 101,
    EQRL_KERNEL_DENSE_LANES_P3_S8 = 102,
    EQRL_KERNEL_CONV_LANES_P3_S8 = 103,
    EQRL_KERNEL_DENSE_LANES_P2_S8 = 104,
    EQRL_KERNEL_CONV_LANES_P2_S8 = 105,
    EQRL_KERNEL_DENSE_VECTORS_P4_S8 = 106,
    EQRL_KERNEL_CONV_VECTORS_P4_S8 = 107,
    EQRL_KERNEL_DENSE_VECTORS_P3_S8 = 108,
    EQRL_KERNEL_CONV_VECTORS_P3_S8 = 109,
    EQRL_KERNEL_DENSE_VECTORS_P2_S8 = 110,
    EQRL_KERNEL_CONV_VECTORS_P2_S8 = 111,
    EQRL_KERNEL_DENSE_WIDE_S8 = 120, /* in the order of computers */
    EQRL_KERNEL_CONV_WIDE_S8 = 121
};

/* What stands in for an action that may not be driven. */
enum {
    EQRL_FAIL_SAFE_NONE = 0,   /* nothing is ever driven */
    EQRL_FAIL_SAFE_VALUE = 1,  /* a fixed action */
    EQRL_FAIL_SAFE_HOLD = 2,   /* the last good action, for some steps; then stop */
    EQRL_FAIL_SAFE_DISABLE = 3 /* stop the outputs */
};

/* What the elements of an observation are. */
enum {
    EQRL_ELEMENT_F32 = 0,
    EQRL_ELEMENT_I32 = 1,
    EQRL_ELEMENT_U8 = 2
};

/* One part of an observation of several parts, or of integers. */
typedef struct {
    uint32_t type;         /* EQRL_ELEMENT_... */
    uint32_t offset;       /* in NAME_observation, in bytes */
    uint32_t num_inputs;   /* elements */
    uint32_t num_features; /* of low and high, behind those of the parts before: element i is i % num_features */
} eqrl_contract_part;

/* The facts of a policy that a guard and a device need; NAME_contract.c holds them. */
typedef struct {
    const char *name;
    uint32_t num_inputs;   /* elements of an observation, of all its parts */
    uint32_t num_features; /* of low and high: element i is feature i % num_features, within its part */
    const uint32_t *low;   /* bits [num_features], as those of the elements: of a float32 or an int32 */
    const uint32_t *high;
    uint32_t observation_bytes; /* sizeof(NAME_observation) */
    uint32_t action_bytes;      /* sizeof(NAME_action) */
    uint32_t control_period_us; /* 0: unknown */
    uint32_t timeout_us;        /* an observation that comes later is lost; 0: unknown */
    uint32_t fail_safe;         /* EQRL_FAIL_SAFE_... */
    uint32_t hold_steps;
    const uint32_t *fail_safe_action; /* words of a NAME_action, or NULL */
    const uint8_t *model_sha256;      /* [32], or NULL */
    const uint8_t *contract_sha256;   /* [32], or NULL */
    uint32_t num_counters;            /* saturation counters of the state */
    uint32_t is_discrete;             /* 1: the action is int32s, 0: it is float32s */
    const uint32_t *action_low;       /* [action_bytes / 4]: bits of the bounds, as the action's own; or NULL: */
    const uint32_t *action_high;      /* no bounds, and float32s must be finite all the same */
    const eqrl_contract_part *parts;  /* [num_parts] of the observation */
    uint32_t num_parts;               /* 0: it is one part of float32s, at its start */
    uint32_t mask_bytes;              /* of the observation's mask of allowed actions; 0: it has none */
    uint32_t memory_bytes;            /* of what survives a step; 0: a step depends on its observation alone */
    uint32_t is_stochastic;           /* 1: actions are drawn, by the generator in the memory */
    uint32_t num_values;              /* float32s beside the action */
} eqrl_contract;

/* Check a params blob before anything is read from it.
 *
 * params       4-aligned, or NULL (an error)
 * total_bytes  what the generated code expects; nothing beyond it is read
 * contract     what the generated code expects
 *
 * Returns EQRL_OK, EQRL_ERROR_PARAMS, EQRL_ERROR_CONTRACT or EQRL_ERROR_CRC. Whether a blob comes from
 * whom you trust is for your updater to check: a CRC finds damage, not malice.
 */
eqrl_status eqrl_params_check(const void *params, uint32_t total_bytes, const uint32_t contract[8]);

#ifdef __cplusplus
}
#endif

#endif
