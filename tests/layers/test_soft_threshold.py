"""STR layers: the soft threshold and its exact gradients at every granularity."""

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf import layers
from sparsity_tf.layers import soft_threshold as soft_threshold_module
from sparsity_tf.layers.soft_threshold import soft_threshold
from tests.gradients import compiled, gradients, weighted_sum

W = np.array([[0.5, -0.3, 0.05], [-0.02, -0.8, 0.0], [0.9, 0.12, -0.7], [0.2, -0.1, 0.3]])
X = np.random.default_rng(1).normal(size=(5, 4))
UPSTREAM = np.random.default_rng(2).normal(size=(5, 3))
# function: t = g(s), and g'(s) as a function of t
FUNCTIONS = {
    "sigmoid": (lambda s: 1 / (1 + np.exp(-s)), lambda t: t * (1 - t)),
    "exponential": (np.exp, lambda t: t),
}


def to_numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor), "float64")


def known_layer(weights=W, **options):
    layer = layers.STRDense(weights.shape[1], use_bias=False, **options)
    layer.build((None, weights.shape[0]))
    layer.kernel.assign(weights)
    return layer


@pytest.mark.parametrize("granularity", ["layer", "filter", "weight"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_value_and_gradients(function, granularity):
    g, slope = FUNCTIONS[function]
    layer = known_layer(threshold_function=function, granularity=granularity)
    shape = {"layer": (), "filter": (1, 3), "weight": (4, 3)}[granularity]
    assert tuple(layer.raw_threshold.shape) == shape
    s = np.random.default_rng(3).uniform(-3, -1, shape)
    layer.raw_threshold.assign(s)
    t = g(s)
    live = np.abs(W) > t
    assert 0.2 < live.mean() < 0.8

    (weight,) = layer.sparse_weights
    value = np.sign(W) * np.maximum(np.abs(W) - t, 0)
    np.testing.assert_allclose(to_numpy(weight.value()), value, atol=1e-6)
    np.testing.assert_array_equal(to_numpy(weight.value()) != 0, live)
    np.testing.assert_array_equal(ops.convert_to_numpy(weight.mask()), live)
    np.testing.assert_allclose(weight.threshold(), t, rtol=1e-5)
    assert weight.count() == live.sum()

    x = keras.Variable(X)
    found = gradients(
        lambda: weighted_sum(layer(ops.convert_to_tensor(x), training=True), UPSTREAM),
        [layer.kernel, layer.raw_threshold, x],
    )
    by_value = X.T @ UPSTREAM
    by_threshold = -slope(t) * by_value * np.sign(W) * live
    if granularity == "layer":
        by_threshold = by_threshold.sum()
    elif granularity == "filter":
        by_threshold = by_threshold.sum(axis=0, keepdims=True)
    for ours, theirs in zip(found, [by_value * live, by_threshold, UPSTREAM @ value.T], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_training_is_the_soft_threshold_at_and_off_its_corners():
    """The fused function against the plain one, ties and zeros included."""
    w, upstream = np.float32([0.5, -0.5, 0.0, 0.75, -0.75, np.inf]), np.float32([1, 2, 3, 4, 5, 0])
    for threshold in (0.5, [0.5, 0.0, 0.0, 0.5, 1.0, 0.5]):
        variables = [keras.Variable(w), keras.Variable(np.float32(threshold))]
        values, found = [], []
        for function in (soft_threshold_module._fused_soft_threshold, soft_threshold):
            value = lambda: function(*map(ops.convert_to_tensor, variables))  # noqa: B023, E731
            values.append(to_numpy(value()))
            found.append(gradients(lambda: weighted_sum(ops.where(upstream > 0, value(), 0), upstream), variables))  # noqa: B023
        np.testing.assert_array_equal(*values)
        for ours, theirs in zip(*found, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_the_papers_sigmoid_at_minus_two():
    layer = known_layer(threshold_initializer=-2.0)
    np.testing.assert_allclose(layer.sparse_weights[0].threshold(), 0.119203, atol=1e-6)
    # One live positive weight with gradient 1: d t / d s = t (1 - t).
    layer = known_layer(np.array([[0.5]]), threshold_initializer=-2.0)
    (gradient,) = gradients(lambda: ops.sum(layer(np.ones((1, 1), "float32"), training=True)), [layer.raw_threshold])
    np.testing.assert_allclose(gradient, -0.119203 * (1 - 0.119203), rtol=1e-5)


def test_at_the_threshold_and_at_zero_everything_is_zero():
    w, t = keras.Variable([0.5, -0.5, 0.0, 0.75]), keras.Variable(0.5)
    value = lambda: soft_threshold(ops.convert_to_tensor(w), ops.convert_to_tensor(t))  # noqa: E731
    assert to_numpy(value()).tolist() == [0, 0, 0, 0.25]
    by_weight, by_threshold = gradients(lambda: ops.sum(value()), [w, t])
    assert by_weight.tolist() == [0, 0, 0, 1] and by_threshold == -1


@pytest.mark.parametrize("function", FUNCTIONS)
def test_minus_3200_is_exactly_dense(function):
    layer = known_layer(threshold_function=function, threshold_initializer=-3200.0)
    (weight,) = layer.sparse_weights
    np.testing.assert_array_equal(to_numpy(weight.value()), to_numpy(layer.kernel))
    assert weight.threshold() == 0
    by_weight, by_threshold = gradients(
        lambda: weighted_sum(layer(X.astype("float32"), training=True), UPSTREAM),
        [layer.kernel, layer.raw_threshold],
    )
    assert by_threshold == 0
    np.testing.assert_allclose(by_weight, X.T @ UPSTREAM * (W != 0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "function,s",
    [
        ("sigmoid", -1e7),
        ("sigmoid", 1e7),
        ("exponential", -1e7),
        ("exponential", 80.0),
        pytest.param(
            "exponential",
            100.0,
        ),
    ],
)
def test_extreme_thresholds_stay_finite(function, s):
    layer = known_layer(threshold_function=function, threshold_initializer=s)
    x = keras.Variable(np.full((2, 4), 1e18))
    loss = lambda: ops.mean(layer(ops.convert_to_tensor(x), training=True))  # noqa: E731
    assert np.isfinite(to_numpy(loss()))
    for gradient in gradients(loss, [layer.kernel, layer.raw_threshold, x]):
        assert np.isfinite(gradient).all()
    if s > 0:
        assert layer.sparse_weights[0].sparsity() == 1.0


def test_decay_alone_raises_the_threshold():
    """From -3200 s follows s (1 - lr * 2c) a step exactly: no gradient of the task is left."""
    layer = known_layer(threshold_initializer=-3200.0, threshold_regularizer=keras.regularizers.L2(0.05))
    model = keras.Sequential([layer])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    for _ in range(3):
        model.train_on_batch(X.astype("float32"), UPSTREAM.astype("float32"))
    np.testing.assert_allclose(to_numpy(layer.raw_threshold), -3200 * 0.99**3, rtol=1e-5)


def test_a_weight_that_is_not_a_number_is_seen():
    layer = known_layer(np.array([[np.nan, 0.1], [0.1, 0.9]]), threshold_initializer=0.0)
    (weight,) = layer.sparse_weights
    assert weight.count() == 2
    for value in (to_numpy(weight.value()), to_numpy(compiled(lambda: weight.value())())):
        np.testing.assert_allclose(value, [[np.nan, 0], [0, 0.4]], rtol=1e-5)


@pytest.mark.parametrize("number", [np.float32(-3), np.int64(-3), None])
def test_a_threshold_of_any_type_of_number_is_saved(number, tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.STRDense(3, threshold_initializer=number)])
    assert model.layers[0].raw_threshold.numpy() == (-10 if number is None else -3)
    model.save(tmp_path / "model.keras")
    (weight,) = layers.get_sparse_weights(keras.saving.load_model(tmp_path / "model.keras"))
    assert weight.technique.threshold_initializer.value == (-10 if number is None else -3)


def test_the_threshold_of_a_layer_in_bfloat16_is_read():
    layer = known_layer(threshold_initializer=-2.0, dtype="bfloat16")
    np.testing.assert_allclose(layer.sparse_weights[0].threshold(), 0.119, rtol=1e-2)


@pytest.mark.parametrize("option,value", [("threshold_function", "relu"), ("granularity", "channel")])
def test_bad_options_are_named(option, value):
    with pytest.raises(ValueError, match=rf"`{option}` must be one of .*Received: {option}='{value}'"):
        layers.STRDense(3, **{option: value})


def trained(optimizer, regularizer=None):
    model = keras.Sequential(
        [keras.Input((4,)), layers.STRDense(3, threshold_regularizer=regularizer), layers.STRDense(2)]
    )
    if regularizer is not None:
        model.pop()
    model.compile(optimizer, "mse")
    for _ in range(2):
        model.fit(np.ones((4, 4)), np.ones((4, model.output_shape[-1])), epochs=2, verbose=0)


def test_thresholds_that_nothing_pushes_up_are_reported_once():
    with pytest.warns(UserWarning, match="`threshold_regularizer=.*Adam with weight_decay=None") as caught:
        trained(keras.optimizers.Adam())
    assert len([w for w in caught if "threshold" in str(w.message)]) == 1
    excluding = keras.optimizers.AdamW(weight_decay=0.1)
    excluding.exclude_from_weight_decay(var_names=["raw_threshold"])
    with pytest.warns(UserWarning, match="AdamW with weight_decay=0.1"):
        trained(excluding)


@pytest.mark.filterwarnings("error:Nothing raises")
@pytest.mark.parametrize("make", [lambda: (keras.optimizers.AdamW(), None), lambda: (keras.optimizers.Adam(), "l2")])
def test_thresholds_that_decay_or_are_regularized_are_not_reported(make):
    trained(*make())


@pytest.mark.parametrize("shape", [(), (1, 3), (4, 1), (4, 3)])
def test_the_gradient_of_a_threshold_has_its_shape(shape):
    """On torch alone it need not: autograd sums a larger gradient by itself."""
    upstream = np.random.default_rng(2).normal(size=W.shape)
    value, saved = soft_threshold_module._forward(ops.convert_to_tensor(W), ops.full(shape, 0.15))
    _, gradient = soft_threshold_module._backward(ops.convert_to_tensor(upstream), *saved)
    expected = np.where(to_numpy(value) != 0, -np.sign(W) * upstream, 0)
    axes = tuple(axis for axis in (0, 1) if not shape or shape[axis] == 1)
    assert tuple(gradient.shape) == shape
    np.testing.assert_allclose(to_numpy(gradient), expected.sum(axis=axes, keepdims=bool(shape)), rtol=1e-5)


@pytest.mark.parametrize("granularity", ["layer", "filter", "weight"])
def test_a_part_of_a_weight_is_that_part_of_the_whole_value(granularity):
    """The rows that an embedding of a user's own would look up."""
    (weight,) = known_layer(granularity=granularity).sparse_weights
    s = np.random.default_rng(3).uniform(-3, -1, weight.extra_variable("raw_threshold").shape)
    weight.extra_variable("raw_threshold").assign(s)
    value = np.sign(W) * np.maximum(np.abs(W) - 1 / (1 + np.exp(-s)), 0)
    ids = np.array([[3, 1, 1], [0, 2, 3]])
    for function in (weight.technique.value, weight.technique.training_value):
        rows = function(weight, lambda table: ops.take(table, ids, axis=0))
        np.testing.assert_allclose(to_numpy(rows), value[ids], atol=1e-6)
