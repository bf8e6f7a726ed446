"""A policy's contract as C: NAME_contract.h with its facts to read, NAME_contract.c with them as data."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgeqrl.files import sha256
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.parts import ObservationPart
from firmware_export.contract import (
    CONTRACT_FILE,
    MOST_FEATURES,
    ContractFacts,
    Feature,
    PolicyContract,
    feature_unit,
    part_features,
)
from firmware_export.emit.c_literals import c_bytes, c_comment, c_macro_parts, c_words
from firmware_export.emit.contract_numbers import (
    contract_action,
    contract_memory,
    contract_parts,
    contract_values,
    policy_actions,
)
from firmware_export.emit.params import plan_params
from firmware_export.emit.render import fill_template, ownership

_KINDS = {"value": "EQRL_FAIL_SAFE_VALUE", "hold": "EQRL_FAIL_SAFE_HOLD", "disable": "EQRL_FAIL_SAFE_DISABLE"}


def make_contract(policy: IntegerPolicy, tflite: bytes, facts: ContractFacts) -> PolicyContract:
    """Join what is known of the world with what the policy says; raise UsageError where they differ."""
    whole = replace(
        facts,
        features=facts.features or part_features(policy.parts),
        actions=facts.actions or policy_actions(policy),
    )
    parts, num_bytes = contract_parts(policy)
    return PolicyContract(
        name=policy.name,
        model_sha256=sha256(tflite) if tflite else None,
        params_contract=plan_params(policy).contract.hex(),
        observation_bytes=num_bytes,
        parts=parts,
        action=contract_action(policy, is_value=facts.is_value),
        facts=whole,
        memory=contract_memory(policy),
        values=contract_values(policy),
    )


def default_contract(policy: IntegerPolicy, tflite: bytes = b"") -> PolicyContract:
    """Return the contract of a policy of whose world nothing is known: it has no fail-safe."""
    return make_contract(policy, tflite, ContractFacts())


def contract_sources(contract: PolicyContract, *, licence_holder: str | None = None) -> dict[str, bytes]:
    """Return policy_contract.json, NAME_contract.h and NAME_contract.c: all that a contract changes."""
    name, fail_safe, action = contract.name, contract.fail_safe, contract.action
    action_words = b""
    if fail_safe is not None and fail_safe.kind == "value":
        action_words = np.array(fail_safe.action).astype("<i4" if action.is_integer else "<f4").tobytes()
    bounds = [_action_bits(contract, side) for side in ("low", "high")]
    parts = _parts(contract)
    values: dict[str, object] = {
        "name": name,
        "NAME": name.upper(),
        "ownership": ownership(licence_holder),
        "table": _table(contract),
        "num_features": len(contract.features),
        "control_period_us": _microseconds(contract.control_period_s),
        "timeout_us": _microseconds(contract.observation_timeout_s),
        "fail_safe": "EQRL_FAIL_SAFE_NONE" if fail_safe is None else _KINDS[fail_safe.kind],
        "hold_steps": 0 if fail_safe is None else fail_safe.hold_steps,
        "macros": _macros(contract),
        "num_inputs": sum(row.part.size for row in contract.parts),
        "low": c_words(_feature_bits(contract, "low")),
        "high": c_words(_feature_bits(contract, "high")),
        "is_discrete": int(action.is_integer),
        "action_low": c_words(bounds[0]),
        "action_high": c_words(bounds[1]),
        "has_memory": int(contract.memory is not None),
        "is_stochastic": int(action.is_sampled),
        "num_values": len(contract.values),
        "parts_array": _array("eqrl_contract_part", f"{name}_contract_parts", parts),
        "parts_pointer": f"{name}_contract_parts" if parts else "NULL",
        "num_parts": len(contract.parts) if parts else 0,
        "mask_bytes": 0 if action.mask is None else action.mask[1],
        "memory_bytes": 0 if contract.memory is None else contract.memory.num_bytes,
        "action_array": _array("uint32_t", f"{name}_contract_fail_safe", c_words(action_words)),
        "action_pointer": f"{name}_contract_fail_safe" if action_words else "NULL",
        "model_array": _array("uint8_t", f"{name}_contract_model", c_bytes(_hash(contract.model_sha256))),
        "model_pointer": "NULL" if contract.model_sha256 is None else f"{name}_contract_model",
        "contract_sha256": c_bytes(bytes.fromhex(contract.sha256)),
    }
    return {
        CONTRACT_FILE: contract.to_bytes(),
        f"{name}_contract.h": fill_template("contract.h.in", values),
        f"{name}_contract.c": fill_template("contract.c.in", values),
    }


def require_fits(contract: PolicyContract, policy: IntegerPolicy, tflite: bytes) -> PolicyContract:
    """Return `contract` if it is this policy's; a contract of another one is our fault."""
    own = make_contract(policy, tflite, contract.facts)
    if own != contract and (tflite or replace(own, model_sha256=contract.model_sha256) != contract):
        raise ValueError(f"the contract of '{contract.name}' is not that of policy '{policy.name}'")
    return contract


