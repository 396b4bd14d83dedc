"""What the tests of the model zoo share: counting, the published tables, references in NumPy."""

import csv
import functools
import math
from fractions import Fraction
from pathlib import Path

import keras
import numpy as np

import sparsity_tf
from sparsity_tf import inspection, models

DATA = Path(__file__).parent / "data"


@functools.cache
def built(builder, *arguments, **options):
    """A dense model that tests only look at, so it is built once; its kernels are zeros, which is fast."""
    return getattr(models, builder)(*arguments, kernel_initializer="zeros", **dict(options))


def kernels(model):
    """{layer: shape of its kernel}, in the order of the model."""
    found = [(layer.name, v) for layer in model.layers for v in layer.trainable_variables if v.name == "kernel"]
    return {name: tuple(variable.shape) for name, variable in found}


def weight_count(model):
    return sum(math.prod(shape) for shape in kernels(model).values())


def trainable_count(model):
    return sum(math.prod(v.shape) for v in model.trainable_variables)


@functools.cache
def dense_operations(model, convention="mac"):
    """{layer: operations}, in the order of the model; under "mac" with the additions of global pooling."""
    # Counting costs a second, so the result is shared: look, don't change it.
    return {row.name.split("/")[-1]: row.dense for row in inspection.count_flops(model, convention)}


def read_csv(name):
    """Rows as lists of strings, the header first."""
    with open(DATA / name, encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file))


def percent(text):
    """A sparsity as the tables print it, exactly."""
    return Fraction(text.rstrip("%")) / 100


def sparse_totals(model, sparsities):
    """(non-zero weights, multiply-accumulates) of a model whose kernels have these sparsities, in order.

    A kernel's operations are those of its non-zeros; what has no kernel (pooling) costs the same as in the dense model.
    """
    operations = dense_operations(model)
    sizes = {name: math.prod(shape) for name, shape in kernels(model).items()}
    density = {name: 1 - s for name, s in zip(sizes, sparsities, strict=True)}
    return (
        sum(size * density[name] for name, size in sizes.items()),
        sum(macs * density.get(name, 1) for name, macs in operations.items()),
    )


def erdos_renyi_kernel(shapes, sparsity, dense=(), zeros=lambda size, sparsity: sparsity * size):
    """Sparsities of the layers: density proportional to sum(shape) / prod(shape), at most 1 (RigL, Evci et al.).

    Args:
        shapes: List of shapes.
        sparsity: Of all layers but the `dense` ones together.
        dense: Indices of layers left out of the calculation, which stay dense.
        zeros: Function of (size, sparsity): how many zeros a layer contributes.
    """
    size = [math.prod(shape) for shape in shapes]
    raw = [sum(shape) / math.prod(shape) for shape in shapes]
    taking_part = [i for i in range(len(shapes)) if i not in dense]
    full = set()
    while True:
        live = [i for i in taking_part if i not in full]
        nonzeros = sum(size[i] - zeros(size[i], sparsity) for i in live)
        nonzeros -= sum(zeros(size[i], sparsity) for i in full)
        epsilon = nonzeros / sum(raw[i] * size[i] for i in live)
        largest = max(raw[i] for i in live)
        if epsilon * largest <= 1:
            return [1 - epsilon * raw[i] if i in live else 0 for i in range(len(shapes))]
        full |= {i for i in live if raw[i] == largest}


def bits(size, sparsity, biases):
    """RigL's size of a layer: 32 bits a non-zero, a one-bit mask where there are zeros, 32 bits a bias."""
    return 32 * size * (1 - sparsity) + (size if sparsity else 0) + 32 * biases


def convolution(x, kernel, strides, padding):
    """A convolution with `padding` zeros on every side, as PyTorch defines it: (batch, rows, columns, channels)."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    size = kernel.shape[0]
    rows, columns = ((length - size) // strides + 1 for length in x.shape[1:3])
    y = np.zeros((len(x), rows, columns, kernel.shape[-1]))
    for i in range(rows):
        for j in range(columns):
            patch = x[:, i * strides : i * strides + size, j * strides : j * strides + size]
            y[:, i, j] = np.tensordot(patch, kernel, axes=3)
    return y


def check_padding(model, layer_name, strides, padding):
    """The convolution of the model computes what the reference does from the same map."""
    layer = model.get_layer(layer_name)
    source = layer.input
    if layer.padding == "valid" and padding:
        source = model.get_layer(f"{layer_name}_pad").input
    kernel = np.random.default_rng(0).normal(size=layer.kernel.shape)
    layer.kernel.assign(kernel)
    if layer.use_bias:
        layer.bias.assign(np.zeros(layer.bias.shape))
    x = np.random.default_rng(1).normal(size=(2, *source.shape[1:]))
    y = keras.ops.convert_to_numpy(keras.Model(source, layer.output)(x.astype("float32")))
    expected = convolution(x, kernel, strides, padding)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-3)


def check_network(model, weights=None):
    """Logits of the right shape that are finite and differ, and every kernel can be masked."""
    shape = model.input_shape[1:]
    logits = keras.ops.convert_to_numpy(model(np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")))
    assert logits.shape == (2, *model.output_shape[1:])
    assert np.isfinite(logits).all() and logits.std() > 0
    expected = weight_count(model) if weights is None else weights
    tensors = len(kernels(model))
    masked = sparsity_tf.get_sparse_weights(sparsity_tf.sparsify(model, "masked"))
    assert sum(weight.size for weight in masked) == expected
    assert len(masked) == tensors
