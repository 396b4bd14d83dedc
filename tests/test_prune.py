"""One-shot pruning: scores against numpy, exact counts, what becomes of the model, and that errors change nothing."""

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

import sparsity_tf
from sparsity_tf import masks, prune, to_dense
from sparsity_tf.inspection import count_flops
from sparsity_tf.layers import SparseLayer, get_sparse_weights

RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(6, 4)).astype("float32"), RNG.normal(size=(6, 3)).astype("float32")
FIRST, SECOND = RNG.normal(size=(4, 5)).astype("float32"), RNG.normal(size=(5, 3)).astype("float32")
SPARSITIES = (0.0, 0.3, 0.5, 0.99)


def make_model():
    """Two bias-free dense layers with a tanh between them; not compiled."""
    model = keras.Sequential(
        [
            keras.Input((4,)),
            kl.Dense(5, activation="tanh", use_bias=False, name="first"),
            kl.Dense(3, use_bias=False, name="second"),
        ]
    )
    model.set_weights([FIRST, SECOND])
    return model


def convnet():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            kl.Conv2D(6, 3, name="a"),
            kl.BatchNormalization(name="norm"),
            kl.Conv2D(8, 3, name="b"),
            kl.GlobalAveragePooling2D(),
            kl.Dense(5, name="classes"),
        ]
    )


def masks_of(model):
    return [np.array(ops.convert_to_numpy(weight.mask())) for weight in get_sparse_weights(model)]


def values_of(model):
    return [np.array(ops.convert_to_numpy(weight.value())) for weight in get_sparse_weights(model)]


def counts(model):
    return [int(mask.sum()) for mask in masks_of(model)]


def best(scores, count):
    """The highest, found in another way than the package's; random scores have no ties."""
    chosen = np.zeros(scores.size, bool)
    chosen[np.argsort(-scores.reshape(-1), kind="stable")[:count]] = True
    return chosen.reshape(scores.shape)


def assert_masks(model, expected):
    for mask, other in zip(masks_of(model), expected, strict=True):
        np.testing.assert_array_equal(mask, other)


def gradients_of(x, y):
    """The analytic gradients of the mean squared error, in double precision."""
    x, first, second = x.astype("float64"), FIRST.astype("float64"), SECOND.astype("float64")
    hidden = np.tanh(x @ first)
    error = 2 * (hidden @ second - y) / y.size
    return x.T @ (error @ second.T * (1 - hidden**2)), hidden.T @ error


# What becomes of the model.


def test_a_plain_model_is_pruned_in_place_without_being_compiled():
    model = make_model()
    layers = list(model.layers)
    assert prune(model, 0.5) is model
    assert model.layers == layers
    assert not model.compiled
    kept = [best(abs(FIRST), 10), best(abs(SECOND), 7)]
    assert_masks(model, kept)
    for value, given, mask in zip(values_of(model), (FIRST, SECOND), kept, strict=True):
        np.testing.assert_array_equal(value, np.where(mask, given, 0))
    expected = np.tanh(X @ np.where(kept[0], FIRST, 0)) @ np.where(kept[1], SECOND, 0)
    np.testing.assert_allclose(ops.convert_to_numpy(model(X)), expected, rtol=1e-5, atol=1e-6)
    dense = to_dense(model)
    assert [np.count_nonzero(w) for w in dense.get_weights()] == [10, 7]


def test_masks_are_held_in_training_and_pruned_further_later():
    model = make_model()
    prune(model, 0.5)
    first = masks_of(model)
    model.compile("adam", "mse", jit_compile=False)
    model.fit(X, Y, epochs=2, verbose=0)
    assert all((value[~mask] == 0).all() for value, mask in zip(values_of(model), first, strict=True))
    prune(model, 0.7)
    assert counts(model) == [6, 4]
    assert all((new <= old).all() for new, old in zip(masks_of(model), first, strict=True))
    prune(model, 0.2)  # Nothing comes back.
    assert counts(model) == [6, 4]


