"""L0 layers: the published numbers, gradients against float64 formulas with known gates, penalty."""

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf import layers
from sparsity_tf.layers import l0
from sparsity_tf.ops import noise
from tests.gradients import compiled, gradients, weighted_sum
from tests.layers.layer_checks import KINDS, example_inputs, make_layer, stock_layer

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, "float64")))


def to_numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor), "float64")


@pytest.mark.parametrize(
    "log_alpha,u,sampled,mean,penalty",
    [
        (2.197, 0.5, 1.0, 0.979976, 0.978024),
        (2.197, 0.05, 0.194956, 0.979976, 0.978024),
        (0.0, 0.3, 0.162914, 0.5, 0.831822),
        (-2.5, 0.9, 0.366046, 0.0, 0.288762),
    ],
)
def test_published_values(log_alpha, u, sampled, mean, penalty):
    a, u = ops.convert_to_tensor(log_alpha), ops.convert_to_tensor(u)
    np.testing.assert_allclose(to_numpy(l0.hard_concrete_sample(a, u)), sampled, atol=2e-6)
    np.testing.assert_allclose(to_numpy(l0.hard_concrete_mean(a)), mean, atol=2e-6)
    np.testing.assert_allclose(to_numpy(l0.expected_l0(a)), penalty, atol=2e-6)


@pytest.mark.parametrize("log_alpha,gate,nonzero", [(4.6, 1, 0.99797), (2.95, 1, 0.98953), (0.847, 0.73992, 0.92024)])
def test_initial_values_of_the_paper(log_alpha, gate, nonzero):
    layer = layers.L0Dense(20, initial_dropout_rate=1 / (1 + np.exp(log_alpha)))
    layer.build((None, 20))
    np.testing.assert_allclose(to_numpy(layer.log_alpha).mean(), log_alpha, atol=0.003)
    np.testing.assert_allclose(to_numpy(layer.log_alpha).std(), 0.01, rtol=0.2)
    a = ops.convert_to_tensor(log_alpha)
    np.testing.assert_allclose(to_numpy(l0.hard_concrete_mean(a)), gate, atol=1e-5)
    np.testing.assert_allclose(to_numpy(l0.expected_l0(a)), nonzero, atol=1e-5)


def test_default_initial_log_alpha():
    layer = layers.L0Dense(20)
    layer.build((None, 20))
    np.testing.assert_allclose(to_numpy(layer.log_alpha).mean(), 2.197, atol=0.003)


def test_gate_is_exactly_closed_and_open_beyond_its_limits():
    gate = to_numpy(l0.hard_concrete_mean(np.float32([-9, -2.3980, -2.3978, 2.3978, 2.3980, 9])))
    assert (gate[:2] == 0).all() and (gate[2:4] > 0).all()
    assert (gate[2:4] < 1).all() and (gate[4:] == 1).all()


THETA = np.array([[0.5, -0.3, 2.0], [0.01, -2.0, 0.0]])
LOG_ALPHA = np.array([[2.197, 0.0, -2.5], [-1.0, 0.3, 1.0]])
X = np.random.default_rng(1).normal(size=(5, 2))
UPSTREAM = np.random.default_rng(2).normal(size=(5, 3))


def known_layer(**options):
    layer = layers.L0Dense(3, use_bias=False, seed=5, **options)
    layer.build((None, 2))
    layer.kernel.assign(THETA)
    layer.log_alpha.assign(LOG_ALPHA)
    return layer


@pytest.mark.parametrize("beta,gamma,zeta", [(BETA, GAMMA, ZETA), (0.9, -0.5, 1.3)])
def test_training_pass_and_gradients(beta, gamma, zeta):
    """Over three draws, so that closed, open and in-between gates all occur."""
    layer = known_layer(beta=beta, gamma=gamma, zeta=zeta)
    x = keras.Variable(X)
    regimes = np.zeros(3)
    for _ in range(3):
        state = ops.convert_to_numpy(layer.seed_generator.state)
        outputs = to_numpy(layer(ops.convert_to_tensor(x), training=True))
        layer.seed_generator.state.assign(state)
        found = gradients(
            lambda: weighted_sum(layer(ops.convert_to_tensor(x), training=True), UPSTREAM),
            [layer.kernel, layer.log_alpha, x],
        )
        layer.seed_generator.state.assign(state)
        u = to_numpy(noise.uniform((2, 3), layer.seed_generator))

        g = sigmoid((np.log(u + 1e-8) - np.log(1 - u) + LOG_ALPHA) / beta)
        stretched = g * (zeta - gamma) + gamma
        z, between = np.clip(stretched, 0, 1), (0 < stretched) & (stretched < 1)
        regimes += (z == 0).any(), between.any(), (z == 1).any()
        np.testing.assert_allclose(outputs, X @ (THETA * z), rtol=1e-4, atol=1e-5)
        by_kernel = X.T @ UPSTREAM
        expected = [
            by_kernel * z,
            by_kernel * THETA * between * (zeta - gamma) * g * (1 - g) / beta,
            UPSTREAM @ (THETA * z).T,
        ]
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=2e-5)
    assert (regimes > 0).all()


