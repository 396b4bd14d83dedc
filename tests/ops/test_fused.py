"""Fused functions: value and gradients of the two functions given, eager, compiled, and differentiated twice."""

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf.ops.fused import fused
from tests.gradients import compiled, gradients, weighted_sum

pytestmark = pytest.mark.xla

X, Y = np.float32([0.5, -2.0, 3.0]), np.float32([1.0, 4.0, -1.0])


def product():
    """x^2 y, where the last input has no gradient."""

    def forward(x, y, scale):
        return x * x * y * ops.cast(scale, x.dtype), (x, y, scale)

    def backward(upstream, x, y, scale):
        upstream = upstream * ops.cast(scale, x.dtype)
        return upstream * 2 * x * y, upstream * x * x, None

    return fused(forward, backward)


def test_value_and_gradients():
    function, scale = product(), ops.convert_to_tensor(3, "int32")
    x, y = keras.Variable(X), keras.Variable(Y)
    run = lambda: function(ops.convert_to_tensor(x), ops.convert_to_tensor(y), scale)  # noqa: E731
    np.testing.assert_allclose(ops.convert_to_numpy(run()), 3 * X * X * Y, rtol=1e-6)
    upstream = np.float32([1.0, 2.0, -1.0])
    by_x, by_y = gradients(lambda: weighted_sum(run(), upstream), [x, y])
    np.testing.assert_allclose(by_x, upstream * 6 * X * Y, rtol=1e-6)
    np.testing.assert_allclose(by_y, upstream * 3 * X * X, rtol=1e-6)


def test_compiled_as_part_of_a_whole_and_for_any_shape():
    function = product()
    whole = compiled(lambda x, y: function(x, y, ops.convert_to_tensor(2, "int32")))
    for shape in [(3,), (2, 3), (4, 1)]:
        x, y = np.random.default_rng(1).normal(size=(2, *shape)).astype("float32")
        np.testing.assert_allclose(
            ops.convert_to_numpy(whole(ops.convert_to_tensor(x), ops.convert_to_tensor(y))), 2 * x * x * y, rtol=1e-5
        )


def test_a_function_of_one_input():
    function = fused(lambda x: (ops.sum(x**3), (x,)), lambda upstream, x: (upstream * 3 * x * x,))
    x = keras.Variable(X)
    (gradient,) = gradients(lambda: 2 * function(ops.convert_to_tensor(x)), [x])
    np.testing.assert_allclose(gradient, 6 * X**2, rtol=1e-6)


@pytest.mark.tensorflow
@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_second_derivatives(graph):
    import tensorflow as tf

    function = product()
    x = tf.constant(X)

    def second():
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                value = tf.reduce_sum(function(x, Y, 1))
            slope = tf.reduce_sum(inner.gradient(value, x))
        return outer.gradient(slope, x)

    np.testing.assert_allclose((tf.function(second) if graph else second)().numpy(), 2 * Y, rtol=1e-6)


@pytest.mark.tensorflow
def test_many_shapes_are_no_retracing():
    """Every shape has a `tf.function` of its own: one for all would warn that it is traced too often."""
    import tensorflow as tf

    traced = []

    def forward(x):
        traced.append(tuple(x.shape))
        return x + 1, ()

    function = fused(forward, lambda upstream: (upstream,))
    for _ in range(2):
        for size in range(1, 8):
            function(tf.ones((size,)))
    assert traced == [(size,) for size in range(1, 8)]
