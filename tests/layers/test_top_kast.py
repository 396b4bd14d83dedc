"""Top-KAST layers: exact forward and backward sets, frozen weights outside, and the exploration loss."""

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf import layers, to_dense
from tests.gradients import gradients, weighted_sum

# Ten weights in falling order of magnitude: at sparsity 0.7 and exploration 0.3 the first three are used, and the first
# six are trained.
KERNEL = np.array([[-1.0], [0.9], [0.8], [-0.7], [0.6], [0.5], [0.4], [0.3], [-0.2], [0.1]], "float32")
OPTIONS = {"sparsity": 0.7, "exploration": 0.3}


def to_numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor), "float64")


def known_layer(weights=KERNEL, **options):
    layer = layers.TopKASTDense(weights.shape[1], use_bias=False, **{**OPTIONS, **options})
    layer.build((None, weights.shape[0]))
    layer.kernel.assign(weights)
    return layer


def losses_of(layer):
    return sum(layer.losses, ops.zeros(()))


@pytest.mark.parametrize(
    "size,sparsity,exploration,used,trained",
    [
        (10, 0.7, 0.3, 3, 6),
        (10, 0.7, 0.0, 3, 3),
        (10, 0.7, 1.0, 3, 10),
        (100, 0.95, 0.1, 5, 15),
        (20, 0.95, 0.1, 1, 3),
        (7, 0.9, 0.1, 1, 1),  # floor(6.3) are not used, and floor(0.7) more are trained.
        (10, 0.0, 0.5, 10, 10),
    ],
)
def test_counts_are_exact(size, sparsity, exploration, used, trained):
    kernel = np.random.default_rng(0).permutation(size).astype("float32")[:, None] + 1
    layer = known_layer(kernel, sparsity=sparsity, exploration=exploration, l2=0.0)
    (weight,) = layer.sparse_weights
    assert weight.count() == used
    x = np.ones((1, size), "float32")
    (found,) = gradients(lambda: ops.sum(layer(x, training=True)), [layer.kernel])
    assert np.count_nonzero(found) == trained
    assert np.flatnonzero(found).tolist() == np.flatnonzero(kernel > size - trained).tolist()


def test_the_gradient_is_dense_inside_the_backward_set_and_zero_outside():
    rng = np.random.default_rng(1)
    kernel, inputs, upstream = (rng.normal(size=s).astype("float32") for s in ((8, 5), (4, 8), (4, 5)))
    layer = known_layer(kernel, sparsity=0.5, exploration=0.25, l2=0.0)
    order = np.argsort(-abs(kernel), axis=None)
    used, trained = np.zeros(40, bool), np.zeros(40, bool)
    used[order[:20]], trained[order[:30]] = True, True
    used, trained = used.reshape(8, 5), trained.reshape(8, 5)
    x = keras.Variable(inputs)
    for training in (True, False):
        outputs = to_numpy(layer(inputs, training=training))
        np.testing.assert_allclose(outputs, inputs @ (kernel * used), rtol=1e-4, atol=1e-5)
    by_kernel, by_x = gradients(
        lambda: weighted_sum(layer(ops.convert_to_tensor(x), training=True), upstream), [layer.kernel, x]
    )
    np.testing.assert_allclose(by_kernel, inputs.T @ upstream * trained, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_x, upstream @ (kernel * used).T, rtol=1e-4, atol=1e-5)


def test_the_exploration_loss():
    """c (sum over A of w^2 + 1 / D times the sum over B without A of w^2), D = 0.3."""
    layer = known_layer(l2=0.5)
    expected = 0.5 * (1.0 + 0.81 + 0.64 + (0.49 + 0.36 + 0.25) / 0.3)
    assert float(to_numpy(losses_of(layer))) == pytest.approx(expected, rel=1e-6)
    (found,) = gradients(lambda: losses_of(layer), [layer.kernel])
    factor = np.array([1, 1, 1, 1 / 0.3, 1 / 0.3, 1 / 0.3, 0, 0, 0, 0])
    np.testing.assert_allclose(found.ravel(), factor * KERNEL.ravel(), rtol=1e-5)


def test_weights_outside_the_backward_set_never_move():
    """Neither by the loss of the task, nor by the exploration loss, nor by the user's own regularizer."""
    layer = layers.TopKASTDense(1, use_bias=False, **OPTIONS, l2=0.01, kernel_regularizer=keras.regularizers.L2(0.1))
    model = keras.Sequential([keras.Input((10,)), layer])
    layer.kernel.assign(KERNEL)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    rng = np.random.default_rng(2)
    before = to_numpy(layer.kernel)
    model.train_on_batch(rng.normal(size=(8, 10)), rng.normal(size=(8, 1)))
    moved = to_numpy(layer.kernel) != before
    assert moved.ravel().tolist() == [True] * 6 + [False] * 4
    assert float(to_numpy(losses_of(layer))) > 0.1 * np.square(to_numpy(layer.kernel)).sum()
    dense = to_dense(model).layers[0]
    assert isinstance(dense.kernel.regularizer, keras.regularizers.L2)


def test_a_weight_outside_the_forward_set_can_enter_it():
    layer = known_layer(l2=0.5)
    model = keras.Sequential([keras.Input((10,)), layer])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    x = np.zeros((4, 10), "float32")
    x[:, 4] = 1.0  # Only the fifth weight, which is trained but not used, would lower the loss.
    for _ in range(3):
        model.train_on_batch(x, np.full((4, 1), 5.0))
    assert to_numpy(layer.sparse_weights[0].mask())[4] == 1
    assert layer.sparse_weights[0].count() == 3


def test_a_budget_sets_the_sparsity_of_each_layer():
    parts = [layers.TopKASTDense(5, sparsity=0.5, name="one"), layers.DNWDense(5, name="two")]
    model = keras.Sequential([keras.Input((4,)), *parts])
    layers.set_sparsities(model, {"one": 0.8, "two": 0.6})
    assert [round(part.sparse_weights[0].sparsity(), 6) for part in parts] == [0.8, 0.6]


@pytest.mark.parametrize(
    "options,message",
    [
        ({"sparsity": 1.0}, "`sparsity` must be .*sparsity=1.0"),
        ({"exploration": 1.5}, "`exploration` must be .*exploration=1.5"),
        ({"exploration": None}, "exploration=None"),
        ({"l2": -1.0}, "`l2` must be .*l2=-1.0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        layers.TopKASTDense(3, **options)
