"""What a policy's contract is in C, for ctypes."""

import ctypes


class CContract(ctypes.Structure):
    """`eqrl_contract` of runtime/eqrl.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("num_inputs", ctypes.c_uint32),
        ("num_features", ctypes.c_uint32),
        ("low", ctypes.POINTER(ctypes.c_uint32)),
        ("high", ctypes.POINTER(ctypes.c_uint32)),
        ("observation_bytes", ctypes.c_uint32),
        ("action_bytes", ctypes.c_uint32),
        ("control_period_us", ctypes.c_uint32),
        ("timeout_us", ctypes.c_uint32),
        ("fail_safe", ctypes.c_uint32),
        ("hold_steps", ctypes.c_uint32),
        ("fail_safe_action", ctypes.POINTER(ctypes.c_uint32)),
        ("model_sha256", ctypes.POINTER(ctypes.c_uint8)),
        ("contract_sha256", ctypes.POINTER(ctypes.c_uint8)),
        ("num_counters", ctypes.c_uint32),
        ("is_discrete", ctypes.c_uint32),
        ("action_low", ctypes.POINTER(ctypes.c_uint32)),
        ("action_high", ctypes.POINTER(ctypes.c_uint32)),
        ("parts", ctypes.c_void_p),
        ("num_parts", ctypes.c_uint32),
        ("mask_bytes", ctypes.c_uint32),
        ("memory_bytes", ctypes.c_uint32),
        ("is_stochastic", ctypes.c_uint32),
        ("num_values", ctypes.c_uint32),
    )
