/* Two policies and one runtime in one image; arguments that callers get wrong. */
#include <stdio.h>
#include <string.h>

#include "alpha.h"
#include "alpha_golden.h"
#include "beta.h"
#include "beta_golden.h"

#define REQUIRE(condition)                                          \
    do {                                                            \
        if (!(condition)) {                                         \
            printf("line %d: not %s\n", __LINE__, #condition);      \
            return 1;                                               \
        }                                                           \
    } while (0)

static EQRL_ARENA alpha_state first;
static EQRL_ARENA beta_state second;

static int in_slices(void)
{
    static alpha_observation observation;
    alpha_action whole;
    alpha_action sliced;
    REQUIRE(alpha_step(&first, &observation, &whole) >= 0);
    REQUIRE(alpha_encode(&first, &observation, alpha_input(&first)) >= 0);
    for (uint32_t layer = 0; layer < ALPHA_NUM_LAYERS; layer++) {
        REQUIRE(alpha_infer_layers(&first, layer, layer + 1u) == EQRL_OK);
    }
    REQUIRE(alpha_decode(&first, alpha_output(&first), &sliced) == EQRL_OK);
    REQUIRE(whole.action == sliced.action);
    return 0;
}

int main(void)
{
    static alpha_observation observation;
    alpha_action action;
    int8_t input[ALPHA_NUM_INPUTS] = {0};
    int8_t output[ALPHA_NUM_OUTPUTS];

    REQUIRE(alpha_step(&first, &observation, &action) == EQRL_ERROR_NOT_INITIALISED);
    REQUIRE(alpha_reset(&first) == EQRL_ERROR_NOT_INITIALISED);
    REQUIRE(alpha_infer(&first, input, output) == EQRL_ERROR_NOT_INITIALISED);
    REQUIRE(alpha_decode(&first, output, &action) == EQRL_ERROR_NOT_INITIALISED);
    REQUIRE(alpha_init(NULL, NULL) == EQRL_ERROR_ARGUMENT);
    REQUIRE(alpha_init(&first, NULL) == EQRL_OK);
    REQUIRE(beta_init(&second, NULL) == EQRL_OK);
    REQUIRE(alpha_reset(&first) == EQRL_OK);
    REQUIRE(alpha_selftest(&first) == EQRL_OK);
    REQUIRE(beta_selftest(&second) == EQRL_OK);
    REQUIRE(alpha_step(NULL, &observation, &action) == EQRL_ERROR_ARGUMENT);
    REQUIRE(alpha_step(&first, NULL, &action) == EQRL_ERROR_ARGUMENT);
    REQUIRE(alpha_step(&first, &observation, NULL) == EQRL_ERROR_ARGUMENT);
    REQUIRE(alpha_infer(&first, NULL, output) == EQRL_ERROR_ARGUMENT);
    REQUIRE(alpha_infer_layers(&first, 0u, ALPHA_NUM_LAYERS + 1u) == EQRL_ERROR_ARGUMENT);
    REQUIRE(alpha_infer_layers(&first, 1u, 0u) == EQRL_ERROR_ARGUMENT);
    REQUIRE(alpha_infer(&first, input, output) == EQRL_OK);
    REQUIRE(memcmp(output, alpha_output(&first), sizeof output) == 0);
    REQUIRE(ALPHA_STATE_BYTES == sizeof first);

    /* The other policy's params are refused, and the state then refuses to step. */
    REQUIRE(alpha_init(&first, beta_params) < 0);
    REQUIRE(alpha_step(&first, &observation, &action) == EQRL_ERROR_NOT_INITIALISED);
    REQUIRE(alpha_init(&first, NULL) == EQRL_OK);
    REQUIRE(in_slices() == 0);
    printf("passed\n");
    return 0;
}
