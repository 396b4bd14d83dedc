"""A run that prunes nothing, or less than it was told to, says so."""

import re
import warnings

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf import callbacks as c
from tests.callbacks.algorithm_checks import CASES, STEPS, StopAfter, X, Y, fit, make_model, masks_of


@pytest.fixture(autouse=True)
def _no_other_warning():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(Pruning|SET|RigL|SparseMomentum|Sparsity|SNIP).*")
        yield


def model_of(case="magnitude", **options):
    return make_model(CASES[case], run_eagerly=True, **options)


class TrainsElsewhere(keras.Sequential):
    """Its weights change, and its optimizer takes no step."""

    def train_step(self, *data):
        return {"loss": 0.0}


# When `fit` starts.


@pytest.mark.parametrize(
    "algorithm,message",
    [
        (
            c.MagnitudePruning(0.8, 1000, 8000),
            "MagnitudePruning will not change .*begin_step=1000.* end of training, step 12",
        ),
        (
            c.SET(0.5, begin_step=1000, end_step=8000, frequency=10),
            "SET will not change .*begin_step=1000.* end of training, step 12",
        ),
        (
            c.NarangPruning(0.1, 1000, 2000, 8000),
            "NarangPruning will not change .*begin_step=1000.* end of training, step 12",
        ),
    ],
)
def test_a_schedule_that_begins_after_the_end_of_training(algorithm, message):
    started = []

    class Started(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if not started:
                started.extend(seen)

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        fit(model_of(), algorithm, Started())
    assert any(re.search(message, str(warning.message)) for warning in started)


def test_a_schedule_whose_only_update_would_come_after_the_last_step():
    # 12 batches are two steps of accumulated gradients. An epoch's update comes one step after it: at the very end.
    model, algorithm = model_of(), c.SET(0.5)
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=5), "mse", run_eagerly=True)
    with pytest.warns(UserWarning, match="SET will not change the masks: .* before the end of training, step 2"):
        fit(model, algorithm)
    assert not any(algorithm.dropped.values())


def test_a_schedule_that_ends_after_the_end_of_training():
    algorithm = c.MagnitudePruning(0.8, 2, 20, 2)
    with pytest.warns(UserWarning, match="MagnitudePruning") as seen:
        fit(model_of(), algorithm)
    starting, ending = (str(one.message) for one in seen if one.category is UserWarning)
    assert "`end_step` 20" in starting and "ends at step 12" in starting and "0.8" in starting
    assert f"{algorithm.sparsity:.4f}" in ending and "0.8" in ending


def test_a_threshold_that_rises_after_the_end_of_training():
    with pytest.warns(UserWarning, match="NarangPruning will not reach its target magnitude of 0.1: .* 8000.* step 12"):
        fit(model_of(), c.NarangPruning(0.1, 2, 6, 8000, 2))


def test_lottery_tickets_whose_rounds_do_not_fit():
    with pytest.warns(UserWarning, match="IterativePruning .*18 more steps.*training has only 12"):
        fit(model_of(), c.IterativePruning(0.8, rounds=2, steps_per_round=6, rewind_step=0))


def test_a_run_that_is_long_enough_says_nothing():
    model = model_of()
    fit(model, c.MagnitudePruning(0.8, 2, 12, 2))
    # Steps go on counting in a second `fit`, and a resumed one does only the epochs that are left.
    fit(model, c.MagnitudePruning(0.9, 14, 24, 2))
    fit(model, c.MagnitudePruning(0.95, 26, 30, 2), epochs=3, initial_epoch=2)
    # Updates at 5 and 10, before the last epoch begins, and none in it.
    model = model_of()
    for first, last in ((0, 2), (2, 3)):
        fit(model, c.SET(0.5, frequency=5, end_step=14), epochs=last, initial_epoch=first)


def test_a_run_that_stops_early_says_how_far_it_came():
    with pytest.warns(UserWarning, match=r"MagnitudePruning ended at a sparsity of 0\.\d+.*0\.8"):
        fit(model_of(), c.MagnitudePruning(0.8, 2, 10, 2), StopAfter(5))


@pytest.mark.parametrize("options", [dict(structure="2:4"), dict(structure="filter"), dict(structure="3x2"), {}])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_what_reaches_its_target_says_nothing(options, scope):
    if scope == "global" and options.get("structure") == "2:4":
        pytest.skip("a global scope has no N:M structure")
    fit(model_of(), c.MagnitudePruning(0.5, 0, 6, 2, scope=scope, **options), epochs=1)
    if scope == "layer":
        fit(model_of(), c.RandomPruning(0.5, 0, 6, 2, distribution="erk", **options), epochs=1)


def test_masks_that_stay_though_another_sparsity_was_asked_for():
    model = model_of()
    fit(model, c.StaticSparsity(0.5))
    with pytest.warns(UserWarning, match=r"StaticSparsity\(sparsity=0.9\) keeps the masks .* 0.5"):
        fit(model, c.StaticSparsity(0.9))
    fit(model, c.StaticSparsity(0.5))


