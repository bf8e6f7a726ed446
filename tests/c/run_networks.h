/* RUN_NETWORK(name, bytes of a row of inputs, of outputs): a function that reads rows from stdin, infers, and
 * prints the outputs in hexadecimal. Everything lies on the heap at its exact size.
 */
#ifndef RUN_NETWORKS_H
#define RUN_NETWORKS_H

#include <stdio.h>
#include <stdlib.h>

#define RUN_NETWORK(name, input_bytes, output_bytes)                                                          \
    int name##_batch_infer(name##_state *state, const unsigned char *inputs, unsigned char *outputs, size_t); \
    static void run_##name(size_t num_rows)                                                                   \
    {                                                                                                         \
        name##_state *const state = malloc(sizeof *state);                                                    \
        unsigned char *const inputs = malloc(input_bytes);                                                    \
        unsigned char *const outputs = malloc(output_bytes);                                                  \
        if (state == NULL || name##_init(state, NULL) != EQRL_OK) {                                           \
            abort();                                                                                          \
        }                                                                                                     \
        for (size_t row = 0; row < num_rows; row++) {                                                         \
            if (fread(inputs, 1, (input_bytes), stdin) != (input_bytes) ||                                    \
                name##_batch_infer(state, inputs, outputs, 1) != EQRL_OK) {                                   \
                abort();                                                                                      \
            }                                                                                                 \
            for (size_t i = 0; i < (output_bytes); i++) {                                                     \
                printf("%02x", outputs[i]);                                                                   \
            }                                                                                                 \
        }                                                                                                     \
        free(state);                                                                                          \
        free(inputs);                                                                                         \
        free(outputs);                                                                                        \
    }

#endif