@pytest.mark.parametrize("beta", [BETA, 0.9])
def test_gradients_of_a_lookup_are_those_of_the_whole(beta):
    """Looked-up rows take another way through the code than whole kernels."""
    layer = layers.L0Embedding(2, 3, seed=5, beta=beta)
    layer.build(None)
    layer.embeddings.assign(THETA)
    layer.log_alpha.assign(LOG_ALPHA)
    state = ops.convert_to_numpy(layer.seed_generator.state)
    ids, upstream = np.array([1, 0, 1, 1, 0]), UPSTREAM
    found = gradients(lambda: weighted_sum(layer(ids, training=True), upstream), [layer.embeddings, layer.log_alpha])
    layer.seed_generator.state.assign(state)
    u = to_numpy(noise.uniform((5, 3), layer.seed_generator))

    g = sigmoid((np.log(u + 1e-8) - np.log(1 - u) + LOG_ALPHA[ids]) / beta)
    stretched = g * (ZETA - GAMMA) + GAMMA
    between = (0 < stretched) & (stretched < 1)
    by_row = [
        upstream * np.clip(stretched, 0, 1),
        upstream * THETA[ids] * between * (ZETA - GAMMA) * g * (1 - g) / beta,
    ]
    for ours, rows in zip(found, by_row, strict=True):
        expected = np.stack([rows[ids == row].sum(axis=0) for row in range(2)])
        np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=2e-5)


@pytest.mark.tensorflow
@pytest.mark.parametrize("u", [0.0, 2.0**-23, 1 - 2.0**-23])
@pytest.mark.parametrize("log_alpha", [-1e7, -100.0, 0.0, 100.0, 1e7])
def test_gates_at_the_ends_of_the_uniform_numbers(log_alpha, u, monkeypatch):
    monkeypatch.setattr(noise, "uniform_from", lambda source, shape, dtype: ops.full(shape, u, dtype))
    for beta in (BETA, 0.77):
        sample = l0._fused_sample.__wrapped__(beta, GAMMA, ZETA)  # Not the cached one: it has this u compiled in.
        theta, a = keras.Variable(np.float32([0.0, 2.0])), keras.Variable(np.float32([log_alpha] * 2))
        run = lambda: sample(ops.convert_to_tensor(theta), ops.convert_to_tensor(a), u)  # noqa: B023, E731
        g = sigmoid(np.clip((np.log(u + 1e-8) - np.log(1 - u) + log_alpha) / beta, -700, 700))
        z = np.clip(g * (ZETA - GAMMA) + GAMMA, 0, 1)
        np.testing.assert_allclose(to_numpy(run()), [0, 2 * z], atol=1e-5)
        by_theta, by_log_alpha = gradients(lambda: ops.sum(run()), [theta, a])  # noqa: B023
        np.testing.assert_allclose(by_theta, [z, z], atol=1e-5)
        assert np.isfinite(by_log_alpha).all() and by_log_alpha[0] == 0


def test_penalty_and_its_gradient():
    layer = known_layer()
    penalty = lambda: layer.technique.penalty(layer.sparse_weights[0])  # noqa: E731
    p = sigmoid(LOG_ALPHA - BETA * np.log(-GAMMA / ZETA))
    np.testing.assert_allclose(to_numpy(penalty()), p.sum(), rtol=1e-5)
    by_theta, by_log_alpha = gradients(penalty, [layer.kernel, layer.log_alpha])
    assert (by_theta == 0).all()
    np.testing.assert_allclose(by_log_alpha, p * (1 - p), rtol=1e-4)


def test_the_penalty_is_the_frequency_of_open_gates():
    u = np.random.default_rng(0).random((20_000, 1), dtype="float32")
    a = np.float32([[-2.5, 0.0, 1.0]])
    gates = to_numpy(l0.hard_concrete_sample(np.broadcast_to(a, (20_000, 3)), np.repeat(u, 3, 1)))
    np.testing.assert_allclose((gates > 0).mean(axis=0), to_numpy(l0.expected_l0(a))[0], atol=0.015)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if hasattr(layers, "L0" + kind)])
def test_open_gates_make_the_plain_layer_and_half_open_ones_noise(kind):
    x = example_inputs(kind)
    layer = make_layer("L0", kind, log_alpha_initializer=1e5)
    layer(x)
    expected = to_numpy(stock_layer(layer, x)(x))
    np.testing.assert_allclose(to_numpy(layer(x, training=True)), expected, rtol=1e-5, atol=1e-5)
    gates = [variable for variable in layer.variables if "log_alpha" in variable.name]
    assert gates
    for log_alpha in gates:
        log_alpha.assign(np.zeros(log_alpha.shape))
    draws = [to_numpy(layer(x, training=True)) for _ in range(2)]
    assert (draws[0] != draws[1]).mean() > 0.4
    np.testing.assert_array_equal(to_numpy(layer(x)), to_numpy(layer(x, training=False)))


