/* Every function of an exported policy that takes bytes, on any bytes: under sanitizers, with answers checked.
 *
 * fuzz_glue.h, which tests/test_c_fuzz.py writes, names the policy. With libFuzzer: -DFUZZ_WITH_LIBFUZZER and
 * clang's -fsanitize=fuzzer. Without: ./program EXECUTIONS SEED feeds the same entry from a generator.
 * All buffers have their exact sizes on the heap, so that AddressSanitizer sees one byte too far.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz_glue.h"

#define REQUIRE(condition)                                                            \
    do {                                                                              \
        if (!(condition)) {                                                           \
            fprintf(stderr, "%s:%d: not %s\n", __FILE__, __LINE__, #condition);       \
            abort();                                                                  \
        }                                                                             \
    } while (0)

enum { PARAMS_RAW, PARAMS_EDITED, CHECK, STEP, SLICES, INFER, LAYERS, DECODE, ENCODE, MISUSE, NUM_ENTRIES };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static FUZZ_STATE *state;
static FUZZ_OBSERVATION *observation;
static FUZZ_ACTION *action;
static void *inputs[FUZZ_NUM_INPUTS];
static void *outputs[FUZZ_NUM_OUTPUTS];
static void *repeated[FUZZ_NUM_OUTPUTS];
static unsigned long counts[NUM_ENTRIES];

static void *allocate(size_t size)
{
    void *const place = malloc(size);
    REQUIRE(place != NULL);
    memset(place, 0xA5, size);
    return place;
}

static void set_up(void)
{
    state = (FUZZ_STATE *)allocate(sizeof *state);
    observation = (FUZZ_OBSERVATION *)allocate(sizeof *observation);
    action = (FUZZ_ACTION *)allocate(sizeof *action);
    for (size_t i = 0; i < FUZZ_NUM_INPUTS; i++) {
        inputs[i] = allocate(fuzz_input_bytes[i]);
    }
    for (size_t i = 0; i < FUZZ_NUM_OUTPUTS; i++) {
        outputs[i] = allocate(fuzz_output_bytes[i]);
        repeated[i] = allocate(fuzz_output_bytes[i]);
    }
    REQUIRE(FUZZ(init)(state, NULL) == EQRL_OK);
}

/* Fill a buffer with the data, over and over. */
static void fill(void *target, size_t target_bytes, const uint8_t *data, size_t size)
{
    uint8_t *const bytes = (uint8_t *)target;
    for (size_t i = 0; i < target_bytes; i++) {
        bytes[i] = size == 0u ? 0u : data[i % size];
    }
}

static uint32_t word_at(const uint8_t *data, size_t size, size_t at)
{
    uint8_t bytes[4];
    uint32_t word;
    for (size_t i = 0; i < 4u; i++) {
        bytes[i] = at + i < size ? data[at + i] : 0u;
    }
    memcpy(&word, bytes, sizeof word);
    return word;
}

/* The checksum, bit by bit: a second opinion. */
static uint32_t crc_of(const uint8_t *blob, size_t size)
{
    uint32_t crc = 0xFFFFFFFFu;
    for (size_t i = 0; i < size; i++) {
        if (i >= offsetof(eqrl_params_header, crc32) && i < sizeof(eqrl_params_header)) {
            continue;
        }
        crc ^= blob[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc >> 1) ^ ((crc & 1u) != 0u ? 0xEDB88320u : 0u);
        }
    }
    return ~crc;
}

/* What the check of a blob must say; the blob has as many bytes as it claims if these are `total`. */
static eqrl_status expected_check(const uint8_t *blob, uint32_t total, const uint32_t *contract)
{
    eqrl_params_header header;
    memcpy(&header, blob, sizeof header);
    if (header.magic != 0x50525145u || header.abi != EQRL_ABI || header.header_bytes != sizeof header ||
        header.total_bytes != total || total <= sizeof header) {
        return EQRL_ERROR_PARAMS;
    }
    if (memcmp(header.contract, contract, sizeof header.contract) != 0) {
        return EQRL_ERROR_CONTRACT;
    }
    return header.crc32 == crc_of(blob, total) ? EQRL_OK : EQRL_ERROR_CRC;
}

