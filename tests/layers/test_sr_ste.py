"""SR-STE layers: exactly N of M in every call, a straight-through gradient, and a decay of the pruned weights."""

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf import layers, sparsify, to_dense
from sparsity_tf.masks import structures
from sparsity_tf.ops.top_k import n_of_m_mask
from tests.gradients import gradients, weighted_sum


def to_numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor), "float64")


def known_layer(weights, **options):
    weights = np.asarray(weights, "float32")
    layer = layers.SRSTEDense(weights.shape[1], use_bias=False, **options)
    layer.build((None, weights.shape[0]))
    layer.kernel.assign(weights)
    return layer


def losses_of(layer):
    return sum(layer.losses, ops.zeros(()))


@pytest.mark.parametrize("spec", ["2:4", "1:4", "3:8", "1:2"])
@pytest.mark.parametrize("shape,axis", [((12, 5), 0), ((3, 3, 7, 4), 2), ((5, 9), 1)])
def test_the_mask_of_a_tensor_is_the_mask_of_the_structure(spec, shape, axis):
    """Also with ties, and where M does not divide the axis."""
    structure, rng = structures.get(spec), np.random.default_rng(0)
    units = tuple(other for other in range(len(shape)) if other != axis)[-1:]
    if axis == 1:
        units = (0,)
    for scores in (rng.normal(size=shape), rng.integers(-2, 3, shape), np.zeros(shape)):
        scores = scores.astype("float32")
        expected = structure.keep_highest(abs(scores), structure.sparsity, None, units)
        found = n_of_m_mask(ops.convert_to_tensor(scores), structure.n, structure.m, axis)
        np.testing.assert_array_equal(ops.convert_to_numpy(found), expected)


def test_the_published_gradient():
    """w = (.4, -.3, .2, .1), 2:4, an upstream gradient of ones."""
    layer = known_layer([[0.4], [-0.3], [0.2], [0.1]])
    np.testing.assert_allclose(to_numpy(layer.sparse_weights[0].value()).ravel(), [0.4, -0.3, 0, 0], rtol=1e-6)
    x = np.ones((1, 4), "float32")
    (found,) = gradients(lambda: ops.sum(layer(x, training=True)) + losses_of(layer), [layer.kernel])
    np.testing.assert_allclose(found.ravel(), [1, 1, 1.00004, 1.00002], rtol=1e-7)


def test_without_decay_the_gradient_goes_straight_through():
    rng = np.random.default_rng(1)
    kernel, inputs, upstream = (rng.normal(size=s).astype("float32") for s in ((8, 3), (5, 8), (5, 3)))
    layer = known_layer(kernel, structure="1:4", decay=0.0)
    x = keras.Variable(inputs)
    value = to_numpy(layer.sparse_weights[0].value())
    by_kernel, by_x = gradients(
        lambda: weighted_sum(layer(ops.convert_to_tensor(x), training=True), upstream) + losses_of(layer),
        [layer.kernel, x],
    )
    np.testing.assert_allclose(by_kernel, inputs.T @ upstream, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_x, upstream @ value.T, rtol=1e-4, atol=1e-5)
    assert not layer.losses


def test_pruned_weights_decay_and_the_others_do_not_move():
    layer = known_layer([[0.4], [-0.3], [0.2], [0.1]], decay=0.5)
    model = keras.Sequential([keras.Input((4,)), layer])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    for _ in range(3):
        model.train_on_batch(np.zeros((2, 4)), np.zeros((2, 1)))
    factor = (1 - 0.1 * 0.5) ** 3
    np.testing.assert_allclose(to_numpy(layer.kernel).ravel(), [0.4, -0.3, 0.2 * factor, 0.1 * factor], rtol=1e-5)


def test_the_users_regularizer_sees_all_weights():
    layer = layers.SRSTEDense(1, use_bias=False, decay=0.5, kernel_regularizer=keras.regularizers.L2(0.1))
    layer.build((None, 4))
    layer.kernel.assign([[0.4], [-0.3], [0.2], [0.1]])
    expected = 0.1 * (0.16 + 0.09 + 0.04 + 0.01) + 0.5 * 0.5 * (0.04 + 0.01)
    assert float(losses_of(layer)) == pytest.approx(expected)
    model = keras.Sequential([keras.Input((4,)), layer])
    dense = to_dense(model).layers[0]
    assert float(losses_of(dense)) == pytest.approx(0.1 * (0.16 + 0.09))
    assert isinstance(dense.kernel.regularizer, keras.regularizers.L2)


def test_counts_are_exact_and_the_mask_moves_while_training():
    layer = layers.SRSTEConv2D(5, 3, structure="1:4")
    model = keras.Sequential([keras.Input((6, 6, 8)), layer])
    model.compile(keras.optimizers.SGD(0.3, momentum=0.9), "mse")
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(8, 6, 6, 8)), rng.normal(size=(8, 4, 4, 5))
    (weight,) = layer.sparse_weights
    before = ops.convert_to_numpy(weight.mask())
    for _ in range(3):
        model.train_on_batch(x, y)
        mask = ops.convert_to_numpy(weight.mask())
        assert (mask.reshape(3, 3, 2, 4, 5).sum(axis=3) == 1).all()
        assert np.count_nonzero(to_numpy(layer.kernel)) == 360
    assert (mask & ~before).any()


def test_sparsify_says_where_m_does_not_divide():
    """The stem of a network of colour images has three input channels."""
    model = keras.Sequential([keras.Input((6, 6, 3)), keras.layers.Conv2D(8, 3, name="stem")])
    text = " ".join(str(sparsify(model, "sr_ste").sparsify_report).split())  # The note is folded.
    assert "stem/kernel: 2:4 gives only 33.33 % zeros here, because 3 inputs are not a multiple of 4" in text


@pytest.mark.parametrize(
    "options,message",
    [
        ({"structure": None}, r"`structure` must be 'N:M'.*structure=None"),
        ({"structure": "4x1"}, r"`structure` must be 'N:M'.*structure='4x1'"),
        ({"structure": "4:4"}, "`structure` must be .*structure='4:4'"),
        ({"decay": -1.0}, "`decay` must be .*decay=-1.0"),
        ({"decay": float("nan")}, "decay=nan"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        layers.SRSTEDense(3, **options)
