"""MEST: the published sparsities, the score, and the settings with which it is `DropAndGrow`."""

import keras
import numpy as np
import pytest

from sparsity_tf import callbacks, masks, schedules
from sparsity_tf.callbacks import criteria
from tests.callbacks.algorithm_checks import CASES, assert_same, fit, make_model, state_of
from tests.callbacks.bags import first, make_bag, masks_of, set_gradients


class Sparsities(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(round(logs["sparsity"], 6))


def prepared(algorithm, epochs=None, steps=None, **options):
    model = make_bag(**options)
    algorithm.prepare(model, epochs, steps)
    return model


def test_the_published_steps():
    """160 epochs. Hard: prune to .92, .91, .90 and grow back to .90. Soft: prune to .90 and grow to .85, .875, .90."""
    algorithm = callbacks.MEST(0.9, drop_fraction=0.2, frequency=5)
    prepared(algorithm, 160, 10, shapes=[(50, 20)])
    dropped = [algorithm.drop_fraction_at(10 * epoch) for epoch in (0, 89, 90, 119, 120, 159)]
    assert [1 - 0.1 * (1 - r) for r in dropped] == pytest.approx([0.92, 0.92, 0.91, 0.91, 0.9, 0.9])
    assert sum(int(mask.sum()) for mask in masks_of(algorithm.model)) == 100

    algorithm = callbacks.MEST(0.9, drop_fraction=0.5, soft=True, frequency=1, end_step=1599)
    model = prepared(algorithm, 160, 10, shapes=[(50, 20)])
    found = [1 - masks_of(model)[0].mean()]
    for step in (10, 900, 1199, 1200):
        algorithm.change_masks(step)
        found.append(1 - masks_of(model)[0].mean())
    assert found == pytest.approx([0.85, 0.85, 0.875, 0.875, 0.9])


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_a_soft_update_against_its_definition(weight):
    rng = np.random.default_rng(0)
    value, gradient = rng.normal(size=(2, 8, 10)).astype("float32")
    live = rng.random((8, 10)) < 0.5
    algorithm = callbacks.MEST(
        0.6, gradient_weight=weight, drop_fraction=lambda step: 0.25, soft=True, frequency=1, end_step=9, seed=3
    )
    model = prepared(algorithm, values=[value * live], masks=[live])
    if weight:
        set_gradients(algorithm, [gradient])
    algorithm.change_masks(2)
    kept = first(abs(value) + weight * abs(gradient), 32, live)
    (found,) = masks_of(model)
    assert (found >= kept).all() and found.sum() == 32 + 8
    np.testing.assert_array_equal(found, kept | masks.random_mask((8, 10), 8, algorithm.rng(2), ~kept))


def test_the_hard_bound_is_drop_and_grow_with_these_settings():
    """MEST with a hard bound is no algorithm of its own."""
    schedule = schedules.Piecewise((6, 9), (0.4, 0.2, 0.0))
    states = []
    for algorithm in (
        callbacks.MEST(0.7, drop_fraction=0.4, frequency=2, end_step=11),
        callbacks.DropAndGrow(0.7, drop="magnitude", grow="random", drop_fraction=schedule, frequency=2, end_step=11),
    ):
        model = make_model(CASES["set"], run_eagerly=True)
        fit(model, algorithm)
        states.append(state_of(model))
        assert any(algorithm.grown.values())
    assert_same(*states)


def test_itop_is_set_and_rigl_with_these_settings():
    """Rare updates, half of the weights dropped, a cosine to the end of training (Liu et al. 2021, ITOP)."""
    algorithm = callbacks.RigL(0.9, drop_fraction=0.5, frequency=4000, end_step=97_750)
    prepared(algorithm, 250, 391, shapes=[(9, 9)])
    assert [algorithm.drop_fraction_at(step) for step in (0, 48_875, 97_750)] == pytest.approx([0.5, 0.25, 0])
    algorithm = callbacks.SET(0.9, "erk", drop="magnitude", drop_fraction=0.5, decay="cosine", frequency=1500)
    prepared(algorithm, 250, 391, shapes=[(9, 9)])
    assert algorithm.drop_fraction_at(97_749) == pytest.approx(0)


def test_a_soft_bound_ends_at_the_target():
    seen = Sparsities()
    algorithm = callbacks.MEST(0.75, drop_fraction=0.5, soft=True, frequency=1)
    fit(make_model(CASES["set"], run_eagerly=True), algorithm, seen)
    # Of 12 steps the first six have r = 0.5, the next three 0.25, the last ones 0.
    expected = [1 - 102 / 272] * 5 + [1 - 85 / 272] * 3 + [0.75] * 4
    assert seen.seen == [round(sparsity, 6) for sparsity in expected] and algorithm.sparsity == 0.75


def test_a_soft_bound_that_never_closes_says_so():
    with pytest.warns(UserWarning, match="MEST ended at a sparsity of .*, below its target sparsity of 0.7500"):
        algorithm = callbacks.MEST(0.75, drop_fraction=lambda step: 0.5, soft=True, frequency=1)
        fit(make_model(CASES["set"], run_eagerly=True), algorithm)


def test_a_soft_bound_brings_earlier_masks_to_its_counts():
    value = np.zeros((4, 5), "float32")
    value[0, :2] = 1  # Two of twenty live, where the bound is eight.
    algorithm = callbacks.MEST(0.6, drop_fraction=lambda step: 0.25, soft=True, frequency=1, end_step=9)
    model = prepared(algorithm, values=[value])
    algorithm.change_masks(1)
    assert masks_of(model)[0].sum() == 10 and masks_of(model)[0][0, :2].all()


def test_a_full_layer_stays_full():
    algorithm = callbacks.MEST(0.0, drop_fraction=0.5, soft=True, frequency=1, end_step=9)
    model = prepared(algorithm, values=[np.ones((3, 4))])
    algorithm.change_masks(1)
    assert masks_of(model)[0].all()


def test_the_gradient_is_read_only_if_it_counts():
    assert callbacks.MEST(0.9).uses() == set()
    assert callbacks.MEST(0.9, gradient_weight=0.1).uses() == {"gradient"}
    assert callbacks.MEST(0.9).drop is criteria.magnitude


@pytest.mark.parametrize(
    "options,message",
    [
        ({"sparsity": 1.0}, "sparsity=1.0"),
        ({"gradient_weight": -1.0}, "`gradient_weight` must be .*gradient_weight=-1.0"),
        ({"drop_fraction": 1.5}, "drop_fraction=1.5"),
        ({"soft": "yes"}, "`soft` must be True or False.*soft='yes'"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        callbacks.MEST(**{"sparsity": 0.9, **options})
