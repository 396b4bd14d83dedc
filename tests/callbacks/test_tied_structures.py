"""`structure="channel"`, "head" and "unit": pruned in all layers that are tied, so that `shrink` removes them."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import sparsity_tf
from sparsity_tf import callbacks
from sparsity_tf.deploy.shrunk_cost import ShrunkCost
from sparsity_tf.inspection import count_flops
from sparsity_tf.layers import get_masked_parts
from tests.callbacks import tied_models
from tests.deploy.models import assert_equal_models, widths

CASES = [
    (tied_models.mlp, "channel", {"one": 5, "two": 4}),
    (tied_models.vgg, "channel", {"first": 2, "bn_second": 3, "third": 4, "hidden": 2}),
    (tied_models.resnet, "channel", {}),
    (tied_models.mobilenet, "channel", {"point_0": 2, "depth_0": 2, "bn_depth_1": 3}),
    (tied_models.attention, "channel", {"wide": 6, "narrow": 6}),
    (tied_models.attention, "head", {"wide": 12}),
    (tied_models.lstms, "unit", {"lower": 4, "upper": 3}),
]


def data(model, size=12):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(size, *model.input_shape[1:])).astype("float32")
    return x, rng.normal(size=(size, *model.output_shape[1:])).astype("float32")


def largest_dead(algorithm):
    """The largest magnitude among all that belongs to dead channels."""
    values = [
        np.abs(part.rows(ops.convert_to_numpy(part.weight.value()))[~weight.mask()]).max(initial=0.0)
        for weight in algorithm.weights
        for part in weight.parts
    ]
    return max(values)


def prepared(model, algorithm):
    model.compile("sgd", "mse")
    algorithm.prepare(model, epochs=1, steps_per_epoch=4)
    return algorithm


def pruned(model, algorithm):
    """The model after the last update of the masks, without a step of training."""
    prepared(model, algorithm)
    if algorithm.scheduled:
        algorithm.change_masks(algorithm.last_step)
    return model


def live(algorithm):
    return {weight.path: int(weight.mask().sum()) for weight in algorithm.weights}


@pytest.mark.parametrize(
    "build,structure,left",
    [
        pytest.param(
            *case,
            id=f"{case[0].__name__}-{case[1]}",
            marks=[pytest.mark.compiled] if case[0] is tied_models.mlp else [],
        )
        for case in CASES
    ],
)
def test_what_is_pruned_is_zero_after_every_step_and_removed_by_shrink(build, structure, left):
    model = build()
    x, y = data(model)
    # Compiled once: six steps cost less than the graph of one.
    model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False, run_eagerly=build is not tied_models.mlp)
    pruning = callbacks.MagnitudePruning(0.5, 1, 4, 1, structure=structure)
    pruning.prepare(model)
    for step in range(6):
        model.train_on_batch(x[2 * step : 2 * step + 2], y[2 * step : 2 * step + 2])
        # The optimizer's step moves what its memory holds; then masks change.
        assert largest_dead(pruning) == 0.0
        pruning.update(model)
        assert largest_dead(pruning) == 0.0
    pruning.finish()
    assert list(live(pruning).values()) == [max(1, weight.size // 2) for weight in pruning.weights]
    small = sparsity_tf.shrink(model)
    cost = ShrunkCost(model, [weight.family for weight in pruning.weights])
    assert small.count_params() == cost.parameters(list(live(pruning).values())) < 0.9 * cost.parameters()
    assert_equal_models(model, small, x)
    assert {name: width for name, width in widths(small).items() if name in left} == left


@pytest.mark.parametrize("build,structure", [(tied_models.vgg, "channel"), (tied_models.lstms, "unit")])
def test_pruned_channels_are_dead_at_once(build, structure):
    model = pruned(build(), callbacks.MagnitudePruning(0.5, 0, 2, 1, structure=structure))
    assert_equal_models(model, sparsity_tf.shrink(model), data(model)[0])


@pytest.mark.compiled
@pytest.mark.tensorflow
def test_under_xla():
    model = tied_models.convolutional()
    x, y = data(model)
    model.compile("adam", "mse", jit_compile=True)
    pruning = callbacks.MagnitudePruning(0.5, 0, 4, 1, structure="channel", importance="taylor")
    model.fit(x, y, batch_size=2, callbacks=[pruning], verbose=0)
    assert largest_dead(pruning) == 0.0 and pruning.sparsity >= 0.5
    assert_equal_models(model, sparsity_tf.shrink(model), x)


def two_units(kernel, bias, last):
    """Dense(2) and Dense(1), all weights given."""
    inputs = keras.Input((2,))
    model = keras.Model(inputs, layers.Dense(1, use_bias=False)(layers.Dense(2, name="units")(inputs)))
    for variable, value in zip(model.weights, (kernel, bias, last), strict=True):
        variable.assign(value)
    return model


@pytest.mark.parametrize(
    "importance,survivor",
    [
        # Means of magnitudes 1 and 1.1, of squares 3 and 1.21.
        ("l1", 1),
        ("l2", 0),
    ],
)
def test_importance_is_summed_over_all_that_makes_a_channel(importance, survivor):
    model = two_units([[0.0, 1.1], [0.0, -1.1]], [3.0, 1.1], [[0.1], [0.1]])
    pruning = callbacks.MagnitudePruning(0.5, 0, 2, 1, structure="channel", importance=importance)
    pruned(model, pruning)
    assert pruning.weights[0].mask().tolist() == [survivor == 0, survivor == 1]
    kernel, bias = model.get_layer("units").get_weights()[:2]
    assert (bias != 0).tolist() == [survivor == 0, survivor == 1]
    assert not kernel[:, 1 - survivor].any()


def test_taylor_is_the_sum_of_value_times_gradient_over_the_channel():
    # Output 2 a + b for a = x0, b = 10 x1; of x = (1, 0) only unit a matters. Its weights are the smaller ones.
    model = two_units([[1.0, 0.0], [0.0, 10.0]], [0.0, 0.0], [[2.0], [1.0]])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    pruning = callbacks.MagnitudePruning(0.5, 0, 1, 1, structure="channel", importance="taylor")
    x = np.array([[1.0, 0.0]], "float32")
    model.fit(x, np.array([[1.0]], "float32"), callbacks=[pruning], verbose=0)
    assert pruning.weights[0].mask().tolist() == [True, False]


def test_taylor_of_single_weights_is_their_value_times_gradient():
    model = two_units([[1.0, 0.0], [0.0, 10.0]], [0.0, 0.0], [[2.0], [1.0]])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    pruning = callbacks.MagnitudePruning(0.75, 0, 1, 1, importance="taylor", where="units")
    model.fit(np.array([[1.0, 0.0]], "float32"), np.array([[1.0]], "float32"), callbacks=[pruning], verbose=0)
    assert ops.convert_to_numpy(model.get_layer("units").mask).tolist() == [[True, False], [False, False]]


@pytest.mark.parametrize(
    "algorithm",
    [
        lambda: callbacks.MagnitudePruning(0.7, 0, 2, 1, structure="channel", scope="global"),
        lambda: callbacks.RandomPruning(0.7, 0, 2, 1, structure="channel"),
        lambda: callbacks.StaticSparsity(0.7, structure="channel"),
    ],
    ids=["global", "random", "static"],
)
def test_other_algorithms_prune_channels(algorithm):
    algorithm = algorithm()
    model = pruned(tied_models.mlp(), algorithm)
    counts = live(algorithm)
    if getattr(algorithm, "scope", "layer") == "global":
        assert sum(counts.values()) == 5  # floor(0.3 * 18)
    else:
        assert counts == {"one/channel": 3, "two/channel": 2}
    assert_equal_models(model, sparsity_tf.shrink(model), data(model)[0])


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_every_layer_keeps_a_channel(scope):
    pruning = callbacks.MagnitudePruning(0.99, 0, 2, 1, structure="channel", scope=scope)
    model = pruned(tied_models.mlp(), pruning)
    assert live(pruning) == {"one/channel": 1, "two/channel": 1}
    assert sparsity_tf.shrink(model).count_params() == (6 + 1) + (1 + 1) + (3 + 3)


def test_what_is_random_depends_on_the_seed():
    def drawn(seed):
        algorithm = callbacks.StaticSparsity(0.5, structure="channel", seed=seed)
        pruned(tied_models.mlp(), algorithm)
        return [weight.mask().tolist() for weight in algorithm.weights]

    assert drawn(1) == drawn(1) != drawn(2)


# Two of the four pairs moved to `make test-all`: each target and each algorithm is in one that stays.
@pytest.mark.parametrize(
    "kind,name,share",
    [
        (callbacks.MagnitudePruning, "target_flops", 0.5),
        pytest.param(callbacks.MagnitudePruning, "target_parameters", 0.3, marks=pytest.mark.slow),
        pytest.param(callbacks.StaticSparsity, "target_flops", 0.5, marks=pytest.mark.slow),
        (callbacks.StaticSparsity, "target_parameters", 0.3),
    ],
)
def test_a_target_is_met_and_not_by_more_than_a_channel_of_each_layer(kind, name, share):
    model = tied_models.vgg()
    whole = {"target_flops": count_flops(model).dense, "target_parameters": model.count_params()}[name]
    steps = {} if kind is callbacks.StaticSparsity else {"end_step": 2, "frequency": 1}
    algorithm = kind(structure="channel", **{name: share}, **steps)
    pruned(model, algorithm)
    counts = live(algorithm)
    small = sparsity_tf.shrink(model)
    found = {"target_flops": count_flops(small).dense, "target_parameters": small.count_params()}[name]
    cost = ShrunkCost(model, [weight.family for weight in algorithm.weights])
    measure = cost.flops if name == "target_flops" else cost.parameters
    more = [min(count + 1, w.size) for count, w in zip(counts.values(), algorithm.weights, strict=True)]
    assert found == measure(list(counts.values())) <= share * whole < measure(more)


@pytest.mark.parametrize(
    "options,message",
    [
        (dict(target_flops=0.5), "`target_flops` needs a structure that makes the shrunk model smaller"),
        (dict(target_flops=0.5, final_sparsity=0.5), "Give one of `target_flops`, `final_sparsity`"),
        (dict(target_flops=0.5, target_parameters=0.5), "Give one of `target_flops`, `target_parameters`"),
        (dict(target_flops=1.5), "`target_flops` must be"),
        (dict(target_flops=0.5, structure="channel", scope="global"), "`scope` must be 'layer' with a target"),
        (
            dict(target_flops=0.01, structure="channel"),
            "`target_flops` can't be met, because even the smallest model costs 10 of 164",
        ),
        (dict(target_flops=0.5, structure="channel", distribution={".*": 0.5}), "`distribution` must not set"),
        (dict(target_flops=0.5, structure="channel", initial_sparsity=0.9), "`initial_sparsity` must not exceed"),
        (dict(final_sparsity=0.5, structure="filter", importance="l2"), "`importance` must be 'l1' or 'taylor'"),
        (dict(final_sparsity=0.5, importance="l3"), "`importance` must be one of"),
    ],
)
def test_bad_targets_and_importances(options, message):
    with pytest.raises(ValueError, match=message):
        prepared(tied_models.mlp(), callbacks.MagnitudePruning(end_step=2, **options))


@pytest.mark.parametrize("kind", ["RigL", "SET", "DynamicSparseReparameterization", "SparseMomentum", "DropAndGrow"])
def test_what_grows_weights_is_refused_in_a_sentence(kind):
    cls = getattr(callbacks, kind)
    with pytest.raises(ValueError, match=f"{kind} brings pruned weights back, but a pruned channel can't come back"):
        cls(structure="channel")
    model = sparsity_tf.sparsify(tied_models.mlp(), "masked", structure="channel")
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    with pytest.raises(ValueError, match=f"{kind} brings .* layer 'one' with structure='channel'"):
        cls().prepare(model, epochs=1, steps_per_epoch=4)


def test_what_scores_single_weights_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="SNIP gives a score to each single weight, but structure='head'"):
        callbacks.SNIP(data=(np.zeros((1, 6)), np.zeros((1, 3))), structure="head")
    with pytest.raises(ValueError, match="`cumulative` must be True with a structure that ties layers"):
        prepared(tied_models.mlp(), callbacks.RandomPruning(0.5, 0, 2, cumulative=False, structure="channel"))


def test_the_structure_belongs_to_the_layers():
    model = sparsity_tf.sparsify(tied_models.mlp(), "masked")
    with pytest.raises(
        ValueError,
        match="`structure` must be the structure of the masked layers.*'channel', and layer 'one' with.*None",
    ):
        prepared(model, callbacks.MagnitudePruning(0.5, 0, 2, structure="channel"))
    model = sparsity_tf.sparsify(tied_models.mlp(), "masked", structure="channel")
    with pytest.raises(ValueError, match="'filter', and layer 'one' with structure='channel'"):
        prepared(model, callbacks.MagnitudePruning(0.5, 0, 2, structure="filter"))


def test_channels_and_single_weights_are_not_counted_together():
    model = sparsity_tf.sparsify(tied_models.mlp(), "masked", where="one", structure="channel")
    sparsity_tf.sparsify(model, "masked", where="last")
    with pytest.raises(ValueError, match="can prune either channels, heads and units, or single weights, but not both"):
        prepared(model, callbacks.MagnitudePruning(0.5, 0, 2))
    pruning = callbacks.MagnitudePruning(0.5, 0, 2, where="one")
    pruned(model, pruning)
    assert live(pruning) == {"one/channel": 5}


def test_sparsify_takes_what_is_tied_and_says_what_it_leaves():
    model = sparsity_tf.sparsify(tied_models.vgg(), "masked", where=["first", "second"], structure="channel")
    changed = {entry.path.rpartition("/")[2]: entry.weights for entry in model.sparsify_report.changed}
    assert changed == {"first": 112, "bn_first": 8, "second": 216, "bn_second": 12}
    reasons = {entry.path.rpartition("/")[2]: entry.reason for entry in model.sparsify_report.skipped}
    assert reasons["last"] == reasons["hidden"] == "not selected by `where`"
    assert reasons["bn_third"] == "tied to block/third: not selected by `where`"
    model = sparsity_tf.sparsify(tied_models.mlp(), "masked", structure="channel")
    [last] = model.sparsify_report.skipped
    assert (last.path, last.reason) == ("last", "structure='channel' finds no channel in it that can be removed")


@pytest.mark.parametrize(
    "options,message",
    [
        (dict(structure="head"), "no head that can be pruned"),
        (
            dict(structure="channel", where="last"),
            "no channel that can be pruned.*last: structure='channel' finds no",
        ),
        (dict(structure="channel", where="nothing"), "match no layer: \\['nothing'\\]"),
    ],
)
def test_nothing_to_prune_is_said(options, message):
    model = tied_models.mlp()
    with pytest.raises(ValueError, match=message):
        sparsity_tf.sparsify(model, "masked", **options)
    assert type(model.get_layer("one")) is layers.Dense


def test_attention_stands_for_its_projections():
    model = sparsity_tf.sparsify(tied_models.attention(), "masked", where="attention", structure="head")
    assert len(model.sparsify_report.changed) == 4
    pruning = callbacks.MagnitudePruning(0.5, 0, 2, 1, where="attention")
    pruned(model, pruning)
    assert sparsity_tf.shrink(model).get_layer("attention").num_heads == 2


def test_frozen_layers_keep_what_they_are_tied_to():
    model = sparsity_tf.sparsify(tied_models.mobilenet(), "masked", structure="channel")
    model.get_layer("bn_depth_0").trainable = False
    algorithm = callbacks.MagnitudePruning(0.5, 0, 2, 1)
    pruned(model, algorithm)
    assert live(algorithm) == {"point_1/channel": 3}


def test_a_run_is_continued_from_a_file(tmp_path):
    def make():
        model = tied_models.vgg()
        model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=True)
        return model, callbacks.MagnitudePruning(0.8, 1, 6, 1, structure="channel")

    whole, pruning = make()
    x, y = data(whole)
    whole.fit(x, y, batch_size=4, epochs=2, shuffle=False, callbacks=[pruning], verbose=0)
    final = pruning.sparsity
    part, pruning = make()
    part.fit(x, y, batch_size=4, epochs=1, shuffle=False, callbacks=[pruning], verbose=0)
    assert 0 < pruning.sparsity < final
    part.save(tmp_path / "part.keras")
    loaded = keras.saving.load_model(tmp_path / "part.keras")
    _, pruning = make()
    loaded.fit(x, y, batch_size=4, epochs=2, initial_epoch=1, shuffle=False, callbacks=[pruning], verbose=0)
    for one, two in zip(get_masked_parts(whole), get_masked_parts(loaded), strict=True):
        assert np.array_equal(ops.convert_to_numpy(one.mask()), ops.convert_to_numpy(two.mask()))
    assert_equal_models(whole, loaded, x)


def test_masks_of_biases_are_loaded_with_the_others():
    model = pruned(tied_models.mlp(), callbacks.MagnitudePruning(0.5, 0, 2, 1, structure="channel"))
    other = sparsity_tf.sparsify(tied_models.mlp(), "masked", structure="channel")
    sparsity_tf.load_masks(other, model)
    assert np.count_nonzero(ops.convert_to_numpy(other.get_layer("one").bias)) == 5


def test_channels_are_pruned_at_once_without_training():
    model = tied_models.mlp()
    model_before = keras.models.clone_model(model)
    model_before.set_weights(model.get_weights())
    sparsity_tf.prune(model, 0.5, structure="channel")
    assert widths(sparsity_tf.shrink(model))["one"] == 5
    by_algorithm = pruned(model_before, callbacks.MagnitudePruning(0.5, 0, 2, 1, structure="channel"))
    assert_equal_models(by_algorithm, model, data(model)[0])


def test_a_second_training_whose_schedule_is_over_is_refused_before_it_begins():
    model = tied_models.mlp()
    x, y = data(model)
    first = callbacks.MagnitudePruning(0.25, end_step=4, frequency=2, structure="channel")
    model.compile("sgd", "mse", run_eagerly=True)
    model.fit(x, y, batch_size=2, verbose=0, callbacks=[first])
    model.fit(x, y, batch_size=2, verbose=0, callbacks=[callbacks.MagnitudePruning(0.25, structure="channel")])
    for more in ({"final_sparsity": 0.5}, {"target_parameters": 0.3}):
        with pytest.raises(ValueError, match="already taken 12 steps"):
            model.fit(
                x, y, batch_size=2, verbose=0, callbacks=[callbacks.MagnitudePruning(**more, structure="channel")]
            )