def test_the_optimizer_forgets_what_is_gone():
    model = make_model()
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", jit_compile=False)
    model.fit(X, Y, verbose=0)
    prune(model, 0.5)
    momenta = [ops.convert_to_numpy(slot) for slot in model.optimizer.momentums]
    for momentum, mask in zip(momenta, masks_of(model), strict=True):
        assert (momentum[~mask] == 0).all() and (momentum[mask] != 0).all()
    model.fit(X, Y, verbose=0)
    assert counts(model) == [10, 7]


def test_a_file_holds_the_masks_and_the_structure(tmp_path):
    model = prune(make_model(), 0.5, structure="2x1")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_masks(loaded, masks_of(model))
    assert {weight.technique.structure for weight in get_sparse_weights(loaded)} == {"2x1"}


def test_frozen_layers_are_pruned_and_stay_frozen():
    model = make_model()
    model.get_layer("first").trainable = False
    prune(model, 0.5, by="taylor", data=(X, Y), loss="mse")
    assert counts(model) == [10, 7]
    slopes = gradients_of(X, Y)
    assert_masks(model, [best((FIRST * slopes[0]) ** 2, 10), best((SECOND * slopes[1]) ** 2, 7)])
    assert not model.get_layer("first").trainable and not get_sparse_weights(model)[0].variable.trainable


def test_subclassed_and_nested_models_and_layers():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner, self.last = make_model(), kl.Dense(4, name="last")

        def call(self, inputs):
            return self.last(self.inner(inputs))

    net = Net()
    net(X)
    prune(net, 0.5)
    assert counts(net) == [10, 7, 6]
    layer = kl.Dense(4)
    layer.build((None, 5))
    prune(layer, 0.5)
    assert counts(layer) == [10]


# Counts.


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("by", ["magnitude", "random"])
def test_counts_are_exact_also_with_ties(sparsity, by):
    model = make_model()
    model.set_weights([np.ones((4, 5)), np.ones((5, 3))])
    prune(model, sparsity, by=by)
    assert counts(model) == [masks.number_to_keep(sparsity, 20), masks.number_to_keep(sparsity, 15)]
    model = make_model()
    prune(model, sparsity, by=by, scope="global")
    assert sum(counts(model)) == masks.number_to_keep(sparsity, 35)


def test_global_scope_compares_all_weights():
    model = make_model()
    prune(model, 0.6, scope="global")
    kept = best(np.concatenate([abs(FIRST).reshape(-1), abs(SECOND).reshape(-1)]), 14)
    assert_masks(model, [kept[:20].reshape(4, 5), kept[20:].reshape(5, 3)])


def test_output_scope_gives_every_unit_as_many_inputs():
    model = make_model()
    prune(model, 0.5, scope="output")
    assert_masks(model, [np.stack([best(column, n) for column in abs(w).T], 1) for w, n in ((FIRST, 2), (SECOND, 2))])
    net = prune(convnet(), 0.9, scope="output")
    a, b, classes = masks_of(net)
    assert (a.sum((0, 1, 2)) == 2).all() and (b.sum((0, 1, 2)) == 5).all() and (classes.sum(0) == 0).all()


@pytest.mark.parametrize("scope", ["layer", "global", "output"])
def test_what_was_pruned_stays_pruned(scope):
    rng = np.random.default_rng(0)
    before = [rng.random(w.shape) < 0.8 for w in (FIRST, SECOND)]
    model = sparsity_tf.sparsify(make_model(), "masked")
    for weight, mask in zip(get_sparse_weights(model), before, strict=True):
        weight.assign_mask(mask)
    prune(model, 0.1, scope=scope)
    assert all((new <= old).all() for new, old in zip(masks_of(model), before, strict=True))
    # All of the few are kept where fewer live than may.
    assert counts(prune(model, 0.0, scope=scope)) == counts(model)


