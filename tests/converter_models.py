"""Networks as people build them, through every door of the TFLite converter; one process makes all.

    python -m tests.converter_models OUT.pickle

OUT is a pickled dict: name -> the `.tflite` file, or why the converter refused. TensorFlow is needed here
and nowhere in the tests that read the files.
"""

import os
import pickle
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

Builder = Callable[[Any], bytes]  # from the module tensorflow

INT8, INT16, FLOAT32 = "INT8", "INT16", "FLOAT32"
TILE = 69  # its number in the schema


def image_net(tf: Any) -> Any:
    """A MinAtar-like convolutional net."""
    layers = tf.keras.layers
    x = tf.keras.Input((10, 10, 4))
    y = layers.Conv2D(8, 3, activation="relu")(x)
    y = layers.Dense(16, activation="relu")(layers.Flatten()(y))
    return tf.keras.Model(x, layers.Dense(6)(y))


def depthwise_net(tf: Any) -> Any:
    """Separable convolutions as in MobileNet, with relu6 and a global mean."""
    layers = tf.keras.layers
    x = tf.keras.Input((12, 12, 3))
    y = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x)
    y = layers.ReLU(6.0)(layers.BatchNormalization()(y))
    y = layers.DepthwiseConv2D(3, padding="same")(y)
    y = layers.ReLU(6.0)(y)
    y = layers.Conv2D(12, 1, activation="relu")(y)
    y = layers.MaxPooling2D(2)(y)
    y = layers.GlobalAveragePooling2D()(y)
    return tf.keras.Model(x, layers.Dense(4)(y))


def pools_net(tf: Any) -> Any:
    """Residual blocks, both poolings, padding and a concatenation."""
    layers = tf.keras.layers
    x = tf.keras.Input((8, 8, 3))
    y = layers.ZeroPadding2D(1)(x)
    y = layers.Conv2D(4, 3, activation="relu")(y)
    z = layers.Conv2D(4, 3, padding="same")(y)
    y = layers.ReLU()(layers.Add()([y, z]))
    y = layers.Concatenate()([layers.AveragePooling2D(2)(y), layers.MaxPooling2D(2)(y)])
    return tf.keras.Model(x, layers.Dense(3, activation="tanh")(layers.Flatten()(y)))


def dueling_net(tf: Any) -> Any:
    """A dueling head: value + advantage - mean(advantage)."""
    layers = tf.keras.layers
    x = tf.keras.Input((8,))
    y = layers.Dense(16, activation="relu")(x)
    advantage, value = layers.Dense(5)(y), layers.Dense(1)(y)
    mean = layers.Lambda(lambda a: tf.reduce_mean(a, axis=1, keepdims=True), output_shape=(1,))(advantage)
    return tf.keras.Model(x, layers.Add()([value, layers.Subtract()([advantage, mean])]))


def actor_critic_net(tf: Any) -> Any:
    """A softmax policy and a value."""
    layers = tf.keras.layers
    x = tf.keras.Input((6,))
    y = layers.Dense(16, activation="tanh")(x)
    return tf.keras.Model(x, [layers.Dense(4, activation="softmax")(y), layers.Dense(1)(y)])


def two_inputs_net(tf: Any) -> Any:
    """An image and a vector, joined."""
    layers = tf.keras.layers
    x, v = tf.keras.Input((6, 6, 2), name="image"), tf.keras.Input((3,), name="vector")
    y = layers.Flatten()(layers.Conv2D(4, 3, strides=2, activation="relu")(x))
    y = layers.Concatenate()([y, layers.Dense(4, activation="sigmoid")(v)])
    return tf.keras.Model([x, v], layers.Dense(3)(y))


def activations_net(tf: Any) -> Any:
    """A chain of activation functions."""
    layers = tf.keras.layers
    x = y = tf.keras.Input((8,))
    for name in ("relu6", "hard_swish", "swish", "leaky_relu", "tanh", "sigmoid"):
        y = layers.Dense(8, activation=name)(y)
    return tf.keras.Model(x, layers.Dense(2)(layers.PReLU()(y)))


def wide_activations_net(tf: Any) -> Any:
    """Those of which the converter has int16 kernels."""
    layers = tf.keras.layers
    x = y = tf.keras.Input((8,))
    for name in ("relu6", "swish", "leaky_relu", "tanh", "sigmoid"):
        y = layers.Dense(8, activation=name)(y)
    return tf.keras.Model(x, layers.Dense(2)(y))


