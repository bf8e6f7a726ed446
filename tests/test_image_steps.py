"""Images become grey and smaller in integers: as in C, and nearly as Gymnasium's wrappers and OpenCV say."""

import json
from dataclasses import replace
from fractions import Fraction
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers as w
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeqrl.backends.host_c import HostCPolicy
from edgeqrl.backends.keras import KerasPolicy
from edgeqrl.backends.network_policy import NetworkPolicy
from edgeqrl.calibrate import calibrate
from edgeqrl.data import data_folder
from edgeqrl.errors import BoardFitError, UsageError
from edgeqrl.network.edges import ArgmaxEdge, ObservationEdge, quantize_observations
from edgeqrl.network.images import (
    Grayscale,
    ImageSteps,
    Reshape,
    Resize,
    convert_images,
    image_from_json,
    image_shape,
    image_to_json,
)
from edgeqrl.network.integer_policy import IntegerPolicy
from edgeqrl.network.ir import IntegerNetwork, Tensor
from edgeqrl.network.memory import FrameStack
from edgeqrl.network.parts import ObservationPart
from edgeqrl.network.reference import Reference
from edgeqrl.preprocessing import Preprocessing
from edgeqrl.quantize.quantize import quantize
from edgeqrl.rollout import rollout
from edgeqrl.sources import Source, open_source
from edgeqrl.stages.conversion import require_policy_fits
from edgeqrl.wrappers import absorb
from firmware_export.board import load_board
from firmware_export.contract import PolicyContract
from firmware_export.emit import export_sources
from firmware_export.emit.contract import default_contract
from firmware_export.emit.params import plan_params
from tests.c_whole_policies import random_dense, random_whole_policy
from tests.oracles import require_module

Bytes = NDArray[np.uint8]
# What OpenCV's floating point makes other than the exact mean: at most this part of the pixels, by 1.
UNLIKE = {
    ((96, 96), (84, 84)): 0.0,
    ((96, 96), (64, 64)): 0.0,
    ((96, 96), (48, 48)): 0.0,
    ((96, 96), (42, 42)): 0.0,
    ((96, 96), (24, 32)): 0.0,
    ((96, 96), (96, 48)): 0.0,
    ((210, 160), (84, 84)): 0.0005,
    ((210, 160), (110, 84)): 0.0005,
    ((224, 240), (84, 84)): 0.001,
    ((240, 256), (84, 84)): 0.003,
    ((64, 48), (17, 13)): 0.01,
    ((480, 640), (84, 84)): 0.01,
}