/* A blob of the least memory that the documentation asks for: a header, or as much as it rightly claims. */
static uint8_t *copy_blob(const uint8_t *data, size_t size)
{
    size_t bytes = size < sizeof(eqrl_params_header) ? sizeof(eqrl_params_header) : size;
    if (word_at(data, size, offsetof(eqrl_params_header, total_bytes)) == FUZZ_PARAMS_BYTES &&
        bytes < FUZZ_PARAMS_BYTES) {
        bytes = FUZZ_PARAMS_BYTES;
    }
    uint8_t *const blob = (uint8_t *)allocate(bytes);
    memset(blob, 0, bytes);
    memcpy(blob, data, size);
    return blob;
}

static void require_init(const uint8_t *blob)
{
    const eqrl_params_header *const linked = (const eqrl_params_header *)(const void *)FUZZ(params);
    const eqrl_status expected = expected_check(blob, FUZZ_PARAMS_BYTES, linked->contract);
    REQUIRE(FUZZ(init)(state, blob) == expected);
    REQUIRE((state->params == NULL) == (expected != EQRL_OK));
    REQUIRE(FUZZ(reset)(state) == (expected == EQRL_OK ? EQRL_OK : EQRL_ERROR_NOT_INITIALISED));
    if (expected != EQRL_OK) {
        REQUIRE(FUZZ(step)(state, observation, action) == EQRL_ERROR_NOT_INITIALISED);
    }
    REQUIRE(FUZZ(init)(state, NULL) == EQRL_OK);
}

static void params_raw(const uint8_t *data, size_t size)
{
    uint8_t *const blob = copy_blob(data, size);
    require_init(blob);
    free(blob);
}

/* The linked-in params with a few bytes changed, and with a checksum that fits, or not. */
static void params_edited(const uint8_t *data, size_t size)
{
    uint8_t *const blob = (uint8_t *)allocate(FUZZ_PARAMS_BYTES);
    memcpy(blob, FUZZ(params), FUZZ_PARAMS_BYTES);
    const int is_crc_right = size > 0u && (data[0] & 1u) != 0u;
    const int is_header_only = size > 0u && (data[0] & 2u) != 0u;
    for (size_t at = 1; at + 3u <= size && at < 48u; at += 3u) {
        const size_t range = is_header_only ? sizeof(eqrl_params_header) : FUZZ_PARAMS_BYTES;
        blob[(data[at] | (size_t)data[at + 1u] << 8) % range] ^= data[at + 2u];
    }
    if (is_crc_right) {
        const uint32_t crc = crc_of(blob, FUZZ_PARAMS_BYTES);
        memcpy(blob + offsetof(eqrl_params_header, crc32), &crc, sizeof crc);
    }
    require_init(blob);
    free(blob);
}

static void check(const uint8_t *data, size_t size)
{
    uint32_t contract[8];
    fill(contract, sizeof contract, data, size);
    if (size > 0u && (data[0] & 1u) != 0u && size >= 52u) {
        memcpy(contract, data + 20, sizeof contract);
    }
    uint8_t *const blob = copy_blob(data, size);
    const uint32_t claimed = word_at(data, size, offsetof(eqrl_params_header, total_bytes));
    /* What is expected may be any number that there is memory for. */
    const uint32_t total = claimed <= size ? claimed : (uint32_t)size;
    REQUIRE(eqrl_params_check(blob, total, contract) == expected_check(blob, total, contract));
    for (size_t i = 1; i < 4u; i++) {
        REQUIRE(eqrl_params_check(blob + i, total, contract) == EQRL_ERROR_PARAMS);
    }
    REQUIRE(eqrl_params_check(NULL, total, contract) == EQRL_ERROR_PARAMS);
    free(blob);
}

static int has_not_finite(void)
{
    for (size_t i = 0; i < sizeof observation->observation / sizeof observation->observation[0]; i++) {
        uint32_t bits;
        memcpy(&bits, &observation->observation[i], sizeof bits);
        if ((bits & 0x7F800000u) == 0x7F800000u) {
            return 1;
        }
    }
    return 0;
}

