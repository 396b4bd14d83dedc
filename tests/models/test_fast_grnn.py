"""The FastGRNN classifier: the published counts of parameters, and ranks that soft thresholds learn."""

import keras
import numpy as np
import pytest

from sparsity_tf import layers, models, to_dense


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def test_counts_are_those_of_the_equations():
    """W, U, two biases and two scalars, and a classifier with biases."""
    for options, matrices in (
        ({}, 32 * 100 + 100 * 100),
        ({"input_rank": 9, "recurrent_rank": 24}, 9 * (32 + 100) + 24 * (100 + 100)),
        ({"gains": True}, 32 * (32 + 100) + 100 * (100 + 100) + 132),
    ):
        model = models.fast_grnn(**options)
        assert model.count_params() == matrices + 2 * 100 + 2 + 100 * 12 + 12
        assert model.output_shape == (None, 12)


def test_only_the_gains_are_sparse():
    model = models.fast_grnn((5, 3), 2, units=4, gains=True, gain_l2=0.5, technique="str", where="fast_grnn")
    assert [weight.path.rpartition("/")[2] for weight in layers.get_sparse_weights(model)] == [
        "kernel_gain",
        "recurrent_gain",
    ]
    layer = model.get_layer("fast_grnn")
    # Gains of 1 cost 0.5 each: three and four of them.
    assert float(array(sum(model.losses))) == pytest.approx(0.5 * 7)
    layer.cell.kernel_gain.assign([1.0, 0.1, 1.0])
    for weight in layers.get_sparse_weights(model):
        weight.extra_variable("raw_threshold").assign(-1.0)  # 0.27
    assert layer.ranks() == (2, 4)
    folded = layers.fold_rank(layer)
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    np.testing.assert_allclose(array(folded(x)), array(layer(x)), atol=1e-6)
    assert folded.get_config()["gain_regularizer"] is None
    np.testing.assert_allclose(array(to_dense(model)(x)), array(model(x)), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_shape": (5,)}, "`input_shape`"),
        ({"num_classes": 0}, "`num_classes`"),
        ({"gain_l2": 0.1}, "`gain_l2` needs gains=True"),
        ({"gain_l2": -1, "gains": True}, "`gain_l2`"),
        ({"gains": 1}, "`gains`"),
        ({"units": 0}, "`units`"),
    ],
)
def test_other_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        models.fast_grnn(**change)
