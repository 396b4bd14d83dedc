"""IterativePruning: rounds, what is rewound, and what a stopped run needs to go on."""

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf import callbacks, masks
from sparsity_tf.layers import get_sparse_weights
from tests.callbacks import algorithm_checks as checks
from tests.callbacks.algorithm_checks import fit, make_model, masks_of
from tests.callbacks.bags import first, updates

CASE = checks.CASES["lottery"]


class Record(keras.callbacks.Callback):
    """The values of all weights after every batch, by batch."""

    def __init__(self):
        super().__init__()
        self.values, self.counts = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.values.append([ops.convert_to_numpy(weight.value()).copy() for weight in get_sparse_weights(self.model)])
        self.counts.append(checks.count_of(self.model))


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_each_round_prunes_by_magnitude_and_rewinds(scope):
    model, record = make_model(CASE, run_eagerly=True), Record()
    tickets = callbacks.IterativePruning(0.75, rounds=2, steps_per_round=4, rewind_step=1, scope=scope)
    assert tickets.total_steps == 4 + 2 * 3
    assert [tickets.sparsity_after(round_) for round_ in (1, 2)] == [0.5, 0.75]
    # What a round ends with is not seen after the batch, which ends with the next one's beginning.
    ends = []
    prune = tickets._prune
    tickets._prune = lambda *arguments: (ends.append([v.value.copy() for v in tickets.views(0)]), prune(*arguments))
    fit(model, tickets, record)
    assert record.counts == [1, 2, 3, 1, 2, 3, 1, 2, 3, 4, 5, 6]
    early, alive = record.values[0], [np.ones(value.shape, bool) for value in record.values[0]]
    for trained, began, sparsity in zip(ends, (record.values[3], record.values[6]), (0.5, 0.75), strict=True):
        if scope == "layer":
            alive = [
                first(abs(value), masks.number_to_keep(sparsity, value.size), mask)
                for value, mask in zip(trained, alive, strict=True)
            ]
        else:
            flat, live = (np.concatenate([a.ravel() for a in arrays]) for arrays in (trained, alive))
            flat = first(abs(flat), masks.number_to_keep(sparsity, flat.size), live)
            alive = [flat[: 12 * 16].reshape(12, 16), flat[12 * 16 :].reshape(16, 5)]
        for value, start, mask in zip(began, early, alive, strict=True):
            np.testing.assert_array_equal(value, np.where(mask, start, 0))


def test_everything_goes_back_to_the_start():
    """Biases, slots and the count of steps, too; the learning rate is that of the first step, and is left alone."""
    for optimizer in (keras.optimizers.SGD(0.1), keras.optimizers.Adam(0.1)):
        model = make_model(CASE, run_eagerly=True)
        model.compile(optimizer, "mse", run_eagerly=True)
        initial = [np.array(ops.convert_to_numpy(layer.bias)) for layer in model.layers]
        fit(model, callbacks.IterativePruning(0.5, rounds=1, steps_per_round=6), epochs=1)
        assert checks.count_of(model) == 0
        for layer, bias in zip(model.layers, initial, strict=True):
            np.testing.assert_array_equal(ops.convert_to_numpy(layer.bias), bias)
        assert float(ops.convert_to_numpy(model.optimizer.learning_rate)) == pytest.approx(0.1)
        for variable in model.optimizer.variables[2:]:
            assert not ops.convert_to_numpy(variable).any()


def test_a_model_without_bias_keeps_its_learning_rate():
    """Two trainable variables, and an optimizer with two of its own: the count and the learning rate."""
    model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(5)])
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    fit(model, callbacks.IterativePruning(0.5, rounds=1, steps_per_round=6), epochs=1)
    assert float(ops.convert_to_numpy(model.optimizer.learning_rate)) == pytest.approx(0.1)


def test_steps_that_are_left_and_needed_are_compared():
    tickets = callbacks.IterativePruning(0.75, rounds=2, steps_per_round=5, rewind_step=2)
    tickets.prepare(make_model(CASE, run_eagerly=True))
    # 5 steps, and twice the 3 from step 2 to step 5.
    assert tickets.total_steps == 11
    assert tickets.left_undone(11) is None
    assert "they need 11 more steps, but training has only 10" in tickets.left_undone(10)
    tickets.detach()


