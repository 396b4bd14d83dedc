"""SNIP and GraSP: scores against independent derivatives, counts over all weights and in each, bad data."""

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf import layers, sparsify
from sparsity_tf.callbacks import SNIP, GraSP
from sparsity_tf.layers import get_sparse_weights

RNG = np.random.default_rng(11)
X, Y = RNG.normal(size=(6, 4)).astype("float32"), RNG.normal(size=(6, 3)).astype("float32")
FIRST, SECOND = RNG.normal(size=(4, 5)), RNG.normal(size=(5, 3))


def make_model(optimizer="sgd", loss="mse"):
    """Two bias-free masked layers with a tanh between them."""
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.MaskedDense(5, activation="tanh", use_bias=False, name="first"),
            layers.MaskedDense(3, use_bias=False, name="second"),
        ]
    )
    model.compile(optimizer, loss, jit_compile=False)
    for weight, value in zip(get_sparse_weights(model), (FIRST, SECOND), strict=True):
        weight.variable.assign(value)
    return model


def masks_of(model):
    return [np.array(ops.convert_to_numpy(weight.mask())) for weight in get_sparse_weights(model)]


def gradients_of(first, second, example_weights=1.0):
    """The analytic gradients of the mean squared error, in double precision."""
    hidden = np.tanh(X.astype("float64") @ first)
    error = 2 * (hidden @ second - Y) / Y.size * np.reshape(example_weights, (-1, 1))
    return X.T.astype("float64") @ (error @ second.T * (1 - hidden**2)), hidden.T @ error


def hessian_times_gradient():
    """H g by central differences of the gradient along itself."""
    step = 1e-5
    slope = gradients_of(FIRST, SECOND)
    ahead = gradients_of(FIRST + step * slope[0], SECOND + step * slope[1])
    behind = gradients_of(FIRST - step * slope[0], SECOND - step * slope[1])
    return [(a - b) / (2 * step) for a, b in zip(ahead, behind, strict=True)]


def saliencies(example_weights=1.0):
    return [abs(w * g) for w, g in zip((FIRST, SECOND), gradients_of(FIRST, SECOND, example_weights), strict=True)]


def flows():
    return [w * product for w, product in zip((FIRST, SECOND), hessian_times_gradient(), strict=True)]


def best(scores, count):
    return scores >= np.sort(scores.reshape(-1))[-count]


def assert_masks(model, expected):
    for mask, other in zip(masks_of(model), expected, strict=True):
        np.testing.assert_array_equal(mask, other)


