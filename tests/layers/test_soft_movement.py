"""Soft movement pruning layers: the threshold on scores, the floor of live entries, both gradients and the penalty."""

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf import callbacks, layers
from tests.compiling import JAX
from tests.gradients import gradients, weighted_sum


def to_numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor), "float64")


def known_layer(weights, scores, **options):
    weights = np.asarray(weights, "float32")
    layer = layers.SoftMovementDense(weights.shape[1], use_bias=False, **options)
    layer.build((None, weights.shape[0]))
    layer.kernel.assign(weights)
    layer.soft_scores.assign(np.asarray(scores, "float32"))
    return layer


def test_entries_whose_sigmoid_exceeds_the_threshold_live():
    """sigmoid(-2.2) is below 0.1, sigmoid(-2.19) above."""
    layer = known_layer([[1.0], [2.0], [3.0], [4.0]], [[-2.2], [-2.19], [5.0], [-9.0]])
    assert to_numpy(layer.sparse_weights[0].value()).ravel().tolist() == [0, 2, 3, 0]
    layer = known_layer(np.ones((3, 1)), [[-0.1], [0.0], [0.1]], score_threshold=0.5)
    assert to_numpy(layer.sparse_weights[0].mask()).ravel().tolist() == [0, 0, 1]


@pytest.mark.parametrize("size,least,live", [(100, 0.005, 1), (400, 0.005, 3), (10, 0.25, 3), (1, 0.5, 1), (4, 0.0, 1)])
def test_at_least_so_many_live(size, least, live):
    scores = np.linspace(-30, -20, size)[:, None]
    (weight,) = known_layer(np.ones((size, 1)), scores, least_live=least).sparse_weights
    assert weight.count() == live and to_numpy(weight.mask()).ravel()[size - live :].all()


def test_both_gradients():
    rng = np.random.default_rng(1)
    kernel, scores, inputs, upstream = (rng.normal(size=s).astype("float32") for s in ((6, 4), (6, 4), (5, 6), (5, 4)))
    layer = known_layer(kernel, scores, score_threshold=0.5)
    mask = scores > 0
    for training in (True, False):
        outputs = to_numpy(layer(inputs, training=training))
        np.testing.assert_allclose(outputs, inputs @ (kernel * mask), rtol=1e-4, atol=1e-5)
    by_kernel, by_scores = gradients(
        lambda: weighted_sum(layer(ops.convert_to_tensor(inputs), training=True), upstream),
        [layer.kernel, layer.soft_scores],
    )
    by_value = inputs.T @ upstream
    np.testing.assert_allclose(by_kernel, mask * by_value, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_scores, kernel * by_value, rtol=1e-4, atol=1e-5)


def test_the_penalty_is_the_mean_of_the_sigmoids_and_moves_scores_down():
    scores = np.array([[0.0], [1.0], [-3.0]], "float32")
    layer = known_layer(np.zeros((3, 1)), scores, penalty_weight=2.0)
    layer(np.ones((1, 3)), training=True)
    sigmoid = 1 / (1 + np.exp(-scores))
    assert float(to_numpy(layer.losses[0])) == pytest.approx(2 * sigmoid.mean(), rel=1e-5)
    model = keras.Sequential([keras.Input((3,)), layer])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    model.train_on_batch(np.ones((1, 3)), np.zeros((1, 1)))
    np.testing.assert_allclose(to_numpy(layer.soft_scores), scores - 2 / 3 * sigmoid * (1 - sigmoid), rtol=1e-5)


@pytest.mark.compiled
def test_a_stronger_penalty_prunes_more():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 12)).astype("float32")
    y = x[:, :2] @ np.ones((2, 1), "float32")
    found = []
    for weight in (0.0, 1.0, 10.0):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((12,)), layers.SoftMovementDense(1, scores_initializer=-2.0)])
        model.compile(keras.optimizers.Adam(0.02), "mse", jit_compile=JAX)
        ramp = callbacks.PenaltyRamp(weight=weight, num_examples=1)
        model.fit(x, y, batch_size=16, epochs=20, verbose=0, callbacks=[ramp])
        found.append(layers.get_sparse_weights(model)[0].count())
    assert found == sorted(found, reverse=True) and found[0] > found[-1] >= 1


@pytest.mark.parametrize(
    "options,name",
    [
        ({"score_threshold": 0.0}, "score_threshold"),
        ({"score_threshold": 1.0}, "score_threshold"),
        ({"least_live": 1.0}, "least_live"),
        ({"penalty_weight": -1.0}, "penalty_weight"),
        ({"scores_initializer": "no"}, "scores_initializer"),
    ],
)
def test_bad_options_are_named(options, name):
    with pytest.raises(ValueError, match=name):
        layers.SoftMovementDense(3, **options)
