"""Powerpropagation: the reparametrisation and its gradient, zeros that stay, and pruning by the effective weight."""

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf import callbacks, layers, load_masks, prune, sparsify, to_dense
from sparsity_tf.layers import get_sparse_weights
from sparsity_tf.layers.powerpropagation import power
from tests.gradients import gradients, weighted_sum


def to_numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor), "float64")


def known_layer(weights, **options):
    weights = np.asarray(weights, "float32")
    initializer = keras.initializers.Constant(0.0)
    layer = layers.PowerDense(weights.shape[1], use_bias=False, kernel_initializer=initializer, **options)
    layer.build((None, weights.shape[0]))
    layer.kernel.assign(weights)
    return layer


def small_model(alpha=2.0, **options):
    kernels = [keras.initializers.GlorotUniform(seed=seed) for seed in (1, 2)]
    parts = [
        keras.layers.Dense(16, "tanh", kernel_initializer=kernels[0], name="first"),
        keras.layers.Dense(5, kernel_initializer=kernels[1], name="second"),
    ]
    model = keras.Sequential([keras.Input((12,)), *parts])
    dense = [to_numpy(part.kernel) for part in parts]
    model = sparsify(model, "powerpropagation", alpha=alpha, **options)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", run_eagerly=True)
    return model, dense


RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(48, 12)).astype("float32"), RNG.normal(size=(48, 5)).astype("float32")


def test_the_golden_value():
    """alpha = 2: an initial weight of -1/4 has the variable -1/2, and the derivative of the weight is 1 there."""
    layer = layers.PowerDense(1, use_bias=False, kernel_initializer=keras.initializers.Constant(-0.25))
    layer.build((None, 1))
    assert to_numpy(layer.kernel) == -0.5
    assert to_numpy(layer.sparse_weights[0].value()) == -0.25
    (found,) = gradients(lambda: ops.sum(layer(np.ones((1, 1), "float32"), training=True)), [layer.kernel])
    assert found == 1