def elu_net(tf: Any) -> Any:
    """ELU, which the converter leaves in float32."""
    layers = tf.keras.layers
    x = tf.keras.Input((8,))
    return tf.keras.Model(x, layers.Dense(2)(layers.Dense(8, activation="elu")(x)))


def gelu_net(tf: Any) -> Any:
    """GELU, which TFLite Micro lacks."""
    layers = tf.keras.layers
    x = tf.keras.Input((8,))
    return tf.keras.Model(x, layers.Dense(2)(layers.Dense(8, activation="gelu")(x)))


def layer_norm_net(tf: Any) -> Any:
    """LayerNormalization: mean, squared difference, rsqrt."""
    layers = tf.keras.layers
    x = tf.keras.Input((8,))
    y = layers.LayerNormalization()(layers.Dense(16)(x))
    return tf.keras.Model(x, layers.Dense(2)(layers.ReLU()(y)))


def gru_net(tf: Any) -> Any:
    """One step of a GRU; the state is an input and an output."""
    layers = tf.keras.layers
    x, h = tf.keras.Input((5,), name="observation"), tf.keras.Input((8,), name="state")
    y, state = layers.GRUCell(8)(x, [h])
    state = state[0] if isinstance(state, list | tuple) else state
    return tf.keras.Model([x, h], [layers.Dense(3)(y), state])


def lstm_net(tf: Any) -> Any:
    """One step of an LSTM; both states are inputs and outputs."""
    layers = tf.keras.layers
    x = tf.keras.Input((5,), name="observation")
    h, c = tf.keras.Input((8,), name="h"), tf.keras.Input((8,), name="c")
    y, (new_h, new_c) = layers.LSTMCell(8)(x, [h, c])
    return tf.keras.Model([x, h, c], [layers.Dense(3)(y), new_h, new_c])


def hand_lstm_net(tf: Any) -> Any:
    """The same by hand: one Dense, split, sigmoid, tanh, mul."""
    layers = tf.keras.layers
    x, h, c = (tf.keras.Input((n,), name=name) for name, n in (("x", 5), ("h", 8), ("c", 8)))
    gates = layers.Dense(32)(layers.Concatenate()([x, h]))
    i, f, g, o = (
        layers.Lambda(lambda t, k=k: t[:, 8 * k : 8 * k + 8], output_shape=(8,))(gates) for k in range(4)
    )
    sigmoid, tanh, mul = tf.keras.activations.sigmoid, tf.keras.activations.tanh, layers.Multiply()
    new_c = layers.Add()([mul([sigmoid(f), c]), mul([sigmoid(i), tanh(g)])])
    new_h = mul([sigmoid(o), tanh(new_c)])
    return tf.keras.Model([x, h, c], [layers.Dense(3)(new_h), new_h, new_c])


def unrolled_net(tf: Any) -> Any:
    """A GRU over three observations; its first state is a constant."""
    layers = tf.keras.layers
    x = tf.keras.Input((3, 4))
    return tf.keras.Model(x, layers.Dense(2)(layers.GRU(6, unroll=True)(x)))


def unrolled_lstm_net(tf: Any) -> Any:
    """An LSTM over three observations; the converter may leave its first SPLIT in float32."""
    layers = tf.keras.layers
    x = tf.keras.Input((3, 4))
    return tf.keras.Model(x, layers.Dense(2)(layers.LSTM(6, unroll=True)(x)))


def normalized_net(tf: Any) -> Any:
    """Group normalization, squeeze and excitation, a separable and a one-dimensional convolution."""
    layers = tf.keras.layers
    x = tf.keras.Input((8, 8, 4))
    y = layers.GroupNormalization(2)(layers.SeparableConv2D(4, 3, activation="relu")(x))
    gate = layers.Dense(4, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(y))
    y = layers.Reshape((4, 36))(layers.Cropping2D(1)(layers.ZeroPadding2D(1)(layers.Multiply()([y, gate]))))
    return tf.keras.Model(x, layers.GlobalMaxPooling1D()(layers.Conv1D(3, 2)(y)))


def transposed_net(tf: Any) -> Any:
    """A small decoder: transposed convolution, permutation."""
    layers = tf.keras.layers
    x = tf.keras.Input((4, 4, 3))
    y = layers.Conv2DTranspose(4, 3, strides=2, padding="same", activation="relu")(x)
    y = layers.Permute((3, 1, 2))(y)
    return tf.keras.Model(x, layers.Reshape((8, 32))(y))


def upsampled_net(tf: Any) -> Any:
    """Repetition by TILE; from Keras its sizes depend on the open batch."""
    layers = tf.keras.layers
    x = tf.keras.Input((4, 4, 3))
    y = layers.Permute((3, 1, 2))(layers.UpSampling2D(2)(layers.MaxPooling2D(2)(x)))
    return tf.keras.Model(x, layers.Reshape((3, 16))(y))


