/* argv[1]: a file with params; put in the place of the linked-in ones. Prints init's status, and the output
 * for an input of zeros if it is 0.
 */
#include <stdio.h>
#include <stdlib.h>

#include "alpha.h"

static alpha_state state;
static uint32_t blob[ALPHA_PARAMS_BYTES]; /* as words: four times more than needed */

int main(int argc, char **argv)
{
    int8_t input[ALPHA_NUM_INPUTS] = {0};
    int8_t output[ALPHA_NUM_OUTPUTS];
    FILE *file = argc == 2 ? fopen(argv[1], "rb") : NULL;
    if (file == NULL) {
        return 1;
    }
    (void)fread(blob, 1, sizeof blob, file);
    (void)fclose(file);
    const eqrl_status status = alpha_init(&state, blob);
    printf("%d", status);
    if (status == EQRL_OK && alpha_infer(&state, input, output) == EQRL_OK) {
        for (uint32_t i = 0; i < ALPHA_NUM_OUTPUTS; i++) {
            printf(" %d", output[i]);
        }
    }
    printf("\n%d\n", alpha_init(&state, (const char *)blob + 1)); /* misaligned */
    return 0;
}
