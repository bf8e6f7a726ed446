// A C++ caller of two policies that were compiled as C.
#include <cstdio>

#include "alpha.h"
#include "alpha_golden.h"
#include "beta.h"

namespace {
alpha_state first;
beta_state second;
}  // namespace

int main()
{
    static_assert(ALPHA_STATE_BYTES == sizeof(alpha_state), "a constant");
    beta_observation observation{};
    beta_action action{};
    if (alpha_init(&first, nullptr) != EQRL_OK || alpha_selftest(&first) != EQRL_OK) {
        return 1;
    }
    if (beta_init(&second, beta_params) != EQRL_OK || beta_step(&second, &observation, &action) < 0) {
        return 1;
    }
    std::puts("passed");
    return 0;
}
