"""Random models with random zeros: what the property test of `shrink` runs on."""

import keras
import numpy as np
from keras import layers, ops

from tests.deploy.models import randomize

_ACTIVATIONS = ["relu", "linear", "sigmoid", "tanh", "gelu", "leaky_relu"]


def random_model(seed, steps=6):
    """A random functional model; images for even seeds, sequences for odd ones.

    Args:
        seed: int; the model, its weights and its zeros follow from it.
        steps: int, number of random layers before the head.

    Returns:
        Keras model of one input and one or two outputs.
    """
    rng = np.random.default_rng(seed)
    inputs = keras.Input((8, 8, 3) if seed % 2 == 0 else (8, 5))
    moves = _IMAGE_MOVES if seed % 2 == 0 else _SEQUENCE_MOVES
    tensors = [inputs]
    for _ in range(steps):
        # Mostly the newest tensor, so that the model is deep.
        x = tensors[-1] if rng.random() < 0.7 else tensors[rng.integers(len(tensors))]
        y = moves[rng.integers(len(moves))](rng, x, tensors)
        if y is not None:
            tensors.append(y)
    outputs = [_head(rng, tensors[-1])]
    if rng.random() < 0.3:
        outputs.append(_head(rng, tensors[rng.integers(len(tensors))]))
    model = keras.Model(inputs, outputs)
    _add_zeros(rng, randomize(model, seed))
    return model


def _head(rng, x):
    rank = len(x.shape)
    pool = [layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D, layers.Flatten]
    if rank == 3:
        pool = [layers.GlobalAveragePooling1D, layers.GlobalMaxPooling1D, layers.Flatten]
    if rank > 2:
        x = _pick(rng, pool)()(x)
    return layers.Dense(3, activation=_pick(rng, ["softmax", "linear"]))(x)


def _pick(rng, choices):
    return choices[rng.integers(len(choices))]


def _width(rng):
    return int(rng.integers(1, 4)) * 2


def _activation(rng):
    return _pick(rng, _ACTIVATIONS)


def _padding(rng):
    return _pick(rng, ["same", "valid"])


def _fits(x, padding, size=3):
    return padding == "same" or all(n >= size for n in x.shape[1:-1])


def _conv(rng, x, tensors):
    padding, strides = _padding(rng), int(rng.integers(1, 3))
    kind = layers.Conv2D if len(x.shape) == 4 else layers.Conv1D
    if not _fits(x, padding):
        return None
    arguments = {"activation": _activation(rng), "use_bias": bool(rng.integers(2)), "padding": padding}
    return kind(_width(rng), _pick(rng, [1, 3]), strides=strides, **arguments)(x)


def _grouped_conv(rng, x, tensors):
    groups = _pick(rng, [2, x.shape[-1]])
    if x.shape[-1] % groups:
        return None
    return layers.Conv2D(groups * int(rng.integers(1, 3)), 3, groups=groups, padding="same")(x)


def _transposed_conv(rng, x, tensors):
    if x.shape[1] > 8:
        return None
    return layers.Conv2DTranspose(_width(rng), 3, strides=2, padding="same", activation=_activation(rng))(x)


def _depthwise_conv(rng, x, tensors):
    return layers.DepthwiseConv2D(3, padding="same", depth_multiplier=int(rng.integers(1, 3)))(x)


def _separable_conv(rng, x, tensors):
    padding = _padding(rng)
    if not _fits(x, padding):
        return None
    return layers.SeparableConv2D(_width(rng), 3, padding=padding, depth_multiplier=int(rng.integers(1, 3)))(x)


def _batch_norm(rng, x, tensors):
    return layers.BatchNormalization(scale=bool(rng.integers(2)))(x)


def _layer_norm(rng, x, tensors):
    return layers.LayerNormalization()(x)


def _elementwise(rng, x, tensors):
    choices = [
        layers.Activation(_activation(rng)),
        layers.Dropout(0.5),
        layers.PReLU(shared_axes=list(range(1, len(x.shape) - 1)) or None),
        lambda x: x * 2.0 - 0.25,
        ops.relu6,
        lambda x: ops.maximum(x, 0.1),
    ]
    return _pick(rng, choices)(x)


