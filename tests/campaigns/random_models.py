"""Random Keras models: a few small layers put together in ways that users do. A model is a function of its generator.

A model has one or two inputs (features, an image, a sequence of numbers or of ids). Each goes through a trunk of blocks
of its own kind, which ends in features; the trunks are merged, and one to three heads give the outputs.
"""

import keras
import numpy as np
from keras import layers, ops

BATCH = 4
# Few sizes: what a backend compiles for an operation serves many models.
WIDTHS = (4, 8)
VOCABULARY, LENGTH, IMAGE = 11, 3, (5, 5, 4)
KINDS = ("features", "image", "sequence", "ids")
SHAPES = {"features": (8,), "image": IMAGE, "sequence": (LENGTH, 4), "ids": (LENGTH,)}
ACTIVATIONS = (None, "relu", "tanh", "gelu")


@keras.saving.register_keras_serializable("campaigns")
class Gated(layers.Layer):
    """A layer of the user's own that makes its sublayers itself: a Dense gated by another."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.value, self.gate = layers.Dense(units, name="value"), layers.Dense(units, "sigmoid", name="gate")

    def build(self, input_shape):
        self.value.build(input_shape)
        self.gate.build(input_shape)

    def call(self, inputs):
        return self.value(inputs) * self.gate(inputs)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("campaigns")
class Subclassed(keras.Model):
    """A subclassed model around a functional one, with a layer of its own before each output."""

    def __init__(self, inner, outputs, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner
        self.outputs_number = outputs
        self.last = [layers.Dense(3, name=f"last{index}") for index in range(outputs)]

    def build(self, input_shape=None):
        for layer, output in zip(self.last, self.inner.outputs, strict=True):
            layer.build(output.shape)

    def call(self, inputs):
        found = self.inner(inputs)
        found = found if isinstance(found, (list, tuple)) else [found]
        found = [layer(x) for layer, x in zip(self.last, found, strict=True)]
        return found if len(found) > 1 else found[0]

    def get_config(self):
        inner = keras.saving.serialize_keras_object(self.inner)
        return {**super().get_config(), "inner": inner, "outputs": self.outputs_number}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "inner": keras.saving.deserialize_keras_object(config["inner"])})


class Draw:
    """Draws models from a `numpy.random.Generator`."""

    def __init__(self, rng):
        self.rng = rng

    def one(self, options):
        return options[self.rng.integers(len(options))]

    def yes(self, probability=0.5):
        return self.rng.random() < probability

    def dense(self, **options):
        return layers.Dense(self.one(WIDTHS), self.one(ACTIVATIONS), use_bias=self.yes(0.8), **options)

    # Blocks: functions of a tensor, by the kind of tensor that they take and return.

    def features(self, x):
        size = x.shape[-1]
        block = self.one(("dense", "branches", "residual", "shared", "nested", "nested twice", "einsum", "own", "norm"))
        if block == "branches":
            return layers.Concatenate()([self.dense()(x), self.dense()(x)])
        if block == "residual":
            return layers.Add()([x, layers.Dense(size)(self.dense()(x))])
        if block == "shared":
            layer = layers.Dense(size, "tanh")
            return layer(layer(x))
        if block == "nested":
            return keras.Sequential([self.dense(), layers.Dropout(0.2), self.dense()])(x)
        if block == "nested twice":
            inputs = keras.Input((size,))
            inner = keras.Model(inputs, layers.Add()([layers.Dense(size, "relu")(inputs), inputs]))
            return inner(inner(x))
        if block == "einsum":
            return layers.EinsumDense("ab,bcd->acd", (2, self.one(WIDTHS)), bias_axes="d")(x)[:, 1]
        if block == "own":
            return Gated(self.one(WIDTHS))(x)
        if block == "norm":
            return self.dense()(layers.BatchNormalization()(x))
        return self.dense()(x)

    def image(self, x):
        channels = x.shape[-1]
        block = self.one(("conv", "grouped", "depthwise", "separable", "branches", "residual", "dilated", "pool"))
        if block == "grouped":
            return layers.Conv2D(4, 3, padding="same", groups=2, activation="relu")(x)
        if block == "depthwise":
            x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=self.one((1, 2)))(x)
            return layers.Conv2D(4, 1, use_bias=False)(x)
        if block == "separable":  # No sparse form: it stays as it is.
            return layers.Conv2D(4, 1)(layers.SeparableConv2D(4, 3, padding="same")(x))
        if block == "branches":
            return layers.Concatenate()([layers.Conv2D(4, size, padding="same")(x) for size in (1, 3)])
        if block == "residual":
            y = layers.BatchNormalization()(layers.Conv2D(channels, 3, padding="same", use_bias=False)(x))
            return layers.Add()([x, layers.ReLU()(y)])
        if block == "dilated":
            return layers.Conv2D(4, 3, padding="same", dilation_rate=2)(x)
        if block == "pool" and x.shape[1] > 3:
            return layers.MaxPooling2D(2)(layers.Conv2D(8, 3, padding="same", activation="relu")(x))
        return layers.Conv2D(4, 3, padding="same", activation="relu")(x)

    def sequence(self, x):
        size = x.shape[-1]
        block = self.one(
            ("recurrent", "bidirectional", "stacked", "conv", "attention", "grouped", "einsum", "over time")
        )
        recurrent = self.one((layers.LSTM, layers.GRU, layers.SimpleRNN))
        # Unrolled, but for a few: JAX compiles a loop anew in every step of an eager run.
        options = {"return_sequences": True, "unroll": self.yes(0.9)}
        if block == "recurrent":
            return recurrent(4, **options)(x)
        if block == "bidirectional":
            return layers.Bidirectional(recurrent(4, **options))(x)
        if block == "stacked":
            return layers.RNN([layers.GRUCell(4), layers.LSTMCell(4)], **options)(x)
        if block == "conv":
            return layers.Conv1D(self.one(WIDTHS), 3, padding=self.one(("same", "causal")))(x)
        if block == "attention":
            y = layers.MultiHeadAttention(2, 4)(x, x, use_causal_mask=self.yes())
            return layers.LayerNormalization()(layers.Add()([x, y]))
        if block == "grouped":
            return layers.GroupQueryAttention(4, 4, 2)(x, x)
        if block == "einsum":
            return layers.EinsumDense("abc,cd->abd", (LENGTH, size), bias_axes="d", activation="relu")(x)
        return layers.TimeDistributed(self.dense())(x)

    def trunk(self, kind, x):
        """The input of a kind as features."""
        if kind == "ids":
            return self.trunk("sequence", layers.Embedding(VOCABULARY, self.one(WIDTHS))(x))
        for _ in range(self.rng.integers(1, 3)):
            x = getattr(self, kind)(x)
        if kind == "image":
            return layers.GlobalAveragePooling2D()(x) if self.yes() else layers.Flatten()(x)
        if kind == "sequence":
            return self.one(
                (lambda: layers.GlobalAveragePooling1D()(x), lambda: layers.Flatten()(x), lambda: x[:, -1])
            )()
        return x

    def model(self):
        """A model, the kinds of its inputs and the number of its outputs."""
        kinds = [self.one(KINDS) for _ in range(1 + self.yes(0.3))]
        inputs = [keras.Input(SHAPES[kind], dtype="int32" if kind == "ids" else None) for kind in kinds]
        trunks = [self.trunk(kind, x) for kind, x in zip(kinds, inputs, strict=True)]
        x = layers.Concatenate()(trunks) if len(trunks) > 1 else trunks[0]
        outputs = self.one((1, 1, 2, 3))
        heads = [self.features(x) if self.yes() else self.dense()(x) for _ in range(outputs)]
        subclassed = self.yes(0.15)
        if not subclassed:
            heads = [layers.Dense(3)(head) for head in heads]
        model = keras.Model(inputs if len(inputs) > 1 else inputs[0], heads if outputs > 1 else heads[0])
        if subclassed:
            model = Subclassed(model, outputs)
        data = self.data(kinds)
        if subclassed:
            model(data)
        return model, data, outputs

    def data(self, kinds):
        """A batch for inputs of these kinds."""
        arrays = [
            self.rng.integers(0, VOCABULARY, (BATCH, LENGTH)).astype("int32")
            if kind == "ids"
            else self.rng.normal(size=(BATCH, *SHAPES[kind])).astype("float32")
            for kind in kinds
        ]
        return arrays if len(arrays) > 1 else arrays[0]

    def targets(self, outputs):
        """Targets of a batch."""
        arrays = [self.rng.normal(size=(BATCH, 3)).astype("float32") for _ in range(outputs)]
        return arrays if outputs > 1 else arrays[0]


def predict(model, data):
    """The outputs at inference, a list of float32 arrays. Not `predict`, which compiles."""
    found = keras.tree.flatten(model(data, training=False))
    return [np.asarray(ops.convert_to_numpy(ops.cast(x, "float32"))) for x in found]
