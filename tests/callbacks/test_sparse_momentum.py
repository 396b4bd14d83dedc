"""Sparse momentum: the worked truncations of its public program, and what that program gets wrong."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from sparsity_tf import callbacks, layers
from sparsity_tf.callbacks.sparse_momentum import share_quotas
from sparsity_tf.layers import get_sparse_weights
from tests.callbacks import algorithm_checks as checks
from tests.callbacks.bags import make_bag

# The worked example: weights of two bias-free layers and their momentum, as (inputs, outputs).
WEIGHTS = (
    np.array([[0.1, -0.2, 0.3, 0, 0], [0, 0, 0, 0.4, -0.5]], "float32").T,
    np.array([[0.6, 0], [0, -0.05], [0, 0.7]], "float32").T,
)
MOMENTUM = (
    np.array([[0.01, 0.02, 0.03, 0.9, 0.8], [0.7, 0.6, 0.5, 0.04, 0.05]], "float32").T,
    np.array([[0.06, 0.11], [0.12, 0.06], [0.13, 0.06]], "float32").T,
)


def worked_example(**modes):
    model = keras.Sequential(
        [keras.Input((5,)), layers.MaskedDense(2, use_bias=False), layers.MaskedDense(3, use_bias=False)]
    )
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    algorithm = callbacks.SparseMomentum(decay="constant", frequency=1, end_step=100, **modes)
    for weight, value in zip(get_sparse_weights(model), WEIGHTS, strict=True):
        weight.variable.assign(value)
        weight.assign_mask(value != 0)
    algorithm.prepare(model)
    for weight, value in zip(get_sparse_weights(model), MOMENTUM, strict=True):
        index = model.optimizer._get_variable_index(weight.variable)
        model.optimizer.momentums[index].assign(-0.1 * value)
    return model, algorithm


def as_text(model):
    """Masks, one row an output unit, as the sheet writes them."""
    found = []
    for weight in get_sparse_weights(model):
        rows = ops.convert_to_numpy(weight.mask()).T.astype(int)
        found.append("/".join("".join(map(str, row)) for row in rows))
    return tuple(found)


@pytest.mark.parametrize(
    "redistribution,masks,adjustment",
    [
        ("momentum", ("00011/00011", "11/10/11"), -1.75),
        ("magnitude", ("00011/00011", "01/10/11"), 0.0),
        ("nonzero", ("00011/11011", "00/10/11"), -1.75),
        ("none", ("00011/11011", "00/10/11"), -1.75),
    ],
)
def test_the_worked_truncation(redistribution, masks, adjustment):
    model, algorithm = worked_example(redistribution=redistribution)
    algorithm.change_masks(1)
    assert as_text(model) == masks
    assert algorithm.recall()["adjustment"] == pytest.approx(adjustment)
    assert algorithm.recall()["baseline"] == 8


def test_the_truncations_after_it():
    model, algorithm = worked_example()
    found = []
    for step in (1, 2, 3):
        algorithm.change_masks(step)
        found.append((as_text(model), round(algorithm.recall()["adjustment"], 3)))
    assert found == [
        (("00011/00011", "11/10/11"), -1.75),
        (("00011/10011", "10/00/11"), -0.938),
        (("00011/11011", "00/00/11"), -0.568),
    ]


def make_model(*widths, optimizer=None):
    """A chain of bias-free masked dense layers, compiled."""
    model = keras.Sequential([keras.Input((widths[0],))])
    for width in widths[1:]:
        model.add(layers.MaskedDense(width, use_bias=False))
    model.compile(optimizer or keras.optimizers.SGD(0.1, momentum=0.9), "mse", jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    return model


def prepared(model, sparsity=0.5, **options):
    options = {"end_step": 100, "frequency": 1, "decay": "constant", **options}
    algorithm = callbacks.SparseMomentum(sparsity, **options)
    algorithm.prepare(model)
    return algorithm


def set_momentum(model, *arrays):
    for weight, array in zip(get_sparse_weights(model), arrays, strict=True):
        index = model.optimizer._get_variable_index(weight.variable)
        model.optimizer.momentums[index].assign(np.broadcast_to(np.asarray(array, "float32"), weight.shape))


def counts_of(model):
    return [int(ops.convert_to_numpy(weight.mask()).sum()) for weight in get_sparse_weights(model)]


# The prune rate.


@pytest.mark.parametrize(
    "decay,table",
    [
        ("cosine", {0: 0.5, 1: 0.499878, 10: 0.487886, 25: 0.427509, 50: 0.2525, 75: 0.077491, 99: 0.005122}),
        ("linear", {0: 0.5, 1: 0.495, 10: 0.45, 50: 0.25, 99: 0.005}),
        ("constant", {0: 0.5, 50: 0.5, 99: 0.5}),
    ],
)
def test_the_prune_rate_falls_until_the_end_of_training(decay, table):
    algorithm = callbacks.SparseMomentum(0.5, decay=decay)
    algorithm.prepare(make_model(4, 3), epochs=10, steps_per_epoch=10)
    assert [algorithm.drop_fraction_at(step) for step in table] == pytest.approx(list(table.values()), abs=5e-7)
    # One step into each epoch but the first.
    due = [step for step in range(1, 121) if algorithm.due(step - 1, step) == step]
    assert due == list(range(11, 100, 10))


def test_by_default_the_last_update_comes_before_the_last_step():
    algorithm = callbacks.SparseMomentum(0.5, frequency=1)
    algorithm.prepare(make_model(4, 3), epochs=2, steps_per_epoch=5)
    assert [step for step in range(1, 20) if algorithm.due(step - 1, step) == step] == list(range(1, 10))


# Quotas.


@settings(max_examples=60, deadline=None)
@given(data=st.data(), parts=st.lists(st.floats(0, 100), min_size=1, max_size=6), total=st.floats(-20, 500))
def test_quotas_stay_below_their_limits_and_lose_less_than_one_weight(data, parts, total):
    shares = np.array(parts) / sum(parts) if sum(parts) > 1e-6 else np.full(len(parts), 1 / len(parts))
    limits = data.draw(st.lists(st.floats(0, 200), min_size=len(parts), max_size=len(parts)))
    quotas = share_quotas(total, shares, limits)
    assert all(0 <= quota <= limit for quota, limit in zip(quotas, limits, strict=True))
    wanted = np.ceil(shares * max(total, 0) * (1 - 1e-6)).sum()
    assert sum(quotas) <= wanted + 1e-6
    assert sum(quotas) > wanted - 1 - 1e-6 or np.allclose(quotas, limits)


@pytest.mark.parametrize(
    "total,shares,limits,expected",
    [
        (5, [1 / 3, 2 / 3], [7.92, 4.95], [2, 4]),
        (10, [0.5, 0.5], [20, 20], [5, 5]),
        (-3, [0.5, 0.5], [20, 20], [0, 0]),
        (10, [1, 0], [0, 0], [0, 0]),
    ],
)
def test_quotas(total, shares, limits, expected):
    assert share_quotas(total, shares, limits) == expected


# What the public program gets wrong.


def test_an_empty_layer_gets_nothing_and_harms_nobody():
    model = make_model(6, 6, 6)
    for weight, mask in zip(get_sparse_weights(model), (np.zeros((6, 6)), np.eye(6)), strict=True):
        weight.assign_mask(mask > 0)
    algorithm = prepared(model)
    set_momentum(model, 1.0, 1.0)
    algorithm.change_masks(1)
    assert counts_of(model) == [0, 6]


def test_layers_without_any_momentum_get_equal_shares():
    model = make_model(6, 6, 6)
    algorithm = prepared(model)
    set_momentum(model, 0.0, 0.0)
    algorithm.change_masks(1)
    assert counts_of(model) == [18, 18]


def test_a_dense_layer_that_is_favoured_loses_nothing():
    model = make_model(6, 6, 6)
    first, second = get_sparse_weights(model)
    second.assign_mask(np.eye(6) > 0)
    algorithm = prepared(model)
    set_momentum(model, 9.0, 1.0)
    algorithm.change_masks(1)
    assert counts_of(model)[0] == 36
    assert algorithm.dropped[first.path] == 0
    assert algorithm.dropped[second.path] <= 3  # ceil(0.5 * 6), of which some grow again.


def test_a_dense_layer_that_is_not_favoured_drops_at_the_common_rate():
    model = make_model(6, 6, 6)
    get_sparse_weights(model)[1].assign_mask(np.eye(6) > 0)
    algorithm = prepared(model)
    set_momentum(model, 1.0, 9.0)
    algorithm.change_masks(1)
    # 18 + 3 go; ceil(0.1 * 21) and ceil(0.9 * 21) come.
    assert counts_of(model) == [18 + 3, 3 + 19]


def test_a_negative_quota_grows_nothing():
    model = make_model(6, 6)
    algorithm = prepared(model)
    algorithm.remember(adjustment=-1000.0)
    set_momentum(model, 1.0)
    algorithm.change_masks(1)
    assert counts_of(model) == [9]
    # Which the correction gives back.
    assert algorithm.recall()["adjustment"] == pytest.approx(-250 + 0.75 * 9 + 9)


def test_the_budget_comes_back():
    model = make_model(20, 20, 20)
    algorithm = prepared(model, 0.8)
    get_sparse_weights(model)[0].assign_mask(np.zeros((20, 20), bool))
    rng = np.random.default_rng(0)
    for step in range(1, 30):
        set_momentum(model, rng.normal(size=(20, 20)), rng.normal(size=(20, 20)))
        algorithm.change_masks(step)
    assert algorithm.recall()["baseline"] == 160
    assert abs(sum(counts_of(model)) - 160) <= 5


@pytest.mark.parametrize("value,threshold", [(1e-4, 0.0005), (0.5, 0.002)])
def test_the_common_threshold_halves_or_doubles(value, threshold):
    model = make_model(6, 6)
    algorithm = prepared(model, drop="threshold")
    weight = get_sparse_weights(model)[0]
    weight.variable.assign(value * ops.convert_to_numpy(weight.mask()).astype("float32"))
    algorithm.change_masks(1)
    assert algorithm.recall()["threshold"] == threshold


def test_the_common_threshold_stays_where_it_takes_what_is_expected():
    model = make_model(6, 6)
    algorithm = prepared(model, drop="threshold")
    weight = get_sparse_weights(model)[0]
    mask = ops.convert_to_numpy(weight.mask())
    small = mask & (np.cumsum(mask.reshape(-1)).reshape(6, 6) <= 9)
    weight.variable.assign(np.where(small, 5e-4, np.where(mask, 0.5, 0)).astype("float32"))
    set_momentum(model, 1.0)
    algorithm.change_masks(1)
    assert algorithm.dropped[weight.path] <= 9
    assert algorithm.recall()["threshold"] == 0.001


@pytest.mark.parametrize("small,threshold", [(48, 0.002), (49, 0.001), (51, 0.001), (52, 0.0005)])
def test_the_common_threshold_stays_within_two_percent(small, threshold):
    # 50 of 100 live weights are to go.
    value = np.where(np.arange(200) < small, 5e-4, 0.5) * (np.arange(200) < 100)
    model = make_bag([value.reshape(20, 10)], optimizer=keras.optimizers.SGD(0.1, momentum=0.9))
    algorithm = prepared(model, drop="threshold", grow="random", redistribution="none")
    algorithm.change_masks(1)
    assert algorithm.recall()["threshold"] == threshold


def test_global_magnitude_drops_the_smallest_of_all():
    model = make_model(6, 6, 6)
    algorithm = prepared(model, drop="global_magnitude", grow="random", redistribution="none")
    first, second = get_sparse_weights(model)
    for weight, scale in ((first, 0.01), (second, 1.0)):
        weight.variable.assign(scale * ops.convert_to_numpy(weight.mask()).astype("float32"))
    survivors = ops.convert_to_numpy(second.mask())
    algorithm.change_masks(1)
    # ceil(0.5 * 36) = 18 go: all of the first and none of the second.
    assert (ops.convert_to_numpy(second.mask()) & survivors).sum() == 18


def test_momentum_is_never_reset():
    model, algorithm = worked_example()
    before = [np.array(ops.convert_to_numpy(v)) for v in model.optimizer.momentums]
    algorithm.change_masks(1)
    for old, new in zip(before, model.optimizer.momentums, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(new), old)


def test_regrown_weights_keep_their_value_and_new_ones_start_at_zero():
    model, algorithm = worked_example()
    algorithm.change_masks(1)
    found = [ops.convert_to_numpy(weight.value()) for weight in get_sparse_weights(model)]
    np.testing.assert_array_equal(found[0].T, np.array([[0, 0, 0, 0, 0], [0, 0, 0, 0.4, -0.5]], "float32"))
    # Of 0.6, -0.05 and 0.7 the two smallest went; 0.6 came back, beside three new ones.
    np.testing.assert_array_equal(found[1].T, np.array([[0.6, 0], [0, 0], [0, 0.7]], "float32"))


@pytest.mark.parametrize(
    "one,other",
    [
        (dict(redistribution="nonzeros"), dict(redistribution="nonzero")),
        (dict(redistribution="none"), dict(redistribution="size")),
        (dict(drop="SET"), dict(drop="signed_magnitude")),
        (dict(grow="global_momentum_growth"), dict(grow="global_momentum")),
    ],
)
def test_spellings_of_the_public_program(one, other):
    found = []
    for modes in (one, other):
        model, algorithm = worked_example(**modes)
        algorithm.change_masks(1)
        found.append(as_text(model))
    assert found[0] == found[1]


@pytest.mark.parametrize("drop", ["magnitude", "signed_magnitude", "global_magnitude", "threshold"])
@pytest.mark.parametrize("grow", ["momentum", "random", "momentum_neuron", "global_momentum"])
@pytest.mark.parametrize("redistribution", ["momentum", "magnitude", "nonzeros", "none"])
def test_all_modes_go_together(drop, grow, redistribution):
    model = make_model(9, 8, 7)
    algorithm = prepared(model, drop=drop, grow=grow, redistribution=redistribution, drop_fraction=0.3)
    rng = np.random.default_rng(1)
    for step in (1, 2, 3):
        set_momentum(model, *(rng.normal(size=weight.shape) for weight in get_sparse_weights(model)))
        algorithm.change_masks(step)
        for weight in get_sparse_weights(model):
            assert not ops.convert_to_numpy(weight.value())[~ops.convert_to_numpy(weight.mask())].any()
    assert abs(sum(counts_of(model)) - algorithm.recall()["baseline"]) <= 4


# Bad input.


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
def test_an_optimizer_without_momentum_is_refused(optimizer):
    model = make_model(4, 3, optimizer=keras.optimizers.get(optimizer))
    name = type(model.optimizer).__name__
    with pytest.raises(
        ValueError, match=f"SparseMomentum reads the momentum that the optimizer keeps.*optimizer={name}"
    ):
        prepared(model)


@pytest.mark.parametrize(
    "options,message",
    [
        (dict(drop="death"), "drop='death'"),
        (dict(grow="growth"), "grow='growth'"),
        (dict(redistribution="all"), "redistribution='all'"),
        (dict(decay="step"), "decay='step'"),
        (dict(sparsity=1), "sparsity=1"),
        (dict(drop_fraction=-0.1), "drop_fraction=-0.1"),
        (dict(frequency=0), "frequency=0"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        callbacks.SparseMomentum(**options)


def test_a_redistribution_must_not_be_negative():
    algorithm = prepared(make_model(4, 3), redistribution=lambda weight: -1.0)
    with pytest.raises(ValueError, match="redistribution.*<lambda> for .*: -1.0"):
        algorithm.change_masks(1)


@pytest.mark.parametrize("options,live", [({"dense": "part0"}, [36, 8]), ({"distribution": {".*": 0.5}}, [18, 20])])
def test_what_is_kept_dense_and_explicit_numbers_hold(options, live):
    """The correction must not pull the whole to `sparsity`."""
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    model = make_bag(shapes=[(6, 6), (5, 8)], optimizer=optimizer)
    for weight in get_sparse_weights(model):
        weight.variable.assign(np.random.default_rng(3).normal(size=weight.shape))
    algorithm = callbacks.SparseMomentum(0.8, frequency=1, decay="constant", drop_fraction=0.3, **options)
    algorithm.prepare(model, epochs=1, steps_per_epoch=40)
    for step in range(1, 30):
        for index, weight in enumerate(get_sparse_weights(model)):
            model.optimizer.momentums[index].assign(np.random.default_rng(step).normal(size=weight.shape))
        algorithm.change_masks(step)
    counts = [int(ops.sum(ops.cast(weight.mask(), "int32"))) for weight in get_sparse_weights(model)]
    assert abs(sum(counts) - sum(live)) <= 2
    if "dense" in options:
        assert counts[0] == 36


def test_a_dense_network_stays_dense():
    model = checks.make_model(checks.CASES["sparse-momentum"], run_eagerly=True)
    algorithm = callbacks.SparseMomentum(0.0, frequency=1)
    checks.fit(model, algorithm)
    assert algorithm.sparsity == 0 and all(mask.all() for mask in checks.masks_of(model))
    assert not any(algorithm.dropped.values())