def test_gates_are_shared_by_the_batch_and_fresh_for_every_embedded_position():
    dense = layers.L0Dense(50, log_alpha_initializer=0.0)
    rows = to_numpy(dense(np.ones((3, 4), "float32"), training=True))
    np.testing.assert_allclose(rows, rows[:1].repeat(3, 0), rtol=1e-5, atol=1e-6)
    embedding = layers.L0Embedding(5, 50, log_alpha_initializer=0.0)
    rows = to_numpy(embedding(np.ones((2, 2), "int32"), training=True)).reshape(4, 50)
    assert len(np.unique(rows, axis=0)) == 4


@pytest.mark.parametrize("log_alpha", [-1e7, -100.0, 0.0, 100.0, 1e7])
@pytest.mark.parametrize("theta,x", [(0.0, 0.0), (1.0, 1e18), (1e18, 1.0)])
def test_extremes_stay_finite(theta, x, log_alpha):
    layer = layers.L0Dense(
        3,
        kernel_initializer=keras.initializers.Constant(theta),
        log_alpha_initializer=log_alpha,
    )
    layer.build((None, 4))
    inputs = keras.Variable(np.full((2, 4), x))

    def loss():
        outputs = layer(ops.convert_to_tensor(inputs), training=True)
        return ops.mean(outputs) + layer.technique.penalty(layer.sparse_weights[0])

    assert np.isfinite(to_numpy(loss()))
    for gradient in gradients(loss, [layer.kernel, layer.log_alpha, inputs]):
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("u", [0.0, 1 - 2.0**-24])
def test_the_ends_of_the_uniform_numbers_are_finite(u):
    a = keras.Variable(np.float32([-3.0, 0.0, 3.0]))
    sample = lambda: l0.hard_concrete_sample(ops.convert_to_tensor(a), np.float32([u] * 3))  # noqa: E731
    assert to_numpy(sample()).tolist() == [float(u > 0)] * 3
    assert np.isfinite(gradients(lambda: ops.sum(sample()), [a])[0]).all()


def test_a_weight_that_is_not_a_number_is_seen():
    layer = layers.L0Dense(2, log_alpha_initializer=-9.0)
    layer.build((None, 2))
    layer.kernel.assign([[np.nan, 1.0], [1.0, 1.0]])
    layer.log_alpha.assign([[-9.0, np.nan], [-9.0, -9.0]])
    (weight,) = layer.sparse_weights
    assert weight.count() == 2
    for value in (to_numpy(weight.value()), to_numpy(compiled(lambda: weight.value())())):
        assert np.isnan(value[0]).all() and (value[1] == 0).all()


def test_penalty_counts_once_a_step_and_only_in_training():
    layer = layers.L0Dense(4, penalty_weight=0.25)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layer(layer(inputs)))
    x = np.ones((2, 4), "float32")
    expected = to_numpy(l0.expected_l0(layer.log_alpha)).sum()
    for weight in (0.25, 2.0):
        layer.penalty_weight.assign(weight)
        model(x, training=True)
        (loss,) = model.losses
        np.testing.assert_allclose(to_numpy(loss), weight * expected, rtol=1e-5)
    model(x, training=False)
    assert model.losses == []


@pytest.mark.parametrize(
    "option,value",
    [
        ("initial_dropout_rate", 0.0),
        ("initial_dropout_rate", 1.0),
        ("beta", 0.0),
        ("beta", float("nan")),
        ("gamma", 0.0),
        ("zeta", 1.0),
        ("penalty_weight", -1.0),
        ("penalty_weight", float("nan")),
    ],
)
def test_bad_options_are_named(option, value):
    with pytest.raises(ValueError, match=rf"`{option}`.*Received: {option}={value}"):
        layers.L0Dense(3, **{option: value})


def test_two_initial_values_contradict_each_other():
    with pytest.raises(ValueError, match="log_alpha_initializer=2.*initial_dropout_rate=0.1"):
        layers.L0Dense(3, log_alpha_initializer=2.0, initial_dropout_rate=0.1)


def test_the_mask_is_where_the_gate_is_not_closed():
    layer = known_layer()
    [weight] = layer.sparse_weights
    np.testing.assert_array_equal(ops.convert_to_numpy(weight.mask()), LOG_ALPHA > np.log(0.1 / 1.1))
    layer.log_alpha.assign(np.full((2, 3), 9.0))
    assert ops.convert_to_numpy(weight.mask()).all()
