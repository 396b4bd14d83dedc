"""What TensorFlow Model Optimization 0.8.1 gets wrong (the issues are its own), each as a test that passes here."""

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf import callbacks, layers, sparsify
from sparsity_tf.layers import get_sparse_weights
from tests.callbacks import algorithm_checks as checks
from tests.callbacks.algorithm_checks import fit, masks_of

X, Y = np.ones((8, 12), "float32"), np.ones((8, 5), "float32")


def pruned_at_once(sparsity=0.9, **options):
    return callbacks.MagnitudePruning(sparsity, end_step=1, frequency=1, schedule="constant", **options)


def zeros_of(model):
    return [float(np.mean(ops.convert_to_numpy(weight.value()) == 0)) for weight in get_sparse_weights(model)]


def plain_model():
    return keras.Sequential([keras.Input((12,)), keras.layers.Dense(10), keras.layers.Dense(5)])


@pytest.mark.parametrize("checkpoint_first", [True, False])
def test_a_checkpoint_is_sparse_wherever_its_callback_stands(checkpoint_first, tmp_path):
    """#206: the kernels on disk are 15.5 % and 0 % zero if `ModelCheckpoint` stands before, 90 % if after."""
    model = sparsify(plain_model(), "masked")
    model.compile("adam", "mse", run_eagerly=True)
    used = [keras.callbacks.ModelCheckpoint(tmp_path / "model.keras", save_freq=1), pruned_at_once()]
    fit(model, *used[:: 1 if checkpoint_first else -1], checks.StopAfter(1))
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert zeros_of(loaded) == pytest.approx([0.9, 0.9], abs=0.02)


def test_five_steps_of_train_on_batch_are_enough():
    """#271, #387: a loop of one's own ends at 13.8 % and 0 % zeros instead of 90 %."""
    model = sparsify(plain_model(), "masked")
    model.compile("adam", "mse", run_eagerly=True)
    pruning = callbacks.MagnitudePruning(0.9, end_step=5, frequency=1)
    pruning.prepare(model)
    for _ in range(5):
        model.train_on_batch(X, Y)
        pruning.update(model)
        checks.check_zeros(model)
    assert zeros_of(model) == [108 / 120, 45 / 50]
    model.train_on_batch(X, Y)
    assert zeros_of(model) == [108 / 120, 45 / 50]


@pytest.mark.parametrize("value", [0.5, -0.5, 0.0])
def test_a_kernel_of_equal_weights_is_pruned_exactly(value):
    """A threshold with `>=` keeps all of them."""
    model = sparsify(plain_model(), "masked")
    for weight in get_sparse_weights(model):
        weight.variable.assign(np.full(weight.shape, value))
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    fit(model, pruned_at_once(), checks.StopAfter(1))
    assert [int(mask.sum()) for mask in masks_of(model)] == [12, 5]


def test_two_of_four_hold_after_reloading_and_training_on(tmp_path):
    """`get_config` omits `sparsity_m_by_n`: (2, 4) before saving, nothing after loading."""
    model = sparsify(plain_model(), "masked", structure="2:4")
    model.compile("sgd", "mse", run_eagerly=True)
    fit(model, callbacks.MagnitudePruning(end_step=2, frequency=1, structure="2:4"), epochs=1)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    loaded.run_eagerly = True
    assert [layer.get_config()["structure"] for layer in loaded.layers] == ["2:4", "2:4"]
    fit(loaded, epochs=1)
    for mask in masks_of(loaded):
        groups = mask[: len(mask) // 4 * 4].reshape(-1, 4, mask.shape[1])
        assert (groups.sum(axis=1) == 2).all()


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.EinsumDense("ab,bc->ac", output_shape=10)
        self.outputs_ = keras.layers.Dense(5)

    def call(self, inputs):
        return self.outputs_(self.hidden(inputs))


def test_subclassed_models_and_einsum_layers_are_pruned():
    """#155, #965: refused."""
    model = Subclassed()
    model(X)
    model.compile("sgd", "mse", run_eagerly=True)
    fit(model, pruned_at_once(), epochs=1)
    assert [type(weight.layer) for weight in get_sparse_weights(model)] == [
        layers.MaskedEinsumDense,
        layers.MaskedDense,
    ]
    assert zeros_of(model) == [108 / 120, 45 / 50]


class Shift(keras.layers.Layer):
    """A layer that nothing knows."""

    def build(self, input_shape):
        self.shift = self.add_weight(shape=(input_shape[-1],), name="shift")

    def call(self, inputs):
        return inputs + self.shift


def test_a_layer_that_is_not_known_rejects_no_model():
    """#449, #374: one layer that can't be pruned makes the whole model an error."""
    model = keras.Sequential(
        [
            keras.Input((12,)),
            Shift(),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(10),
            keras.layers.Lambda(lambda x: x * 2),
            keras.layers.Dense(5),
        ]
    )
    model.compile("sgd", "mse", run_eagerly=True)
    fit(model, pruned_at_once(), epochs=1)
    assert zeros_of(model) == [108 / 120, 45 / 50]


@pytest.mark.parametrize("sparsity,live", [(0.99, [1, 0]), (0.999, [0, 0])])
def test_high_sparsities_are_exact(sparsity, live):
    """#215: a sparsity of 0.99 broke."""
    model = sparsify(plain_model(), "masked")
    model.compile("sgd", "mse", run_eagerly=True)
    history = fit(model, pruned_at_once(sparsity), epochs=1)
    assert [int(mask.sum()) for mask in masks_of(model)] == live
    assert np.isfinite(history["loss"]).all()