def test_the_snapshot_is_taken_at_its_step_and_once():
    tickets = callbacks.IterativePruning(0.75, rounds=1, steps_per_round=5, rewind_step=2)
    tickets.prepare(make_model(CASE, run_eagerly=True))
    assert updates(tickets, 4) == [2]
    tickets.remember(snapshot_taken=1)
    assert updates(tickets, 5) == [5]
    tickets.remember(rounds=1)
    assert updates(tickets, 8) == []
    tickets.detach()


def test_the_goal_of_a_global_scope_is_rounded_once():
    for scope, live in (("layer", 49 + 20), ("global", 70)):
        tickets = callbacks.IterativePruning(0.74, rounds=1, steps_per_round=5, scope=scope)
        tickets.prepare(make_model(CASE, run_eagerly=True))
        assert tickets.goal() == pytest.approx(1 - live / 272)
        tickets.detach()


@pytest.mark.not_on_torch("Keras takes steps_per_execution=1 only")
def test_a_round_that_ends_inside_an_execution_ends_at_its_boundary():
    model = make_model(CASE, steps_per_execution=4)
    tickets = callbacks.IterativePruning(0.5, rounds=1, steps_per_round=3)
    fit(model, tickets, epochs=1)
    assert tickets.recall() == {"rounds": 1.0, "snapshot_taken": 1.0}


def test_masks_that_are_sparser_already_stay():
    model = make_model(CASE, run_eagerly=True)
    callbacks.StaticSparsity(0.9).prepare(model)
    before = masks_of(model)
    fit(model, callbacks.IterativePruning(0.5, rounds=1, steps_per_round=3), epochs=1)
    assert all(np.array_equal(a, b) for a, b in zip(masks_of(model), before, strict=True))


def test_a_run_to_be_continued_needs_its_snapshot(tmp_path):
    model = make_model(CASE, run_eagerly=True)
    options = dict(rounds=2, steps_per_round=5)
    fit(model, callbacks.IterativePruning(0.5, **options), checks.StopAfter(3))
    model.save_weights(tmp_path / "stopped.weights.h5")
    model.load_weights(tmp_path / "stopped.weights.h5")
    with pytest.raises(ValueError, match=r"`snapshot` must be the file .* step 0: .*snapshot=None"):
        fit(model, callbacks.IterativePruning(0.5, **options))
    with pytest.raises(ValueError, match=r"snapshot='.*missing.npz'"):
        fit(model, callbacks.IterativePruning(0.5, **options, snapshot=str(tmp_path / "missing.npz")))


def test_a_model_trained_beyond_the_step_to_rewind_to_is_an_error():
    model = make_model(CASE, run_eagerly=True)
    fit(model, epochs=1)
    with pytest.raises(ValueError, match="`rewind_step` must not be smaller than 6, .* rewind_step=2"):
        fit(model, callbacks.IterativePruning(0.5, rounds=1, steps_per_round=9, rewind_step=2))


def test_rewinding_takes_the_averages_of_weights_along():
    model = make_model(CASE, run_eagerly=True)
    model.compile(keras.optimizers.SGD(0.01, use_ema=True, ema_momentum=0.9), "mse", run_eagerly=True)
    fit(model, callbacks.IterativePruning(0.5, rounds=1, steps_per_round=10, rewind_step=2), epochs=2)
    optimizer = model.optimizer
    pairs = zip(optimizer._model_variables_moving_average, optimizer._trainable_variables, strict=True)
    for average, variable in pairs:
        # Two steps after the rewinding they have hardly parted.
        np.testing.assert_allclose(average, variable, atol=0.02)


def test_a_snapshot_of_weights_in_bfloat16(tmp_path):
    with_policy = keras.Sequential([keras.Input((12,)), keras.layers.Dense(5, dtype="bfloat16")])
    tickets = callbacks.IterativePruning(0.5, rounds=1, steps_per_round=3, snapshot=str(tmp_path / "early.npz"))
    with_policy.compile("sgd", "mse", run_eagerly=True)
    tickets.prepare(with_policy)
    first_values = [np.array(ops.convert_to_numpy(v)).astype("float32") for v in tickets._variables]
    tickets._saved = None
    tickets._rewind()
    for variable, value in zip(tickets._variables, first_values, strict=True):
        np.testing.assert_array_equal(np.array(ops.convert_to_numpy(variable)).astype("float32"), value)
