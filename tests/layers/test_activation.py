"""Sparse activations: which positions live, when they change, and the statistics of those that do."""

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf import layers
from sparsity_tf.layers.activation import MODES, structured_mask
from tests.compiling import XLA
from tests.gradients import gradients

X = np.random.default_rng(0).normal(2, 3, size=(5, 6, 8, 4)).astype("float32")


def array(tensor):
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


def mask_of(layer):
    return ops.convert_to_numpy(layer.mask())


def channels_first(x):
    return np.moveaxis(x, -1, 1)


def test_structured_masks_come_alive_in_the_published_order_of_phases():
    rows, columns = np.indices((4, 6)) % 2
    phases = [(rows == r) & (columns == c) for r, c in ((0, 0), (1, 1), (0, 1), (1, 0))]
    for quarters in range(5):
        expected = np.any(phases[:quarters], axis=0) if quarters else np.zeros((4, 6), bool)
        np.testing.assert_array_equal(structured_mask(4, 6, quarters), expected)
    np.testing.assert_array_equal(structured_mask(4, 6, 2), rows == columns)


@pytest.mark.parametrize(
    ("mode", "density", "size", "count"),
    [
        ("structured", 0.25, (6, 8), 12),
        ("structured", 0.75, (6, 8), 36),
        ("structured", 1.0, (6, 8), 48),
        ("structured", 0.25, (3, 5), 6),  # A cell that is cut off shows its first rows and columns.
        ("static", 0.5, (7, 5), 17),
        ("static", 0.29, (10, 10), 29),  # The product of the floats is below 29.
        ("dynamic", 0.3, (8, 8), 19),
        ("dynamic", 1.0, (3, 3), 9),
    ],
)
def test_the_number_of_live_positions_is_exact(mode, density, size, count):
    layer = layers.SparseActivation(mode, density)
    for training in (False, True, True):
        layer(np.ones((2, *size, 3), "float32"), training=training)
        assert mask_of(layer).shape == size and mask_of(layer).dtype == bool
        assert mask_of(layer).sum() == layer.count() == count
    assert layer.sparsity() == 1 - count / np.prod(size)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("mode", MODES)
def test_examples_and_channels_share_the_mask(mode, data_format):
    layer = layers.SparseActivation(mode, 0.25, data_format=data_format)
    x, back = (
        (X, np.asarray) if data_format == "channels_last" else (channels_first(X), lambda y: np.moveaxis(y, 1, -1))
    )
    y = array(layer(x, training=True))
    np.testing.assert_array_equal(back(y), np.where(mask_of(layer)[None, :, :, None], X, 0))


@pytest.mark.parametrize("mode", ["structured", "static"])
def test_fixed_masks_stay_and_govern_inference(mode):
    layer = layers.SparseActivation(mode, 0.5)
    for training in (True, True, False, None):
        np.testing.assert_array_equal(array(layer(X, training=training)), array(layer(X, training=True)))


def test_dynamic_masks_are_drawn_in_training_only():
    layer = layers.SparseActivation("dynamic", 0.5, dense_inference=False)
    seen = []
    for _ in range(3):
        layer(X, training=True)
        seen.append(mask_of(layer))
        for _ in range(2):
            np.testing.assert_array_equal(array(layer(X)), np.where(seen[-1][None, :, :, None], X, 0))
        np.testing.assert_array_equal(mask_of(layer), seen[-1])
    assert not (seen[0] == seen[1]).all() and not (seen[1] == seen[2]).all()


def test_dynamic_masks_choose_all_positions_alike():
    layer = layers.SparseActivation("dynamic", 0.25, seed=3)
    x = np.ones((1, 4, 4, 1), "float32")
    total = sum(array(layer(x, training=True))[0, :, :, 0] for _ in range(100))
    # 100 draws of 1 in 4: 25 each, standard deviation 4.3.
    assert total.sum() == 400 and abs(total - 25).max() < 18