def _merge(rng, x, tensors):
    same = [t for t in tensors if t.shape == x.shape and t is not x]
    if not same:
        kind = layers.Conv2D if len(x.shape) == 4 else layers.Conv1D
        same = [kind(x.shape[-1], 1, activation=_activation(rng))(x)]
    merge = _pick(rng, [layers.Add, layers.Add, layers.Multiply, layers.Average, layers.Maximum, layers.Subtract])
    return merge()([x, _pick(rng, same)])


def _concatenate(rng, x, tensors):
    same = [t for t in tensors if t.shape[:-1] == x.shape[:-1]]
    return layers.Concatenate()([x, _pick(rng, same)])


def _pool(rng, x, tensors):
    if any(n < 2 for n in x.shape[1:-1]):
        return None
    images = [layers.MaxPooling2D, layers.AveragePooling2D, layers.ZeroPadding2D, layers.UpSampling2D]
    sequences = [layers.MaxPooling1D, layers.AveragePooling1D, layers.ZeroPadding1D, layers.UpSampling1D]
    layer = _pick(rng, images if len(x.shape) == 4 else sequences)(2)
    return layer(x) if x.shape[1] <= 8 or "Pooling" in type(layer).__name__ else None


def _gate(rng, x, tensors):
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(_width(rng), 1, activation="relu")(gate)
    return layers.Multiply()([x, layers.Conv2D(_pick(rng, [1, x.shape[-1]]), 1, activation="sigmoid")(gate)])


def _shared(rng, x, tensors):
    layer = layers.Conv2D(x.shape[-1], 3, padding="same", activation=_activation(rng))
    return layer(layer(x))


def _nested(rng, x, tensors):
    inner = keras.Input(x.shape[1:])
    y = _conv(rng, inner, [inner])
    return None if y is None else keras.Model(inner, y)(x)


def _permute(rng, x, tensors):
    if len(x.shape) == 4:
        return layers.Permute((2, 1, 3))(x)
    return layers.Permute((2, 1))(x)


def _dense(rng, x, tensors):
    return layers.Dense(_width(rng), activation=_activation(rng), use_bias=bool(rng.integers(2)))(x)


def _einsum(rng, x, tensors):
    x = layers.EinsumDense("abc,cde->abde", (x.shape[1], 2, _width(rng)), bias_axes=_pick(rng, ["de", "e", None]))(x)
    if rng.random() < 0.5:
        return layers.EinsumDense("abde,def->abf", (x.shape[1], _width(rng)), bias_axes=_pick(rng, ["f", None]))(x)
    return layers.Reshape((x.shape[1], x.shape[2] * x.shape[3]))(x)


def _recurrent(rng, x, tensors):
    kind = _pick(rng, [layers.SimpleRNN, layers.LSTM, layers.GRU])
    return kind(_width(rng), return_sequences=True, use_bias=bool(rng.integers(2)))(x)


def _attention(rng, x, tensors):
    return layers.Add()([x, layers.MultiHeadAttention(2, 3)(x, x)])


_COMMON = [_conv, _conv, _batch_norm, _elementwise, _merge, _concatenate, _pool, _nested]
_IMAGE_MOVES = [
    *(_COMMON + [_grouped_conv, _transposed_conv, _depthwise_conv, _separable_conv]),
    *(_gate, _shared, _permute, _layer_norm),
]
_SEQUENCE_MOVES = [*_COMMON, _dense, _dense, _einsum, _recurrent, _recurrent, _attention, _layer_norm, _permute]


def _add_zeros(rng, model):
    """Zeros in whole columns, whole rows, biases and gammas, of a random part of the weights."""
    for variable in model.trainable_variables:
        value = np.array(ops.convert_to_numpy(variable))
        if variable.name in ("kernel", "recurrent_kernel", "pointwise_kernel", "depthwise_kernel"):
            for axis in (-1, -2):
                share = _pick(rng, [0.0, 0.0, 0.4, 0.8])
                np.moveaxis(value, axis, 0)[rng.random(value.shape[axis]) < share] = 0
            if rng.random() < 0.05:
                value[:] = 0
        elif variable.name == "bias":
            value *= rng.random(value.shape) < _pick(rng, [0.0, 0.5, 1.0])
        elif variable.name == "gamma":
            value *= rng.random(value.shape) < _pick(rng, [0.7, 1.0])
        variable.assign(value)
