# SPDX-License-Identifier: Apache-2.0
"""Your sensors and actuators. Copy this file beside the releases, and a new policy leaves it alone:

    ~/edgeqrl/NAME/application.py

The service reads it from there where it exists; policy_contract.json says what each number means.
"""

import math

_zeros = {}


def start(policy):
    """Open the hardware. `policy.contract` has names, units, bounds and the control period.

    policy.reset() begins an episode, forgets the one before, and arms the guard again once it has latched.
    """
    parts = policy.contract["observation"]["parts"]
    _zeros.update({part["name"]: [0] * math.prod(part["shape"]) for part in parts})


def read():
    """Return the observation, in the environment's units and order, or None where none is due.

    An observation of one part may be a list or an array, too. With action masks: (observation, mask). Do not
    wait here for long: the guard looks at the time in between.
    """
    return _zeros


def write(action):
    """Drive the actuators: an int where actions are discrete, else a list of numbers."""
    print("action", action, flush=True)


def stop():
    """Bring the actuators into a safe state.

    Called at the end, when the guard says so, and after a crash by a process of its own (run.py --stop), in
    which start() has not been called.
    """
