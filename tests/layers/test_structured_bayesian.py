"""Structured Bayesian pruning: the formulas against golden values and numerical integration, then training."""

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

import sparsity_tf
from sparsity_tf.layers import LogNormalDropout, SBPConv2D, SBPDense
from sparsity_tf.layers.structured_bayesian import divergence, mean_and_snr, sample
from tests import fresh_process
from tests.compiling import JAX, XLA

# mu, log sigma -> divergence, mean, signal-to-noise ratio on [-20, 0] (closed form and numerical integration).
GOLDEN = [
    (0, -5, 7.269941, 0.9946465, 246.70),
    (0, 0, 2.269941, 0.5231566, 2.092439),
    (-1, 0, 1.893348, 0.3604531, 1.488422),
    (-1, -1, 2.593604, 0.3912273, 2.718665),
    (-3, 1, 0.8600759, 0.123144, 0.6154742),
    (0, 3, 0.0101924, 0.058221, 0.362647),
]


def arrays(*numbers):
    return [ops.convert_to_numpy(number) for number in numbers]


@pytest.mark.parametrize("mu,log_sigma,kl_,mean,snr", GOLDEN)
def test_golden_values(mu, log_sigma, kl_, mean, snr):
    mu, log_sigma = ops.cast([mu], "float32"), ops.cast([log_sigma], "float32")
    found = arrays(divergence(mu, log_sigma), *mean_and_snr(mu, log_sigma))
    np.testing.assert_allclose(found[0], kl_, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(found[1], mean, rtol=1e-5)
    np.testing.assert_allclose(found[2], snr, rtol=2e-2 if log_sigma[0] == -5 else 2e-5)


def test_moments_are_those_of_an_integral():
    rng = np.random.default_rng(0)
    mu, log_sigma = rng.uniform(-18, 0, 60), rng.uniform(-2, 4, 60)
    grid = np.linspace(-20, 0, 200_001)[:, np.newaxis]
    density = np.exp(-0.5 * ((grid - mu) / np.exp(log_sigma)) ** 2)
    density /= np.trapezoid(density, grid, axis=0) if hasattr(np, "trapezoid") else np.trapz(density, grid, axis=0)
    integral = getattr(np, "trapezoid", None) or np.trapz
    first, second = (integral(density * np.exp(n * grid), grid, axis=0) for n in (1, 2))
    entropy = -integral(np.where(density > 0, density * np.log(np.maximum(density, 1e-300)), 0), grid, axis=0)
    tensors = [ops.cast(array, "float32") for array in (mu, log_sigma)]
    mean, snr = arrays(*mean_and_snr(*tensors))
    np.testing.assert_allclose(mean, first, rtol=2e-4)
    np.testing.assert_allclose(snr, first / np.sqrt(second - first**2), rtol=2e-3)
    np.testing.assert_allclose(arrays(divergence(*tensors))[0], np.log(20) - entropy, rtol=1e-3, atol=1e-4)


def test_everything_is_finite_to_the_bounds():
    mu, log_sigma = np.meshgrid(np.linspace(-20, 0, 41), np.linspace(-20, 5, 51))
    mu, log_sigma = (ops.cast(array, "float32") for array in (mu, log_sigma))
    for found in arrays(divergence(mu, log_sigma), *mean_and_snr(mu, log_sigma), sample(mu, log_sigma, 0.3 + 0 * mu)):
        assert np.isfinite(found).all()


def test_without_truncation_the_ratio_depends_on_sigma_alone():
    log_sigma = ops.cast(np.log([0.5, 0.8326, 1.0]), "float32")
    for mu in (-8.0, -10.0):
        snr = arrays(mean_and_snr(mu + 0 * log_sigma, log_sigma))[0][1]
        np.testing.assert_allclose(snr, (np.exp(np.array([0.5, 0.8326, 1.0]) ** 2) - 1) ** -0.5, rtol=1e-3)


def test_samples_have_the_mean_and_stay_in_the_interval():
    u = np.random.default_rng(0).random((4000, 2)).astype("float32")
    mu, log_sigma = (ops.cast(np.broadcast_to(row, u.shape), "float32") for row in ([-1.0, -3.0], [0.0, 1.0]))
    theta = arrays(sample(mu, log_sigma, ops.convert_to_tensor(u)))[0]
    np.testing.assert_allclose(theta.mean(axis=0), [0.3604531, 0.123144], rtol=0.05)
    assert theta.min() >= np.exp(-20.001) and theta.max() <= 1
    edges = arrays(sample(mu[:2], log_sigma[:2], ops.cast([[0, 0], [1, 1]], "float32")))[0]
    assert np.isfinite(edges).all()


def test_dead_units_are_whole_filters_and_shrink_removes_them():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = SBPConv2D(6, 3, activation="relu", name="conv")(inputs)
    x = SBPDense(10, activation="relu", name="units")(kl.Flatten()(x))
    model = keras.Model(inputs, kl.Dense(4)(x))
    dead = {"conv": [0, 2, 5], "units": [1, 3, 4, 9]}
    for name, units in dead.items():
        layer = model.get_layer(name)
        log_sigma = np.full(layer.log_sigma.shape, -3.0)
        log_sigma[..., units] = 3.0
        layer.log_sigma.assign(log_sigma)
        layer.bias.assign(np.linspace(-1, 1, layer.bias.shape[0]))
        (weight,) = sparsity_tf.get_sparse_weights(layer)
        axes = tuple(range(len(weight.shape) - 1))
        assert np.flatnonzero(~arrays(weight.mask())[0].any(axis=axes)).tolist() == units
    small = sparsity_tf.shrink(model)
    assert small.get_layer("conv").filters == 3 and small.get_layer("units").units == 6
    x = np.random.default_rng(0).normal(size=(5, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(*(arrays(net(x, training=False))[0] for net in (model, small)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "mu,log_sigma,lives",
    [
        (0.0, -20.0, True),  # The variance rounds to nothing: the most certain unit.
        (-20.0, 0.0, False),  # At the end of the interval the ratio is above 1, and the mean is 6e-9.
        (-1.0, -1.0, True),
        (-3.0, 1.0, False),
    ],
)
def test_which_units_live(mu, log_sigma, lives):
    layer = SBPDense(2, mu_initializer=mu, log_sigma_initializer=log_sigma)
    layer.build((None, 3))
    assert arrays(layer.sparse_weights[0].mask())[0].all() == lives
    assert arrays(layer.sparse_weights[0].mask())[0].any() == lives


def test_noise_on_inputs():
    layer = SBPDense(4, axis="input")
    layer.build((None, 3))
    assert layer.mu.shape == (3, 1)
    conv = SBPConv2D(4, 3, axis="input")
    conv.build((None, 8, 8, 2))
    assert conv.mu.shape == (1, 1, 2, 1)
    with pytest.raises(ValueError, match="`axis` must be 'output'"):
        sparsity_tf.layers.SBPEinsumDense("abc,cde->abde", (None, 2, 3), axis="input").build((None, 4, 7))


def test_noise_on_inputs_of_an_einsum_has_an_entry_for_each_unit_that_is_read():
    layer = sparsity_tf.layers.SBPEinsumDense("abcd,cde->abe", (None, 7), axis="input")
    layer.build((None, 4, 2, 3))
    assert layer.mu.shape == (2, 3, 1)
    with pytest.raises(ValueError, match="`axis` must be 'output' for a convolution with groups.*groups=2"):
        SBPConv2D(6, 3, groups=2, axis="input").build((None, 8, 8, 4))


def test_mixed_noise_is_on_filters_of_convolutions_and_on_inputs_of_dense_layers():
    dense, conv = SBPDense(4, axis="mixed"), SBPConv2D(6, 3, axis="mixed", groups=2)
    dense.build((None, 3))
    conv.build((None, 8, 8, 4))
    assert dense.mu.shape == (3, 1) and conv.mu.shape == (1, 1, 1, 6)


def test_the_units_of_mixed_noise_are_the_inputs_hidden_units_and_filters_that_shrink_removes():
    """The layout of the paper's LeNet-5: two convolutions' filters, then the inputs of both dense layers."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = kl.Conv2D(6, 3, activation="relu", name="conv")(inputs)
    x = kl.Dense(10, activation="relu", name="hidden")(kl.Flatten()(x))
    model = keras.Model(inputs, kl.Dense(4, name="logits")(x))
    sparsity_tf.sparsify(model, "sbp", axis="mixed")
    dead = {"conv": [1, 4], "logits": [0, 3, 7]}
    for name, units in dead.items():
        log_sigma = arrays(model.get_layer(name).log_sigma)[0]
        log_sigma[(..., units) if name == "conv" else (units,)] = 3.0
        model.get_layer(name).log_sigma.assign(log_sigma)
    small = sparsity_tf.shrink(model)
    assert small.get_layer("conv").filters == 4 and small.get_layer("hidden").units == 7
    x = np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype("float32")
    np.testing.assert_allclose(*(arrays(net(x, training=False))[0] for net in (model, small)), rtol=1e-5, atol=1e-5)


DRAWN_FOR_EXAMPLES = [
    (lambda **options: SBPDense(50, **options), (6, 30), (6, 50)),
    (lambda **options: SBPDense(50, **options), (6, 4, 30), (6, 1, 50)),
    (lambda **options: SBPConv2D(50, 3, padding="same", **options), (6, 5, 5, 30), (6, 1, 1, 50)),
    (lambda **options: SBPConv2D(50, 1, data_format="channels_first", **options), (6, 30, 5, 5), (6, 50, 1, 1)),
]


@pytest.mark.parametrize("make,shape,drawn", DRAWN_FOR_EXAMPLES)
@pytest.mark.parametrize("axis", ["output", "input"])
def test_one_draw_for_each_example_and_unit(make, shape, drawn, axis):
    if shape[1:] == (30, 5, 5) and keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow's convolutions on a CPU have their channels last")
    layer = make(axis=axis, draw="example", use_bias=False, log_sigma_initializer=0.0, seed=1)
    layer.build((None, *shape[1:]))
    seen = {}

    def linear(inputs, kernel):
        seen["inputs"] = inputs
        return layer_linear(inputs, kernel)

    name = "convolution_op" if hasattr(layer, "kernel_size") else None
    layer_linear = getattr(layer, name) if name else ops.matmul
    (weight,) = layer.sparse_weights
    x = ops.ones(shape)
    noisy = layer.technique.apply(weight, linear, x, training=True)
    theta = arrays(seen["inputs"] if axis == "input" else noisy / layer_linear(x, weight.tensor()))[0]
    drawn = tuple(30 if size == 50 and axis == "input" else size for size in drawn)
    positions = tuple(index for index, size in enumerate(drawn) if size == 1)
    first = theta.mean(axis=positions, keepdims=True)
    assert first.shape == drawn
    np.testing.assert_allclose(theta, np.broadcast_to(first, theta.shape), rtol=1e-3)  # all positions share a draw
    assert len(np.unique(first.round(6))) > 0.95 * first.size
    # (0, 0) -> mean 0.5231566, standard deviation 0.25
    assert abs(first.mean() - 0.5231566) < 5 * 0.25 / np.sqrt(first.size)
    again = layer.technique.apply(weight, linear, x, training=True)
    assert (arrays(again)[0] != arrays(noisy)[0]).any()


def test_both_ways_to_draw_have_the_same_value_at_inference_and_the_same_penalty():
    keras.utils.set_random_seed(0)
    one, other = (SBPDense(4, draw=d, penalty_weight=1.0, kernel_initializer="ones") for d in ("batch", "example"))
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    np.testing.assert_array_equal(*(arrays(layer(x, training=False))[0] for layer in (one, other)))
    for layer in (one, other):
        layer(x, training=True)
    np.testing.assert_array_equal(*(arrays(*layer.losses)[0] for layer in (one, other)))


def test_means_over_a_batch_scatter_less_if_each_example_has_its_draw():
    """The standard deviation of a mean over n independent draws is that of one draw over sqrt(n)."""
    n, losses = 64, {}
    for draw in ("batch", "example"):
        layer = SBPDense(1, draw=draw, use_bias=False, kernel_initializer="ones", log_sigma_initializer=-1.0, seed=3)
        layer.build((None, 1))
        x = ops.ones((n, 1))
        losses[draw] = [float(arrays(ops.mean(layer(x, training=True)))[0]) for _ in range(100)]
    assert 5 < np.std(losses["batch"]) / np.std(losses["example"]) < 13


def test_a_draw_for_each_example_survives_batch_normalisation():
    """Normalisation with the statistics of the batch undoes a factor that all examples share, and only such a one."""
    x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
    differences = {}
    for draw in ("batch", "example"):
        keras.utils.set_random_seed(0)
        layer = SBPDense(3, draw=draw, use_bias=False, log_sigma_initializer=0.0)
        norm = kl.BatchNormalization(epsilon=1e-12)
        plain, noisy = (arrays(norm(layer(x, training=drawn), training=True))[0] for drawn in (False, True))
        differences[draw] = np.abs(noisy - plain).max()
    assert differences["batch"] < 1e-3 < 0.1 < differences["example"]


@pytest.mark.compiled
def test_a_draw_for_each_example_trains_compiled_in_mixed_precision_and_survives_saving(tmp_path):
    keras.utils.set_random_seed(0)
    options = {"axis": "mixed", "draw": "example", "penalty_weight": 1e-3, "dtype": "mixed_bfloat16"}
    inputs = keras.Input((5, 5, 2))
    x = SBPConv2D(4, 3, activation="relu", **options)(inputs)
    model = keras.Model(inputs, SBPDense(3, **options)(kl.Flatten()(x)))
    x, y = np.random.default_rng(0).normal(size=(4, 5, 5, 2)), np.ones((4, 3))
    model.compile("sgd", "mse", jit_compile=XLA)
    model.train_on_batch(x, y)
    model.compile("sgd", "mse", run_eagerly=True)
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    assert [layer.technique.draw for layer in (copy.layers[1], copy.layers[-1])] == ["example"] * 2
    # The copy goes on with the noise that the model draws next.
    copy.run_eagerly = True
    for net in (model, copy):
        net.train_on_batch(x, y)
    for one, other in zip(model.trainable_variables, copy.trainable_variables, strict=True):
        assert np.isfinite(arrays(one)[0]).all()
        np.testing.assert_allclose(*arrays(one, other), rtol=1e-5, atol=1e-6)


def test_each_example_can_not_have_its_draw_where_units_may_lie_on_any_axis():
    with pytest.raises(ValueError, match="`draw` must be 'batch' for an `EinsumDense`.*draw='example'"):
        sparsity_tf.layers.SBPEinsumDense("abc,cd->abd", (None, 2), draw="example").build((None, 4, 7))


def test_noise_that_is_not_a_number_is_not_hidden():
    layer = SBPDense(2)
    layer.build((None, 3))
    layer.mu.assign([[np.nan, 0.0]])
    outputs = arrays(layer(np.ones((1, 3), "float32")))[0]
    assert np.isnan(outputs).tolist() == [[True, False]]


@pytest.mark.parametrize("low,high", [(-30.0, -20.0), (-1.0, 20.0)])
def test_units_live_in_other_intervals(low, high):
    for log_sigma in (-5.0, -1.0, 5.0):
        layer = SBPDense(2, low=low, high=high, mu_initializer=high, log_sigma_initializer=log_sigma, snr_threshold=0.1)
        layer.build((None, 3))
        assert arrays(layer.sparse_weights[0].mask())[0].all()


@pytest.mark.compiled
def test_a_step_from_the_bounds_is_finite():
    mu, log_sigma = np.meshgrid(np.linspace(-20, 0, 9), np.linspace(-20, 5, 11))
    layer = SBPDense(mu.size, penalty_weight=1e-3)
    model = keras.Sequential([keras.Input((3,)), layer])
    layer.mu.assign(mu.reshape(1, -1))
    layer.log_sigma.assign(log_sigma.reshape(1, -1))
    model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=keras.backend.backend() != "torch")
    model.train_on_batch(np.ones((4, 3)), np.ones((4, mu.size)))
    for variable in (layer.mu, layer.log_sigma, layer.kernel):
        assert np.isfinite(arrays(variable)[0]).all()
    assert (arrays(layer.log_sigma)[0] != log_sigma.reshape(1, -1)).mean() > 0.5


def test_one_draw_for_each_unit_and_call():
    layer = SBPDense(50, use_bias=False, log_sigma_initializer=0.0, seed=1)
    x = np.ones((6, 3), "float32")
    layer.build((None, 3))
    layer.kernel.assign(np.ones((3, 50)))
    first, second = (arrays(layer(x, training=True))[0] for _ in range(2))
    assert (first == first[:1]).all() and len(np.unique(first[0])) > 45
    assert (first != second).any()


REPLICAS = """
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

from sparsity_tf.layers import SBPDense

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    layer = SBPDense(20, use_bias=False, log_sigma_initializer=0.0)
    layer.build((None, 3))
outputs = tf.function(lambda: strategy.run(lambda: layer(tf.ones((1, 3)), training=True)))()
one, other = (output.numpy() for output in strategy.experimental_local_results(outputs))
print((one == other).all())
"""


@pytest.mark.tensorflow
def test_all_replicas_draw_the_same_noise():
    # A process of its own: logical devices must be set before TensorFlow starts.
    process = fresh_process.run(REPLICAS)
    assert process.returncode == 0, process.stderr[-2000:]
    assert process.stdout.splitlines() == ["True"]


def test_variables_stay_within_their_bounds_and_can_come_back():
    layer = SBPDense(2, mu_initializer=7.0, log_sigma_initializer=-30.0)
    layer.build((None, 3))
    assert arrays(layer.mu)[0].max() == 0 and arrays(layer.log_sigma)[0].min() == -20
    model = keras.Sequential([keras.Input((3,)), SBPDense(2, log_sigma_initializer=-1.0)])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    layer = model.layers[0]
    for target in (1e3, 0.0):
        model.fit(np.ones((8, 3)), np.full((8, 2), target) * np.sign(arrays(layer.kernel)[0].sum(0)), verbose=0)
        assert (arrays(layer.mu)[0] <= 0).all() and (arrays(layer.mu)[0] >= -20).all()


def test_penalty_is_the_divergence_times_its_weight():
    layer = SBPDense(5, penalty_weight=0.01)
    layer(np.ones((2, 3), "float32"), training=True)
    np.testing.assert_allclose(arrays(*layer.losses)[0], 0.01 * 5 * 7.269941, rtol=1e-5)


@pytest.mark.compiled
def test_training_finds_the_units_that_nothing_needs():
    """Of a network with 20 units, of which the target needs two, most units die, and the error stays small."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 6)).astype("float32")
    y = np.maximum(x[:, :1], 0) - np.maximum(x[:, 1:2], 0)
    model = keras.Sequential([keras.Input((6,)), kl.Dense(20, activation="relu"), kl.Dense(1)])
    model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=JAX)
    model.fit(x, y, epochs=5, batch_size=100, verbose=0)
    sparsity_tf.sparsify(model, "sbp", where=[model.layers[0].name], penalty_weight=1e-3)
    model.compile(keras.optimizers.Adam(0.05), "mse", jit_compile=JAX)
    model.fit(x, y, epochs=15, batch_size=100, verbose=0)
    small = sparsity_tf.shrink(model)
    assert 2 <= small.layers[0].units <= 8
    assert np.mean((small.predict(x, verbose=0) - y) ** 2) < 0.05 * np.var(y)


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"axis": "both"}, "`axis` must be one of"),
        ({"draw": "step"}, "`draw` must be one of"),
        ({"low": 1.0}, "`high` must be .* above 1"),
        ({"high": 60.0}, "`high` must be .* at most 20"),
        ({"snr_threshold": -1}, "`snr_threshold` must be"),
        ({"penalty_weight": -1}, "`penalty_weight` must be"),
        ({"seed": "x"}, "`seed` must be"),
    ],
)
def test_bad_options_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        LogNormalDropout(**arguments)
