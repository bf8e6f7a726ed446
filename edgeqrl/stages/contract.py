"""The contract in a bundle: what is known when it begins, what options change, what firmware needs."""

from dataclasses import replace
from typing import Any

from edgeqrl.agents.heads import Head
from edgeqrl.bundle import Bundle
from edgeqrl.contract import contract_facts, override, require_fail_safe, require_parts
from edgeqrl.environments import MakeEnv
from edgeqrl.errors import DataError
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.stages.artefacts import (
    CONTRACT_SECTION,
    REPORT,
    TFLITE,
    read_head,
    read_preprocessing,
    read_report,
    write_report,
)
from edgeqrl.stages.settings import Settings
from firmware_export.contract import CONTRACT_FILE, ContractFacts, PolicyContract

_FACT = "contract"  # of the manifest
_CONTRACT = f"src/{CONTRACT_FILE}"


def add_contract_facts(bundle: Bundle, make_env: MakeEnv | None, head: Head, settings: Settings) -> None:
    """Keep what is known of the policy's world in the manifest."""
    parts = read_preprocessing(bundle).parts
    facts = contract_facts(make_env, settings.contract, parts=parts, head=head)
    bundle.facts[_FACT] = require_parts(facts, parts).to_json()


def read_contract_facts(bundle: Bundle) -> ContractFacts:
    """Return what the manifest knows; nothing, if it is of a version that did not ask."""
    if _FACT not in bundle.facts:
        return ContractFacts()
    try:
        return ContractFacts.from_json(bundle.facts[_FACT])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"The manifest of '{bundle}' states a damaged contract: {error!r}.") from error


def state_contract(bundle: Bundle, settings: Settings) -> ContractFacts:
    """Put what the options state over what the manifest knows."""
    facts = read_contract_facts(bundle)
    if settings.contract:
        facts = override(facts, settings.contract, read_head(bundle))
        bundle.facts[_FACT] = require_parts(facts, read_preprocessing(bundle).parts).to_json()
    return facts


def contract_for(bundle: Bundle, policy: IntegerPolicy, tflite: bytes, settings: Settings) -> PolicyContract:
    """Return the whole contract of the bundle's policy."""
    from firmware_export.emit import make_contract

    return make_contract(policy, tflite, state_contract(bundle, settings))


def require_actuating(bundle: Bundle, settings: Settings) -> PolicyContract:
    """Return the contract of the sources, as `apply_contract` does.

    Raises UsageError where it has no fail-safe: it is firmware that comes next.
    """
    contract = apply_contract(bundle, settings)
    require_fail_safe(contract.facts)
    return contract


def apply_contract(bundle: Bundle, settings: Settings) -> PolicyContract:
    """Return the contract that the sources carry, after the options have changed it."""
    from firmware_export.emit import contract_sources

    if not bundle.has(_CONTRACT):
        raise DataError(f"The sources of '{bundle}' have no {CONTRACT_FILE}. Run `edgeqrl export` again.")
    contract = PolicyContract.from_bytes(bundle.read(_CONTRACT), f"{bundle}/{_CONTRACT}")
    if settings.contract:
        facts = state_contract(bundle, settings)
        contract = replace(
            contract,
            facts=replace(
                facts,
                features=facts.features or contract.features,
                actions=facts.actions or contract.actions,
            ),
        )
        for path, data in contract_sources(contract).items():
            bundle.add(f"src/{path}", data, made_from=[TFLITE])
        report_contract(bundle, contract)
    return contract


def summary(contract: PolicyContract) -> dict[str, Any]:
    """Return what the report says of a contract."""
    sources = contract.facts.sources
    return {
        "sha256": contract.sha256,
        "control_period_s": contract.control_period_s,
        "control_period_source": sources.get("control_period_s"),
        "fail_safe": None if contract.fail_safe is None else str(contract.fail_safe),
        "fail_safe_source": sources.get("fail_safe"),
    }


def report_contract(bundle: Bundle, contract: PolicyContract) -> None:
    """Tell of the contract in the bundle's report, if it has one."""
    if bundle.has(REPORT):
        write_report(bundle, read_report(bundle) | {CONTRACT_SECTION: summary(contract)})