def test_distributions_and_dense_weights():
    model = prune(make_model(), distribution={"first": 0.25, "second": 0.8})
    assert counts(model) == [15, 3]
    targets = sparsity_tf.distributions.allocate(get_sparse_weights(model), 0.5, "erk")
    model = prune(make_model(), 0.5, distribution="erk")
    expected = [masks.number_to_keep(target, size) for target, size in zip(targets.values(), (20, 15), strict=True)]
    assert counts(model) == expected
    assert counts(prune(make_model(), 0.5, dense="second")) == [10, 15]
    assert counts(prune(make_model(), 0.5, dense="first", scope="global")) == [20, 7]
    assert [weight.path.split("/")[1] for weight in get_sparse_weights(prune(make_model(), 0.5, where="first"))] == [
        "first"
    ]
    masked = sparsity_tf.sparsify(make_model(), "masked")
    assert counts(prune(masked, 0.5, where="second")) == [20, 7]


@pytest.mark.parametrize("where", [["first", "second"], lambda layer: type(layer) is not keras.layers.InputLayer])
def test_plain_layers_that_where_selects_are_masked_beside_the_masked_layers(where):
    model = prune(make_model(), 0.5, where="first")
    assert counts(prune(model, 0.5, where="second")) == [10, 7]
    assert [row.live for row in model.prune_report.rows] == [7]
    model = prune(make_model(), 0.5, where="first")
    assert counts(prune(model, 0.6, where=where)) == [8, 6]
    # Without `where`, plain layers stay plain.
    model = prune(make_model(), 0.5, where="first")
    assert counts(prune(model, 0.6)) == [8]


def test_channels_of_plain_layers_beside_other_masked_layers():
    model = prune(convnet(), 0.5, where="b")
    prune(model, 0.5, structure="channel", where="a")
    [row] = model.prune_report.rows
    assert (row.name.split("/")[-2:], row.size, row.live) == (["a", "channel"], 6, 3)
    assert sparsity_tf.shrink(model).get_layer("a").filters == 3


# Structures.


def test_structures_by_hand():
    value = np.array([[4, -1, 0.1], [3, 2, 0.2], [-2, 6, 9], [1, 5, -8]], "float32")

    def pruned(**arguments):
        model = keras.Sequential([keras.Input((4,)), kl.Dense(3, use_bias=False)])
        model.set_weights([value])
        [found] = masks_of(prune(model, where=".*", **arguments))
        return found.astype(int).tolist()

    assert pruned(structure="2:4") == [[1, 0, 0], [1, 0, 0], [0, 1, 1], [0, 1, 1]]
    # Means of blocks: 3.5, 1.5, .15; 1.5, 5.5, 8.5.
    assert pruned(sparsity=0.5, structure="2x1") == [[1, 0, 0], [1, 0, 0], [0, 1, 1], [0, 1, 1]]
    # Means of columns: 2.5, 3.5, 4.325.
    assert pruned(sparsity=0.5, structure="filter") == [[0, 0, 1]] * 4
    assert pruned(sparsity=0.4, structure="filter", by=lambda weight: -np.abs(weight.value)) == [[1, 0, 0]] * 4


def test_filters_of_output_layers_stay_unless_asked_for():
    with pytest.warns(UserWarning, match="classes/kernel.*stay dense"):
        model = prune(convnet(), 0.5, structure="filter")
    a, b, classes = masks_of(model)
    assert classes.all()
    assert sorted(a.mean((0, 1, 2))) == [0] * 3 + [1] * 3 and sorted(b.mean((0, 1, 2))) == [0] * 4 + [1] * 4
    assert [row.target for row in model.prune_report] == [0.5, 0.5, 0.0]
    assert "kept dense" in str(model.prune_report)
    header = str(prune(convnet(), 0.5).prune_report).splitlines()[1]
    assert header.split() == ["weight", "size", "live", "sparsity"]
    assert masks_of(prune(convnet(), 0.5, structure="filter", where=".*"))[-1].mean() == 0.4
    everywhere = prune(convnet(), 0.5, structure="filter", where="[ab]", scope="global")
    assert sum(mask.all((0, 1, 2)).sum() for mask in masks_of(everywhere)) == 7


def test_the_structure_of_the_layers_is_the_default():
    model = sparsity_tf.sparsify(make_model(), "masked", structure="1x3")
    prune(model, 0.5, where="second")
    assert masks_of(model)[1].sum(1).tolist() in ([3, 3, 0, 0, 0], *([list(p) for p in _rows_of_two()]))


