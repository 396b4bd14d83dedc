"""Slots of optimizers: momentum as each optimizer keeps it, averages under masks, slots as at the start."""

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf.callbacks.base import optimizer_slots
from sparsity_tf.layers import get_sparse_weights
from tests.callbacks.bags import make_bag, set_slots


def bag(optimizer):
    model = make_bag([np.array([[1.0, 2.0], [3.0, 0.0]])], optimizer=optimizer)
    model.optimizer.build(model.trainable_variables)
    return model, model.trainable_variables[0]


@pytest.mark.parametrize("optimizer", [keras.optimizers.Adam(0.1), keras.optimizers.AdamW(0.1)])
def test_the_momentum_of_adam_is_scaled_by_the_second_moment(optimizer):
    model, variable = bag(optimizer)
    set_slots(model, "_momentums", [np.array([[2.0, -3.0], [1e-8, 0.0]])])
    set_slots(model, "_velocities", [np.array([[4.0, 0.25], [0.0, 1.0]])])
    found = ops.convert_to_numpy(optimizer_slots.momentum(model.optimizer, variable))
    np.testing.assert_allclose(found, [[1.0, -6.0], [1.0, 0.0]], rtol=1e-6)
    np.testing.assert_array_equal(optimizer_slots.variance(model.optimizer, variable), [[4.0, 0.25], [0.0, 1.0]])


@pytest.mark.parametrize(
    "optimizer,slot",
    [
        (keras.optimizers.SGD(0.1, momentum=0.9), "momentums"),
        # It keeps a second moment, too, by which its buffer is divided already.
        (keras.optimizers.RMSprop(0.1, momentum=0.9), "_momentums"),
    ],
)
def test_the_momentum_of_other_optimizers_is_their_buffer(optimizer, slot):
    model, variable = bag(optimizer)
    set_slots(model, slot, [np.array([[2.0, -3.0], [0.5, 0.0]])])
    found = ops.convert_to_numpy(optimizer_slots.momentum(model.optimizer, variable))
    np.testing.assert_array_equal(found, [[2.0, -3.0], [0.5, 0.0]])


def test_only_what_is_read_must_be_kept():
    model, _ = bag(keras.optimizers.SGD(0.1))
    optimizer_slots.check(model.optimizer, {"gradient"}, "Reader")
    for name, hint in (("momentum", "momentum=0.9"), ("variance", "use Adam")):
        with pytest.raises(
            ValueError, match=f"Reader reads the {name} that the optimizer keeps.*{hint}.*optimizer=SGD"
        ):
            optimizer_slots.check(model.optimizer, {name}, "Reader")
    model, _ = bag(keras.optimizers.Adam(0.1))
    optimizer_slots.check(model.optimizer, {"momentum", "variance"}, "Reader")


def test_masked_entries_are_zero_in_averages_too():
    model, variable = bag(keras.optimizers.SGD(0.1, use_ema=True))
    average = model.optimizer._model_variables_moving_average[0]
    for one in (variable, average):
        one.assign(np.full((2, 2), 5.0))
    optimizer_slots.mask_averages(model.optimizer, get_sparse_weights(model))
    for one in (variable, average):
        np.testing.assert_array_equal(ops.convert_to_numpy(one), [[5.0, 5.0], [5.0, 0.0]])


def test_without_averages_weights_stay_as_they_are():
    model, variable = bag(keras.optimizers.SGD(0.1))
    variable.assign(np.full((2, 2), 5.0))
    optimizer_slots.mask_averages(model.optimizer, get_sparse_weights(model))
    np.testing.assert_array_equal(ops.convert_to_numpy(variable), np.full((2, 2), 5.0))


def test_the_average_of_one_weight_starts_again_at_its_value():
    model, variable = bag(keras.optimizers.SGD(0.1, use_ema=True))
    average = model.optimizer._model_variables_moving_average[0]
    average.assign(np.full((2, 2), 5.0))
    optimizer_slots.restart_average(model.optimizer, variable)
    np.testing.assert_array_equal(ops.convert_to_numpy(average), ops.convert_to_numpy(variable))


def test_without_averages_nothing_starts_again():
    model, variable = bag(keras.optimizers.SGD(0.1, momentum=0.9))
    before = [np.array(ops.convert_to_numpy(v)) for v in model.optimizer.variables]
    optimizer_slots.restart_average(model.optimizer, variable)
    for v, old in zip(model.optimizer.variables, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(v), old)


@pytest.mark.parametrize("optimizer,initial", [("adam", 0.0), ("ftrl", 0.1)])
def test_every_slot_goes_back_to_its_initial_value(optimizer, initial):
    model, variable = bag(keras.optimizers.get({"class_name": optimizer, "config": {"use_ema": True}}))
    slots = [v for v in model.optimizer.variables if tuple(v.shape) == (2, 2)]
    before = [ops.convert_to_numpy(slot).copy() for slot in slots]
    for slot in slots:
        slot.assign(np.full((2, 2), 7.0))
    variable.assign(np.full((2, 2), 3.0))
    optimizer_slots.reset_all(model.optimizer)
    average = model.optimizer._model_variables_moving_average[0]
    assert len(slots) == 3 and any((array == initial).all() for array in before)
    for slot, array in zip(slots, before, strict=True):
        # The averages of the weights start as the weights.
        expected = np.full((2, 2), 3.0) if slot is average else array
        np.testing.assert_array_equal(ops.convert_to_numpy(slot), expected)
    assert optimizer_slots.count_steps(model) == 0
