"""Algorithms side by side and one after the other: several on one model, several `fit`s, other optimizers."""

import functools
import gc

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf import callbacks
from sparsity_tf.layers import get_sparse_weights
from tests.callbacks.algorithm_checks import CASES, X, Y, fit, make_model, masks_of


def counts_of(model):
    return [int(mask.sum()) for mask in masks_of(model)]


@pytest.mark.parametrize("rigl_first", [True, False])
def test_an_algorithm_without_gradients_leaves_those_of_another(rigl_first):
    model = make_model(CASES["rigl"])
    seen = []

    @callbacks.uses("gradient")
    def grow(weight):
        seen.append(float(np.abs(weight.gradient[~weight.mask]).mean()))
        return np.abs(weight.gradient)

    rigl = callbacks.RigL(0.5, grow=grow, frequency=3, end_step=12, where="first")
    pruning = callbacks.MagnitudePruning(0.6, begin_step=0, end_step=12, frequency=4, where="second")
    fit(model, *[rigl, pruning][:: 1 if rigl_first else -1])
    assert seen and min(seen) > 0
    assert not any(weight.technique.dense_gradient_users for weight in get_sparse_weights(model))


def test_two_algorithms_on_the_same_weights_are_refused_and_leave_the_model_usable():
    model = make_model(CASES["rigl"])
    rigl = callbacks.RigL(0.5, frequency=3, end_step=12)
    pruning = callbacks.MagnitudePruning(0.6, begin_step=0, end_step=12, frequency=4, where="second")
    with pytest.raises(ValueError, match="MagnitudePruning can't work on .*second/kernel.*RigL already changes"):
        fit(model, rigl, pruning)
    with pytest.raises(ValueError, match="RigL can't work on .*second/kernel.*MagnitudePruning already changes"):
        fit(model, pruning, rigl)
    assert all(mask.all() for mask in masks_of(model))
    fit(model, rigl)
    # One after the other they may work on them.
    fit(model, callbacks.MagnitudePruning(0.8, begin_step=12, end_step=18, frequency=2))
    assert not any(weight.technique.dense_gradient_users for weight in get_sparse_weights(model))
    assert "_gradient_taps" not in vars(model.optimizer)


def test_two_prepared_algorithms_on_the_same_weights_are_refused():
    model = make_model(CASES["rigl"])
    one, other = callbacks.SET(0.5, frequency=2, end_step=6), callbacks.StaticSparsity(0.5)
    one.prepare(model)
    one.prepare(model)  # The same again begins anew.
    with pytest.raises(ValueError, match="StaticSparsity can't work on .*SET already changes"):
        other.prepare(model)
    with pytest.raises(ValueError, match="StaticSparsity can't work on .*SET already changes"):
        fit(model, other)
    one.finish()
    other.prepare(model)
    # An algorithm that nobody has any more is no obstacle.
    del other
    gc.collect()
    one.prepare(model)
    one.finish()


def test_an_algorithm_that_a_loop_left_behind_ends_when_the_model_is_compiled_anew():
    model = make_model(CASES["rigl"])
    left = callbacks.RigL(0.5, frequency=2, end_step=6)
    left.prepare(model)
    with pytest.raises(ValueError, match="RigL already changes.*compiling the model anew"):
        callbacks.SET(0.5, frequency=2, end_step=6).prepare(model)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    other = callbacks.SET(0.5, frequency=2, end_step=6)
    other.prepare(model)
    assert not any(weight.technique.dense_gradient_users for weight in get_sparse_weights(model))
    with pytest.raises(ValueError, match="RigL has no model yet"):
        left.update(model)
    left.finish()
    with pytest.raises(ValueError, match="StaticSparsity can't work on .*SET already changes"):
        callbacks.StaticSparsity(0.5).prepare(model)
    other.finish()


def test_pruning_before_training_may_be_followed_by_one_other_algorithm():
    model = make_model(CASES["rigl"])
    snip, rigl = callbacks.SNIP(0.6, (X, Y)), callbacks.RigL(0.6, frequency=3, end_step=9)
    fit(model, snip, rigl, callbacks.SparsityMonitor())
    assert sum(counts_of(model)) == 272 - int(0.6 * 272) and sum(rigl.grown.values()) > 0
    fit(model, callbacks.StaticSparsity(0.6))
    model = make_model(CASES["rigl"])
    with pytest.raises(ValueError, match="GraSP can't work on .*SNIP already changes"):
        fit(model, snip, callbacks.GraSP(0.6, (X, Y)))
    with pytest.raises(ValueError, match="SNIP can't work on .*RigL already changes"):
        fit(model, rigl, snip)
    with pytest.raises(ValueError, match="StaticSparsity can't work on .*RigL already changes"):
        fit(model, snip, rigl, callbacks.StaticSparsity(0.6))


