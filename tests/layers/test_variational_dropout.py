"""Variational dropout: the published numbers, gradients against float64 formulas, noise, extremes.

The reference implementations here are written in numpy from the papers' equations.
"""

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf import layers
from sparsity_tf.layers import variational_dropout as vd
from sparsity_tf.ops import noise
from tests.gradients import compiled, gradients, weighted_sum
from tests.layers.layer_checks import KINDS, example_inputs, make_layer, stock_layer

EPS = 1e-8
K1, K2, K3 = 0.63576, 1.8732, 1.48695


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, "float64")))


def to_numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor), "float64")


def replayed_normals(layer, state, shape):
    """The normal numbers that the layer drew when its generator stood at `state`."""
    layer.seed_generator.state.assign(state)
    return to_numpy(noise.normal(shape, layer.seed_generator))


# theta, log_sigma2, log_alpha, clipped at 8, KL unclipped, KL clipped, kept at threshold 3
GOLDEN = [
    (0.5, -10.0, -8.613706, -8.0, 4.942692, 4.635899, True),
    (0.01, -10.0, -0.789760, -0.789760, 0.793136, 0.793136, True),
    (0.0, -10.0, 8.420681, 8.0, 0.000110, 0.000168, False),
    (-0.02, -4.0, 3.824021, 3.824021, 0.011134, 0.011134, False),
    (1.0, 0.0, 0.0, 0.0, 0.431239, 0.431239, True),
]


@pytest.mark.parametrize("theta,s,log_alpha,clipped,kl,clipped_kl,kept", GOLDEN)
def test_published_values(theta, s, log_alpha, clipped, kl, clipped_kl, kept):
    t, s_tensor = ops.convert_to_tensor(theta), ops.convert_to_tensor(s)
    la, la8 = vd.compute_log_alpha(t, s_tensor), vd.compute_log_alpha(t, s_tensor, 8.0)
    np.testing.assert_allclose(to_numpy(la), log_alpha, atol=2e-6)
    np.testing.assert_allclose(to_numpy(la8), clipped, atol=2e-6)
    np.testing.assert_allclose(to_numpy(vd.kl_divergence(la)), kl, atol=2e-6)
    np.testing.assert_allclose(to_numpy(vd.kl_divergence(la8)), clipped_kl, atol=2e-6)
    # Clipping log alpha is replacing s by s'; the layer does it on sigma^2 directly.
    s_clipped = clipped + np.log(theta**2 + EPS)
    np.testing.assert_allclose(to_numpy(vd.compute_log_sigma2(t, la8)), s_clipped, atol=2e-6)
    sigma2 = vd.VariationalDropout()._sigma2(t, s_tensor)
    np.testing.assert_allclose(to_numpy(sigma2), np.exp(s_clipped), rtol=1e-5)

    layer = layers.VDDense(1, kernel_initializer=keras.initializers.Constant(theta))
    layer.build((None, 1))
    layer.log_sigma2.assign([[s]])
    (weight,) = layer.sparse_weights
    assert bool(to_numpy(weight.mask())[0, 0]) == kept
    assert to_numpy(weight.value())[0, 0] == (np.float32(theta) if kept else 0.0)
    assert weight.threshold() == 3.0
    np.testing.assert_allclose(to_numpy(layer.technique.penalty(weight)), clipped_kl, atol=2e-6)


def test_log_alpha_and_back():
    rng = np.random.default_rng(0)
    theta, s = rng.uniform(-10, 10, (2, 32, 80)).astype("float32")
    log_alpha = vd.compute_log_alpha(theta, s)
    np.testing.assert_allclose(to_numpy(log_alpha), s - np.log(theta.astype("float64") ** 2 + EPS), atol=1e-5)
    np.testing.assert_allclose(to_numpy(vd.compute_log_sigma2(theta, log_alpha)), s, atol=1e-5)
    clipped = to_numpy(vd.compute_log_alpha(theta, s, 8.0))
    assert clipped.min() == -8 and clipped.max() == 8


