"""Agent + CalibrationSet -> QuantizedPolicy: the stage that makes a policy integer."""

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeqrl.calibrate import CalibrationSet
from edgeqrl.network.read_tflite import read_tflite
from edgeqrl.quantize.frozen import freeze
from edgeqrl.quantize.integer import Task, make_integer
from edgeqrl.quantize.learned import Learning, Told, learn, told_nobody
from edgeqrl.quantize.policy import QuantizedPolicy
from edgeqrl.quantize.rewrites import rewrite
from edgeqrl.quantize.samples import network_samples
from edgeqrl.quantize.scheme import Scheme
from edgeqrl.quantize.tflite import Converter
from edgeqrl.quantize.trained import is_fake_quantized, quantize_trained

if TYPE_CHECKING:
    from edgeqrl.agents.agent import Agent

__all__ = ["QuantizedPolicy", "quantize"]


def quantize(
    agent: "Agent",
    calibration: CalibrationSet,
    *,
    scheme: Scheme | None = None,
    converter: Converter | None = None,
    learning: Learning | None = None,
    progress: Told = told_nobody,
) -> QuantizedPolicy:
    """Quantize an agent on its calibration set; the agent's model is only read.

    scheme     what to do; by default all that is known to help, or what the agent was trained as
    converter  a running one, which saves the seconds of its start
    learning   where and how long a learned scheme learns; by default on the calibration set alone
    progress   called with (steps done, steps in all) while it learns

    Raises UnsupportedOperatorError, naming operator and layer, where anything is left that the integer
    engine cannot reproduce, and ConverterError where TensorFlow fails.
    """
    chosen = Scheme() if scheme is None else scheme
    samples = network_samples(agent, calibration)
    is_trained = is_fake_quantized(agent)
    # Started before freezing: both take a while, in two processes.
    with nullcontext(converter) if converter is not None else Converter() as running:
        if is_trained:
            made = quantize_trained(agent, scheme, samples, running)
        else:
            graph, applied = rewrite(freeze(agent), agent.head, chosen.rewrites)
            exact = running.to_float(graph)
            task = Task(exact, samples, agent.preprocessing, len(agent.states))
            made = make_integer(task, chosen, running)
            made = replace(made, applied_rewrites=(*applied, *made.applied_rewrites))
    read_tflite(made.tflite)  # refuses what stayed float before anything is built on it
    policy = QuantizedPolicy(
        tflite=made.tflite,
        float_tflite=made.float_tflite,
        head=agent.head,
        scheme=made.scheme,
        preprocessing=made.preprocessing,
        name=agent.name,
        calibration_sha256=calibration.sha256,
        agent_sha256=agent.source_sha256,
        applied_rewrites=made.applied_rewrites,
        states=tuple(agent.states),
        value_names=tuple(agent.value_names),
        input_gains=made.input_gains,
    )
    if not chosen.learned or is_trained:
        return policy
    return learn(policy, made.samples, learning or Learning(), progress=progress)
