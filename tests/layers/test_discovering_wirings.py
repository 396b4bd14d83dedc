"""DNW layers: exact counts, lower index wins ties, a dense straight-through gradient."""

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf import layers
from sparsity_tf.distributions.budgets import Budget
from sparsity_tf.layers.technique import Technique
from tests.gradients import gradients, weighted_sum


def to_numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor), "float64")


def known_layer(weights, sparsity):
    layer = layers.DNWDense(weights.shape[1], use_bias=False, sparsity=sparsity)
    layer.build((None, weights.shape[0]))
    layer.kernel.assign(weights)
    return layer


@pytest.mark.parametrize(
    "sparsity,shape,zeros",
    [
        (0.0, (4, 5), 0),
        (0.5, (3, 3), 4),
        (0.7, (2, 5), 7),  # 0.7 * 10 is 6.999... in floating point
        (0.29, (10, 10), 29),
        (0.9, (3, 5), 13),
        (0.999, (3, 5), 14),
        (0.05, (3, 5), 0),
    ],
)
def test_zeros_are_exactly_floor_of_sparsity_times_size(sparsity, shape, zeros):
    kernel = np.random.default_rng(0).normal(size=shape)
    (weight,) = known_layer(kernel, sparsity).sparse_weights
    value = to_numpy(weight.value())
    assert (value == 0).sum() == zeros == kernel.size - weight.count()
    smallest = np.argsort(np.abs(kernel), axis=None)[:zeros]
    np.testing.assert_array_equal(np.sort(np.flatnonzero(value == 0)), np.sort(smallest))
    kept = value != 0
    np.testing.assert_array_equal(value[kept], kernel[kept].astype("float32"))


def test_the_lower_index_wins_ties():
    (weight,) = known_layer(np.array([[1.0, -1.0], [-1.0, 1.0], [1.0, 2.0]]), 0.5).sparse_weights
    assert to_numpy(weight.value()).tolist() == [[1, -1], [0, 0], [0, 2]]


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_gradient_goes_straight_through_to_all_weights(sparsity):
    rng = np.random.default_rng(1)
    kernel, inputs, upstream = (rng.normal(size=s) for s in ((4, 3), (5, 4), (5, 3)))
    layer = known_layer(kernel, sparsity)
    x = keras.Variable(inputs)
    value = np.where(ops.convert_to_numpy(layer.sparse_weights[0].mask()), kernel, 0)
    for training in (True, False):
        outputs = to_numpy(layer(inputs.astype("float32"), training=training))
        np.testing.assert_allclose(outputs, inputs @ value, rtol=1e-4, atol=1e-5)
    by_kernel, by_x = gradients(
        lambda: weighted_sum(layer(ops.convert_to_tensor(x), training=True), upstream),
        [layer.kernel, x],
    )
    np.testing.assert_allclose(by_kernel, inputs.T @ upstream, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_x, upstream @ value.T, rtol=1e-4, atol=1e-5)


def test_the_value_in_training_is_the_value_at_inference_bit_by_bit():
    layer = known_layer(np.random.default_rng(2).normal(size=(40, 30)) * 1e3, 0.5)
    (weight,) = layer.sparse_weights
    np.testing.assert_array_equal(to_numpy(layer.technique.training_value(weight)), to_numpy(weight.value()))


def test_count_stays_exact_and_wirings_change_while_training():
    layer = layers.DNWDense(5, sparsity=0.8)
    model = keras.Sequential([layer])
    model.build((None, 10))
    model.compile(keras.optimizers.SGD(0.3, momentum=0.9), "mse")
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(16, 10)), rng.normal(size=(16, 5))
    (weight,) = layer.sparse_weights
    before = ops.convert_to_numpy(weight.mask())
    for _ in range(5):
        model.train_on_batch(x, y)
        assert weight.count() == 10 and np.count_nonzero(to_numpy(layer.kernel)) == 50
    assert (ops.convert_to_numpy(weight.mask()) & ~before).any()


def test_a_weight_that_is_not_a_number_is_kept():
    (weight,) = known_layer(np.array([[1.0, np.nan], [3.0, 2.0]]), 0.75).sparse_weights
    assert weight.count() == 1
    assert np.isnan(to_numpy(weight.value())[0, 1])


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan")])
def test_bad_sparsity_is_named(sparsity):
    with pytest.raises(ValueError, match=rf"`sparsity`.*Received: sparsity={sparsity}"):
        layers.DNWDense(3, sparsity=sparsity)


class Alphabetical(Technique):
    """A user's own technique, whose name comes before all others."""

    name = "a_users_own"

    def value(self, weight, select=None):
        return weight.tensor(select)


class AlphabeticalDense(layers.SparseDense):
    technique_class = Alphabetical


def test_only_discovered_wirings_get_a_sparsity():
    parts = [layers.MaskedDense(5), layers.DNWDense(5, name="wired"), AlphabeticalDense(5)]
    model = keras.Sequential([keras.Input((4,)), *parts])
    [(path, sparsity)] = layers.set_sparsities(model, "uniform", 0.6).items()
    assert path.endswith("wired/kernel") and sparsity == parts[1].technique.sparsity == 0.6
    assert [layer.sparse_weights[0].sparsity() for layer in parts] == [0, 0.6, 0]


@pytest.mark.compiled
def test_a_model_forgets_the_compiled_functions_that_hold_the_old_sparsities():
    x = np.ones((2, 4), "float32")
    inner = keras.Sequential([keras.Input((4,)), layers.DNWDense(5)])
    model = keras.Sequential([keras.Input((4,)), inner, keras.layers.Dense(3)])
    for one, outputs in ((inner, 5), (model, 3)):
        one.compile("sgd", "mse")
        one.fit(x, np.ones((2, outputs)), verbose=0)
        one.evaluate(x, np.ones((2, outputs)), verbose=0)
        one.predict(x, verbose=0)
    layers.set_sparsities(model, "uniform", 0.5)
    for one in (inner, model):
        assert one.train_function is one.test_function is one.predict_function is None
        np.testing.assert_allclose(one.predict(x, verbose=0), to_numpy(one(x)), rtol=1e-5)


def test_sparsities_that_leave_a_layer_nothing_are_refused():
    model = keras.Sequential([keras.Input((4,)), layers.DNWDense(5, name="wired")])
    with pytest.raises(
        ValueError, match="must leave at least one weight in every layer. Received: a sparsity of 1 for .*wired/kernel"
    ):
        layers.set_sparsities(model, Budget({"wired": 1.0}))
    assert model.layers[0].technique.sparsity == 0.9
    with pytest.raises(ValueError, match="must have layers of the technique .* Received: model='plain'"):
        layers.set_sparsities(keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)], name="plain"), "uniform")