@pytest.mark.parametrize(
    "log_alpha,kl,slope",
    [
        (-8, 4.6359, 0.4999),
        (-3, 2.1156, 0.538),
        (0, 0.43124, 0.359),
        (1, 0.1780, 0.165),
        (3, 0.025420, 0.0254),
        (5, 0.00342, 0.0034),
        (8, 0.00016837, 0.00017),
    ],
)
def test_kl_spot_values_and_slopes(log_alpha, kl, slope):
    variable = keras.Variable(float(log_alpha))
    np.testing.assert_allclose(to_numpy(vd.kl_divergence(variable.value)), kl, rtol=2e-3)
    (gradient,) = gradients(lambda: vd.kl_divergence(ops.convert_to_tensor(variable)), [variable])
    np.testing.assert_allclose(-gradient, slope, rtol=2e-2)
    p = sigmoid(K2 + K3 * log_alpha)
    np.testing.assert_allclose(gradient, -K1 * K3 * p * (1 - p) - 0.5 * sigmoid(-log_alpha), rtol=1e-3)


def test_kl_is_within_a_hundredth_of_the_exact_integral():
    log_alpha = np.linspace(-10, 10, 41)
    # -KL = 0.5 log alpha - E log|1 + sqrt(alpha) e| + C, e ~ N(0, 1), and zero at infinite alpha.
    edges = np.linspace(-9, 9, 100_001)
    e = (edges[1:] + edges[:-1]) / 2
    density = np.exp(-(e**2) / 2) / np.sqrt(2 * np.pi) * (edges[1] - edges[0])
    expected_log = [density @ np.log(np.abs(1 + np.exp(la / 2) * e)) for la in log_alpha]
    exact = (np.euler_gamma + np.log(2)) / 2 - 0.5 * log_alpha + expected_log
    ours = to_numpy(vd.kl_divergence(log_alpha.astype("float32")))
    deviation = np.abs(ours - exact)
    assert 0.009 < deviation.max() < 0.01  # The paper's own approximation, no better and no worse.
    assert (ours > 0).all() and (np.diff(ours) < 0).all()


# Every regime: log alpha below -8, between, above the threshold, above 8, and theta = 0.
THETA = np.array([[0.5, -0.3, 0.2], [0.01, -2.0, 0.1], [-0.02, 0.001, 0.0], [0.7, -0.4, 1.5]])
LOG_SIGMA2 = np.array([[-10, -4, -1.0], [-10, -8, -7], [-4, -3, -10], [-12, 3, -0.5]])
X = np.random.default_rng(1).normal(size=(6, 4))
UPSTREAM = np.random.default_rng(2).normal(size=(6, 3))


def known_layer(**options):
    layer = layers.VDDense(3, use_bias=False, seed=5, **options)
    layer.build((None, 4))
    layer.kernel.assign(THETA)
    layer.log_sigma2.assign(LOG_SIGMA2)
    return layer


def reference_sigma2(clip):
    """sigma^2 after clipping, with its derivatives with respect to theta and log sigma^2."""
    theta2 = THETA**2 + EPS
    log_alpha = LOG_SIGMA2 - np.log(theta2)
    if clip is None:
        return np.exp(LOG_SIGMA2), np.zeros_like(THETA), np.exp(LOG_SIGMA2)
    clipped = np.clip(log_alpha, -clip, clip)
    sigma2, inside = np.exp(clipped) * theta2, np.abs(log_alpha) < clip
    return sigma2, np.where(inside, 0, np.exp(clipped) * 2 * THETA), np.where(inside, sigma2, 0)