@pytest.mark.parametrize("mode", MODES)
def test_dense_inference_multiplies_by_the_live_fraction(mode):
    layer = layers.SparseActivation(mode, 0.25, dense_inference=True)
    np.testing.assert_allclose(array(layer(X)), 0.25 * X, rtol=1e-6)
    assert layers.SparseActivation(mode).dense_inference == (mode == "dynamic")


def test_masks_follow_the_seed():
    def masks_of(seed):
        layer = layers.SparseActivation("dynamic", 0.5, seed=seed)
        layer.build(X.shape)
        masks = [mask_of(layer)]
        layer(X, training=True)
        return np.stack([*masks, mask_of(layer)])

    np.testing.assert_array_equal(masks_of(7), masks_of(7))
    assert not (masks_of(7) == masks_of(8)).all()
    keras.utils.set_random_seed(1)
    first = masks_of(None)
    assert not (first == masks_of(None)).all()
    keras.utils.set_random_seed(1)
    np.testing.assert_array_equal(first, masks_of(None))


@pytest.mark.parametrize("mode,number", [("structured", 0), ("static", 1), ("dynamic", 2)])
def test_a_layer_holds_its_random_mask_and_the_counter_of_its_draws(mode, number):
    layer = layers.SparseActivation(mode)
    layer.build(X.shape)
    assert len(layer.variables) == number
    assert layer.trainable_variables == []


def test_dead_positions_are_zero_whatever_they_hold_and_have_no_gradient():
    layer = layers.SparseActivation("structured", 0.25)
    x = np.full((1, 4, 4, 1), np.inf, "float32")
    x[:, ::2, ::2] = 1
    np.testing.assert_array_equal(array(layer(x))[0, :, :, 0], structured_mask(4, 4, 1))
    variable = keras.Variable(np.ones((1, 4, 4, 1), "float32"))
    [gradient] = gradients(lambda: ops.sum(layer(ops.convert_to_tensor(variable))), [variable])
    np.testing.assert_array_equal(array(gradient)[0, :, :, 0], structured_mask(4, 4, 1))


@pytest.mark.parametrize("p", [1, 2, 3.5])
def test_the_penalty_is_the_norm_of_each_example(p):
    layer = layers.SparseActivation("structured", 0.5, lp_penalty=0.1, p=p)
    y = array(layer(X, training=True)).astype("float64")
    expected = np.mean(np.sum(abs(y) ** p, axis=(1, 2, 3)) ** (1 / p))
    [loss] = layer.losses
    assert float(array(loss)) == pytest.approx(0.1 * expected, rel=1e-5)
    assert float(array(layer.lp_norm(y.astype("float16")))) == pytest.approx(expected, rel=1e-3)
    inference = layers.SparseActivation("structured", 0.5, lp_penalty=0.1, p=p)
    inference(X)
    assert not inference.losses


@pytest.mark.parametrize("p", [1, 2, 3.5])
def test_the_norm_of_nothing_has_a_finite_gradient(p):
    layer = layers.SparseActivation(p=p)
    variable = keras.Variable(np.zeros((2, 2, 2, 1), "float32"))
    [gradient] = gradients(lambda: layer.lp_norm(ops.convert_to_tensor(variable)), [variable])
    assert np.isfinite(array(gradient)).all()
    assert float(array(layer.lp_norm(np.zeros((2, 2, 2, 1), "float32")))) == 0


def test_the_penalty_makes_activations_smaller():
    norms = []
    for weight in (0.0, 1.0):
        keras.utils.set_random_seed(0)
        convolution = keras.layers.Conv2D(3, 1, use_bias=False)
        penalized = layers.SparseActivation("static", 0.5, lp_penalty=weight, p=2, seed=0)
        model = keras.Sequential([keras.Input((6, 8, 4)), convolution, penalized])
        model.compile(keras.optimizers.SGD(0.01), lambda y_true, y: 0 * ops.mean(y))
        for _ in range(3):
            model.train_on_batch(X, np.zeros((5, 6, 8, 3), "float32"))
        norms.append(float(array(penalized.lp_norm(model(X)))))
    assert norms[1] < 0.9 * norms[0]