static void require_action(void)
{
#if FUZZ_IS_DISCRETE
    REQUIRE(action->action >= FUZZ_START);
    REQUIRE((uint32_t)(action->action - FUZZ_START) < FUZZ_CONST(NUM_OUTPUTS));
#if FUZZ_HAS_MASK
    int any = 0;
    for (size_t i = 0; i < FUZZ_CONST(NUM_OUTPUTS); i++) {
        any |= observation->action_mask[i];
    }
    REQUIRE(any == 0 || observation->action_mask[action->action - FUZZ_START] != 0u);
#endif
#else
    for (size_t i = 0; i < FUZZ_CONST(NUM_OUTPUTS); i++) {
        uint32_t bits;
        memcpy(&bits, &action->action[i], sizeof bits);
        REQUIRE((bits & 0x7F800000u) != 0x7F800000u);
    }
#endif
}

#if FUZZ_HAS_MASK
#define DECODE_WITH(output) FUZZ(decode)(state, (output), observation->action_mask, action)
#else
#define DECODE_WITH(output) FUZZ(decode)(state, (output), action)
#endif

/* A memory that the policy did not write: any bytes, and now and then numbers in range or nearly so. */
static void forge_memory(const uint8_t *data, size_t size)
{
#if FUZZ_NUM_FRAMES
    fill(&state->memory, sizeof state->memory, data + size / 2u, size - size / 2u);
    if (size > 0u && (data[0] & 1u) != 0u) {
        state->memory.frames_next %= FUZZ_NUM_FRAMES + 2u;
        state->memory.frames_filled %= FUZZ_NUM_FRAMES + 2u;
    }
#else
    (void)data;
    (void)size;
#endif
}

/* The memory as docs/c-api.md says that it is taken. */
static void mend_memory(void)
{
#if FUZZ_NUM_FRAMES
    if (state->memory.frames_next >= FUZZ_NUM_FRAMES) {
        state->memory.frames_next = 0u;
    }
    if (state->memory.frames_filled > FUZZ_NUM_FRAMES) {
        state->memory.frames_filled = FUZZ_NUM_FRAMES;
    }
#endif
}

static void require_memory(void)
{
#if FUZZ_NUM_FRAMES
    REQUIRE(state->memory.frames_next < FUZZ_NUM_FRAMES);
    REQUIRE(state->memory.frames_filled - 1u < FUZZ_NUM_FRAMES);
#endif
}

static eqrl_status step(const uint8_t *data, size_t size)
{
    fill(observation, sizeof *observation, data, size);
    memset(action, 0xA5, sizeof *action);
    forge_memory(data, size);
    const eqrl_status status = FUZZ(step)(state, observation, action);
    require_memory();
    REQUIRE(status >= 0 && status <= (EQRL_SATURATED | EQRL_NOT_FINITE));
    REQUIRE(((status & EQRL_NOT_FINITE) != 0) == has_not_finite());
    require_action();
    return status;
}

/* The parts of a step, cut anywhere, give what the step gave; also with the memory as it was taken. */
static void slices(const uint8_t *data, size_t size)
{
    const eqrl_status status = step(data, size);
    FUZZ_ACTION whole;
    memcpy(&whole, action, sizeof whole);
#if FUZZ_NUM_FRAMES
    const FUZZ_MEMORY after = state->memory;
#endif
    forge_memory(data, size);
    mend_memory();
    memset(action, 0xA5, sizeof *action);
    if (FUZZ_NUM_INPUTS > 1) {
        return; /* the others lie in the arena, and the step has used them up */
    }
    REQUIRE(FUZZ(encode)(state, observation, FUZZ(input)(state)) == status);
    const uint32_t cut = size == 0u ? 0u : data[0] % (FUZZ_CONST(NUM_LAYERS) + 1u);
    REQUIRE(FUZZ(infer_layers)(state, 0u, cut) == EQRL_OK);
    REQUIRE(FUZZ(infer_layers)(state, cut, FUZZ_CONST(NUM_LAYERS)) == EQRL_OK);
    REQUIRE(DECODE_WITH(FUZZ(output)(state)) == EQRL_OK);
    REQUIRE(memcmp(&whole, action, sizeof whole) == 0);
#if FUZZ_NUM_FRAMES
    REQUIRE(memcmp(&after, &state->memory, sizeof after) == 0);
#endif
}