_ELEMENTS = {"float32": "EQRL_ELEMENT_F32", "int32": "EQRL_ELEMENT_I32", "uint8": "EQRL_ELEMENT_U8"}
_ENDS = {"float32": (-np.inf, np.inf), "int32": (-(2**31), 2**31 - 1), "uint8": (0, 255)}


def _parts(contract: PolicyContract) -> str:
    """Return the rows of the table of parts; none for one part of floats, which needs no table."""
    if [(row.part.source, row.at) for row in contract.parts] == [("float32", 0)]:
        return ""
    rows = (f"{_ELEMENTS[p.part.source]}, {p.at}u, {p.part.size}u, {p.num_features}u" for p in contract.parts)
    return "".join(f"    {{{row}}},\n" for row in rows)


def _feature_bits(contract: PolicyContract, side: str) -> bytes:
    pairs = zip(contract.parts, contract.features_of_parts, strict=True)
    return b"".join(_bits(features, side, row.part.source) for row, features in pairs)


def _action_bits(contract: PolicyContract, side: str) -> bytes:
    """Return the bounds of an action's words."""
    action, last = contract.action, len(contract.actions) - 1
    if action.is_discrete:
        return np.array([action.start + (last if side == "high" else 0)], "<i4").tobytes()
    return _bits(contract.actions, side, "int32" if action.is_integer else "float32")


def _bits(features: Sequence[Feature], side: str, dtype: str) -> bytes:
    """Return one side of the bounds as words; integers lie within those that are no integers."""
    low, high = _ENDS[dtype]
    found = [getattr(feature, side) for feature in features]
    values = np.array([(low if side == "low" else high) if v is None else v for v in found], np.float64)
    if dtype == "float32":
        return values.astype("<f4").tobytes()
    whole = np.ceil(values) if side == "low" else np.floor(values)
    return np.clip(whole, low, high).astype("<i8").astype("<i4").tobytes()


def _hash(hexadecimal: str | None) -> bytes:
    return b"" if hexadecimal is None else bytes.fromhex(hexadecimal)


def _array(c_type: str, name: str, rows: str) -> str:
    return f"static const {c_type} {name}[] = {{\n{rows}}};\n" if rows else ""


def _microseconds(seconds: float | None) -> int:
    return 0 if seconds is None else max(1, min(round(seconds * 1e6), 2**32 - 1))


def _table(contract: PolicyContract) -> str:
    """Return the comment that tells people everything; each line begins with ' * '."""
    facts, sources = contract.facts, contract.facts.sources

    def said(fact: str, text: str | None) -> str:
        source = f" ({sources[fact]})" if fact in sources else ""
        return "unknown" if text is None else f"{text}{source}"

    period, timeout = contract.control_period_s, contract.observation_timeout_s
    fail_safe = "none: a device never drives its outputs"
    if contract.fail_safe is not None:
        fail_safe = said("fail_safe", str(contract.fail_safe))
    lines = [
        f"Environment:     {facts.env_id or 'unknown'}",
        f"Control period:  {said('control_period_s', None if period is None else f'{period:g} s')}",
        f"Lost after:      {said('observation_timeout_s', None if timeout is None else f'{timeout:g} s')}",
        f"Fail-safe:       {fail_safe}",
    ]
    for row, features in zip(contract.parts, contract.features_of_parts, strict=True):
        lines += ["", _part_title(row.part, len(contract.parts) > 1), *_rows(features, 0)]
    if contract.action.mask is not None:
        at, count = contract.action.mask
        lines += ["", f"Action mask, {count} bytes at {at} of an observation: 1 where an action is allowed"]
    lines += [*_memory_lines(contract), "", *_action_lines(contract)]
    if contract.values:
        lines += ["", "Values beside the action:"]
        lines += _rows([Feature(v.name, v.unit, v.low, v.high) for v in contract.values], 0)
    return _comment(lines)