def numpy_batch_norm(x, mask, epsilon, gamma=1.0, beta=0.0):
    """(output, mean, variance) of the batch normalisation of the live positions."""
    live = x[:, mask].astype("float64")
    mean, variance = live.mean(axis=(0, 1)), live.var(axis=(0, 1))
    y = np.zeros(x.shape)
    y[:, mask] = gamma * (live - mean) / np.sqrt(variance + epsilon) + beta
    return y, mean, variance


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("mode", MODES)
def test_batch_normalisation_has_the_statistics_of_live_positions(mode, axis):
    data_format = "channels_last" if axis == -1 else "channels_first"
    activation = layers.SparseActivation(mode, 0.25, data_format=data_format)
    layer = layers.SparseBatchNormalization(axis, 0.9, 1e-5, sparse_activation=activation)
    # Dead positions hold what would spoil the statistics.
    y = array(layer(X if axis == -1 else channels_first(X), training=True))
    y = y if axis == -1 else np.moveaxis(y, 1, -1)
    mask = mask_of(activation)
    expected, mean, variance = numpy_batch_norm(X, mask, 1e-5)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    np.testing.assert_allclose(array(layer.moving_mean), 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(array(layer.moving_variance), 0.9 + 0.1 * variance, rtol=1e-5)
    assert np.count_nonzero(y) == 0.25 * y.size
    assert (y[:, ~mask] == 0).all()
    np.testing.assert_allclose(y[:, mask].mean(axis=(0, 1)), 0, atol=1e-6)
    np.testing.assert_allclose(y[:, mask].std(axis=(0, 1)), 1, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_batch_normalisation_in_inference(mode):
    layer = layers.SparseBatchNormalization(sparse_activation=layers.SparseActivation(mode, 0.25, seed=1))
    stock = keras.layers.BatchNormalization()
    layer.build(X.shape)
    stock.build(X.shape)
    rng = np.random.default_rng(1)
    for ours, theirs in zip(layer.weights, stock.weights, strict=False):
        assert ours.name == theirs.name
        theirs.assign(rng.uniform(0.5, 2, ours.shape))
        ours.assign(theirs)
    dense, y = array(stock(X)), array(layer(X))
    if mode == "dynamic":
        np.testing.assert_allclose(y, 0.25 * dense, rtol=1e-6)
    else:  # Dead positions are zero, not beta - gamma mean / sd.
        np.testing.assert_allclose(y, np.where(mask_of(layer.sparse_activation)[:, :, None], dense, 0), rtol=1e-6)


def test_static_batch_normalisation_agrees_between_training_and_inference():
    layer = layers.SparseBatchNormalization(-1, 0.0, 1e-5, sparse_activation=layers.SparseActivation("static", 0.5))
    layer.build(X.shape)
    gamma, beta = np.array([[1, 2, 3, 4], [4, 3, 2, 1]])
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    trained = array(layer(X, training=True))
    expected, _, _ = numpy_batch_norm(X, mask_of(layer.sparse_activation), 1e-5, gamma, beta)
    np.testing.assert_allclose(trained, expected, atol=1e-4)
    np.testing.assert_allclose(array(layer(X, training=False)), trained, rtol=1e-4, atol=1e-5)


def test_without_a_mask_it_is_the_stock_layer():
    layer, stock = layers.SparseBatchNormalization(), keras.layers.BatchNormalization()
    for training in (True, False):
        np.testing.assert_array_equal(array(layer(X, training=training)), array(stock(X, training=training)))
    assert layer.momentum == stock.momentum and layer.epsilon == stock.epsilon
    assert layers.SparseBatchNormalization()(X[:, 0, 0]).shape == (5, 4)


def test_dead_positions_have_no_part_in_the_gradient_of_batch_normalisation():
    layer = layers.SparseBatchNormalization(sparse_activation="structured")
    variable = keras.Variable(X)
    [gradient] = gradients(lambda: ops.sum(layer(ops.convert_to_tensor(variable), training=True) ** 3), [variable])
    dead = ~mask_of(layer.sparse_activation)
    assert (array(gradient)[:, dead] == 0).all() and (array(gradient)[:, ~dead] != 0).all()


def test_a_frozen_batch_normalisation_is_in_inference_mode():
    layer = layers.SparseBatchNormalization(sparse_activation="dynamic")
    layer.build(X.shape)
    layer.trainable = False
    mask = mask_of(layer.sparse_activation)
    np.testing.assert_array_equal(array(layer(X, training=True)), array(layer(X)))
    np.testing.assert_array_equal(mask_of(layer.sparse_activation), mask)


def test_the_penalty_in_a_batch_normalisation_counts_its_outputs_once_a_step():
    activation = layers.SparseActivation("static", 0.5, lp_penalty=0.5)
    layer = layers.SparseBatchNormalization(sparse_activation=activation)
    for _ in range(2):
        y = layer(X, training=True)
        [loss] = layer.losses
        assert float(array(loss)) == pytest.approx(0.5 * abs(array(y)).sum() / len(X), rel=1e-5)


def make_layer(kind, mode):
    activation = layers.SparseActivation(mode, 0.5, lp_penalty=1e-3, p=2, data_format="channels_last")
    return activation if kind == "activation" else layers.SparseBatchNormalization(sparse_activation=activation)


def make_model(kind, mode):
    inputs = keras.Input((6, 8, 4))
    x = keras.layers.Conv2D(3, 3, padding="same")(inputs)
    x = make_layer(kind, mode)(x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D(data_format="channels_last")(x))


@pytest.mark.parametrize(
    ("kind", "mode", "jit_compile"),
    [
        pytest.param("activation", "static", False, marks=pytest.mark.compiled),
        ("activation", "dynamic", False),
        ("batch_norm", "structured", False),
        pytest.param("batch_norm", "dynamic", True, marks=pytest.mark.compiled),
    ],
)
def test_a_saved_model_goes_on_exactly(kind, mode, jit_compile, tmp_path):
    """Config and `.keras` round trips, compiled training, a dynamic batch size, counters of the draws."""
    y = np.random.default_rng(2).normal(size=(5, 3)).astype("float32")
    model = make_model(kind, mode)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse", jit_compile=jit_compile and XLA)
    model.train_on_batch(X, y)
    np.testing.assert_allclose(model.predict(X[:2], verbose=0), array(model(X))[:2], rtol=1e-4, atol=1e-5)
    path = str(tmp_path / "model.keras")
    model.save(path)
    loaded = keras.saving.load_model(path)
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))
    for _ in range(2):
        for each in (model, loaded):
            each.reset_metrics()  # Keras 3.12 returns the mean over all steps since the last reset.
        expected = float(model.train_on_batch(X[:3], y[:3]))
        # Threads may add in another order; another mask would be seen.
        assert float(loaded.train_on_batch(X[:3], y[:3])) == pytest.approx(expected, rel=1e-5)
    for ours, theirs in zip(model.variables, loaded.variables, strict=True):
        np.testing.assert_allclose(array(ours), array(theirs), rtol=1e-4, atol=1e-6)
    layer, copy = model.layers[2], loaded.layers[2]
    assert copy.get_config() == layer.get_config()
    assert type(layer).from_config(layer.get_config()).get_config() == layer.get_config()
    # A fresh model of the same structure takes the weights alone, counters included.
    weights = str(tmp_path / "model.weights.h5")
    model.save_weights(weights)
    fresh = make_model(kind, mode)
    fresh.load_weights(weights)
    first, second = (array(m(X, training=True)) for m in (model, fresh))
    np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)


