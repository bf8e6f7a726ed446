"""Hostile files: whatever is in one, reading it ends soon, in little memory, and at worst in our errors."""

import random
import resource
import time
from collections import Counter
from typing import Any

import numpy as np
import pytest

from edgeqrl.errors import DataError, UnsupportedOperatorError
from edgeqrl.network.read_tflite import parse_tflite, read_tflite
from tests.test_operators_movement import MAKERS, case
from tests.tflite_writer import ENUMS, OPTIONS, TFLiteWriter, random_dense_tflite

MOST_SECONDS = 2.0  # for one file of about a kilobyte
MOST_GROWTH = 200 * 2**20  # bytes of memory, all files together

_SHAPES = [
    (1, 4),
    (1, 2, 2, 3),
    (1, 4, 4, 2),
    (1,),
    (),
    (1, 1),
    (2, 3),
    (3, 1, 1, 2),
    (1, 3, 4),
    (4,),
    (3, 4),
]
_LYING_SHAPES = [(1, 0), (1, 2**31 - 1), (1, 46340, 46340), (2**30, 1, 1, 1), (1,) * 8, (1, 2**15, 2**15, 1)]
_DTYPES = ["INT8"] * 12 + ["INT16"] * 4 + ["INT32", "FLOAT32", "UINT8", "INT64", "INT4", "BOOL"]
_NUMBERS = [0, 1, 2, 3, -1, 4, 127, -128, 2**31 - 1, -(2**31), 2**30]
_SCALES = [0.1, 0.5, 1 / 256, 1 / 128, 1.0, 1e-30, 1e30, 0.0, -1.0, float("nan"), float("inf")]
_WORDS = [0, 1, 2, 4, 8, 0x7F, 0xFF, 0xFFFF, 0x7FFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFC]
_RANKED = [0.5, 0.7, 0.85, 0.95]  # cumulated shares of the kinds of damage


def random_tensor(writer: TFLiteWriter, rng: random.Random, *, is_constant: bool) -> int:
    """Add a tensor, mostly sound, sometimes a lie."""
    dtype = rng.choice(["INT32", "INT32", "INT8", "INT64", "INT16"]) if is_constant else rng.choice(_DTYPES)
    shape = rng.choice(_LYING_SHAPES) if rng.random() < 0.05 else rng.choice(_SHAPES)
    count = 1 if rng.random() < 0.9 else rng.choice([0, 2, 3, 4])
    data = None
    if is_constant:
        elements = int(np.prod(shape, dtype=object))
        if elements > 64 or rng.random() < 0.05:
            elements = rng.randrange(8)
        kind = {"INT4": "int8"}.get(dtype, dtype.lower())
        values = [rng.choice(_NUMBERS[:6] if rng.random() < 0.9 else _NUMBERS) for _ in range(elements)]
        data = np.array(values, np.int64).astype(kind)
    return writer.tensor(
        rng.choice(["x", "y", "", "a/b"]),
        shape,
        dtype,
        data=data,
        scale=[rng.choice(_SCALES[:3] if rng.random() < 0.9 else _SCALES) for _ in range(count)],
        zero_point=[rng.choice([0, 0, 3, -128, 200]) for _ in range(count)],
        axis=rng.choice([0, 0, 3, 9]),
        is_variable=rng.random() < 0.01,
        shape_signature=None if rng.random() < 0.8 else [rng.choice([-1, n]) for n in shape],
    )


def random_option(kind: str, rng: random.Random) -> Any:
    """Draw a value of one option."""
    if kind in ENUMS:
        return rng.choice(sorted(ENUMS[kind]))
    if kind == "ints":
        return [rng.choice(_NUMBERS) for _ in range(rng.randrange(6))]
    if kind == "string":
        return "state"
    number = rng.choice(_NUMBERS[:4] if rng.random() < 0.8 else _NUMBERS)
    return {"bool": bool(number & 1), "float32": rng.choice(_SCALES), "int8": number & 1}.get(kind, number)


def random_file(rng: random.Random) -> bytes:
    """Write a small graph of random operators: wrong counts of operands, lying shapes and options."""
    writer = TFLiteWriter()
    activations = [random_tensor(writer, rng, is_constant=False) for _ in range(rng.randrange(1, 4))]
    inputs = list(activations)
    for _ in range(rng.randrange(1, 4)):
        name = rng.choice(sorted(OPTIONS))
        operands = [
            rng.choice(activations)
            if i == 0 or rng.random() < 0.3
            else random_tensor(writer, rng, is_constant=rng.random() < 0.9)
            for i in range(rng.choice([1, 2, 2, 3, 3, 4, 0]))
        ]
        if rng.random() < 0.05:
            operands.append(-1)
        results = [random_tensor(writer, rng, is_constant=False) for _ in range(rng.choice([1, 1, 1, 2, 0]))]
        options = {key: random_option(kind, rng) for key, (_, kind) in OPTIONS[name][1].items()}
        writer.operator(name, operands, results, **options)
        if rng.random() < 0.03:
            writer.operator(name, operands, results, **options)  # a second time
        activations += results
    return writer.finish(inputs, [rng.choice(activations) for _ in range(rng.randrange(1, 3))])


def sound_file(rng: random.Random) -> bytes:
    """Write a small network that can be read: dense, or one operator that moves values."""
    numpy_rng = np.random.default_rng(rng.randrange(2**32))
    if rng.random() < 0.3:
        activations = [rng.choice(["TANH", "LOGISTIC", "RELU", "NONE"])]
        return random_dense_tflite(numpy_rng, [2, 2], activations, rng.random() < 0.5)
    return case(rng.choice(sorted(MAKERS)), rng.choice(["INT8", "INT16"]), numpy_rng)[0]