def _part_title(part: ObservationPart, is_named: bool) -> str:
    rows = {
        "element": "one row an element",
        "last axis": "rows of the last axis",
        "all": "rows for all elements",
    }
    name = f"Observation, {part.name}" if is_named else "Observation"
    dtype = "" if part.source == "float32" else f" {part.source}"
    return f"{name}, shape {list(part.shape)}{dtype}, {rows[feature_unit(part.shape)]}:"


def _memory_lines(contract: PolicyContract) -> list[str]:
    memory = contract.memory
    if memory is None:
        return []
    said = [f"Memory, {memory.num_bytes} bytes:"]
    if memory.frames is not None:
        frames = f"frames of {contract.parts[0].part.name}"
        said.append(f"  the last {memory.frames.num_frames} {frames}, which a reset forgets")
    said += [f"  {state.name}, shape {list(state.shape)}, which a reset clears" for state in memory.recurrent]
    said += ["  a generator, which a reset keeps: seed it to have the same draws"] if memory.is_seeded else []
    return ["", *said]


def _action_lines(contract: PolicyContract) -> list[str]:
    action = contract.action
    drawn = ", drawn" if action.is_sampled else ""
    if len(contract.actions) > MOST_FEATURES:
        return [f"Actions{drawn}: {len(contract.actions)}, in {CONTRACT_FILE}"]
    if action.is_discrete:
        rows = _rows(contract.actions, action.start, has_bounds=False)
        return [f"Action{drawn}, one of:", *rows]
    whole = ", whole numbers" if action.is_integer else ""
    title = "Value" if action.kind == "value" else "Action"
    return [f"{title}{drawn}, shape {list(action.shape)}{whole}:", *_rows(contract.actions, 0)]


def _comment(lines: Sequence[str]) -> str:
    # Padding is ours, words are strangers': every line is checked, word by word, where it is not blank.
    return "".join(f" * {_safe_line(line)}\n" if line else " *\n" for line in lines)


def _safe_line(line: str) -> str:
    """Return a line that is safe in a comment and keeps the columns of ours."""
    safe = c_comment(line)
    return line if " ".join(line.split()) == safe else safe


def _rows(features: Sequence[Feature], start: int, *, has_bounds: bool = True) -> list[str]:
    width = max(len(feature.name) for feature in features)
    rows = []
    for i, feature in enumerate(features):
        low, high = (f"{v:g}" if v is not None else "unbounded" for v in (feature.low, feature.high))
        bounds = f"  {low} to {high}" if has_bounds else ""
        bounds = "  unbounded" if bounds == "  unbounded to unbounded" else bounds
        rows.append(f"  {start + i:>3}  {feature.name:<{width}}  {feature.unit or '-'}{bounds}".rstrip())
    return rows


def _macros(contract: PolicyContract) -> str:
    """Return indices of features within their part, and the names of actions."""
    prefix, lines = contract.name.upper(), []
    for row, features in zip(contract.parts, contract.features_of_parts, strict=True):
        field = row.part.name.upper()
        for i, name in enumerate(c_macro_parts([feature.name for feature in features])):
            lines.append(f"#define {prefix}_{field}_{name} {i}u\n")
    if len(contract.actions) <= MOST_FEATURES:
        action = contract.action
        for i, name in enumerate(c_macro_parts([meaning.name for meaning in contract.actions])):
            value = f"({action.start + i})" if action.is_discrete else f"{i}u"
            lines.append(f"#define {prefix}_ACTION_{name} {value}\n")
    return "".join(lines)