def _rows_of_two():
    for first in range(5):
        for second in range(first):
            rows = [0] * 5
            rows[first] = rows[second] = 3
            yield rows


# Scores.


def test_random_masks_follow_from_the_seed():
    found = [masks_of(prune(make_model(), 0.5, by="random", seed=seed)) for seed in (1, 1, 2)]
    assert all(np.array_equal(a, b) for a, b in zip(found[0], found[1], strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(found[0], found[2], strict=True))
    blocks = prune(make_model(), 0.5, by="random", structure="2x1")
    assert counts(blocks)[0] == 10 and all((mask[0] == mask[1]).all() for mask in masks_of(blocks))


@pytest.mark.parametrize("by", ["taylor", "gradient"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_scores_of_the_loss_over_two_batches(by, scope):
    batches = [(X[:2], Y[:2]), (X[2:], Y[2:])]
    slopes = [gradients_of(*batch) for batch in batches]
    if by == "taylor":
        scores = [sum((w * g[i]) ** 2 for g in slopes) for i, w in enumerate((FIRST, SECOND))]
    else:
        scores = [sum(abs(g[i]) for g in slopes) for i in range(2)]
    model = prune(make_model(), 0.6, by=by, data=batches, loss="mse", scope=scope)
    if scope == "layer":
        assert_masks(model, [best(scores[0], 8), best(scores[1], 6)])
    else:
        kept = best(np.concatenate([score.reshape(-1) for score in scores]), 14)
        assert_masks(model, [kept[:20].reshape(4, 5), kept[20:].reshape(5, 3)])


def test_taylor_of_a_filter_is_the_square_of_its_sum():
    slopes = gradients_of(X, Y)[0]
    scores = (FIRST * slopes).sum(0) ** 2
    assert best(scores, 2).tolist() != best(((FIRST * slopes) ** 2).sum(0), 2).tolist()
    model = prune(make_model(), 0.5, by="taylor", data=(X, Y), loss="mse", structure="filter", where="first")
    np.testing.assert_array_equal(masks_of(model)[0], best(scores, 2)[None].repeat(4, 0))


def test_the_loss_of_the_compiled_model_is_the_default():
    model, weights = make_model(), np.array([5, 0, 0, 0, 1, 0], "float32")
    model.compile("sgd", "mse", jit_compile=False)
    prune(model, 0.6, by="taylor", data=(X, Y, weights))
    other = prune(make_model(), 0.6, by="taylor", data=(X, Y, weights), loss=keras.losses.MeanSquaredError())
    assert_masks(model, masks_of(other))
    function = prune(make_model(), 0.6, by="taylor", data=(X, Y, weights), loss=lambda y, z: ops.mean((y - z) ** 2, -1))
    assert_masks(model, masks_of(function))
    assert not all(np.array_equal(a, b) for a, b in zip(masks_of(model), masks_of(
        prune(make_model(), 0.6, by="taylor", data=(X, Y), loss="mse")), strict=True))  # fmt: skip


def test_scores_of_the_loss_are_those_of_inference_and_leave_the_state():
    inputs = keras.Input((4,))
    hidden = kl.Dropout(0.9)(kl.BatchNormalization()(kl.Dense(5, name="first")(inputs)))
    model = keras.Model(inputs, kl.Dense(3, name="second")(hidden))
    before = [np.array(ops.convert_to_numpy(v)) for v in model.non_trainable_variables]
    kept = [v for v in model.non_trainable_variables]
    prune(model, 0.5, by="taylor", data=[(X, Y)] * 2, loss="mse")
    for variable, value in zip(kept, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)
    # With nine of ten hidden units dropped, most of the second layer's gradients would be zero.
    assert counts(model) == [10, 7]


def test_wanda_by_hand():
    """The example of the paper's rule: W of two outputs and four inputs, norms .1, 2, 1, .5."""
    value = np.array([[4, -1, 2, 3], [0.1, -5, 0.2, 0.3]], "float32").T
    norms = np.array([0.1, 2, 1, 0.5], "float32")
    model = keras.Sequential([keras.Input((4,)), kl.Dense(2, use_bias=False)])
    model.set_weights([value])
    prune(model, 0.5, by="wanda", data=np.diag(norms))
    assert model.prune_report.scope == "output"
    np.testing.assert_array_equal(masks_of(model)[0].T, [[0, 1, 1, 0], [0, 1, 1, 0]])
    model = keras.Sequential([keras.Input((4,)), kl.Dense(2, use_bias=False)])
    model.set_weights([value])
    prune(model, 0.5, by="wanda", data=np.diag(norms), scope="layer")  # Scores .4 2 2 1.5, .01 10 .2 .15.
    np.testing.assert_array_equal(masks_of(model)[0].T, [[0, 1, 1, 1], [0, 1, 0, 0]])


def test_wanda_does_not_see_the_scale_of_an_input():
    scale = np.array([0.01, 3, 40, 1], "float32")
    model, other = make_model(), make_model()
    other.set_weights([FIRST / scale[:, None], SECOND])
    prune(model, 0.5, by="wanda", data=[X[:3], X[3:]])
    prune(other, 0.5, by="wanda", data=[X[:3] * scale, X[3:] * scale])
    assert_masks(model, masks_of(other))


def test_wanda_ranks_inputs_that_are_always_zero_last():
    model = keras.Sequential([keras.Input((4,)), kl.Dense(1, use_bias=False)])
    model.set_weights([np.array([[1], [9], [2], [8]], "float32")])
    x = np.array([[1, 0, 1, 0]], "float32")
    prune(model, 0.25, by="wanda", data=x)
    np.testing.assert_array_equal(masks_of(model)[0][:, 0], [1, 1, 1, 0])


def test_wanda_with_structures_and_real_layers():
    model = prune(convnet(), by="wanda", data=RNG.normal(size=(4, 8, 8, 3)), structure="1:3", where="[ab]")
    assert [mask.mean() for mask in masks_of(model)] == pytest.approx([1 / 3, 1 / 3])
    model = prune(convnet(), 0.5, by="wanda", data=RNG.normal(size=(4, 8, 8, 3)), structure="filter", where="b")
    assert sorted(masks_of(model)[0].mean((0, 1, 2))) == [0] * 4 + [1] * 4


def test_scores_of_the_users_own():
    def smallest_first(weight):
        return -np.abs(weight.value)

    model = prune(make_model(), 0.5, by=smallest_first)
    assert_masks(model, [best(-abs(FIRST), 10), best(-abs(SECOND), 7)])
    assert model.prune_report.by == "smallest_first"


# The report.


def test_the_report_counts():
    model = prune(convnet(), 0.5, where="[ab]")
    report = model.prune_report
    assert [(row.size, row.live, row.target) for row in report] == [(162, 81, 0.5), (432, 216, 0.5)]
    assert (report.size, report.live, report.sparsity, len(report)) == (594, 297, 0.5, 2)
    text = str(report)
    assert "magnitude" in text and "50.00 %" in text and "594" in text and "refresh_statistics" in text
    assert "refresh_statistics" not in str(prune(make_model(), 0.5).prune_report)


# Errors.


BAD = {
    "sparsity": [{"sparsity": 1.0}, {"sparsity": "0.5"}, {"sparsity": None}, {"sparsity": 0.3, "structure": "2:4"}],
    "by": [{"by": "size"}, {"by": None}],
    "data": [
        {"by": "wanda"},
        {"by": "taylor", "loss": "mse"},
        {"data": X},
        {"by": "wanda", "data": []},
        {"by": "wanda", "data": 3},
        {"by": "taylor", "loss": "mse", "data": X},
    ],
    "loss": [
        {"by": "taylor", "data": (X, Y)},
        {"loss": "mse"},
        {"by": "taylor", "data": (X, Y), "loss": "no such loss"},
        {"by": "gradient", "data": (X, Y), "loss": 3},
    ],
    "scope": [
        {"scope": "unit"},
        {"scope": "output", "structure": "2x1"},
        {"by": "wanda", "data": X, "scope": "global"},
        {"sparsity": 0.5, "scope": "global", "structure": "2:4"},
    ],
    "distribution": [{"distribution": "foo"}, {"scope": "global", "distribution": "erk"}],
    "structure": [{"structure": "foo"}, {"structure": "1x2x3"}],
    "where": [{"where": "no_such_layer"}, {"where": []}],
    "dense": [{"dense": "no_such_layer"}, {"dense": ".*"}],
    "seed": [{"seed": -1}],
    "scores": [{"by": lambda weight: np.full(weight.value.shape, np.nan)}],
}


@pytest.mark.parametrize("name, arguments", [(name, one) for name, several in BAD.items() for one in several])
def test_bad_arguments_are_named_and_change_nothing(name, arguments):
    model = make_model()
    variables = len(model.variables)
    with pytest.raises(ValueError, match=name):
        prune(model, **{"sparsity": 0.5, **arguments})
    assert not any(isinstance(layer, SparseLayer) for layer in model.layers)
    assert len(model.variables) == variables and not hasattr(model, "sparsify_report")
    for value, given in zip(model.get_weights(), (FIRST, SECOND), strict=True):
        np.testing.assert_array_equal(value, given)


@pytest.mark.parametrize("scope", ["layer", "output", "global"])
@pytest.mark.parametrize("structure", [None, "filter"])
def test_scores_of_a_users_function_that_are_nan_name_the_function_and_the_weight(scope, structure):
    def undefined(weight):
        return np.where(("second" in weight.path), np.nan, np.abs(weight.value))

    if scope == "output" and structure:
        return
    message = "scores of undefined must not hold NaN for '.*second/kernel'. Received: 15 NaN of 15 scores"
    with pytest.raises(ValueError, match=message):
        prune(make_model(), 0.5, by=undefined, scope=scope, structure=structure, where=".*")


@pytest.mark.parametrize("structure", ["2:4", "2x1"])
def test_scores_of_groups_that_are_nan_name_the_function_and_the_weight(structure):
    def undefined(weight):
        return np.where(weight.mask, 1.0, np.nan)

    model = prune(make_model(), 0.4)
    with pytest.raises(ValueError, match=r"must not hold NaN.* \(scores of undefined for '.*first/kernel'\)"):
        prune(model, 0.5, by=undefined, structure=structure)


def test_scores_of_channels_that_are_nan_name_the_function():
    def undefined(weight):
        return np.full(weight.shape, np.nan)

    with pytest.raises(ValueError, match="`by` must return 5 numbers for '.*first/.*undefined.*, 5 NaN"):
        prune(make_model(), 0.5, by=undefined, structure="channel")


@pytest.mark.parametrize("scope", ["layer", "output", "global"])
def test_scores_of_dead_entries_may_be_nan(scope):
    """Such as 0 / 0, for a score that divides by the weight."""
    model = prune(make_model(), 0.4)
    before = masks_of(model)
    prune(model, 0.6, scope=scope, by=lambda weight: np.where(weight.mask, np.abs(weight.value), np.nan))
    assert all((new <= old).all() for new, old in zip(masks_of(model), before, strict=True))
    other = prune(prune(make_model(), 0.4), 0.6, scope=scope)
    for one, expected in zip(masks_of(model), masks_of(other), strict=True):
        np.testing.assert_array_equal(one, expected)


def test_an_error_leaves_a_masked_model_and_composite_layers_as_they_were():
    model = sparsity_tf.sparsify(make_model(), "masked", structure="1x3")
    report = model.sparsify_report
    with pytest.raises(ValueError, match="NaN"):
        prune(model, 0.5, structure="2x1", by=lambda weight: weight.value * np.nan)
    assert model.sparsify_report is report
    assert {weight.technique.structure for weight in get_sparse_weights(model)} == {"1x3"}
    inputs = keras.Input((3, 4))
    attention = kl.MultiHeadAttention(2, 2)
    model = keras.Model(inputs, attention(inputs, inputs))
    with pytest.raises(ValueError, match="NaN"):
        prune(model, 0.5, by=lambda weight: weight.value * np.nan)
    assert type(attention) is kl.MultiHeadAttention and not get_sparse_weights(model)


def test_models_that_are_not_built_or_no_models_are_refused():
    for model in (keras.Sequential([kl.Dense(3)]), "model", None):
        with pytest.raises(ValueError, match="`model` must be"):
            prune(model, 0.5)
    with pytest.raises(ValueError, match="variational_dropout"):
        prune(sparsity_tf.sparsify(make_model(), "vd"), 0.5)


# Channels, heads and units, which layers share.


def test_channels_are_pruned_in_all_layers_that_share_them_and_shrink_removes_them():
    model = convnet()
    pruned = prune(model, 0.5, structure="channel", dense=["b.*"])
    assert pruned is model
    rows = {row.name.partition("/")[2]: (row.size, row.live, row.target) for row in model.prune_report.rows}
    assert rows == {"a/channel": (6, 3, 0.5), "b/channel": (8, 8, 0.0)}
    # The channels with the largest sums of |w| live, and the normalisation between the layers goes with the others.
    kernel = np.array(ops.convert_to_numpy(model.get_layer("a").kernel))
    assert kernel.reshape(-1, 6).any(axis=0).sum() == 3
    small = sparsity_tf.shrink(model)
    assert small.get_layer("a").filters == 3 and small.get_layer("b").filters == 8
    x = RNG.normal(size=(2, 8, 8, 3)).astype("float32")
    small, dense = (ops.convert_to_numpy(each(x)) for each in (small, to_dense(model)))
    np.testing.assert_allclose(small, dense, rtol=1e-5, atol=1e-6)


def test_random_channels_are_those_of_the_seed():
    live = []
    for seed in (1, 1, 2):
        model = convnet()
        prune(model, 0.5, by="random", structure="channel", seed=seed)
        live.append(np.concatenate([mask.reshape(-1) for mask in masks_of(model)]))
    assert np.array_equal(live[0], live[1]) and not np.array_equal(live[0], live[2])


def test_what_has_no_meaning_for_channels_is_refused_and_the_model_stays_plain():
    model = convnet()
    with pytest.raises(ValueError, match=r"`by` must be one of \['magnitude', 'random'\].*by='wanda'"):
        prune(model, 0.5, by="wanda", data=np.zeros((2, 8, 8, 3), "float32"), structure="channel")
    with pytest.raises(ValueError, match=r"`scope` must be one of .*scope='output'"):
        prune(model, 0.5, scope="output", structure="channel")
    assert not any(isinstance(layer, SparseLayer) for layer in model.layers)


@pytest.mark.parametrize("name,share", [("target_flops", 0.5), ("target_parameters", 0.4)])
def test_a_target_is_met_by_the_model_that_shrink_makes(name, share):
    def cost(model):
        return model.count_params() if name == "target_parameters" else count_flops(model).dense

    whole = cost(convnet())
    small = sparsity_tf.shrink(prune(convnet(), structure="channel", **{name: share}))
    widths = small.get_layer("a").filters, small.get_layer("b").filters
    assert cost(small) <= share * whole
    # One channel more in each layer would be too many.
    keep = {"a.*": 1 - (widths[0] + 1) / 6, "b.*": 1 - (widths[1] + 1) / 8}
    more = sparsity_tf.shrink(prune(convnet(), structure="channel", distribution=keep))
    assert (more.get_layer("a").filters, more.get_layer("b").filters) == (widths[0] + 1, widths[1] + 1)
    assert cost(more) > share * whole


def test_the_widths_that_a_target_gives():
    def hidden(units):
        model = keras.Sequential([keras.Input((10,)), kl.Dense(units, name="hidden"), kl.Dense(1)])
        return model

    # With u units there are (10 + 1) u + u + 1 parameters: 241 of 20, and 121, 109 of 10, 9.
    for share, left in ((0.51, 10), (0.5, 9), (0.46, 9), (0.45, 8)):
        model = prune(hidden(20), structure="channel", target_parameters=share)
        assert [row.live for row in model.prune_report.rows] == [left]
        assert sparsity_tf.shrink(model).get_layer("hidden").units == left


@pytest.mark.parametrize(
    "arguments,message",
    [
        (dict(target_flops=0.5), "`target_flops` needs a structure .*structure=None"),
        (dict(target_flops=0.5, structure="filter"), "`target_flops` needs a structure .*structure='filter'"),
        (dict(target_flops=0.5, sparsity=0.5, structure="channel"), "Give one of `target_flops`, `sparsity`"),
        (dict(target_flops=1.5, structure="channel"), "`target_flops` must be"),
        (dict(target_flops=0.5, structure="channel", scope="global"), "`scope` must be 'layer' with a target"),
        (dict(target_parameters=1e-3, structure="channel"), "`target_parameters` can't be met"),
        (dict(sparsity=0.5, structure="channel", by=lambda weight: np.zeros(1)), "`by` must return 6 numbers for"),
        (dict(sparsity=0.5, structure="channel", by=lambda weight: np.full(weight.size, np.nan)), "`by` must return 6"),
    ],
)
def test_bad_targets_and_scores_of_channels_leave_the_model_plain(arguments, message):
    model = convnet()
    with pytest.raises(ValueError, match=message):
        prune(model, **arguments)
    assert not any(isinstance(layer, SparseLayer) for layer in model.layers)


@pytest.mark.parametrize("scope,live", [("layer", [3, 4]), ("global", [6, 1])])
def test_channels_by_scores_of_the_users_own(scope, live):
    # The first layer's channels have all higher scores; of every layer one stays.
    model = prune(
        convnet(),
        0.5,
        structure="channel",
        scope=scope,
        by=lambda weight: np.arange(weight.size) + 10.0 * ("/a/" in weight.path),
    )
    assert [row.live for row in model.prune_report.rows] == live


def test_the_optimizer_forgets_channels_that_are_gone():
    model = sparsity_tf.sparsify(convnet(), "masked", structure="channel")
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    model.train_on_batch(np.ones((2, 8, 8, 3), "float32"), np.ones((2, 5), "float32"))
    prune(model, 0.5)
    for name in ("a", "norm", "b"):
        layer = model.get_layer(name)
        for variable in layer.trainable_variables:
            momentum = np.array(
                ops.convert_to_numpy(model.optimizer.momentums[model.optimizer._get_variable_index(variable)])
            )
            dead = np.array(ops.convert_to_numpy(variable)) == 0
            assert dead.any() and not momentum[dead].any() and momentum[~dead].any()


def test_a_recurrent_layer_is_selected_by_its_own_name_or_its_cells():
    for where in ("lstm", ["lstm"], lambda layer: layer.name == "lstm"):
        model = keras.Sequential([keras.Input((3, 4)), kl.LSTM(5, name="lstm"), kl.Dense(3, name="last")])
        sparsity_tf.sparsify(model, "masked")
        prune(model, 0.5, where=where)
        assert {row.name.split("/")[1] for row in model.prune_report.rows} == {"lstm"}


def test_a_target_counts_a_network_that_two_layers_hold_once():
    class Holder(kl.Layer):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def call(self, inputs):
            return self.network(inputs)

    class Twice(keras.Model):
        def __init__(self, network):
            super().__init__()
            self.one, self.other = Holder(network), Holder(network)

        def call(self, inputs):
            return self.one(inputs) + self.other(inputs)

    network = keras.Sequential([keras.Input((6,)), kl.Dense(8, "relu"), kl.Dense(8, "relu"), kl.Dense(2)])
    before = network.count_params()
    model = Twice(network)
    model(np.zeros((1, 6)))
    prune(model, structure="channel", target_parameters=0.5)
    left = sparsity_tf.shrink(network).count_params()
    assert left <= 0.5 * before


def test_target_with_everything_dense_is_one_clear_error():
    with pytest.raises(ValueError, match=r"^`dense` must leave a channel that can be pruned. .*dense=\['\.\*'\]$"):
        prune(convnet(), target_flops=0.5, structure="channel", dense=[".*"])


def test_channels_of_frozen_layers_are_said_to_be_frozen():
    model = sparsity_tf.sparsify(convnet(), "masked", structure="channel")
    for layer in model.layers:
        if isinstance(layer, kl.Conv2D | kl.Dense):
            layer.enable_lora(2)
    with pytest.raises(
        ValueError, match="no channel to prune: the weights of these layers are frozen, as `enable_lora`"
    ):
        prune(model, 0.5, structure="channel")