def test_a_second_fit_whose_schedule_is_over():
    model = make_model(CASES["magnitude"])
    fit(model, callbacks.MagnitudePruning(0.5))
    # The same again has nothing to do.
    fit(model, callbacks.MagnitudePruning(0.5))
    with pytest.raises(
        ValueError,
        match="`begin_step` and `end_step` must be given, .* already taken 24 steps.*end_step=None",
    ):
        fit(model, callbacks.MagnitudePruning(0.9))
    with pytest.raises(
        ValueError,
        match="`begin_step` and `end_step` must be given, .* already taken 24 steps.*end_step=None",
    ):
        fit(model, callbacks.MagnitudePruning(0.9, scope="global"))
    fit(model, callbacks.MagnitudePruning(0.9, begin_step=24, end_step=30))
    assert counts_of(model) == [19, 8]


def test_a_second_fit_in_which_nothing_would_move_says_so():
    model = make_model(CASES["rigl"])
    fit(model, callbacks.RigL(0.5, frequency=3))
    with pytest.warns(UserWarning, match="RigL will not change the masks: its schedule ends at step 9"):
        fit(model, callbacks.RigL(0.5, frequency=3))
    # Another algorithm, and a second `fit` that is longer than the first, but whose schedule ends before it begins.
    later = callbacks.DynamicSparseReparameterization(0.5, frequency=3)
    with pytest.warns(UserWarning, match="DynamicSparseReparameterization will not change the masks.* 24 steps"):
        fit(model, later)
    with pytest.warns(UserWarning, match="RigL will not change the masks: its schedule ends at step 31, .* 36 steps"):
        fit(model, callbacks.RigL(0.5, frequency=3), epochs=7)


def test_units_pruned_after_single_weights_bring_none_back():
    model = make_model(CASES["magnitude"])
    fit(model, callbacks.MagnitudePruning(0.8, begin_step=0, end_step=4, frequency=2))
    before = masks_of(model)
    for scope in ("layer", "global"):
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", jit_compile=model.jit_compile)
        fit(model, callbacks.MagnitudePruning(0.5, 0, 4, 2, scope=scope, structure="filter"))
        assert not any((new & ~old).any() for new, old in zip(masks_of(model), before, strict=True))


def test_set_with_ftrl():
    model = make_model(CASES["magnitude"])
    model.compile(keras.optimizers.Ftrl(0.1), "mse", jit_compile=model.jit_compile)
    fit(model, callbacks.SET(0.5, frequency=3, end_step=11))
    assert all(np.isfinite(ops.convert_to_numpy(weight.value())).all() for weight in get_sparse_weights(model))


def test_scores_that_are_not_numbers_name_the_weight():
    model = make_model(CASES["magnitude"])
    model.get_layer("first").kernel.assign(np.full((12, 16), np.nan, "float32"))
    pruning = callbacks.MagnitudePruning(0.5, begin_step=0, end_step=4, frequency=1)
    pruning.prepare(model, 1, 4)
    with pytest.raises(ValueError, match="must not hold NaN.*first/kernel"):
        pruning.change_masks(1)


def undefined_in_second(weight):
    """NaN for the live entries of the second layer, and for the dead entries of the first."""
    rows = np.zeros(weight.value.shape) + weight.rng.random(weight.value.shape)
    return np.where(weight.mask == ("second" in weight.path), np.nan, rows)


@pytest.mark.parametrize("together", [False, True])
def test_scores_of_a_users_function_that_are_nan_name_the_function_and_the_weight(together):
    drop = callbacks.overall(functools.partial(undefined_in_second)) if together else undefined_in_second
    drop.__name__ = "undefined_in_second"
    model = make_model(CASES["magnitude"])
    algorithm = callbacks.DropAndGrow(0.5, drop=drop, frequency=1, end_step=9, decay="constant")
    algorithm.prepare(model)
    message = "scores of undefined_in_second must not hold NaN for '.*second/kernel'. Received: 40 NaN of 40 scores"
    with pytest.raises(ValueError, match=message):
        algorithm.change_masks(1)


@pytest.mark.compiled
@pytest.mark.not_on_torch("Keras takes steps_per_execution=1 only")
def test_an_update_that_whole_epochs_in_one_call_would_move_to_the_end_is_left_out():
    model = make_model(CASES["magnitude"], steps_per_execution=6)
    algorithm = callbacks.SET(0.5, frequency=7)
    fit(model, algorithm, epochs=2)
    # Due at step 7 of 12, which ends with the last step of all: the network would just have lost 30 % of its weights.
    assert sum(algorithm.dropped.values()) == 0
    assert not any(np.equal(w.value()[ops.convert_to_numpy(w.mask())], 0).any() for w in get_sparse_weights(model))
