"""The steps after which masks change: intervals that are functions, epochs, accumulated gradients."""

import keras
import pytest

from sparsity_tf import callbacks
from tests.callbacks.bags import make_bag, updates


def prepared(algorithm, epochs=None, steps_per_epoch=None, accumulation=None):
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=accumulation)
    algorithm.prepare(make_bag(shapes=[(4, 4)], optimizer=optimizer), epochs, steps_per_epoch)
    return algorithm


def set_count(model, steps):
    """Sets the optimizer's count of steps. (With accumulation `iterations` is a quotient of the calls.)"""
    optimizer = model.optimizer
    optimizer._iterations.assign(steps * (optimizer.gradient_accumulation_steps or 1))


@pytest.mark.parametrize(
    "begin,end,interval,expected",
    [
        (0, 4, lambda step: 1, [1, 2, 3, 4]),
        # Multiples of the interval, `begin_step` itself included.
        (2, 7, lambda step: 2, [2, 4, 6]),
        (3, 9, lambda step: 2, [4, 6, 8]),
        (0, 9, lambda step: 2 if step < 5 else 3, [2, 4, 6, 9]),
        # An interval below 1 means every step.
        (0, 3, lambda step: 0.5, [1, 2, 3]),
    ],
)
def test_an_interval_may_be_a_function_of_the_step(begin, end, interval, expected):
    algorithm = callbacks.SET(0.5, begin_step=begin, end_step=end, frequency=interval)
    assert updates(prepared(algorithm), 12) == expected


def test_of_several_steps_on_the_schedule_the_last_one_counts():
    for frequency in (2, lambda step: 2):
        algorithm = callbacks.SET(0.5, begin_step=2, end_step=9, frequency=frequency)
        assert updates(prepared(algorithm), 15, by=5) == [(4, 5), (8, 10)]
    # Step 2 comes before `begin_step`, though the first piece ends at it.
    algorithm = callbacks.SET(0.5, begin_step=3, end_step=9, frequency=lambda step: 2)
    assert updates(prepared(algorithm), 9, by=3) == [(6, 6), (8, 9)]


@pytest.mark.parametrize("steps_per_call,first", [(None, 11), (1, 11), (4, 11), (5, 11), (6, 10), (10, 10), (20, 10)])
def test_calls_longer_than_half_an_epoch_move_updates_before_the_next_epoch(steps_per_call, first):
    algorithm = prepared(callbacks.SET(0.5), epochs=3, steps_per_epoch=10)
    algorithm._resolve_schedule(3, 10, steps_per_call)
    assert updates(algorithm, 30) == [first, first + 10]


def test_an_epoch_that_is_one_step_has_its_update_before_the_next_epoch():
    algorithm = prepared(callbacks.SET(0.5), epochs=6, steps_per_epoch=4, accumulation=4)
    algorithm._resolve_schedule(6, 4, 1)
    assert algorithm._at_epoch_begin and updates(algorithm, 6) == [1, 2, 3, 4, 5]


def test_batches_that_make_no_step_do_not_count():
    # Five batches are two steps of accumulated gradients. The default end of SET is one step earlier.
    algorithm = prepared(callbacks.SET(0.5, frequency=1), epochs=1, steps_per_epoch=5, accumulation=2)
    assert algorithm.last_step == 1
    algorithm = prepared(callbacks.SET(0.5), epochs=3, steps_per_epoch=5, accumulation=2)
    assert algorithm.steps_per_epoch == 2 and updates(algorithm, 6) == [3, 5]


@pytest.mark.parametrize(
    "epochs,steps_per_epoch,accumulation,end_step,expected",
    [
        # 15 batches are 7 steps. Step 7 comes one step after three epochs of 2 steps, and no step follows.
        (3, 5, 2, None, [3, 5]),
        (3, 5, 2, 6, [3, 5, 7]),
        (4, 1, None, None, [2, 3]),
        (3, 4, None, None, [5, 9]),
    ],
)
def test_a_default_schedule_does_not_end_with_weights_that_just_grew(
    epochs, steps_per_epoch, accumulation, end_step, expected
):
    algorithm, changed = callbacks.SET(0.5, end_step=end_step), []
    algorithm.change_masks = changed.append
    prepared(algorithm, epochs, steps_per_epoch, accumulation)
    for step in range(1, epochs * steps_per_epoch // (accumulation or 1) + 1):
        set_count(algorithm.model, step)
        algorithm.update(algorithm.model)
    assert changed == expected


def test_the_shortest_trainings_have_a_schedule():
    # One step in all, and epochs that are half a step of accumulated gradients.
    assert prepared(callbacks.SET(0.5, frequency=1), epochs=1, steps_per_epoch=1).last_step == 1
    algorithm = prepared(callbacks.SET(0.5), epochs=8, steps_per_epoch=2, accumulation=4)
    assert (algorithm.steps_per_epoch, algorithm.last_step) == (1, 3)
