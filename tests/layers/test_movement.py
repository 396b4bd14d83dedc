"""Movement pruning layers: exact top-k of signed scores, and the straight-through gradient of the scores."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from sparsity_tf import layers
from sparsity_tf.ops.top_k import highest_mask
from tests.callbacks.bags import first
from tests.gradients import gradients, weighted_sum


def to_numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor), "float64")


def known_layer(weights, scores, sparsity):
    weights = np.asarray(weights, "float32")
    layer = layers.MovementDense(weights.shape[1], use_bias=False, initial_sparsity=sparsity)
    layer.build((None, weights.shape[0]))
    layer.kernel.assign(weights)
    layer.scores.assign(np.asarray(scores, "float32"))
    return layer


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    st.lists(
        st.sampled_from([-np.inf, -3.0, -1.0, -1e-30, -0.0, 0.0, 1e-30, 0.5, 1.0, np.inf]), min_size=1, max_size=12
    )
    | st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=12),
    st.integers(0, 12),
)
def test_the_highest_of_signed_numbers(scores, k):
    scores = np.array(scores, "float32")
    found = ops.convert_to_numpy(highest_mask(ops.convert_to_tensor(scores), k))
    np.testing.assert_array_equal(found, first(scores, min(k, len(scores)), np.ones(len(scores), bool)))


def test_a_score_that_is_not_a_number_is_kept():
    found = highest_mask(ops.convert_to_tensor(np.array([1.0, np.nan, 5.0, -2.0], "float32")), 2)
    assert ops.convert_to_numpy(found).tolist() == [False, True, True, False]
    found = highest_mask(ops.convert_to_tensor(np.array([np.inf, np.nan, -np.inf], "float32")), 1)
    assert ops.convert_to_numpy(found).tolist() == [False, True, False]


@pytest.mark.parametrize("size,sparsity,live", [(10, 0.85, 1), (20, 0.85, 3), (7, 0.5, 3), (10, 0.0, 10)])
def test_counts_are_exact(size, sparsity, live):
    """int(v n) of n entries live at the density v."""
    scores = np.random.default_rng(0).normal(size=(size, 1))
    (weight,) = known_layer(np.ones((size, 1)), scores, sparsity).sparse_weights
    assert weight.count() == live
    np.testing.assert_array_equal(to_numpy(weight.mask()).astype(bool), first(scores, live, np.ones((size, 1), bool)))


def test_the_golden_step():
    """From scores of zero, with a rate eta: S = -eta w g. w = (1, -1), g = (.5, .5): the first moves towards zero."""
    layer = known_layer([[1.0], [-1.0]], [[0.0], [0.0]], 0.0)
    model = keras.Sequential([keras.Input((2,)), layer])
    model.compile(keras.optimizers.SGD(0.1), loss=lambda y, prediction: prediction)
    model.train_on_batch(np.full((1, 2), 0.5), np.zeros((1, 1)))
    np.testing.assert_allclose(to_numpy(layer.scores).ravel(), [-0.05, 0.05], rtol=1e-6)
    layer.technique.assign_sparsity(layer.sparse_weights[0], 0.5)
    assert to_numpy(layer.sparse_weights[0].mask()).ravel().tolist() == [0, 1]


def test_both_gradients():
    rng = np.random.default_rng(1)
    kernel, scores, inputs, upstream = (rng.normal(size=s).astype("float32") for s in ((6, 4), (6, 4), (5, 6), (5, 4)))
    layer = known_layer(kernel, scores, 0.5)
    mask = first(scores, 12, np.ones((6, 4), bool))
    for training in (True, False):
        outputs = to_numpy(layer(inputs, training=training))
        np.testing.assert_allclose(outputs, inputs @ (kernel * mask), rtol=1e-4, atol=1e-5)
    by_kernel, by_scores = gradients(
        lambda: weighted_sum(layer(ops.convert_to_tensor(inputs), training=True), upstream),
        [layer.kernel, layer.scores],
    )
    by_value = inputs.T @ upstream
    np.testing.assert_allclose(by_kernel, by_value * mask, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_scores, by_value * kernel, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", [keras.optimizers.SGD, keras.optimizers.Adam])
def test_the_learning_rate_of_the_scores_does_not_matter(optimizer):
    """Scores begin at zero and are only ranked, so a common factor of their updates changes no mask."""
    rng = np.random.default_rng(2)
    kernel, x, y = (rng.normal(size=s).astype("float32") for s in ((6, 4), (8, 6), (8, 4)))
    seen, target = [], ops.convert_to_tensor(y)
    for factor in (1, 64):
        layer = known_layer(kernel, np.zeros((6, 4)), 0.5)
        weights, rates = optimizer(0.05), optimizer(0.05 * factor)
        weights.build([layer.kernel])
        rates.build([layer.scores])
        for _ in range(4):
            found = gradients(
                lambda layer=layer: ops.mean((layer(x, training=True) - target) ** 2), [layer.kernel, layer.scores]
            )
            weights.apply([ops.convert_to_tensor(found[0].astype("float32"))])
            rates.apply([ops.convert_to_tensor(found[1].astype("float32"))])
        seen.append((to_numpy(layer.kernel), to_numpy(layer.sparse_weights[0].mask())))
    for one, other in zip(*seen, strict=True):
        np.testing.assert_array_equal(one, other)


def test_pruned_weights_keep_their_number_and_come_back_with_it():
    layer = known_layer([[1.0], [2.0]], [[0.0], [1.0]], 0.5)
    assert to_numpy(layer.sparse_weights[0].value()).ravel().tolist() == [0, 2]
    layer.scores.assign([[3.0], [1.0]])
    assert to_numpy(layer.sparse_weights[0].value()).ravel().tolist() == [1, 0]


@pytest.mark.parametrize(
    "options,message",
    [
        ({"initial_sparsity": 1.0}, "`initial_sparsity` must be .*initial_sparsity=1.0"),
        ({"scores_initializer": "no"}, "`scores_initializer` .*'no'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        layers.MovementDense(3, **options)
