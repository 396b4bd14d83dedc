"""Group lasso: its value, its gradient, exact zeros of the proximal form, and a model that really shrinks."""

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf import shrink
from sparsity_tf.regularizers import GroupLasso, ProximalGroupLasso
from tests.gradients import gradients


def to_numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor), "float64")


KERNEL = np.array([[3.0, 0.0, 0.6], [4.0, 0.0, -0.8]], "float32")


def test_the_value_and_the_gradient():
    kernel = keras.Variable(KERNEL)
    assert float(to_numpy(GroupLasso(0.5)(kernel))) == pytest.approx(0.5 * (5 + 0 + 1))
    (found,) = gradients(lambda: GroupLasso(0.5)(kernel), [kernel])
    np.testing.assert_allclose(found, [[0.3, 0, 0.3], [0.4, 0, -0.4]], rtol=1e-6)


def test_groups_of_a_convolution_and_of_another_axis():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 2, 4)).astype("float32")
    for axis in (-1, 2):
        other = [a for a in range(4) if a != axis % 4]
        expected = 0.1 * np.sqrt((kernel.astype("float64") ** 2).sum(axis=tuple(other))).sum()
        assert float(to_numpy(GroupLasso(0.1, axis)(kernel))) == pytest.approx(expected, rel=1e-5)


def test_the_proximal_form_makes_exact_zeros():
    found = to_numpy(ProximalGroupLasso(1.0)(keras.Variable(KERNEL)))
    np.testing.assert_allclose(found, [[2.4, 0, 0], [3.2, 0, 0]], rtol=1e-6)
    assert (found[:, 1:] == 0).all()
    np.testing.assert_array_equal(to_numpy(ProximalGroupLasso(0.0)(KERNEL)), KERNEL)


@pytest.mark.parametrize("proximal", [False, True])
def test_training_and_shrinking(proximal, tmp_path):
    """The penalty alone makes no exact zeros. The proximal form does, and `shrink` removes the dead units."""
    options = {"kernel_constraint": ProximalGroupLasso(0.015)} if proximal else {"kernel_regularizer": GroupLasso(0.6)}
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(12, "relu", name="hidden", **options), keras.layers.Dense(1)]
    )
    model.compile(keras.optimizers.SGD(0.05), "mse", run_eagerly=True)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(320, 6)).astype("float32")
    model.fit(x, np.maximum(x[:, :1], 0), batch_size=16, epochs=2, verbose=0)
    dead = (to_numpy(model.get_layer("hidden").kernel) == 0).all(axis=0)
    assert dead.any() == proximal and not dead.all()
    small = shrink(model)
    assert (small.count_params() < model.count_params()) == proximal
    np.testing.assert_allclose(small.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-4, atol=1e-5)
    model.save(tmp_path / "model.keras")
    layer = keras.saving.load_model(tmp_path / "model.keras").get_layer("hidden")
    loaded = layer.kernel_constraint if proximal else layer.kernel_regularizer
    assert loaded.get_config() == next(iter(options.values())).get_config()


@pytest.mark.parametrize("make,name", [(GroupLasso, "factor"), (ProximalGroupLasso, "amount")])
def test_bad_arguments(make, name):
    for value in (-1.0, float("nan"), None):
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            make(value)
    with pytest.raises(ValueError, match="`axis` must be an integer.*axis=0.5"):
        make(axis=0.5)
    for axis in (2, -3):
        with pytest.raises(ValueError, match=f"`axis` must be from -2 to 1 .*axis={axis}"):
            make(axis=axis)(np.ones((2, 3), "float32"))