@pytest.mark.parametrize("clip", [8.0, None, 2.0, 15.0, 20.0, 100.0])
def test_penalty_and_its_gradients(clip):
    layer = known_layer(clip_log_alpha=clip)
    theta2 = THETA**2 + EPS
    log_alpha = LOG_SIGMA2 - np.log(theta2)
    limit = np.inf if clip is None else clip
    clipped = np.clip(log_alpha, -limit, limit)
    p = sigmoid(K2 + K3 * clipped)
    penalty = lambda: layer.technique.penalty(layer.sparse_weights[0])  # noqa: E731
    expected = (K1 - K1 * p + 0.5 * np.log1p(np.exp(-clipped))).sum()
    np.testing.assert_allclose(to_numpy(penalty()), expected, rtol=1e-5)
    slope = np.where(np.abs(log_alpha) < limit, -K1 * K3 * p * (1 - p) - 0.5 * sigmoid(-clipped), 0)
    assert clip not in (2.0, 8.0) or 0 < (slope == 0).sum() < slope.size
    by_theta, by_log_sigma2 = gradients(lambda: 0.5 * penalty(), [layer.kernel, layer.log_sigma2])
    np.testing.assert_allclose(by_theta, 0.5 * slope * -2 * THETA / theta2, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(by_log_sigma2, 0.5 * slope, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("clip", [8.0, 2.0])
def test_gradients_of_a_lookup_are_those_of_the_whole(clip):
    """Looked-up rows take another way through the code than whole kernels."""
    layer = layers.VDEmbedding(4, 3, seed=5, clip_log_alpha=clip)
    layer.build(None)
    layer.embeddings.assign(THETA)
    layer.log_sigma2.assign(LOG_SIGMA2)
    state = ops.convert_to_numpy(layer.seed_generator.state)
    ids = np.array([3, 1, 0, 2])
    upstream = UPSTREAM[:4]
    found = gradients(lambda: weighted_sum(layer(ids, training=True), upstream), [layer.embeddings, layer.log_sigma2])
    n = replayed_normals(layer, state, (4, 3))
    sigma2, by_theta, by_s = (table[ids] for table in reference_sigma2(clip))
    by_sigma2 = upstream * n / (2 * np.sqrt(sigma2 + EPS))
    expected = np.zeros((2, 4, 3))
    expected[0, ids], expected[1, ids] = upstream + by_sigma2 * by_theta, by_sigma2 * by_s
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("mask_in_training", [False, True])
@pytest.mark.parametrize("clip", [8.0, None, 2.0])
def test_training_pass_and_gradients(clip, mask_in_training):
    layer = known_layer(clip_log_alpha=clip, mask_in_training=mask_in_training)
    x = keras.Variable(X)
    state = ops.convert_to_numpy(layer.seed_generator.state)
    outputs = to_numpy(layer(ops.convert_to_tensor(x), training=True))
    layer.seed_generator.state.assign(state)
    found = gradients(
        lambda: weighted_sum(layer(ops.convert_to_tensor(x), training=True), UPSTREAM),
        [layer.kernel, layer.log_sigma2, x],
    )
    n = replayed_normals(layer, state, (6, 3))

    kept = np.ones_like(THETA)
    if mask_in_training:
        kept = LOG_SIGMA2 - np.log(THETA**2 + EPS) < 3
        assert 0 < kept.sum() < kept.size
    sigma2, sigma2_by_theta, sigma2_by_s = reference_sigma2(clip)
    deviation = np.sqrt(X**2 @ sigma2 + EPS)
    np.testing.assert_allclose(outputs, X @ (THETA * kept) + deviation * n, rtol=1e-4, atol=1e-5)
    by_variance = UPSTREAM * n / (2 * deviation)
    by_sigma2 = (X**2).T @ by_variance
    expected = [
        X.T @ UPSTREAM * kept + by_sigma2 * sigma2_by_theta,
        by_sigma2 * sigma2_by_s,
        UPSTREAM @ (THETA * kept).T + 2 * X * (by_variance @ sigma2.T),
    ]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("clip", [8.0, None, 2.0])
def test_gradients_of_the_kl_term(clip):
    layer = known_layer(clip_log_alpha=clip)
    found = gradients(lambda: layer.technique.penalty(layer.sparse_weights[0]), [layer.kernel, layer.log_sigma2])
    log_alpha = LOG_SIGMA2 - np.log(THETA**2 + EPS)
    inside = np.abs(log_alpha) < (np.inf if clip is None else clip)
    p = sigmoid(K2 + K3 * log_alpha)
    slope = (-K1 * K3 * p * (1 - p) - 0.5 * sigmoid(-log_alpha)) * inside
    # 1 - sigmoid has few digits in float32 where the KL is almost flat.
    np.testing.assert_allclose(found[0], -slope * 2 * THETA / (THETA**2 + EPS), rtol=3e-3)
    np.testing.assert_allclose(found[1], slope, rtol=3e-3)


@pytest.mark.parametrize("kind", ["EinsumDense", "Conv1D", "Conv2D", "Conv3D", "Conv1DTranspose", "Conv3DTranspose"])
def test_every_kind_samples_the_pre_activations(kind):
    """Mean and variance are the stock layer's own operation, on theta and on the squares."""
    x = example_inputs(kind)
    layer = make_layer("VD", kind, log_sigma2_initializer=-2.0, clip_log_alpha=None)
    layer(x)
    plain = stock_layer(layer, x)
    plain.kernel.assign(layer.kernel)
    mean = to_numpy(plain(x))
    plain.kernel.assign(ops.exp(layer.log_sigma2))
    variance = to_numpy(plain(x**2))
    state = ops.convert_to_numpy(layer.seed_generator.state)
    outputs = to_numpy(layer(x, training=True))
    n = replayed_normals(layer, state, outputs.shape)
    np.testing.assert_allclose(outputs, mean + n * np.sqrt(variance + EPS), rtol=1e-4, atol=1e-5)


def test_a_separable_convolution_samples_after_its_first_kernel_and_mixes_the_sample():
    x = example_inputs("SeparableConv1D")
    layer = make_layer("VD", "SeparableConv1D", log_sigma2_initializer=-2.0, clip_log_alpha=None)
    layer(x)
    depthwise, pointwise = layer.sparse_weights
    pointwise.extra_variable("log_sigma2").assign(np.full(pointwise.shape, -1e7))
    options = {"strides": layer.strides, "padding": layer.padding}
    mean = to_numpy(ops.depthwise_conv(x, layer.depthwise_kernel, **options))
    variance = to_numpy(ops.depthwise_conv(x**2, ops.exp(depthwise.extra("log_sigma2")), **options))
    state = ops.convert_to_numpy(layer.seed_generator.state)
    outputs = to_numpy(layer(x, training=True))
    hidden = mean + replayed_normals(layer, state, mean.shape) * np.sqrt(variance + EPS)
    # What is left of the second kernel's noise is the epsilon under its root.
    np.testing.assert_allclose(outputs, hidden @ to_numpy(layer.pointwise_kernel)[0], atol=1e-3)
    assert np.abs(outputs - mean @ to_numpy(layer.pointwise_kernel)[0]).max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_without_variance_training_is_the_plain_layer(kind):
    if not hasattr(layers, "VD" + kind):
        pytest.skip("no such layer")
    x = example_inputs(kind)
    layer = make_layer("VD", kind, log_sigma2_initializer=-1e7, clip_log_alpha=None)
    layer(x)
    expected = to_numpy(stock_layer(layer, x)(x))
    np.testing.assert_allclose(to_numpy(layer(x, training=True)), expected, atol=1e-3)
    np.testing.assert_allclose(to_numpy(layer(x, training=False)), expected, rtol=1e-5, atol=1e-6)
    noisy = make_layer("VD", kind, log_sigma2_initializer=0.0, log_alpha_threshold=50.0)
    # A bias or a relu may hide differences in some outputs; never in most.
    different = to_numpy(noisy(x, training=True)) != to_numpy(noisy(x, training=True))
    assert different.mean() > 0.4
    np.testing.assert_array_equal(to_numpy(noisy(x)), to_numpy(noisy(x, training=False)))


def test_embedding_draws_fresh_noise_at_every_position():
    layer = layers.VDEmbedding(10, 8, log_sigma2_initializer=-3.0, clip_log_alpha=None)
    ids = np.ones((3, 5), "int32")
    layer(ids)
    state = ops.convert_to_numpy(layer.seed_generator.state)
    outputs = to_numpy(layer(ids, training=True))
    assert len(np.unique(outputs[..., 0])) == 15
    n = replayed_normals(layer, state, (3, 5, 8))
    row = to_numpy(layer.embeddings)[1]
    np.testing.assert_allclose(outputs, row + n * np.sqrt(np.exp(-3) + EPS), rtol=1e-4, atol=1e-6)


SHARED = {
    "Dense": (lambda **o: layers.VDDense(4, **o), (3, 5, 6), (1,)),
    "EinsumDense": (lambda **o: layers.VDEinsumDense("...x,xy->...y", (5, 4), **o), (3, 5, 6), (1,)),
    "heads": (lambda **o: layers.VDEinsumDense("abc,cde->abde", (None, 2, 3), **o), (3, 5, 6), (1,)),
    "Conv1D": (lambda **o: layers.VDConv1D(4, 1, **o), (3, 5, 6), (1,)),
    "Conv2D": (lambda **o: layers.VDConv2D(4, 1, **o), (3, 5, 5, 6), (1, 2)),
    "Conv2D channels first": (
        lambda **o: layers.VDConv2D(4, 1, data_format="channels_first", **o),
        (3, 6, 5, 5),
        (2, 3),
    ),
}


@pytest.mark.parametrize("name", SHARED)
def test_shared_noise_is_one_vector_an_example(name):
    make, shape, position_axes = SHARED[name]
    if "first" in name and keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow has no such convolution on a CPU")
    x = np.ones(shape, "float32")
    shared = make(share_noise=True, log_sigma2_initializer=0.0)
    outputs = to_numpy(shared(x, training=True))
    first = outputs
    for axis in position_axes:
        first = np.take(first, [0], axis=axis)
    np.testing.assert_allclose(outputs, np.broadcast_to(first, outputs.shape), atol=1e-4)
    examples = first.reshape(3, -1)
    assert len(np.unique(examples)) == examples.size  # Other examples and units: other noise.
    assert not np.allclose(to_numpy(shared(x, training=True)), outputs)  # And other calls.
    independent = to_numpy(make(log_sigma2_initializer=0.0)(x, training=True))
    assert len(np.unique(independent)) == independent.size


def test_the_threshold_is_strict():
    layer = layers.VDDense(3, kernel_initializer="ones", log_alpha_threshold=2.0)
    layer.build((None, 1))
    below, above = np.nextafter(np.float32(2), np.float32([0, 3]))
    layer.log_sigma2.assign([[below, 2.0, above]])  # theta = 1: log alpha is log sigma2
    assert to_numpy(layer.sparse_weights[0].value()).tolist() == [[1.0, 0.0, 0.0]]


def test_a_weight_that_is_not_a_number_is_kept_and_seen():
    layer = layers.VDDense(2, log_sigma2_initializer=20.0)
    layer.build((None, 2))
    layer.kernel.assign([[np.nan, 1.0], [1.0, 1.0]])
    layer.log_sigma2.assign([[20.0, np.nan], [20.0, 20.0]])
    (weight,) = layer.sparse_weights
    assert weight.count() == 2
    values = compiled(lambda: weight.value())()
    for value in (to_numpy(weight.value()), to_numpy(values)):
        assert np.isnan(value[0, 0]) and value[0, 1] == 1 and (value[1] == 0).all()
    assert np.isnan(to_numpy(layer(np.ones((1, 2), "float32")))).any()


@pytest.mark.parametrize("clip", [8.0, None])
@pytest.mark.parametrize(
    "theta,x,s",
    [
        (0.0, 1.0, -10.0),
        (0.0, 0.0, -10.0),
        (1.0, 0.0, -1e7),
        (0.0, 0.0, -1e7),
        (0.1, 1e18, -10.0),
        (0.1, 1e18, 3.0),
        (1e-20, 1.0, 20.0),
        (1e4, 1.0, -80.0),
        (0.0, 1.0, 60.0),
        pytest.param(
            0.1,
            1.0,
            100.0,
        ),
    ],
)
def test_extremes_stay_finite(theta, x, s, clip):
    layer = layers.VDDense(
        3,
        kernel_initializer=keras.initializers.Constant(theta),
        log_sigma2_initializer=s,
        clip_log_alpha=clip,
        penalty_weight=1.0,
    )
    layer.build((None, 4))
    inputs = keras.Variable(np.full((2, 4), x))

    def loss():
        outputs = layer(ops.convert_to_tensor(inputs), training=True)
        return ops.mean(outputs) + layer.technique.penalty(layer.sparse_weights[0])

    assert np.isfinite(to_numpy(layer(ops.convert_to_tensor(inputs), training=True))).all()
    for gradient in gradients(loss, [layer.kernel, layer.log_sigma2, inputs]):
        assert np.isfinite(gradient).all()


def test_large_activations_in_float16():
    layer = layers.VDDense(3, dtype="mixed_float16", kernel_initializer=keras.initializers.Constant(1e-3))
    layer.build((None, 4))
    inputs = keras.Variable(np.full((2, 4), 1e4))
    cast = lambda: layer(ops.cast(ops.convert_to_tensor(inputs), "float16"), training=True)  # noqa: E731
    outputs = to_numpy(cast())
    assert np.isfinite(outputs).all()
    # 40 + noise of deviation sqrt(4e8 e^-10) = 135
    assert 1 < np.abs(outputs - 40).max() < 135 * 5
    for gradient in gradients(lambda: ops.mean(ops.cast(cast(), "float32")), [layer.kernel, layer.log_sigma2, inputs]):
        assert np.isfinite(gradient).all()


@pytest.mark.compiled
def test_penalty_counts_once_a_step_and_only_in_training():
    layer = layers.VDDense(4, penalty_weight=0.25)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layer(layer(inputs)))
    x = np.ones((2, 4), "float32")
    kl = to_numpy(vd.kl_divergence(vd.compute_log_alpha(layer.kernel, layer.log_sigma2, 8.0))).sum()
    for weight in (0.25, 2.0):
        layer.penalty_weight.assign(weight)
        model(x, training=True)
        np.testing.assert_allclose([to_numpy(loss) for loss in model.losses], [weight * kl], rtol=1e-5)
    model(x, training=False)
    assert model.losses == []

    model.compile(keras.optimizers.SGD(0.0), "mse")
    layer.log_sigma2.assign(ops.full((4, 4), -10.0))
    target = np.zeros((2, 4), "float32")
    for weight in (0.0, 1.0, 3.0):  # A variable: the compiled step follows it.
        layer.penalty_weight.assign(weight)
        model.reset_metrics()  # Keras 3.12 returns the mean over all steps since the last reset.
        with_penalty = model.train_on_batch(x, target, return_dict=True)["loss"]
        model.reset_metrics()
        without = model.test_on_batch(x, target, return_dict=True)["loss"]
        np.testing.assert_allclose(with_penalty - without, weight * kl, atol=0.1 * without + 0.1)


def test_the_penalty_counts_beside_losses_of_a_subclass():
    class WithLoss(layers.VDDense):
        def call(self, inputs, training=False):
            self.add_loss(ops.convert_to_tensor(1.0))
            return super().call(inputs, training=training)

    layer = WithLoss(4, penalty_weight=0.25)
    layer(np.ones((2, 3), "float32"), training=True)
    penalty = to_numpy(layer.technique.penalty(layer.sparse_weights[0]))
    np.testing.assert_allclose([to_numpy(loss) for loss in layer.losses], [0.25 * penalty, 1], rtol=1e-6)


def test_a_head_for_training_alone_adds_no_penalty_to_an_evaluation():
    class WithHead(keras.Model):
        def __init__(self):
            super().__init__()
            self.body, self.head = layers.VDDense(3, penalty_weight=1.0), layers.VDDense(2, penalty_weight=1.0)

        def call(self, inputs, training=False):
            outputs = self.body(inputs, training=training)
            return (outputs, self.head(outputs, training=training)) if training else outputs

    model, x = WithHead(), np.ones((2, 3), "float32")
    model(x, training=True)
    assert len(model.losses) == 2
    model(x, training=False)
    assert model.losses == []
    # Without side effects, as the trainer calls models on JAX.
    variables = [[v.value for v in vs] for vs in (model.trainable_variables, model.non_trainable_variables)]
    for training, losses in ((True, 2), (False, 0), (True, 2)):
        *_, found = model.stateless_call(*variables, x, training=training, return_losses=True)
        assert len(found) == losses


def test_a_seed_of_numpy_is_one():
    layer = layers.VDDense(3, seed=np.int64(3))
    layer.build((None, 4))
    assert layer.get_config()["seed"] == 3


@pytest.mark.parametrize("prefix", ["Masked", "VD", "L0", "STR", "DNW"])
def test_a_quantized_policy_is_refused(prefix):
    for policy in ("int8_from_float32", keras.dtype_policies.get("float8_from_float32")):
        with pytest.raises(ValueError, match=rf"{prefix}Dense .*must not be a quantized policy.*_from_float32'"):
            make_layer(prefix, "Dense", dtype=policy)


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_embedding_pays_once(tied):
    layer = layers.VDReversibleEmbedding(7, 4, tie_weights=tied, penalty_weight=1.0)
    ids = keras.Input((3,), dtype="int32")
    model = keras.Model(ids, layer(layer(ids), reverse=True))
    model(np.ones((2, 3), "int32"), training=True)
    assert len(layer.sparse_weights) == (1 if tied else 2)
    expected = sum(
        to_numpy(vd.kl_divergence(vd.compute_log_alpha(w.tensor(), w.extra("log_sigma2"), 8.0))).sum()
        for w in layer.sparse_weights
    )
    np.testing.assert_allclose([to_numpy(loss) for loss in model.losses], [expected], rtol=1e-5)


@pytest.mark.parametrize(
    "option,value",
    [
        ("clip_log_alpha", 0),
        ("clip_log_alpha", -1.0),
        ("clip_log_alpha", float("nan")),
        ("clip_log_alpha", 1000),
        ("seed", 0.5),
        ("log_alpha_threshold", float("inf")),
        ("log_alpha_threshold", float("nan")),
        ("penalty_weight", -1.0),
        ("penalty_weight", float("inf")),
    ],
)
def test_bad_options_are_named(option, value):
    with pytest.raises(ValueError, match=rf"`{option}`.*Received: {option}={value}"):
        layers.VDDense(3, **{option: value})


def test_the_noise_of_a_sequence_is_the_same_at_every_step():
    """One step at a time comes to the same as all steps together."""
    layer = layers.VDDense(2, log_sigma2_initializer=0.0, seed=1)
    layer.build((None, 3))
    [weight] = layer.sparse_weights
    x = np.random.default_rng(3).normal(size=(5, 4, 3)).astype("float32")
    function = layer.technique.over_time(weight, ops.matmul, 5)
    together = ops.convert_to_numpy(function(ops.convert_to_tensor(x)))
    alone = [ops.convert_to_numpy(function(ops.convert_to_tensor(x[:, step]))) for step in range(4)]
    np.testing.assert_allclose(together, np.stack(alone, axis=1), rtol=1e-5, atol=1e-6)
    mean = x @ ops.convert_to_numpy(layer.kernel)
    deviation = np.sqrt(np.square(x).sum(axis=-1, keepdims=True))  # sigma^2 is 1
    noise_of = (together - mean) / deviation
    np.testing.assert_allclose(noise_of, np.broadcast_to(noise_of[:, :1], noise_of.shape), atol=1e-4)
    assert len(np.unique(noise_of[:, 0].round(4))) == 10


def test_the_default_log_sigma2_is_minus_ten_also_where_none_is_given():
    for options in ({}, {"log_sigma2_initializer": None}):
        layer = layers.VDDense(2, **options)
        layer.build((None, 3))
        np.testing.assert_array_equal(ops.convert_to_numpy(layer.log_sigma2), -10.0)


@pytest.mark.parametrize("clip", [0.5, 1e-3, 699.0])
def test_a_clip_may_be_any_positive_number_below_700(clip):
    assert layers.VDDense(2, clip_log_alpha=clip).technique.clip_log_alpha == clip
    for wrong in (0, -clip, 700):
        with pytest.raises(ValueError, match="`clip_log_alpha` must be a finite number above 0 and below 700"):
            layers.VDDense(2, clip_log_alpha=wrong)


@pytest.mark.parametrize("clip", [None, 20.0, 100.0, 699.0])
def test_the_penalty_of_extreme_weights_is_finite_under_any_clip(clip):
    layer = layers.VDDense(2, clip_log_alpha=clip, penalty_weight=1.0, use_bias=False)
    layer.build((None, 2))
    layer.kernel.assign([[1e-3, 1.0], [2.0, 0.0]])
    layer.log_sigma2.assign([[80.0, -80.0], [-200.0, 80.0]])
    penalty = lambda: layer.technique.penalty(layer.sparse_weights[0])  # noqa: E731
    theta, log_sigma2 = (ops.convert_to_numpy(v).astype("float64") for v in (layer.kernel, layer.log_sigma2))
    log_alpha = log_sigma2 - np.log(theta**2 + 1e-8)
    expected = vd.kl_divergence(np.clip(log_alpha, -clip, clip) if clip else log_alpha)
    np.testing.assert_allclose(float(ops.convert_to_numpy(penalty())), ops.convert_to_numpy(expected).sum(), rtol=1e-4)
    assert all(np.isfinite(gradient).all() for gradient in gradients(penalty, [layer.kernel, layer.log_sigma2]))
