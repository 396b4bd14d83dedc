"""GraNet: the published sparsities, a global shrink, and a swap in each layer."""

import keras
import numpy as np
import pytest

from sparsity_tf import callbacks, masks
from tests.callbacks.algorithm_checks import CASES, fit, make_model
from tests.callbacks.bags import first, make_bag, masks_of, set_gradients, updates, values_of


def prepared(algorithm, values, mask=None, **options):
    model = make_bag(values, mask, **options)
    algorithm.prepare(model)
    return model


def test_the_published_sparsities():
    """From a density of 0.5 to 0.1 in four rounds."""
    algorithm = callbacks.GraNet(0.9, initial_sparsity=0.5, frequency=10, pruning_end_step=40, end_step=100)
    prepared(algorithm, [], shapes=[(9, 9)])
    expected = [0.5, 0.73125, 0.85, 0.89375, 0.9, 0.9]
    assert [algorithm.sparsity_at(step) for step in (0, 10, 20, 30, 40, 100)] == pytest.approx(expected)
    assert updates(algorithm, 100) == list(range(10, 101, 10))


def test_pruning_ends_at_the_last_update_before_its_end():
    """Time is counted in updates, so the final sparsity is reached wherever `pruning_end_step` lies."""
    algorithm = callbacks.GraNet(0.9, begin_step=5, frequency=10, pruning_end_step=44, end_step=100)
    prepared(algorithm, [], shapes=[(9, 9)])
    assert [algorithm.sparsity_at(step) for step in (5, 34, 35)] == pytest.approx([0.5, 0.9 - 0.4 / 30**3, 0.9])


def test_the_drop_fraction_falls_over_the_whole_training():
    algorithm = callbacks.GraNet(0.9, frequency=2)
    algorithm.prepare(make_bag([], shapes=[(9, 9)]), 10, 10)
    assert [algorithm.drop_fraction_at(step) for step in (0, 50, 100)] == pytest.approx([0.5, 0.2525, 0.005])
    assert updates(algorithm, 100)[-1] == 98 and algorithm.sparsity_at(50) == 0.9
    assert algorithm.sparsity_at(48) < 0.9


def test_one_update_against_its_definition():
    rng = np.random.default_rng(0)
    shapes = [(7, 9), (5, 4)]
    live = [rng.random(shape) < 0.6 for shape in shapes]
    values = [rng.normal(size=shape).astype("float32") * mask for shape, mask in zip(shapes, live, strict=True)]
    gradients = [rng.normal(size=shape).astype("float32") for shape in shapes]
    algorithm = callbacks.GraNet(
        0.8, initial_sparsity=0.4, drop_fraction=0.3, decay="constant", frequency=1, pruning_end_step=4, end_step=9
    )
    model = prepared(algorithm, values, live)
    set_gradients(algorithm, gradients)
    algorithm.change_masks(2)

    sparsity = 0.4 + 0.4 * (1 - (1 - 2 / 4) ** 3)
    magnitudes = np.concatenate([abs(value).ravel() for value in values])
    kept = first(magnitudes, masks.number_to_keep(sparsity, 83), np.concatenate([mask.ravel() for mask in live]))
    kept = [part.reshape(shape) for part, shape in zip(np.split(kept, [63]), shapes, strict=True)]
    for found, after, before, keep, gradient in zip(
        masks_of(model), values_of(model), values, kept, gradients, strict=True
    ):
        remain = first(abs(before), keep.sum() - int(0.3 * keep.sum()), keep)
        expected = remain | first(abs(gradient), int(0.3 * keep.sum()), ~remain)
        np.testing.assert_array_equal(found, expected)
        # What the shrink prunes and the swap grows again starts at zero. What the swap drops and grows stays.
        np.testing.assert_array_equal(after, np.where(expected & keep, before, 0))


def test_sparsity_never_falls_and_ends_exactly():
    class Counts(keras.callbacks.Callback):
        seen = ()

        def on_train_batch_end(self, batch, logs=None):
            self.seen = (*self.seen, logs["sparsity"])

    counts = Counts()
    algorithm = callbacks.GraNet(0.9, frequency=1, pruning_end_step=6)
    fit(make_model(CASES["granet"], run_eagerly=True), algorithm, counts)
    assert list(counts.seen) == sorted(counts.seen) and counts.seen[0] > 0.5
    assert set(counts.seen[5:]) == {1 - 27 / 272}  # floor(0.1 * 272) live.
    assert all(algorithm.grown.values())


def test_a_dense_start_and_a_dense_layer():
    algorithm = callbacks.GraNet(0.5, initial_sparsity=0.0, frequency=1, pruning_end_step=1, end_step=9, dense="first")
    model = prepared(algorithm, [np.ones((3, 4)), np.ones((4, 5))])
    assert all(mask.all() for mask in masks_of(model))
    set_gradients(algorithm, [np.ones((3, 4)), np.ones((4, 5))])
    algorithm.change_masks(1)
    assert [int(mask.sum()) for mask in masks_of(model)] == [12, 10]
    assert algorithm.goal() == 10 / 32


def test_a_training_that_ends_before_pruning_says_so():
    algorithm = callbacks.GraNet(0.9, frequency=1, pruning_end_step=20, end_step=40)
    with pytest.warns(UserWarning, match="GraNet will not reach its target sparsity of 0.9: pruning ends at step 20"):
        with pytest.warns(UserWarning, match="GraNet ended at a sparsity of .*below its target"):
            fit(make_model(CASES["granet"], run_eagerly=True), algorithm)


@pytest.mark.parametrize(
    "options,message",
    [
        ({"sparsity": 1.0}, "`sparsity` must be .*sparsity=1.0"),
        (
            {"initial_sparsity": 0.9},
            "`initial_sparsity` must not exceed `sparsity`.*initial_sparsity=0.9, sparsity=0.8",
        ),
        ({"initial_sparsity": None}, "`initial_sparsity` must be .*initial_sparsity=None"),
        ({"pruning_end_step": 0}, "`pruning_end_step` must be larger than `begin_step`.*pruning_end_step=0"),
        ({"pruning_end_step": 50, "end_step": 40}, "`pruning_end_step` must not exceed `end_step`.*=50, end_step=40"),
        ({"drop_fraction": 2}, "drop_fraction=2"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        callbacks.GraNet(**{"sparsity": 0.8, **options})


@pytest.mark.parametrize(
    "options,message",
    [
        ({"end_step": 40}, "`pruning_end_step` must be given if the length of training is not known"),
        ({"end_step": 40, "pruning_end_step": 9, "frequency": 10}, "`frequency` must be at most 9, the steps from"),
    ],
)
def test_a_schedule_that_does_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        prepared(callbacks.GraNet(0.8, **options), [], shapes=[(9, 9)])
