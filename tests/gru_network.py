"""One step of a GRU as a `.tflite`, like the converter's: two inputs, two outputs, branches that join."""

import numpy as np

from tests.tflite_writer import TFLiteWriter

_TABLE_OUTPUTS = {"LOGISTIC": (1 / 256, -128), "TANH": (1 / 128, 0)}


def gru_step(rng: np.random.Generator, *, num_features: int = 6, units: int = 8, actions: int = 3) -> bytes:
    """Return a network (observation, state) -> (action values, next state), int8."""
    writer = TFLiteWriter()

    def tensor(name: str, size: int, scale: float, zero_point: int) -> int:
        return writer.tensor(name, (1, size), scale=scale, zero_point=zero_point)

    def dense(source: int, columns: int, rows: int, source_scale: float, name: str) -> int:
        weight_scale = 0.02
        weights = rng.integers(-127, 128, (rows, columns), np.int8)
        bias = rng.integers(-3000, 3000, rows).astype(np.int32)
        operands = [
            source,
            writer.tensor(f"{name}/kernel", (rows, columns), scale=weight_scale, zero_point=0, data=weights),
            writer.tensor(
                f"{name}/bias", (rows,), "INT32", scale=source_scale * weight_scale, zero_point=0, data=bias
            ),
        ]
        result = tensor(f"gru/{name}/BiasAdd", rows, 0.04, 5)
        writer.operator("FULLY_CONNECTED", operands, [result], fused_activation="NONE")
        return result

    def pair(operator: str, a: int, b: int, name: str, scale: float, zero_point: int) -> int:
        result = tensor(f"gru/{name}", units, scale, zero_point)
        writer.operator(operator, [a, b], [result])
        return result

    def function(operator: str, source: int, name: str) -> int:
        result = tensor(f"gru/{name}", units, *_TABLE_OUTPUTS[operator])
        writer.operator(operator, [source], [result])
        return result

    def thirds(source: int, name: str) -> list[int]:
        axis = writer.tensor(f"{name}/axis", (), "INT32", data=np.array(1, np.int32))
        parts = [tensor(f"gru/{name}:{i}", units, 0.04, 5) for i in range(3)]
        writer.operator("SPLIT", [axis, source], parts, num_splits=3)
        return parts

    observation = tensor("observation", num_features, 0.03, -4)
    state = tensor("state", units, 1 / 128, 0)
    update_x, reset_x, candidate_x = thirds(dense(observation, num_features, 3 * units, 0.03, "x"), "split")
    update_h, reset_h, candidate_h = thirds(dense(state, units, 3 * units, 1 / 128, "h"), "split_1")
    update = function("LOGISTIC", pair("ADD", update_x, update_h, "add", 0.06, 2), "Sigmoid")
    reset = function("LOGISTIC", pair("ADD", reset_x, reset_h, "add_1", 0.06, -3), "Sigmoid_1")
    gated = pair("MUL", reset, candidate_h, "mul", 0.04, 1)
    candidate = function("TANH", pair("ADD", candidate_x, gated, "add_2", 0.06, 0), "Tanh")
    one = writer.tensor("one", (1, 1), scale=1 / 255, zero_point=-128, data=np.array([[127]], np.int8))
    rest = pair("SUB", one, update, "sub", 1 / 256, -128)
    kept, new = (
        pair("MUL", update, state, "mul_1", 1 / 128, 0),
        pair("MUL", rest, candidate, "mul_2", 1 / 128, 0),
    )
    next_state = pair("ADD", kept, new, "add_3", 1 / 128, 0)
    return writer.finish(
        [observation, state], [dense(next_state, units, actions, 1 / 128, "head"), next_state]
    )
