"""The acting network of a Stable-Baselines3 policy in Keras, from its state dict and its description.

Every tensor of the acting part must be met: a network with one layer more than is known here is refused.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeqrl.agents.agent import StateSpec
from edgeqrl.agents.layer_list import is_channels_first, parse_layers, run_layers
from edgeqrl.agents.options import AgentOptions
from edgeqrl.agents.sb3_description import PolicyDescription
from edgeqrl.agents.tensorflow_runtime import import_keras
from edgeqrl.agents.torch_weights import (
    Flow,
    Weights,
    activation,
    concatenate,
    conv,
    flatten,
    image,
    linear,
    lstm_sizes,
    lstm_step,
    mlp,
)
from edgeqrl.errors import AgentError, UsageError
from edgeqrl.network.tflite_model import shown
from edgeqrl.preprocessing import Preprocessing

_NATURE_STRIDES = {0: 4, 2: 2, 4: 1}  # number in the Sequential -> stride


@dataclass(frozen=True, eq=False)
class PolicyNetwork:
    """A Keras model in normal form and what its outputs are."""

    model: Any
    num_outputs: int  # of the first output
    states: tuple[StateSpec, ...]
    log_std: tuple[float, ...] | None  # of a Gaussian policy whose deviations do not depend on the state
    has_log_std: bool  # as a second output


def build_network(
    weights: Weights,
    description: PolicyDescription,
    preprocessing: Preprocessing,
    images: Sequence[bool],
    options: AgentOptions,
) -> PolicyNetwork:
    """Build the model with the outputs that `options` wants: action, [log_std], [value], next states.

    images   one for each part: whether Stable-Baselines3 takes it as an image of bytes
    """
    return _Builder(weights, description, preprocessing, images, options).build()


class _Builder:
    def __init__(
        self,
        weights: Weights,
        description: PolicyDescription,
        preprocessing: Preprocessing,
        images: Sequence[bool],
        options: AgentOptions,
    ) -> None:
        keras = import_keras()
        self.weights = weights
        self.description = description
        self.parts = preprocessing.parts
        self.images = images
        self.options = options
        shapes = preprocessing.network_shapes
        self.inputs = [
            keras.Input(shape, name=part.name) for part, shape in zip(self.parts, shapes, strict=True)
        ]
        self.states: list[StateSpec] = []
        self.state_inputs: list[Any] = []
        self.next_states: list[Any] = []
        self.features_met: dict[str, Flow] = {}
        self.log_std: tuple[float, ...] | None = None
        self.log_std_output: Any = None

    def build(self) -> PolicyNetwork:
        kind = self.description.kind
        if self.options.wants_value and kind not in ("actor_critic", "recurrent"):
            raise UsageError(
                f"{self.weights.place} has no value network V(s): its critics judge actions. "
                "PPO, A2C, TRPO and their relatives have one. Leave out --outputs."
            )
        outputs = []
        if self.options.wants_policy:
            outputs.append(_ACTORS[kind](self))
            if self.log_std_output is not None:
                outputs.append(self.log_std_output)
        if self.options.wants_value:
            outputs.append(self.value())
        outputs += self.next_states
        inputs = [*self.inputs, *self.state_inputs]
        model = import_keras().Model(
            inputs if len(inputs) > 1 else inputs[0], outputs if len(outputs) > 1 else outputs[0]
        )
        return PolicyNetwork(
            model,
            int(outputs[0].shape[-1]),
            tuple(self.states),
            self.log_std,
            self.log_std_output is not None,
        )

    def q(self) -> Any:
        """Q-values of DQN."""
        return self.plain_mlp(self.features("q_net.features_extractor"), "q_net.q_net").tensor

    def quantile(self) -> Any:
        """Q-values of QR-DQN: the mean of the quantiles, which is linear, folded into the last layer."""
        features = self.features("quantile_net.features_extractor")
        prefix = "quantile_net.quantile_net"
        numbers = self.numbers(prefix)
        rows = len(self.weights.take(f"{prefix}.{numbers[-1]}.weight", 2))
        count = self.description.num_quantiles
        if rows % count:
            raise AgentError(
                f"{self.weights.place} has {rows} outputs, which are not {count} quantiles of each action. "
                "Save the agent again."
            )
        return self.plain_mlp(features, prefix, num_means=count).tensor

    def td3(self) -> Any:
        """The actor of TD3 and DDPG: an MLP that ends in tanh."""
        features = self.features("actor.features_extractor")
        return activation("tanh", self.plain_mlp(features, "actor.mu").tensor)

    def sac(self) -> Any:
        """The actor of SAC: the tanh of the mean, or mean and log standard deviation for draws."""
        flow = self.hidden(self.features("actor.features_extractor"), "actor.latent_pi")
        is_clipped = "actor.mu.0.weight" in self.weights  # gSDE puts a Hardtanh behind the mean
        mean = linear(flow, self.weights, "actor.mu.0" if is_clipped else "actor.mu").tensor
        self.weights.require_taken("actor.mu")
        if is_clipped:
            limit = self.description.clip_mean
            mean = import_keras().ops.clip(mean, -limit, limit)
        if not self.options.stochastic:
            return activation("tanh", mean)
        self.refuse_state_dependent_draws()
        self.log_std_output = linear(flow, self.weights, "actor.log_std").tensor
        return mean

    def actor_critic(self) -> Any:
        """The actor of PPO, A2C, TRPO and MaskablePPO."""
        return self.action_from(self.policy_features())

    def recurrent(self) -> Any:
        """The actor of RecurrentPPO."""
        return self.action_from(self.actor_memory())

    def value(self) -> Any:
        """The critic of the actor-critic kinds; may share the actor's extractor and LSTM."""
        if self.description.kind == "recurrent":
            if self.weights.under("lstm_critic"):
                flow = self.lstm(self.value_features(), "lstm_critic", "critic_")
            elif self.weights.under("critic"):
                flow = linear(self.value_features(), self.weights, "critic")
            else:
                flow = self.actor_memory()
        else:
            flow = self.value_features()
        return linear(self.mlp_extractor(flow, "value_net"), self.weights, "value_net").tensor

    def action_from(self, flow: Flow) -> Any:
        mean = linear(self.mlp_extractor(flow, "policy_net"), self.weights, "action_net").tensor
        is_gaussian = "log_std" in self.weights
        if self.options.stochastic and is_gaussian:
            self.refuse_state_dependent_draws()
            self.log_std = tuple(self.weights.take("log_std", 1).astype(np.float64).tolist())
            return mean
        return activation("tanh", mean) if self.description.is_squashed else mean

    def mlp_extractor(self, flow: Flow, name: str) -> Flow:
        if self.weights.under("mlp_extractor.shared_net"):  # before Stable-Baselines3 1.8
            flow = self.hidden(flow, "mlp_extractor.shared_net")
        return self.hidden(flow, f"mlp_extractor.{name}")

    def actor_memory(self) -> Flow:
        if "lstm" not in self.features_met:
            self.features_met["lstm"] = self.lstm(self.policy_features(), "lstm_actor", "")
        return self.features_met["lstm"]

    def lstm(self, flow: Flow, name: str, prefix: str) -> Flow:
        units, count = lstm_sizes(self.weights, name)
        for layer in range(count):
            specs = [StateSpec(f"{prefix}{kind}_{layer}", (units,)) for kind in ("hidden", "cell")]
            hidden, cell = (import_keras().Input(spec.shape, name=spec.name) for spec in specs)
            flow, following = lstm_step(flow, (hidden, cell), self.weights, name, layer)
            self.states += specs
            self.state_inputs += [hidden, cell]
            self.next_states += following
        self.weights.require_taken(name)
        return flow

    def policy_features(self) -> Flow:
        has_own = self.weights.under("pi_features_extractor")
        return self.features("pi_features_extractor" if has_own else "features_extractor")

    def value_features(self) -> Flow:
        """The critic's extractor, or the actor's where the two hold the same weights."""
        own = self.weights.under("vf_features_extractor")
        if not own:
            return self.features("features_extractor")
        if self.weights.are_equal("vf_features_extractor", "pi_features_extractor"):
            return self.policy_features()
        return self.features("vf_features_extractor")

    def features(self, prefix: str) -> Flow:
        """Apply the features extractor under `prefix`; a second time for the same one, share it."""
        if prefix not in self.features_met:
            self.features_met[prefix] = self.extract(prefix)
            self.weights.require_taken(prefix)
        return self.features_met[prefix]

    def extract(self, prefix: str) -> Flow:
        own = self.description.extractor
        if own is not None:
            if self.options.layers is None or len(self.parts) != 1:
                raise UsageError(
                    f"{self.weights.place} has a features extractor of its own, {shown(own)}. State its "
                    "layers in their order, such as --layers 'conv,relu,flatten,linear,relu'."
                )
            layers = parse_layers(self.options.layers)
            flow = run_layers(self.inputs[0], layers, self.weights, self.weights.layers_under(prefix))
            return flatten(flow, is_image=any(layer.name == "conv" for layer in layers))
        if self.options.layers is not None:
            raise UsageError(f"{self.weights.place} has an extractor that is known. Leave out --layers.")
        if len(self.parts) == 1:
            return self.extract_part(0, prefix)
        names = [f"{prefix}.extractors.{part.key}" for part in self.parts]
        return concatenate([self.extract_part(index, name) for index, name in enumerate(names)])

    def extract_part(self, index: int, prefix: str) -> Flow:
        tensor, is_image = self.inputs[index], self.images[index]
        shape = Flow(tensor).shape
        # Images of bytes whose channels are not first are turned by VecTransposeImage; others stay.
        comes_turned = is_image and int(np.argmin(shape)) != 0
        if not self.weights.under(f"{prefix}.cnn"):
            return flatten(Flow(tensor), is_image=comes_turned)
        channels = self.weights.take(f"{prefix}.cnn.0.weight", 4).shape[1]
        first = is_channels_first(shape, channels, default=not comes_turned)
        flow = image(tensor, is_channels_first=first)
        for number, stride in _NATURE_STRIDES.items():
            flow = conv(flow, self.weights, f"{prefix}.cnn.{number}", stride=stride)
            flow = Flow(activation("relu", flow.tensor))
        flow = linear(flatten(flow, is_image=True), self.weights, f"{prefix}.linear.0")
        return Flow(activation("relu", flow.tensor))

    def hidden(self, flow: Flow, prefix: str) -> Flow:
        """Apply Linear layers, all followed by the activation."""
        flow = mlp(flow, self.weights, prefix, self.numbers(prefix), self.description.activation)
        self.weights.require_taken(prefix)
        return flow

    def plain_mlp(self, flow: Flow, prefix: str, *, num_means: int = 1) -> Flow:
        """Apply Linear layers, all but the last followed by the activation."""
        *hidden, last = self.numbers(prefix)
        flow = mlp(flow, self.weights, prefix, hidden, self.description.activation)
        flow = linear(flow, self.weights, f"{prefix}.{last}", num_means=num_means)
        self.weights.require_taken(prefix)
        return flow

    def numbers(self, prefix: str) -> list[int]:
        """Return the numbers of the Linear layers in a Sequential: 0, 2, 4 ... with activations between."""
        names = [name.rpartition(".")[2] for name in self.weights.layers_under(prefix)]
        expected = [str(2 * i) for i in range(len(names))]
        may_be_empty = prefix.startswith(("mlp_extractor", "actor.latent_pi"))
        if names != expected or not (names or may_be_empty):
            found = shown(", ".join(names) or "of no kind")
            raise AgentError(
                f"{self.weights.place} has layers {found} under '{prefix}', "
                "and Stable-Baselines3's own networks have linear layers 0, 2, 4 and so on. Save the acting "
                "network alone, with torch.save(network.state_dict(), 'NAME.pt'), and state its layers with "
                "--layers."
            )
        return [int(name) for name in names]

    def refuse_state_dependent_draws(self) -> None:
        if self.description.has_sde:
            raise UsageError(
                f"{self.weights.place} explores with state-dependent noise (gSDE), which is not exported. "
                "Leave out --stochastic for its mean."
            )


_ACTORS: Mapping[str, Callable[[_Builder], Any]] = {
    "q": _Builder.q,
    "quantile": _Builder.quantile,
    "actor_critic": _Builder.actor_critic,
    "recurrent": _Builder.recurrent,
    "sac": _Builder.sac,
    "td3": _Builder.td3,
}