/* Outputs depend on inputs alone, not on what the arena held before. */
static void infer(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < FUZZ_NUM_INPUTS; i++) {
        fill(inputs[i], fuzz_input_bytes[i], data + (i < size ? i : 0u), i < size ? size - i : size);
    }
    memset(state->arena, 0x7F, sizeof state->arena);
    REQUIRE(FUZZ_INFER(state, inputs, outputs) == EQRL_OK);
    memset(state->arena, 0x80, sizeof state->arena);
    REQUIRE(FUZZ_INFER(state, inputs, repeated) == EQRL_OK);
    for (size_t i = 0; i < FUZZ_NUM_OUTPUTS; i++) {
        REQUIRE(memcmp(outputs[i], repeated[i], fuzz_output_bytes[i]) == 0);
    }
}

/* Any layers, on an arena that holds anything. */
static void layers(const uint8_t *data, size_t size)
{
    uint32_t first = word_at(data, size, 0u);
    uint32_t last = word_at(data, size, 4u);
    if (size > 8u && (data[8] & 3u) != 0u) {
        first %= FUZZ_CONST(NUM_LAYERS) + 2u;
        last %= FUZZ_CONST(NUM_LAYERS) + 2u;
    }
    fill(state->arena, sizeof state->arena, data + (size > 9u ? 9u : 0u), size > 9u ? size - 9u : size);
    const int is_range = first <= last && last <= FUZZ_CONST(NUM_LAYERS);
    REQUIRE(FUZZ(infer_layers)(state, first, last) == (is_range ? EQRL_OK : EQRL_ERROR_ARGUMENT));
}

static void decode(const uint8_t *data, size_t size)
{
    fill(outputs[0], fuzz_output_bytes[0], data, size);
    fill(observation, sizeof *observation, data + size / 2u, size - size / 2u);
    REQUIRE(DECODE_WITH((FUZZ_OUTPUT_TYPE *)outputs[0]) == EQRL_OK);
    require_action();
}

static void encode(const uint8_t *data, size_t size)
{
    fill(observation, sizeof *observation, data, size);
    forge_memory(data, size);
    const eqrl_status status = FUZZ(encode)(state, observation, (FUZZ_INPUT_TYPE *)inputs[0]);
    REQUIRE(status >= 0 && ((status & EQRL_NOT_FINITE) != 0) == has_not_finite());
    require_memory();
}