def converted(tf: Any, converter: Any, shapes: dict[str, tuple[int, ...]], **how: Any) -> bytes:
    """Quantize fully: how = dtype INT8 or INT16, edges float32, int8 or uint8, per_channel; or FLOAT32."""
    import numpy as np

    if how.get("dtype") == FLOAT32:
        return bytes(converter.convert())
    rng = np.random.default_rng(0)
    is_wide = how.get("dtype", INT8) == INT16

    def samples() -> Iterator[Any]:
        for _ in range(20):
            drawn = {
                name: rng.normal(0.0, 1.0, (1, *shape)).astype(np.float32) for name, shape in shapes.items()
            }
            yield list(drawn.values()) if how.get("by_position", False) else drawn

    lite = tf.lite
    converter.optimizations = [lite.Optimize.DEFAULT]
    converter.representative_dataset = samples
    wide = lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    converter.target_spec.supported_ops = [wide if is_wide else lite.OpsSet.TFLITE_BUILTINS_INT8]
    edge = how.get("edges", "int16" if is_wide else "int8")
    if edge != "float32":
        converter.inference_input_type = converter.inference_output_type = getattr(tf, edge)
    converter._experimental_disable_per_channel = not how.get("per_channel", True)
    return bytes(converter.convert())


def named_inputs(net: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a Keras model's inputs, without the batch."""
    return {x.name: tuple(x.shape[1:]) for x in net.inputs}


def from_function(build: Callable[[Any], Any], **how: Any) -> Builder:
    """Go by TFLiteConverter.from_concrete_functions, with the weights frozen and a batch of 1."""

    def make(tf: Any) -> bytes:
        from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

        tf.keras.utils.set_random_seed(0)
        net = build(tf)
        shapes = named_inputs(net)
        specs = [tf.TensorSpec((1, *shape), tf.float32, name=name) for name, shape in shapes.items()]
        function = tf.function(lambda *xs: net(list(xs) if len(xs) > 1 else xs[0]), autograph=False)
        frozen = convert_variables_to_constants_v2(function.get_concrete_function(*specs))
        converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
        return converted(tf, converter, shapes, by_position=True, **how)

    return make


def from_keras(build: Callable[[Any], Any], **how: Any) -> Builder:
    """Go by TFLiteConverter.from_keras_model: the batch is open."""

    def make(tf: Any) -> bytes:
        tf.keras.utils.set_random_seed(0)
        net = build(tf)
        return converted(tf, tf.lite.TFLiteConverter.from_keras_model(net), named_inputs(net), **how)

    return make


def from_saved(build: Callable[[Any], Any], **how: Any) -> Builder:
    """Go by a SavedModel on disk."""

    def make(tf: Any) -> bytes:
        tf.keras.utils.set_random_seed(0)
        net = build(tf)
        with tempfile.TemporaryDirectory() as folder:
            net.export(folder, verbose=False)
            return converted(tf, tf.lite.TFLiteConverter.from_saved_model(folder), named_inputs(net), **how)

    return make


def reshaping(tf: Any) -> bytes:
    """Reshape with -1 on an open batch: SHAPE, STRIDED_SLICE and PACK are left in the file."""
    weights = tf.constant([[0.5, -0.25, 0.125, 1.0]] * 3)

    def function(x: Any) -> Any:
        y = tf.reshape(tf.matmul(x, weights), (tf.shape(x)[0], 2, -1))
        z = tf.fill((tf.shape(x)[0], 2, 2), 0.25)
        return tf.reshape(tf.concat([y, z], axis=2), (tf.shape(x)[0], -1))

    spec = tf.TensorSpec((None, 3), tf.float32, name="x")
    made = tf.function(function, autograph=False).get_concrete_function(spec)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([made])
    return converted(tf, converter, {"x": (3,)}, by_position=True)


def with_older_tile(build: Builder) -> Builder:
    """Give TILE the version that the runtimes have: the converter writes one that none of them knows yet."""

    def make(tf: Any) -> bytes:
        from tensorflow.lite.tools import flatbuffer_utils

        model = flatbuffer_utils.convert_bytearray_to_object(bytearray(build(tf)))
        for code in model.operatorCodes:
            if code.builtinCode == TILE:
                code.version = 1
        return bytes(flatbuffer_utils.convert_object_to_bytearray(model))

    return make


BUILDERS: dict[str, Builder] = {
    "image": from_function(image_net),
    "image from Keras, float edges": from_keras(image_net, edges="float32"),
    "image per tensor": from_function(image_net, per_channel=False),
    "image 16x8": from_function(image_net, dtype=INT16),
    "depthwise from SavedModel, uint8 edges": from_saved(depthwise_net, edges="uint8"),
    "depthwise 16x8": from_function(depthwise_net, dtype=INT16),
    "pools": from_function(pools_net),
    "pools 16x8": from_function(pools_net, dtype=INT16),
    "dueling": from_function(dueling_net),
    "dueling open batch": from_keras(dueling_net),
    "dueling 16x8": from_function(dueling_net, dtype=INT16),
    "actor critic": from_keras(actor_critic_net),
    "actor critic, float edges": from_keras(actor_critic_net, edges="float32"),
    "actor critic 16x8, float edges": from_function(actor_critic_net, dtype=INT16, edges="float32"),
    "two inputs": from_keras(two_inputs_net),
    "two inputs, uint8 edges": from_function(two_inputs_net, edges="uint8"),
    "two inputs 16x8": from_function(two_inputs_net, dtype=INT16),
    "activations": from_function(activations_net),
    "activations 16x8": from_function(wide_activations_net, dtype=INT16),
    "elu": from_function(elu_net),
    "gelu": from_function(gelu_net),
    "layer norm": from_function(layer_norm_net),
    "GRU step": from_function(gru_net),
    "GRU step from Keras": from_keras(gru_net),
    "GRU step 16x8": from_function(gru_net, dtype=INT16),
    "LSTM step": from_function(lstm_net),
    "LSTM step from Keras": from_keras(lstm_net),
    "LSTM step 16x8": from_function(lstm_net, dtype=INT16),
    "GRU unrolled": from_keras(unrolled_net),
    "LSTM unrolled": from_function(unrolled_lstm_net),
    "normalized": from_function(normalized_net),
    "LSTM step by hand": from_function(hand_lstm_net),
    "transposed": from_function(transposed_net),
    "transposed from Keras": from_keras(transposed_net),
    "transposed 16x8": from_function(transposed_net, dtype=INT16),
    "upsampled": with_older_tile(from_function(upsampled_net)),
    "upsampled from Keras": with_older_tile(from_keras(upsampled_net)),
    "reshaping": reshaping,
}

# In float32, with the names of tensors that the int8 twin of `BUILDERS` has.
FLOAT_BUILDERS: dict[str, Builder] = {
    f"{name} float32": builder
    for name, builder in {
        "image": from_function(image_net, dtype=FLOAT32),
        "depthwise": from_function(depthwise_net, dtype=FLOAT32),
        "pools": from_function(pools_net, dtype=FLOAT32),
        "dueling": from_function(dueling_net, dtype=FLOAT32),
        "dueling open batch": from_keras(dueling_net, dtype=FLOAT32),
        "actor critic": from_function(actor_critic_net, dtype=FLOAT32),
        "two inputs": from_function(two_inputs_net, dtype=FLOAT32),
        "activations": from_function(activations_net, dtype=FLOAT32),
        "elu": from_function(elu_net, dtype=FLOAT32),
        "gelu": from_function(gelu_net, dtype=FLOAT32),
        "layer norm": from_function(layer_norm_net, dtype=FLOAT32),
        "GRU step": from_function(gru_net, dtype=FLOAT32),
        "LSTM step": from_function(lstm_net, dtype=FLOAT32),
        "GRU unrolled": from_function(unrolled_net, dtype=FLOAT32),
        "LSTM unrolled": from_function(unrolled_lstm_net, dtype=FLOAT32),
        "normalized": from_function(normalized_net, dtype=FLOAT32),
        "LSTM step by hand": from_function(hand_lstm_net, dtype=FLOAT32),
        "transposed": from_function(transposed_net, dtype=FLOAT32),
        "upsampled": with_older_tile(from_function(upsampled_net, dtype=FLOAT32)),
        "upsampled from Keras": with_older_tile(from_keras(upsampled_net, dtype=FLOAT32)),
    }.items()
}


def main(out: str) -> None:
    """Make the files."""
    import tensorflow as tf

    made: dict[str, bytes | str] = {}
    for name, builder in (BUILDERS | FLOAT_BUILDERS).items():
        try:
            made[name] = builder(tf)
        except Exception as error:  # the converter's, of any class
            made[name] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    Path(out).write_bytes(pickle.dumps(made))


if __name__ == "__main__":
    main(sys.argv[1])
    os._exit(0)  # tearing TensorFlow down takes long