# In loops of one's own.


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="a train step on JAX gets and returns the state")
@pytest.mark.parametrize("algorithm", [c.SET(0.5, frequency=2, end_step=6), c.RigL(0.5, frequency=2, end_step=6)])
def test_a_train_step_that_leaves_the_optimizer_out(algorithm):
    model = TrainsElsewhere([keras.Input((12,)), keras.layers.Dense(5)])
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    with pytest.warns(
        UserWarning,
        match=f"{type(algorithm).__name__} did not change the masks, because `model.optimizer` took no step",
    ):
        fit(model, algorithm)


def test_finish_without_updates_says_both_numbers():
    model, algorithm = model_of(), c.MagnitudePruning(0.8, 2, 8, 2)
    algorithm.prepare(model)
    for _ in range(9):
        model.train_on_batch(X, Y)
    with pytest.warns(UserWarning, match=r"sparsity of 0\.0000.*0\.8.*`update\(model\)`"):
        algorithm.finish()


def test_finish_of_a_dynamic_algorithm_that_was_never_updated():
    model, algorithm = model_of("rigl"), c.RigL(0.5, begin_step=2, end_step=8, frequency=2)
    algorithm.prepare(model)
    for _ in range(9):
        model.train_on_batch(X, Y)
    with pytest.warns(UserWarning, match=r"RigL .*`update\(model\)`"):
        algorithm.finish()


def test_finish_before_the_schedule_ends():
    model, algorithm = model_of(), c.MagnitudePruning(0.8, 2, 8, 2)
    algorithm.prepare(model)
    for _ in range(5):
        model.train_on_batch(X, Y)
        algorithm.update(model)
    with pytest.warns(UserWarning, match=r"sparsity of 0\.\d+.*0\.8.*`end_step` 8"):
        algorithm.finish()
    algorithm.finish()  # Once is enough.


def gradient_step(model, optimizer):
    """A step on the squared sum of the weights, on any backend but torch, outside `fit`."""
    gradients = [ops.convert_to_tensor(2 * ops.convert_to_numpy(v)) for v in model.trainable_variables]
    optimizer.apply(gradients, model.trainable_variables)


def test_a_loop_with_another_optimizer():
    model, algorithm = model_of(), c.MagnitudePruning(0.8, 2, 8, 2)
    algorithm.prepare(model)
    other = keras.optimizers.SGD(0.01)
    with pytest.raises(ValueError, match="MagnitudePruning.*`model.optimizer`.*another optimizer"):
        for _ in range(STEPS):
            gradient_step(model, other)
            algorithm.update(model)
    algorithm.detach()


def test_a_loop_that_never_writes_back():
    model, algorithm = model_of(), c.MagnitudePruning(0.8, 2, 8, 2)
    algorithm.prepare(model)
    optimizer = model.optimizer
    trainable = [v.value for v in model.trainable_variables]
    state = [v.value for v in optimizer.variables]
    with pytest.raises(ValueError, match="`stateless_apply`.*write"):
        for _ in range(40):
            if keras.backend.backend() == "jax":
                trainable, state = optimizer.stateless_apply(state, [2 * v for v in trainable], trainable)
            algorithm.update(model)
    algorithm.detach()


def test_gradient_accumulation_is_no_standstill():
    model = model_of()
    accumulating = keras.optimizers.SGD(0.01, gradient_accumulation_steps=30)
    model.compile(accumulating, "mse", run_eagerly=True)
    algorithm = c.MagnitudePruning(0.8, 0, 2, 1)
    algorithm.prepare(model)
    for _ in range(60):
        gradient_step(model, accumulating)
        algorithm.update(model)
    algorithm.finish()
    assert algorithm.sparsity > 0.79


def test_steps_that_loss_scaling_skips_are_no_standstill():
    model = model_of()
    scaling = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01))
    model.compile(scaling, "mse", run_eagerly=True)
    algorithm = c.MagnitudePruning(0.8, 0, 2, 1)
    algorithm.prepare(model)
    for step in range(42):
        gradients = [ops.full(v.shape, np.inf if step < 40 else 0.0) for v in model.trainable_variables]
        if keras.backend.backend() == "jax":
            # Keras's stateful loss scaling does not run there.
            variables = [*model.trainable_variables, *scaling.variables]
            values = [variable.value for variable in variables]
            count = len(gradients)
            trainable, state = scaling.stateless_apply(values[count:], gradients, values[:count])
            for variable, value in zip(variables, [*trainable, *state], strict=True):
                variable.assign(value)
        else:
            scaling.apply(gradients, model.trainable_variables)
        algorithm.update(model)
    algorithm.finish()
    assert algorithm.sparsity > 0.79


def test_update_before_prepare():
    with pytest.raises(ValueError, match=r"call `prepare\(model\)` before `update"):
        c.MagnitudePruning(0.8).update(model_of())
    one, other = model_of(), model_of()
    algorithm = c.StaticSparsity(0.5)
    algorithm.prepare(one)
    with pytest.raises(ValueError, match="prepared for another model"):
        algorithm.update(other)
    assert not all(mask.all() for mask in masks_of(one))