class Camera(gymnasium.Env[Any, Any]):
    """Shows noise and coarse blocks in turn; the reward depends on the action alone."""

    def __init__(self, shape: tuple[int, ...] = (30, 20, 3), length: int = 12) -> None:
        self.observation_space = gymnasium.spaces.Box(0, 255, shape, np.uint8)
        self.action_space = gymnasium.spaces.Discrete(3)
        self.length = length

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._picture(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._picture(), float(action), False, self.steps >= self.length, {}

    def _picture(self) -> Bytes:
        return picture(self.np_random, self.observation_space.shape or (), is_coarse=self.steps % 2 == 1)


def picture(rng: np.random.Generator, shape: tuple[int, ...], *, is_coarse: bool) -> Bytes:
    if not is_coarse:
        return rng.integers(0, 256, shape, dtype=np.uint8)
    blocks = rng.integers(0, 256, (-(-shape[0] // 8), -(-shape[1] // 8), *shape[2:]), dtype=np.uint8)
    whole = np.repeat(np.repeat(blocks, 8, axis=0), 8, axis=1)
    return np.asarray(whole[: shape[0], : shape[1]], np.uint8)


def exact_grey_colours() -> Bytes:
    """Return the colours whose exact grey is a whole number: where the last bit of a float decides."""
    red, green = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    blue = -(2125 * red + 7154 * green) * pow(721, -1, 10_000) % 10_000
    is_byte = blue < 256
    return np.asarray(np.stack([red[is_byte], green[is_byte], blue[is_byte]], axis=-1), np.uint8)


def gymnasium_grey(images: Bytes) -> Bytes:
    """Return what Gymnasium's wrapper makes of images [N, height, width, 3]."""
    wrapper = w.GrayscaleObservation(Camera(images.shape[1:]))
    return np.asarray(wrapper.func(images))


def require_grey(colours: Bytes) -> int:
    """Compare colours [N, 3] with the exact numbers; return how many Gymnasium makes one darker."""
    images = colours.reshape(1, 1, -1, 3)
    found = Grayscale().apply(images)
    np.testing.assert_array_equal(found, (images.astype(np.int64) @ [2125, 7154, 721]) // 10_000)
    darker = found.astype(int) - gymnasium_grey(images)
    assert set(np.unique(darker)) <= {0, 1}
    return int(darker.sum())


def test_63_of_the_1722_colours_that_are_exactly_grey_are_one_darker_in_gymnasium() -> None:
    colours = exact_grey_colours()
    assert (len(colours), require_grey(colours)) == (1722, 63)
    greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    assert require_grey(greys) == 8


def test_other_colours_are_grey_as_in_gymnasium() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (200_000, 3), dtype=np.uint8)
    is_exact = colours.astype(np.int64) @ [2125, 7154, 721] % 10_000 == 0
    assert require_grey(colours[~is_exact]) == 0


@pytest.mark.slow
def test_63_of_all_colours_are_one_darker_in_gymnasium() -> None:
    pairs = np.stack(np.meshgrid(np.arange(256), np.arange(256)), axis=-1)
    plane = pairs.reshape(-1, 2).astype(np.uint8)
    reds = (np.column_stack([np.full(len(plane), red, np.uint8), plane]) for red in range(256))
    assert sum(map(require_grey, reds)) == 63


def exact_mean(image: Bytes, height: int, width: int, *, is_half_up: bool) -> list[list[int]]:
    """Return the means over the areas of new pixels by rational numbers, from an image without channels."""
    rows = np.repeat(np.repeat(image.astype(np.int64), height, axis=0), width, axis=1)
    blocks = rows.reshape(height, image.shape[0], width, image.shape[1]).sum(axis=(1, 3))
    means = [[Fraction(int(total), image.size) for total in row] for row in blocks]
    if is_half_up:
        return [[int(mean + Fraction(1, 2)) for mean in row] for row in means]
    return [[round(mean) for mean in row] for row in means]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_resizing_is_the_exact_mean_of_the_area_and_halves_go_to_even(
    height: int, width: int, data: st.DataObject
) -> None:
    new = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    image = rng.choice(np.array([0, 1, 2, 3, 254, 255], np.uint8), (height, width))
    is_half_up = (height, width) == (2 * new[0], 2 * new[1])
    found = Resize(*new).apply(image[None])[0]
    assert found.tolist() == exact_mean(image, *new, is_half_up=is_half_up)


@pytest.mark.parametrize(("old", "new"), UNLIKE)
@pytest.mark.parametrize("channels", [(), (3,)])
def test_resizing_is_nearly_as_in_gymnasium(
    old: tuple[int, int], new: tuple[int, int], channels: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(sum(old) + sum(new))
    shape = (*old, *channels)
    images = np.stack([picture(rng, shape, is_coarse=i % 2 == 1) for i in range(6)])
    wrapper = w.ResizeObservation(Camera(shape), new)
    theirs = np.stack([np.asarray(wrapper.func(image)) for image in images])
    difference = convert_images(images, (Resize(*new),)).astype(int) - theirs
    assert np.abs(difference).max() <= 1
    assert (difference != 0).mean() <= UNLIKE[old, new]


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_halves_are_rounded_as_opencv_does_for_any_number_of_channels(channels: int) -> None:
    images = np.random.default_rng(4).integers(0, 256, (4, 20, 16, channels), dtype=np.uint8)
    for new in ((10, 8), (5, 4), (10, 4)):
        wrapper = w.ResizeObservation(Camera(images.shape[1:]), new)
        theirs = np.stack([np.asarray(wrapper.func(image)) for image in images])
        np.testing.assert_array_equal(convert_images(images, (Resize(*new),)), theirs)


# Steps and their faults.

FAULTS: dict[str, tuple[tuple[int, ...], ImageSteps]] = {
    "cannot be enlarged": ((8, 8, 3), (Resize(9, 4),)),
    "three channels": ((8, 8), (Grayscale(),)),
    "grey once": ((3, 3, 3), (Grayscale(), Reshape((3, 1, 3)), Grayscale())),
    "resized once": ((8, 8), (Resize(4, 4), Resize(2, 2))),
    "cannot have shape": ((8, 8), (Reshape((8, 9)),)),
    "only images are resized": ((8,), (Resize(2, 2),)),
    "made of pixels": ((6, 6), (Resize(6, 3), Reshape((2, 3, 3)), Grayscale())),
    "too few common divisors": ((4001, 4003), (Resize(3989, 3967),)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_steps_that_do_not_fit_are_refused(fault: str) -> None:
    shape, steps = FAULTS[fault]
    with pytest.raises(ValueError, match=fault):
        image_shape(shape, steps)
    with pytest.raises(ValueError, match=fault):
        ObservationEdge.of(shape, 0.1, 0, source="uint8", image=steps)
    with pytest.raises(ValueError, match=fault):
        ObservationPart("camera", shape, "uint8", image=steps)


def test_only_bytes_are_images() -> None:
    for make in (lambda: ObservationEdge.of((4, 4), 0.1, 0, image=(Resize(2, 2),)),
                 lambda: ObservationPart("camera", (4, 4), image=(Resize(2, 2),))):  # fmt: skip
        with pytest.raises(ValueError, match="uint8"):
            make()


def test_steps_are_kept_as_json() -> None:
    steps = (Resize(5, 4), Grayscale(keep_dim=True), Reshape((20,)))
    part = ObservationPart("camera", (10, 8, 3), "uint8", (1 / 255,), image=steps)
    preprocessing = Preprocessing((part,), FrameStack(2, 0))
    kept = json.loads(json.dumps(preprocessing.to_json()))
    assert Preprocessing.from_json(kept) == preprocessing
    del kept["parts"][0]["image"]
    assert Preprocessing.from_json(kept).parts[0].image == ()
    for broken in ({"kind": "blur"}, {"kind": "resize", "height": 3}, {"kind": "reshape", "shape": [-1]}, {}):
        with pytest.raises((KeyError, ValueError)):
            image_from_json([broken])
    assert image_from_json(image_to_json(steps)) == steps


def test_float_and_integer_policies_see_the_same_bytes() -> None:
    rng = np.random.default_rng(1)
    steps = (Grayscale(), Resize(7, 5))
    images = rng.integers(0, 256, (5, 21, 13, 3), dtype=np.uint8)
    part = ObservationPart("observation", (21, 13, 3), "uint8", (1 / 255,), image=steps)
    edge = ObservationEdge.of((21, 13, 3), 1 / 255, -128, source="uint8", gain=(1 / 255,), image=steps)
    assert part.network_shape == edge.part.network_shape == (7, 5)
    quantized, flags = quantize_observations(edge, images)
    np.testing.assert_array_equal(np.rint(part.values(images) * 255) - 128, quantized)
    assert not flags.any()
    for count in (0, 1, 130):
        many = np.repeat(images[:1], count, axis=0)
        assert part.values(many).shape == quantize_observations(edge, many)[0].shape == (count, 7, 5)


# Wrappers.


def grey_small_stack(env: Any) -> Any:
    return w.FrameStackObservation(w.ResizeObservation(w.GrayscaleObservation(env), (10, 10)), 3)


def small_grey_flat(env: Any) -> Any:
    grey = w.GrayscaleObservation(w.ResizeObservation(env, (15, 10)), keep_dim=True)
    return w.FlattenObservation(w.RescaleObservation(w.DtypeObservation(grey, np.float32), np.float32(0),
                                                     np.float32(1)))  # fmt: skip


def flat_between(env: Any) -> Any:
    grey = w.ReshapeObservation(w.GrayscaleObservation(env), (20, 30))
    return w.FlattenObservation(w.ResizeObservation(grey, (10, 10)))


WRAPPED = {"stack": grey_small_stack, "flat": small_grey_flat, "between": flat_between}


def require_same_inputs(make_env: Any, wrap: Any, *, steps: int, most: float) -> None:
    """Play both environments alike: at most this part of the network's inputs differ, by one byte."""
    wrapped, (raw, absorbed) = wrap(make_env()), absorb(wrap(make_env()))
    preprocessing = absorbed.preprocessing()
    assert preprocessing is not None
    assert raw.observation_space.dtype == np.uint8
    unit = 1.0 if wrapped.observation_space.dtype == np.uint8 else 1 / 255
    wrapped.action_space.seed(3)
    theirs, ours, memory = wrapped.reset(seed=5)[0], raw.reset(seed=5)[0], None
    unlike = []
    for _ in range(steps):
        inputs, memory = preprocessing.inputs(ours[None], memory)
        difference = np.abs(inputs[0][0].astype(np.float64) - theirs) / unit
        assert inputs[0].shape[1:] == theirs.shape
        assert difference.max() < 1.001
        unlike.append((difference > 0.001).mean())
        action = wrapped.action_space.sample()
        theirs, ours = wrapped.step(action)[0], raw.step(action)[0]
    wrapped.close()
    raw.close()
    assert np.mean(unlike) <= most


@pytest.mark.parametrize("name", WRAPPED)
def test_absorbed_images_are_those_of_the_wrapped_environment(name: str) -> None:
    require_same_inputs(Camera, WRAPPED[name], steps=10, most=0.001)


def car_racing() -> Any:
    return gymnasium.make("CarRacing-v3", continuous=False)


def test_cars_race_over_the_same_images() -> None:
    require_module("Box2D")

    def wrap(env: Any) -> Any:
        return w.FrameStackObservation(w.ResizeObservation(w.GrayscaleObservation(env), (48, 48)), 4)

    require_same_inputs(car_racing, wrap, steps=25, most=0.0005)


def test_pong_in_colours_becomes_what_gymnasium_makes_of_it() -> None:
    require_module("ale_py")
    import ale_py

    gymnasium.register_envs(ale_py)

    def wrap(env: Any) -> Any:
        return w.FrameStackObservation(w.ResizeObservation(w.GrayscaleObservation(env), (84, 84)), 4)

    require_same_inputs(lambda: gymnasium.make("ALE/Pong-v5"), wrap, steps=25, most=0.0005)


REFUSED = {
    "enlarged": lambda env: w.ResizeObservation(env, (31, 10)),
    "resized once": lambda env: w.ResizeObservation(w.ResizeObservation(env, (20, 10)), (5, 5)),
    "under frame stacks": lambda env: w.ResizeObservation(
        w.FrameStackObservation(w.GrayscaleObservation(env), 3), (2, 2)
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_images_that_a_board_does_not_make_are_refused_with_the_way_out(reason: str) -> None:
    with pytest.raises(UsageError, match=rf"Observation cannot go to the board: .*{reason}.*--keep-wrapper"):
        absorb(REFUSED[reason](Camera()))


def test_pixels_that_are_each_scaled_by_their_own_numbers_are_refused() -> None:
    frozen = w.NormalizeObservation(w.GrayscaleObservation(Camera((4, 4, 3))))
    frozen.obs_rms.mean, frozen.obs_rms.count = np.arange(16.0).reshape(4, 4), 1e4
    frozen.update_running_mean = False
    with pytest.raises(UsageError, match="numbers of their own"):
        absorb(frozen)


# The whole road.


def small_agent() -> Any:
    """Return a network on the stack of small grey images, whose actions depend on every pixel."""
    import keras

    keras.utils.set_random_seed(2)
    layers = [keras.Input((3, 10, 10)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten()]
    return keras.Sequential([*layers, keras.layers.Dense(12, "tanh"), keras.layers.Dense(3)])


def wrapped_camera() -> Any:
    return grey_small_stack(Camera())


def test_an_agent_of_small_grey_images_goes_the_whole_road_from_raw_images() -> None:
    model = small_agent()
    source = Source(model, wrapped_camera)
    agent, _ = open_source(source, None)
    assert source.make_env is not None
    assert source.make_env().observation_space.shape == (30, 20, 3)
    kept: Any = {"keep_actions": True}
    in_float = rollout(KerasPolicy(agent), source.make_env, range(6), **kept)
    calibration = calibrate(KerasPolicy(agent), source.make_env, env_id="Camera-v0", num_episodes=8)
    quantized = quantize(agent, calibration)
    policy = quantized.integer_policy()
    assert policy.observation.part.image == (Grayscale(), Resize(10, 10))
    assert policy.observation.part.network_shape == (10, 10)
    assert policy.memory_bytes == 8 + 300
    in_numpy = rollout(
        NetworkPolicy(Reference(policy.network), policy, "reference"), source.make_env, range(6), **kept
    )
    in_c = rollout(HostCPolicy(policy), source.make_env, range(6), **kept)
    for name in ("actions", "episode_returns"):
        for a, b in zip(getattr(in_numpy, name), getattr(in_c, name), strict=True):
            np.testing.assert_array_equal(a, b)
    assert in_float.actions is not None
    assert in_c.actions is not None
    alike = np.concatenate(in_float.actions) == np.concatenate(in_c.actions)
    assert alike.mean() > 0.8
    assert len(set(np.concatenate(in_c.actions).tolist())) > 1


def camera_policy(shape: tuple[int, ...], image: ImageSteps) -> IntegerPolicy:
    edge = ObservationEdge.of(shape, 1 / 255, -128, source="uint8", gain=(1 / 255,), image=image)
    pixels = Tensor("pixels", (edge.part.network_size,), edge.scale, edge.zero_point, "int8")
    logits = Tensor("logits", (2,), 0.1, 0, "int8")
    layer = random_dense(np.random.default_rng(1), pixels, logits)
    network = IntegerNetwork({"pixels": pixels, "logits": logits}, ("pixels",), ("logits",), (layer,))
    return IntegerPolicy("camera", edge, network, ArgmaxEdge(2, 0))


def test_raw_images_that_no_request_takes_are_refused_before_anything_is_built() -> None:
    board = load_board("rpi-pico", data_folder("boards"))
    steps = (Grayscale(), Resize(42, 42))
    require_policy_fits(camera_policy((96, 96, 3), steps), board)
    with pytest.raises(BoardFitError, match=r"100,800 bytes does not fit a request .*--keep-wrapper"):
        require_policy_fits(camera_policy((210, 160, 3), steps), board)
    with pytest.raises(BoardFitError, match="RAM"):
        require_policy_fits(camera_policy((420, 320, 3), steps), board)


def test_contract_says_what_becomes_of_the_image_and_exports_depend_on_it() -> None:
    rng = np.random.default_rng(3)
    policy = random_whole_policy(rng, "argmax", ("image",))
    contract = default_contract(policy)
    again = PolicyContract.from_bytes(contract.to_bytes(), "here")
    assert again == contract
    part = policy.observation.part
    assert again.parts[0].part.image == part.image
    assert again.to_json()["observation"]["parts"][0]["image"] == image_to_json(part.image)
    reshaped = replace(part, image=(*part.image, Reshape((part.network_size,))))
    flat = replace(policy.observation, part=reshaped)
    assert plan_params(replace(policy, observation=flat)).contract != plan_params(policy).contract
    exported = export_sources(policy, b"")
    assert "eqrl_image.c" in exported
    assert "eqrl_image.c" not in export_sources(random_whole_policy(rng, "argmax", ("bytes",)), b"")