@pytest.mark.parametrize("kind,expected", [(SNIP, saliencies), (GraSP, flows)])
def test_scores_are_the_papers(kind, expected):
    model, algorithm = make_model(), kind(0.0, data=(X, Y))
    algorithm.prepare(model)
    found = algorithm.scores([weight.variable for weight in get_sparse_weights(model)])
    for score, other in zip(found, expected(), strict=True):
        np.testing.assert_allclose(score, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind,scores", [(SNIP, saliencies), (GraSP, flows)])
def test_the_best_of_all_weights_live(kind, scores):
    model = make_model()
    kind(0.6, data=(X, Y)).prepare(model)
    live = best(np.concatenate([score.reshape(-1) for score in scores()]), 14)  # 35 - floor(0.6 * 35)
    assert_masks(model, [live[:20].reshape(4, 5), live[20:].reshape(5, 3)])


@pytest.mark.parametrize("kind,scores", [(SNIP, saliencies), (GraSP, flows)])
def test_the_best_of_each_weight_live(kind, scores):
    model = make_model()
    kind(0.6, data=(X, Y), scope="layer").prepare(model)
    first, second = scores()
    assert_masks(model, [best(first, 8), best(second, 6)])


@pytest.mark.parametrize("kind", [SNIP, GraSP])
def test_targets_of_single_weights_and_dense_ones(kind):
    model = make_model()
    kind(0.5, data=(X, Y), scope="layer", distribution={"first": 0.25, "second": 0.8}).prepare(model)
    assert [mask.sum() for mask in masks_of(model)] == [15, 3]
    for scope in ("layer", "global"):
        model = make_model()
        kind(0.5, data=(X, Y), scope=scope, dense="second").prepare(model)
        assert [mask.sum() for mask in masks_of(model)] == [10, 15]


@pytest.mark.parametrize("kind", [SNIP, GraSP])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_a_sparsity_of_zero_prunes_nothing(kind, scope):
    model = make_model()
    kind(0.0, data=(X, Y), scope=scope).prepare(model)
    assert all(mask.all() for mask in masks_of(model))


def test_the_sign_counts_for_grasp():
    assert min(flow.min() for flow in flows()) < 0
    model = make_model()
    GraSP(0.2, data=(X, Y)).prepare(model)
    flat = np.concatenate([flow.reshape(-1) for flow in flows()])
    dead = ~np.concatenate([mask.reshape(-1) for mask in masks_of(model)])
    assert sorted(np.flatnonzero(dead)) == sorted(np.argsort(flat)[:7])


def test_the_weights_of_examples_count():
    weights = np.array([9, 0, 0, 0, 0, 0], "float32")
    model = make_model()
    SNIP(0.6, data=(X, Y, weights), scope="layer").prepare(model)
    first, second = saliencies(weights)
    assert_masks(model, [best(first, 8), best(second, 6)])


def test_the_temperature_divides_the_outputs():
    labels = np.array([0, 1, 2, 0, 1, 2])
    found = []
    for temperature, divisor in ((200, 1.0), (1, 200.0), (1, 1.0)):
        model = make_model(
            loss=lambda y, logits, d=divisor: keras.losses.sparse_categorical_crossentropy(y, logits / d, True)
        )
        GraSP(0.6, data=(X, labels), temperature=temperature).prepare(model)
        found.append(np.concatenate([mask.reshape(-1) for mask in masks_of(model)]))
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


@pytest.mark.parametrize("kind", [SNIP, GraSP])
def test_a_model_with_attention(kind):
    """Some fused kernels of attention have no second derivative."""
    inputs = keras.Input((3, 4))
    x = keras.layers.MultiHeadAttention(2, 4)(inputs, inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GroupQueryAttention(4, 2, 1)(x, x)))
    sparsify(model, "masked")
    model.compile("sgd", "mse", jit_compile=False)
    x = RNG.normal(size=(5, 3, 4)).astype("float32")
    kind(0.6, data=(x, x[..., :2])).prepare(model)
    size = sum(mask.size for mask in masks_of(model))
    assert sum(int(mask.sum()) for mask in masks_of(model)) == size - int(0.6 * size)


@pytest.mark.parametrize("kind", [SNIP, GraSP])
def test_nothing_moves_but_the_masks(kind):
    model = keras.Sequential(
        [keras.Input((4,)), layers.MaskedDense(5), keras.layers.BatchNormalization(), layers.MaskedDense(3)]
    )
    model.compile("adam", "mse", jit_compile=False)
    before = {variable.path: np.array(ops.convert_to_numpy(variable)) for variable in model.weights}
    algorithm = kind(0.5, data=(X, Y))
    algorithm.prepare(model)
    masks = {
        weight.variable.path: mask for weight, mask in zip(get_sparse_weights(model), masks_of(model), strict=True)
    }
    for variable in model.weights:
        if not variable.path.endswith("mask"):
            old = before[variable.path] * masks.get(variable.path, True)
            np.testing.assert_array_equal(ops.convert_to_numpy(variable), old, err_msg=variable.path)
    assert int(ops.convert_to_numpy(model.optimizer.iterations)) == 0
    assert [step for step in range(1, 50) if algorithm.due(step - 1, step)] == []


def test_a_model_that_is_pruned_already_stays_as_it_is():
    model = make_model()
    mask = np.arange(20).reshape(4, 5) % 3 == 0
    get_sparse_weights(model)[0].assign_mask(mask)
    SNIP(0.5, data=(X, Y)).prepare(model)
    assert_masks(model, [mask, np.ones((5, 3), bool)])