@pytest.mark.compiled
@pytest.mark.tensorflow
def test_draws_are_the_same_compiled_and_eager():
    import tensorflow as tf

    eager, graph, xla = (layers.SparseActivation("dynamic", 0.3, seed=5) for _ in range(3))
    calls = [
        lambda x: eager(x, training=True),
        tf.function(lambda x: graph(x, training=True)),
        tf.function(lambda x: xla(x, training=True), jit_compile=True),
    ]
    for layer in (eager, graph, xla):
        layer.build(X.shape)
    for _ in range(3):
        results = [array(call(tf.constant(X))) for call in calls]
        np.testing.assert_array_equal(results[0], results[1])
        np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("kind", ["activation", "batch_norm"])
def test_mixed_precision(kind, policy):
    keras.config.set_dtype_policy(policy)
    layer = make_layer(kind, "dynamic")
    for training in (True, False):
        y = layer(X, training=training)
        assert keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype == policy.removeprefix("mixed_")
        assert np.isfinite(array(y)).all()
    activation = layer if kind == "activation" else layer.sparse_activation
    y = array(layer(X, training=True))
    assert (y[:, ~mask_of(activation)] == 0).all()
    [loss] = layer.losses
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"


@pytest.mark.parametrize("kind", ["activation", "batch_norm"])
def test_keras_knows_the_output_shape(kind):
    layer = make_layer(kind, "static")
    assert layer(keras.Input((6, 8, 4))).shape == (None, 6, 8, 4)
    assert layer.compute_output_shape((None, 6, 8, 4)) == (None, 6, 8, 4)
    # A mask has one size.
    with pytest.raises(ValueError, match="incompatible with the layer"):
        layer(X[:, :4])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "checker"}, "`mode` must be one of"),
        ({"mode": "structured", "density": 0.3}, "`density` must be 0.25, 0.5, 0.75 or 1"),
        ({"mode": "static", "density": 1.5}, "`density` must be at most 1"),
        ({"mode": "static", "density": 0.0}, "`density` must be a finite number above 0"),
        ({"lp_penalty": -1.0}, "`lp_penalty` must be"),
        ({"p": 0.5}, "`p` must be"),
        ({"data_format": "nhwc"}, "`data_format` must be"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        layers.SparseActivation(**arguments)


def test_bad_inputs_are_named():
    with pytest.raises(ValueError, match="`density` must be larger: of the 16 positions"):
        layers.SparseActivation("static", 0.05)(X[:, :4, :4])
    with pytest.raises(ValueError, match="rank 4"):
        layers.SparseActivation()(X[0])
    with pytest.raises(ValueError, match="height and width must be known"):
        layers.SparseActivation()(keras.Input((None, None, 3)))


@pytest.mark.tensorflow
def test_batch_normalisation_refuses_what_it_can_not_do():
    first = layers.SparseActivation(data_format="channels_first")
    for activation, axis, message in [
        ("checker", -1, "`sparse_activation` must be"),
        ("static", 2, "`axis` must be"),
        (first, -1, "`sparse_activation` must have the data format of `axis`"),
    ]:
        with pytest.raises(ValueError, match=message):
            layers.SparseBatchNormalization(axis, sparse_activation=activation)
    with pytest.raises(ValueError, match="`synchronized` must be False"):
        layers.SparseBatchNormalization(sparse_activation="static", synchronized=True)
    with pytest.raises(ValueError, match="`mask` must be None"):
        layers.SparseBatchNormalization(sparse_activation="static")(X, mask=X[..., 0] > 0)


def test_a_file_of_another_mode_is_refused(tmp_path):
    path = str(tmp_path / "model.weights.h5")
    make_model("activation", "static").save_weights(path)
    with pytest.raises(ValueError, match=r"dynamic SparseActivation\) expected the variables"):
        make_model("activation", "dynamic").load_weights(path)