/* Null pointers and states that were never made ready; nothing is written then. */
static void misuse(const uint8_t *data, size_t size)
{
    static const unsigned char untouched[sizeof *action] = {0};
    FUZZ_STATE *const some = size > 0u && (data[0] & 1u) != 0u ? state : NULL;
    memset(action, 0, sizeof *action);
    REQUIRE(FUZZ(step)(some, NULL, action) == EQRL_ERROR_ARGUMENT);
    REQUIRE(FUZZ(step)(some, observation, NULL) == EQRL_ERROR_ARGUMENT);
    REQUIRE(FUZZ(encode)(some, observation, NULL) == EQRL_ERROR_ARGUMENT);
    REQUIRE(FUZZ(encode)(some, NULL, (FUZZ_INPUT_TYPE *)inputs[0]) == EQRL_ERROR_ARGUMENT);
    REQUIRE(DECODE_WITH(NULL) == EQRL_ERROR_ARGUMENT);
    REQUIRE(FUZZ(init)(NULL, NULL) == EQRL_ERROR_ARGUMENT);
    state->params = NULL;
    fill(state->arena, sizeof state->arena, data, size);
    REQUIRE(FUZZ(step)(state, observation, action) == EQRL_ERROR_NOT_INITIALISED);
    REQUIRE(FUZZ(infer_layers)(state, 0u, FUZZ_CONST(NUM_LAYERS)) == EQRL_ERROR_NOT_INITIALISED);
    REQUIRE(FUZZ_INFER(state, inputs, outputs) == EQRL_ERROR_NOT_INITIALISED);
    REQUIRE(DECODE_WITH((FUZZ_OUTPUT_TYPE *)outputs[0]) == EQRL_ERROR_NOT_INITIALISED);
    REQUIRE(memcmp(action, untouched, sizeof *action) == 0);
    REQUIRE(FUZZ(init)(state, NULL) == EQRL_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (state == NULL) {
        set_up();
    }
    if (size == 0u) {
        return 0;
    }
    const unsigned entry = data[0] % (unsigned)NUM_ENTRIES;
    counts[entry]++;
    data++;
    size--;
    switch (entry) {
    case PARAMS_RAW: params_raw(data, size); break;
    case PARAMS_EDITED: params_edited(data, size); break;
    case CHECK: check(data, size); break;
    case STEP: (void)step(data, size); break;
    case SLICES: slices(data, size); break;
    case INFER: infer(data, size); break;
    case LAYERS: layers(data, size); break;
    case DECODE: decode(data, size); break;
    case ENCODE: encode(data, size); break;
    default: misuse(data, size); break;
    }
    REQUIRE(state->params == FUZZ(params));
    return 0;
}

#ifndef FUZZ_WITH_LIBFUZZER

static uint64_t seed;

static uint32_t next_random(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33) ^ (uint32_t)(seed >> 20);
}

/* Bytes of one kind: any, extremes of int8 and int16, special floats, small floats, or a blob, cut and edited. */
static size_t generate(uint8_t *data, size_t room)
{
    static const uint32_t words[] = {0x7F800000u, 0xFF800000u, 0x7FC00000u, 0x00000000u, 0x80000000u, 0x00000001u,
                                     0x3F800000u, 0x7F7FFFFFu, 0x80808080u, 0x7F7F7F7Fu, 0x80008000u, 0x7FFF7FFFu};
    const uint32_t kind = next_random() % 6u;
    size_t size = 1u + next_random() % (room - 1u);
    data[0] = (uint8_t)next_random();
    for (size_t at = 1; at < size; at += 4u) {
        uint32_t word = next_random();
        if (kind == 1u || (kind == 2u && word % 4u == 0u)) {
            word = words[word % (sizeof words / sizeof words[0])];
        } else if (kind == 3u) {
            word = (word & 0x807FFFFFu) | (120u + (word >> 8) % 20u) << 23;
        }
        memcpy(data + at, &word, size - at < 4u ? size - at : 4u);
    }
    if (kind >= 4u && room > FUZZ_PARAMS_BYTES) {
        size = kind == 4u ? 1u + FUZZ_PARAMS_BYTES : 1u + next_random() % FUZZ_PARAMS_BYTES;
        memcpy(data + 1, FUZZ(params), size - 1u);
        for (uint32_t edits = next_random() % 4u; edits > 0u && size > 1u; edits--) {
            const uint32_t span = next_random() % 2u != 0u && size > 129u ? 128u : (uint32_t)size - 1u;
            data[1u + next_random() % span] ^= (uint8_t)next_random();
        }
        if (next_random() % 2u != 0u) {
            data[0] = next_random() % 2u != 0u ? PARAMS_RAW : CHECK;
        }
    }
    return size;
}

int main(int argc, char **argv)
{
    const unsigned long executions = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000u;
    seed = argc > 2 ? strtoul(argv[2], NULL, 10) : 1u;
    const size_t room = FUZZ_PARAMS_BYTES + 64u;
    uint8_t *const data = (uint8_t *)allocate(room);
    for (unsigned long i = 0; i < executions; i++) {
        const size_t small = 2u + next_random() % 256u;
        (void)LLVMFuzzerTestOneInput(data, generate(data, next_random() % 8u == 0u || small > room ? room : small));
    }
    free(data);
    printf("%lu executions:", executions);
    for (int i = 0; i < NUM_ENTRIES; i++) {
        printf(" %lu", counts[i]);
    }
    printf("\n");
    return 0;
}

#endif