@pytest.mark.parametrize("kind", [SNIP, GraSP])
@pytest.mark.parametrize(
    "options,message",
    [
        (dict(), "`data` .*data of type NoneType"),
        (dict(data=X), "data of type ndarray"),
        (dict(data=(X,)), "data of type tuple"),
        (dict(data=(X, Y, None, None)), "data of type tuple"),
        (dict(data=(X, Y), sparsity=1.0), "sparsity=1.0"),
        (dict(data=(X, Y), sparsity=-1), "sparsity=-1"),
        (dict(data=(X, Y), scope="model"), "scope='model'"),
        (dict(data=(X, Y), distribution="erk"), "distribution='erk'"),
        (dict(data=(X, Y), structure="filter"), "structure='filter'"),
    ],
)
def test_bad_arguments_are_named(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**options)


def test_a_budget_file_has_no_meaning_for_a_global_scope(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("budget.csv", "weights.csv"):
        (tmp_path / name).write_text("name,sparsity\nfirst,0.5\nsecond,0.5\n")
        SNIP(0.5, data=(X, Y), distribution=name, scope="layer")
        with pytest.raises(
            ValueError, match=f"`distribution` must be 'uniform' .* with scope='global'.*distribution='{name}'"
        ):
            SNIP(0.5, data=(X, Y), distribution=name)


@pytest.mark.parametrize("temperature", [0, -1.0, "200", True])
def test_bad_temperatures_are_named(temperature):
    with pytest.raises(ValueError, match=f"temperature={temperature!r}"):
        GraSP(0.5, data=(X, Y), temperature=temperature)


@pytest.mark.parametrize("kind", [SNIP, GraSP])
def test_what_does_not_fit_the_model_is_said_before_training(kind):
    with pytest.raises(ValueError, match="nothing"):
        kind(0.5, data=(X, Y), where="nothing").prepare(make_model())
    with pytest.raises(ValueError, match="NaN"):
        kind(0.5, data=(X, Y * np.nan)).prepare(make_model())


def test_small_losses_in_half_precision():
    """Without the loss scale that training uses, the gradients of float16 are lost."""
    found = {}
    for policy in ("float32", "mixed_float16"):
        model = keras.Sequential(
            [
                keras.Input((4,)),
                layers.MaskedDense(
                    16, activation="tanh", dtype=policy, kernel_initializer=keras.initializers.Constant(0.1)
                ),
                layers.MaskedDense(3, dtype=policy),
            ]
        )
        for weight, seed in zip(get_sparse_weights(model), (1, 2), strict=True):
            weight.variable.assign(np.random.default_rng(seed).normal(size=weight.shape))
        optimizer = keras.optimizers.SGD(0.1)
        if policy == "mixed_float16":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        model.compile(optimizer, "mse", loss_weights=1e-6, jit_compile=False)
        SNIP(0.5, (X, Y)).prepare(model)
        found[policy] = masks_of(model)
    agreement = np.mean(np.concatenate([(a == b).ravel() for a, b in zip(*found.values(), strict=True)]))
    assert agreement > 0.95


@pytest.mark.parametrize("algorithm", [SNIP, GraSP])
def test_a_loss_without_gradients(algorithm):
    model = make_model(loss=lambda y, y_pred: keras.ops.mean(keras.ops.cast(y, "float32"), axis=-1))
    with pytest.raises(ValueError, match="does not depend on its masked weights|NaN"):
        algorithm(0.5, (X, Y)).prepare(model)


def test_the_batch_is_in_no_metric():
    inputs = keras.Input((4,))
    hidden = layers.MaskedDense(5, name="first")(inputs)
    outputs = {name: layers.MaskedDense(3, name=name)(hidden) for name in "pq"}
    model = keras.Model(inputs, outputs)
    model.compile("sgd", {"p": "mse", "q": "mse"}, jit_compile=False)
    history = model.fit(
        X, {"p": Y, "q": Y}, batch_size=6, verbose=0, callbacks=[SNIP(0.0, (100 * X, {"p": Y, "q": Y}))]
    ).history
    assert history["p_loss"][0] + history["q_loss"][0] == pytest.approx(history["loss"][0], rel=1e-3)