def damaged(tflite: bytes, rng: random.Random) -> bytes:
    """Return the file cut, or with bytes, numbers or offsets changed."""
    changed = bytearray(tflite)
    kind = rng.random()
    if kind >= _RANKED[3]:
        return bytes(changed[: rng.randrange(len(changed))])
    for _ in range(rng.randrange(1, 4)):
        place = rng.randrange(2, len(changed) // 4) * 4
        if kind < _RANKED[0]:  # a number
            changed[place : place + 4] = rng.choice(_WORDS).to_bytes(4, "little")
        elif kind < _RANKED[1]:  # an offset to somewhere else
            target = rng.randrange(0, len(changed), 4)
            changed[place : place + 4] = ((target - place) & 0xFFFFFFFF).to_bytes(4, "little")
        elif kind < _RANKED[2]:  # half a word, as in a vtable
            half = place + 2 * rng.randrange(2)
            changed[half : half + 2] = rng.choice([0, 2, 4, 6, 8, 12, 0xFFFF]).to_bytes(2, "little")
        else:
            changed[rng.randrange(8, len(changed))] = rng.randrange(256)
    return bytes(changed)


def outcome(tflite: bytes) -> str:
    """Read a file and say how that ended; anything but our errors is raised."""
    start = time.process_time()
    try:
        read_tflite(tflite)
        result, message = "read", ""
    except (DataError, UnsupportedOperatorError) as error:
        result, message = type(error).__name__, str(error)
    assert "\n" not in message
    assert len(message) < 1000
    assert time.process_time() - start < MOST_SECONDS
    return result


def attack(count: int, seed: int) -> Counter[str]:
    """Read `count` files: one of 32 is a new graph, the others are that one damaged."""
    rng = random.Random(seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes: Counter[str] = Counter()
    current = b""
    for i in range(count):
        if i % 32 == 0:
            current = random_file(rng) if i % 64 else sound_file(rng)
            tried = current
        else:
            tried = damaged(current, rng)
        try:
            outcomes[outcome(tried)] += 1
        except Exception as error:
            raise AssertionError(f"case {i} of seed {seed}: {tried.hex()}") from error
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < MOST_GROWTH
    return outcomes


def test_hostile_files_end_in_our_errors() -> None:
    outcomes = attack(20_000, seed=1)
    assert sum(outcomes.values()) == 20_000
    assert min(outcomes.values()) > 100, outcomes  # all three ends are met


@pytest.mark.slow
def test_a_million_hostile_files_end_in_our_errors() -> None:
    assert sum(attack(1_000_000, seed=2).values()) == 10**6


def test_random_graphs_end_in_our_errors() -> None:
    rng = random.Random(3)
    outcomes = Counter(outcome(random_file(rng)) for _ in range(1000))
    assert outcomes["UnsupportedOperatorError"] > 300, outcomes


def test_a_table_that_contains_itself_is_refused() -> None:
    sound = random_dense_tflite(np.random.default_rng(0), [2, 2], ["NONE"])
    for place in range(8, len(sound) - 4, 4):
        for target in (0, 4, place + 4, place + 8):
            looped = bytearray(sound)
            looped[place : place + 4] = ((target - place) & 0xFFFFFFFF).to_bytes(4, "little")
            outcome(bytes(looped))


def test_a_small_file_that_stands_for_a_huge_one_is_refused() -> None:
    """Twenty thousand operators that are one and the same table, of four thousand operands each."""
    writer = TFLiteWriter()
    tensor = writer.tensor("x", (1, 4), scale=0.1, zero_point=0)
    writer.operator("CONCATENATION", [tensor] * 4000, [tensor])
    sound = writer.finish([tensor], [tensor])
    table = _first_operator(sound)
    count = 20_000
    vector = len(sound) + (-len(sound)) % 4
    places = range(vector + 4, vector + 4 + 4 * count, 4)
    # Offsets point forward only, so the shared operator is a copy of the file behind the vector.
    shift = places.stop - vector + vector
    copy = sound
    offsets = b"".join((shift + table - place).to_bytes(4, "little") for place in places)
    bomb = bytearray(sound.ljust(vector, b"\0") + count.to_bytes(4, "little") + offsets + copy)
    slot = _operators_slot(sound)
    bomb[slot : slot + 4] = (vector - slot).to_bytes(4, "little")
    with pytest.raises(DataError, match="over and over"):
        parse_tflite(bytes(bomb))


def _int(data: bytes, place: int, size: int = 4, *, is_signed: bool = False) -> int:
    return int.from_bytes(data[place : place + size], "little", signed=is_signed)


def _field(data: bytes, table: int, slot: int) -> int:
    vtable = table - _int(data, table, is_signed=True)
    return table + _int(data, vtable + 4 + 2 * slot, 2)


def _operators_slot(data: bytes) -> int:
    """Return where the offset to the first graph's operators lies."""
    graphs = _field(data, _int(data, 0), 2)
    vector = graphs + _int(data, graphs)
    return _field(data, vector + 4 + _int(data, vector + 4), 3)


def _first_operator(data: bytes) -> int:
    slot = _operators_slot(data)
    vector = slot + _int(data, slot)
    return vector + 4 + _int(data, vector + 4)