@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0, 3.0, 5.0])
def test_the_formula_and_its_gradient(alpha):
    theta = np.array([[-2.0, -0.5, 0.0], [0.3, 1.0, 1.7]])
    upstream = np.array([[1.0, -2.0, 3.0], [0.5, 2.0, -1.0]])
    layer = known_layer(theta, alpha=alpha)
    np.testing.assert_allclose(
        to_numpy(layer.sparse_weights[0].value()), theta * abs(theta) ** (alpha - 1), rtol=1e-5, atol=1e-7
    )
    inputs = np.eye(2, dtype="float32")
    (found,) = gradients(lambda: weighted_sum(layer(inputs, training=True), upstream), [layer.kernel])
    # At zero the derivative is 0 for alpha > 1: autodiff of |theta|^(alpha - 1) would give NaN below 2.
    np.testing.assert_allclose(found, upstream * alpha * abs(theta) ** (alpha - 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("alpha", [1.0, 2.0, 4.0])
def test_sparsify_and_to_dense_keep_the_weights(alpha):
    model, dense = small_model(alpha)
    for weight, kernel in zip(get_sparse_weights(model), dense, strict=True):
        np.testing.assert_allclose(to_numpy(weight.value()), kernel, rtol=1e-5)
        np.testing.assert_allclose(to_numpy(weight.variable), np.sign(kernel) * abs(kernel) ** (1 / alpha), rtol=1e-5)
    plain = to_dense(model)
    assert type(plain.layers[0]) is keras.layers.Dense and plain.layers[0].kernel.constraint is None
    for layer, weight in zip(plain.layers, get_sparse_weights(model), strict=True):
        np.testing.assert_array_equal(to_numpy(layer.kernel), to_numpy(weight.value()))
    np.testing.assert_allclose(plain.predict(X, verbose=0), model.predict(X, verbose=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("structure", [None, "4x1"])
def test_magnitude_pruning_ranks_the_effective_weights_and_pruned_ones_stay_zero(structure, tmp_path):
    model, _ = small_model(2.0, structure=structure)
    pruning = callbacks.MagnitudePruning(0.75, begin_step=1, end_step=4, frequency=1)
    seen, new_mask = [], pruning.new_mask
    pruning.new_mask = lambda view, *more: (seen.append(view.value.copy()), new_mask(view, *more))[1]
    model.fit(X, Y, batch_size=8, epochs=1, verbose=0, callbacks=[pruning])
    assert pruning.sparsity == 0.75
    for weight in get_sparse_weights(model):
        value, mask = to_numpy(weight.value()), ops.convert_to_numpy(weight.mask())
        assert (value[~mask] == 0).all() and weight.sparsity() == 0.75
        np.testing.assert_allclose(np.sign(value) * np.sqrt(abs(value)), to_numpy(weight.variable) * mask, atol=1e-6)
    last = to_numpy(power(ops.convert_to_tensor(np.array([0.5, -0.5], "float32")), 2.0))
    assert last.tolist() == [0.25, -0.25] and all(abs(value).max() < 1.1 for value in seen)
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    for ours, theirs in zip(get_sparse_weights(model), get_sparse_weights(loaded), strict=True):
        np.testing.assert_array_equal(to_numpy(ours.technique.masked_variable(ours)), to_numpy(theirs.variable))
        np.testing.assert_array_equal(to_numpy(ours.mask()), to_numpy(theirs.mask()))
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))


def test_algorithms_see_the_effective_weight():
    model, dense = small_model(3.0)
    pruning = callbacks.MagnitudePruning(0.5, 1, 4, 1)
    pruning.prepare(model)
    for view, kernel in zip(pruning.views(1), dense, strict=True):
        np.testing.assert_allclose(view.value, kernel, rtol=1e-5)
        np.testing.assert_allclose(view.live_value, kernel, rtol=1e-5)
    pruning.detach()


@pytest.mark.parametrize(
    "make",
    [
        lambda: callbacks.RandomPruning(0.5, 1, 4, 1),
        lambda: callbacks.StaticSparsity(0.5),
        lambda: callbacks.IterativePruning(0.5, rounds=1, steps_per_round=3),
        lambda: callbacks.MagnitudePruning(0.5, 1, 4, 1, scope="global"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*will not")
def test_other_algorithms_that_bring_no_weight_back(make):
    model, _ = small_model()
    model.fit(X, Y, batch_size=8, epochs=1, verbose=0, callbacks=[make()])
    weights = get_sparse_weights(model)
    assert sum(weight.count() for weight in weights) == sum(weight.size for weight in weights) // 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: callbacks.RigL(0.5, frequency=1, end_step=4),
        lambda: callbacks.SET(0.5, frequency=1, end_step=4),
        lambda: callbacks.ACDC(0.5, 1, 4, 1, 1, 1),
        lambda: callbacks.RandomPruning(0.5, 1, 4, 1, cumulative=False),
        lambda: callbacks.MagnitudePruning(0.5, 1, 4, 1, importance="taylor"),
        lambda: callbacks.SNIP(0.5, data=(X, Y)),
    ],
)
def test_algorithms_that_grow_at_zero_or_read_gradients_are_refused(make):
    """A weight whose variable is zero has the gradient zero: it would never leave zero."""
    model, _ = small_model()
    with pytest.raises(ValueError, match="can't work on '.*first/kernel', whose weight is a power of its variable"):
        make().prepare(model)


def test_what_works_on_plain_masks_asks_for_a_dense_model():
    """The paper prunes once, after training: `prune(to_dense(model), ...)`."""
    model, _ = small_model()
    assert prune(to_dense(model), 0.8).prune_report is not None
    other, _ = small_model()
    with pytest.raises(ValueError):
        prune(model, 0.8)
    with pytest.raises(ValueError):
        load_masks(model, other)


def test_a_model_that_is_built_by_its_first_call_has_the_initial_weights_of_the_plain_one():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.part = layers.PowerDense(3, kernel_initializer=keras.initializers.Constant(0.25))

        def call(self, inputs):
            return self.part(inputs)

    model = Net()
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    model.fit(X, Y[:, :3], epochs=1, verbose=0)
    np.testing.assert_array_equal(to_numpy(model.part.kernel), 0.5)


@pytest.mark.parametrize(
    "options,message",
    [
        ({"alpha": 0.5}, "`alpha` must be .* at least 1.*alpha=0.5"),
        ({"alpha": float("inf")}, "alpha=inf"),
        ({"structure": "channel"}, "`structure` must not tie layers.*structure='channel'"),
        ({"structure": "row"}, "`structure` must be None"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        layers.PowerDense(3, **options)
    with pytest.raises(ValueError, match="does not take LoRA"):
        layers.PowerDense(3, lora_rank=2)
