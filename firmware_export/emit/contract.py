"""A policy's contract as C: NAME_contract.h with its facts to read, NAME_contract.c with them as data."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgeqrl.files import sha256
from edgeqrl.network.edges import AffineEdge, ArgmaxEdge
from edgeqrl.network.integer_policy import IntegerPolicy, num_outputs
from firmware_export.contract import (
    CONTRACT_FILE,
    MOST_FEATURES,
    ContractFacts,
    Feature,
    PolicyContract,
    default_features,
    float32,
)
from firmware_export.emit.c_literals import c_bytes, c_comment, c_macro_parts, c_words
from firmware_export.emit.params import plan_params
from firmware_export.emit.render import fill_template, ownership

_KINDS = {"value": "EQRL_FAIL_SAFE_VALUE", "hold": "EQRL_FAIL_SAFE_HOLD", "disable": "EQRL_FAIL_SAFE_DISABLE"}


def make_contract(policy: IntegerPolicy, tflite: bytes, facts: ContractFacts) -> PolicyContract:
    """Join what is known of the world with what the policy says; raise UsageError where they differ."""
    action = policy.action
    is_continuous = isinstance(action, AffineEdge)
    whole = replace(
        facts,
        features=facts.features or default_features(policy.observation.shape),
        actions=facts.actions or _default_actions(policy),
    )
    return PolicyContract(
        name=policy.name,
        model_sha256=sha256(tflite) if tflite else None,
        params_contract=plan_params(policy).contract.hex(),
        observation_shape=tuple(int(n) for n in policy.observation.shape),
        scale=float(policy.observation.scale),
        zero_point=int(policy.observation.zero_point),
        network_dtype=policy.observation.dtype,
        is_masked=isinstance(action, ArgmaxEdge) and action.is_masked,
        action_kind="continuous" if is_continuous else "discrete",
        action_shape=tuple(int(n) for n in action.shape) if isinstance(action, AffineEdge) else (),
        action_start=action.start if isinstance(action, ArgmaxEdge) else 0,
        facts=whole,
    )


def default_contract(policy: IntegerPolicy, tflite: bytes = b"") -> PolicyContract:
    """Return the contract of a policy of whose world nothing is known: it has no fail-safe."""
    return make_contract(policy, tflite, ContractFacts())


def contract_sources(contract: PolicyContract, *, licence_holder: str | None = None) -> dict[str, bytes]:
    """Return policy_contract.json, NAME_contract.h and NAME_contract.c: all that a contract changes."""
    name, fail_safe = contract.name, contract.fail_safe
    is_discrete = contract.action_kind == "discrete"
    action_words = b""
    if fail_safe is not None and fail_safe.kind == "value":
        action_words = np.array(fail_safe.action).astype("<i4" if is_discrete else "<f4").tobytes()
    first, last = (np.array([contract.action_start + i], "<i4") for i in (0, len(contract.actions) - 1))
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
        "low": c_words(_bits(contract.features, "low")),
        "high": c_words(_bits(contract.features, "high")),
        "is_discrete": int(is_discrete),
        "action_low": c_words(first.tobytes() if is_discrete else _bits(contract.actions, "low")),
        "action_high": c_words(last.tobytes() if is_discrete else _bits(contract.actions, "high")),
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


def _default_actions(policy: IntegerPolicy) -> tuple[Feature, ...]:
    names = [f"action_{i}" for i in range(num_outputs(policy.action))]
    if not isinstance(policy.action, AffineEdge):
        return tuple(map(Feature, names))
    edge = policy.action
    rows = zip(names, edge.low, edge.high, edge.fraction_bits, strict=True)
    return tuple(Feature(name, None, _bound(low, bits), _bound(high, bits)) for name, low, high, bits in rows)


def _bound(fixed: int, fraction_bits: int) -> float | None:
    """Return a bound of the affine edge; None for the ends of int32, which stand for no bound."""
    if abs(fixed) >= 2**31 - 1:
        return None
    return float32(float(np.ldexp(float(fixed), -fraction_bits)))


def _bits(features: Sequence[Feature], side: str) -> bytes:
    unbounded = {"low": -np.inf, "high": np.inf}[side]
    values = [getattr(feature, side) for feature in features]
    return np.array([unbounded if v is None else v for v in values], "<f4").tobytes()


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
        "",
        f"Observation, shape {list(contract.observation_shape)}, one row an element:",
    ]
    if contract.per != "element":
        what = "of the last axis" if contract.per == "last axis" else "for all elements"
        lines[-1] = f"Observation, shape {list(contract.observation_shape)}, rows {what}:"
    lines += _rows(contract.features, 0)
    is_discrete = contract.action_kind == "discrete"
    if len(contract.actions) > MOST_FEATURES:
        return _comment([*lines, "", f"Actions: {len(contract.actions)}, in {CONTRACT_FILE}"])
    lines += ["", "Action, one of:" if is_discrete else f"Action, shape {list(contract.action_shape)}:"]
    lines += _rows(contract.actions, contract.action_start if is_discrete else 0, has_bounds=not is_discrete)
    return _comment(lines)


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
    prefix = contract.name.upper()
    lines = [
        f"#define {prefix}_OBSERVATION_{part} {i}u\n"
        for i, part in enumerate(c_macro_parts([feature.name for feature in contract.features]))
    ]
    if len(contract.actions) <= MOST_FEATURES:
        is_discrete = contract.action_kind == "discrete"
        for i, part in enumerate(c_macro_parts([action.name for action in contract.actions])):
            value = f"({contract.action_start + i})" if is_discrete else f"{i}u"
            lines.append(f"#define {prefix}_ACTION_{part} {value}\n")
    return "".join(lines)
