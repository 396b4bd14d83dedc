"""Moving statistics become those of the data, by numpy; nothing else in the model changes."""

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

import sparsity_tf
from sparsity_tf import refresh_statistics

pytestmark = pytest.mark.compiled

RNG = np.random.default_rng(8)
X = (RNG.normal(size=(50, 6, 6, 3)) * [1, 5, 0.1] + [0, -20, 3]).astype("float32")


def statistics(layer):
    return [ops.convert_to_numpy(v) for v in (layer.moving_mean, layer.moving_variance)]


def assert_statistics(layer, x, axes, rtol=1e-4, atol=1e-5):
    x = np.asarray(x, "float64")
    for found, expected in zip(statistics(layer), (x.mean(axes), x.var(axes)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)


def everything(model):
    return {v.path: np.array(ops.convert_to_numpy(v)) for v in model.variables}


@pytest.mark.parametrize("batch_size", [50, 16, 1])
def test_mean_and_variance_are_those_of_all_data_however_it_is_cut(batch_size):
    model = keras.Sequential([keras.Input((6, 6, 3)), kl.BatchNormalization(name="norm")])
    assert refresh_statistics(model, X, batch_size) is model
    assert_statistics(model.layers[0], X, (0, 1, 2))
    cut = [X[:7], (X[7:30], np.zeros(23)), X[30:]]
    refresh_statistics(model, cut)
    assert_statistics(model.layers[0], X, (0, 1, 2))


def test_layers_behind_others_and_nested_ones():
    """Of one batch: a layer reads what the layers before it put out with that batch's own statistics."""
    inner = keras.Sequential([keras.Input((6, 6, 4)), kl.BatchNormalization(name="second"), kl.ReLU()], name="inner")
    inputs = keras.Input((6, 6, 3))
    hidden = kl.Conv2D(4, 1, use_bias=False, name="conv")(kl.BatchNormalization(name="first")(inputs))
    model = keras.Model(inputs, kl.Dense(2)(inner(hidden)))
    refresh_statistics(model, X)
    first, conv, second = model.get_layer("first"), model.get_layer("conv"), inner.get_layer("second")
    assert_statistics(first, X, (0, 1, 2))
    normalised = (X - X.mean((0, 1, 2))) / np.sqrt(X.astype("float64").var((0, 1, 2)) + first.epsilon)
    maps = normalised @ ops.convert_to_numpy(conv.kernel)[0, 0]
    assert_statistics(second, maps, (0, 1, 2), atol=1e-4)
    # Inference on this data is then what training would have computed.
    outputs = ops.convert_to_numpy(model(X, training=False))
    np.testing.assert_allclose(outputs, ops.convert_to_numpy(model(X, training=True)), rtol=1e-3, atol=1e-3)


def test_everything_else_stays_as_it_is():
    inputs = keras.Input((4,))
    hidden = kl.Dropout(0.5, seed=3)(kl.Dense(5, name="dense")(inputs))
    norm, frozen = kl.BatchNormalization(momentum=0.7, name="norm"), kl.BatchNormalization(name="frozen")
    frozen.trainable = False
    model = keras.Model(inputs, kl.Dense(1)(frozen(norm(hidden))))
    model.compile("adam", "mse", metrics=["mae"], jit_compile=False)
    x = RNG.normal(size=(12, 4)).astype("float32")
    model.fit(x, x[:, :1], verbose=0)
    before, metrics = everything(model), [np.array(ops.convert_to_numpy(v)) for v in model.metrics_variables]
    refresh_statistics(model, x)
    changed = {path for path, value in everything(model).items() if not np.array_equal(value, before[path])}
    assert changed == {v.path for layer in (norm, frozen) for v in (layer.moving_mean, layer.moving_variance)}
    assert norm.momentum == 0.7 and norm.trainable and not frozen.trainable
    assert not frozen.gamma.trainable and norm.gamma.trainable
    for variable, value in zip(model.metrics_variables, metrics, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)
    # Dropout is off: what the layer reads is the dense layer's output.
    dense = model.get_layer("dense")
    assert_statistics(norm, ops.convert_to_numpy(dense(x)), 0)
    assert "call" not in vars(norm)
    model.fit(x, x[:, :1], verbose=0)


def test_a_shared_layer_counts_all_its_calls():
    inputs, norm = keras.Input((3,)), kl.BatchNormalization()
    model = keras.Model(inputs, kl.Add()([norm(inputs), norm(kl.Rescaling(2.0, 1.0)(inputs))]))
    x = RNG.normal(size=(20, 3)).astype("float32")
    refresh_statistics(model, x, batch_size=8)
    assert_statistics(norm, np.concatenate([x, 2 * x + 1]), 0)


def test_masked_positions_do_not_count():
    inputs = keras.Input((4, 2))
    norm = kl.BatchNormalization()
    model = keras.Model(inputs, norm(kl.Masking()(inputs)))
    x, mask = RNG.normal(size=(9, 4, 2)).astype("float32") + 1, RNG.random((9, 4)) < 0.6
    mask[0] = False
    x[~mask] = 0
    refresh_statistics(model, x, batch_size=1)
    assert_statistics(norm, x[mask], 0, rtol=1e-3, atol=1e-3)


def test_other_axes_time_and_subclasses():
    norm = kl.BatchNormalization(axis=1)
    model = keras.Sequential([keras.Input((3, 5)), norm])
    refresh_statistics(model, x := RNG.normal(size=(9, 3, 5)).astype("float32"))
    assert_statistics(norm, x, (0, 2))
    norm = kl.BatchNormalization()
    model = keras.Sequential([keras.Input((4, 3)), kl.TimeDistributed(norm)])
    refresh_statistics(model, x := RNG.normal(size=(9, 4, 3)).astype("float32"))
    assert_statistics(norm, x, (0, 1))
    norm = sparsity_tf.layers.SparseBatchNormalization(sparse_activation="static")
    model = keras.Sequential([keras.Input((6, 6, 3)), norm])
    refresh_statistics(model, X, batch_size=20)
    live = np.broadcast_to(ops.convert_to_numpy(norm(X, training=False)) != 0, X.shape)
    for channel in range(3):
        found = [part[channel] for part in statistics(norm)]
        part = X[..., channel][live[..., channel]].astype("float64")
        np.testing.assert_allclose(found, [part.mean(), part.var()], rtol=1e-3, atol=1e-4)


def test_half_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    norm = kl.BatchNormalization()
    refresh_statistics(keras.Sequential([keras.Input((6, 6, 3)), norm]), X)
    assert_statistics(norm, X, (0, 1, 2), rtol=0.02, atol=0.02)


def test_a_model_without_batch_normalization_says_so():
    model = keras.Sequential([keras.Input((3,)), kl.LayerNormalization(), kl.Dense(2)])
    with pytest.warns(UserWarning, match="no `BatchNormalization`"):
        assert refresh_statistics(model, np.ones((2, 3))) is model


def test_a_layer_that_is_not_called_keeps_its_statistics_and_is_named():
    class Idle(keras.Model):
        def __init__(self):
            super().__init__()
            self.used, self.idle = kl.BatchNormalization(name="used"), kl.BatchNormalization(name="idle")

        def build(self, input_shape):
            self.used.build(input_shape)
            self.idle.build(input_shape)

        def call(self, inputs):
            return self.used(inputs)

    model = Idle()
    model.build((None, 3))
    with pytest.warns(UserWarning, match="not called.*idle"):
        refresh_statistics(model, x := RNG.normal(size=(5, 3)))
    assert_statistics(model.used, x, 0)
    np.testing.assert_array_equal(statistics(model.idle), [[0] * 3, [1] * 3])


def bad_generator():
    yield X[:5]
    raise RuntimeError("the disk is gone")


@pytest.mark.parametrize(
    "data, error, text",
    [
        ([], ValueError, "`data` must hold at least one batch"),
        (3, ValueError, "`data`"),
        ("abc", ValueError, "`data`"),
        (np.full((4, 6, 6, 3), np.nan), ValueError, "`data`.*NaN.*norm"),
        ((X, X[:3]), ValueError, "`data` must hold arrays with the same number"),
        (bad_generator, RuntimeError, "disk"),
    ],
)
def test_an_error_changes_nothing(data, error, text):
    model = keras.Sequential([keras.Input((6, 6, 3)), kl.BatchNormalization(momentum=0.9, name="norm"), kl.Dense(1)])
    before = everything(model)
    with pytest.raises(error, match=text):
        refresh_statistics(model, data() if callable(data) else data)
    for path, value in everything(model).items():
        np.testing.assert_array_equal(value, before[path])
    assert model.layers[0].momentum == 0.9


@pytest.mark.parametrize("arguments", [{"model": None}, {"model": keras.Sequential()}, {"batch_size": 0}])
def test_bad_arguments_are_named(arguments):
    model = keras.Sequential([keras.Input((3,)), kl.BatchNormalization()])
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}` must be"):
        refresh_statistics(**{"model": model, "data": np.ones((2, 3)), **arguments})
