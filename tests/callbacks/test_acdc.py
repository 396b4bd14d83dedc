"""ACDC: when phases switch, exact counts, and what a dense phase begins with."""

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf import callbacks
from tests.callbacks.algorithm_checks import CASES, fit, make_model, masks_of
from tests.callbacks.bags import make_bag, set_slots, updates, values_of
from tests.callbacks.bags import masks_of as masks_of_bag


def prepared(algorithm, values=None, **options):
    model = make_bag([np.arange(1.0, 11.0).reshape(2, 5)] if values is None else values, **options)
    algorithm.prepare(model)
    return model


@pytest.mark.parametrize(
    "begin,end,sparse,dense,compress,decompress",
    [
        # ImageNet, 100 epochs; 200 epochs; CIFAR-100, 200 epochs, and CIFAR-10.
        (10, 85, 5, 5, [*range(10, 71, 10), 85], [*range(15, 66, 10), 75]),
        (10, 185, 5, 5, [*range(10, 171, 10), 185], [*range(15, 166, 10), 175]),
        (10, 170, 20, 20, [10, 50, 90, 130, 170], [30, 70, 110, 150]),
    ],
)
def test_the_published_epochs(begin, end, sparse, dense, compress, decompress):
    """Three steps are an epoch. Masks change at the beginning of an epoch: after the last step of the epoch before."""
    algorithm = callbacks.ACDC(0.8, 3 * begin, 3 * end, 3, sparse_period=sparse, dense_period=dense)
    prepared(algorithm)
    assert updates(algorithm, 600) == sorted(3 * epoch for epoch in compress + decompress)
    for epochs, sparsity in ((compress, 0.8), (decompress, 0.0)):
        assert {algorithm.sparsity_at(3 * epoch + more) for epoch in epochs for more in (0, 1)} == {sparsity}
    assert algorithm.sparsity_at(3 * begin - 1) == 0


def test_switches_by_epoch_come_one_step_into_the_epoch():
    algorithm = callbacks.ACDC(0.8, 8, 24, "epoch", sparse_period=1, dense_period=1)
    model = make_bag([np.ones((2, 5))])
    algorithm.prepare(model, 10, 4)
    assert updates(algorithm, 40) == [9, 13, 17, 21, 25]
    assert [algorithm.sparsity_at(step) for step in (8, 9, 12, 13, 25, 40)] == [0, 0.8, 0.8, 0, 0.8, 0.8]


def test_a_switch_that_a_long_call_skips_is_made_up_for():
    algorithm = callbacks.ACDC(0.8, 2, 14, 1, sparse_period=3, dense_period=2)
    prepared(algorithm)
    assert updates(algorithm, 20) == [2, 5, 7, 10, 14]
    assert updates(algorithm, 20, by=4) == [(2, 4), (7, 8), (10, 12), (14, 16)]


def test_by_default_the_last_sparse_phase_is_the_last_15_percent_of_training():
    algorithm = callbacks.ACDC(0.8)
    model = make_bag([np.ones((2, 5))])
    algorithm.prepare(model, 100, 7)
    assert algorithm.last_step == 85 * 7
    algorithm.detach()
    algorithm.prepare(model, 100, 7)  # A second training of the same length.
    assert algorithm.last_step == 85 * 7


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_compression_keeps_exactly_the_largest(scope):
    """The published program keeps one too few (and fewer with ties)."""
    values = [np.arange(1.0, 11.0).reshape(2, 5), np.full((2, 5), 10.0)]
    algorithm = callbacks.ACDC(0.8, 1, 9, 1, sparse_period=2, dense_period=2, scope=scope)
    model = prepared(algorithm, values)
    algorithm.change_masks(1)
    counts = [int(mask.sum()) for mask in masks_of_bag(model)]
    assert counts == ([1, 3] if scope == "global" else [2, 2])
    assert masks_of_bag(model)[0][1, 4]


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("optimizer", [keras.optimizers.SGD, keras.optimizers.Adam])
def test_a_dense_phase_begins_at_zero_and_without_momentum(optimizer, reset):
    slots = ("momentums",) if optimizer is keras.optimizers.SGD else ("_momentums", "_velocities")
    made = optimizer(0.1, momentum=0.9) if optimizer is keras.optimizers.SGD else optimizer(0.1)
    algorithm = callbacks.ACDC(0.8, 1, 9, 1, sparse_period=2, dense_period=2, reset_momentum=reset)
    model = prepared(algorithm, optimizer=made, dense=3)
    algorithm.change_masks(1)
    (mask,), (value,) = masks_of_bag(model), values_of(model)
    for name in slots:
        set_slots(model, name, [np.full((2, 5), 7.0)])
        getattr(model.optimizer, name)[-1].assign(np.full((3, 1), 7.0))  # Of the layer that has no mask.
    algorithm.change_masks(3)
    assert masks_of_bag(model)[0].all() and algorithm.sparsity_at(3) == 0
    np.testing.assert_array_equal(values_of(model)[0], np.where(mask, value, 0))
    for name in slots:
        kept = 0.0 if reset and name != "_velocities" else 7.0
        found = [ops.convert_to_numpy(slot) for slot in getattr(model.optimizer, name)]
        np.testing.assert_array_equal(found[0], np.where(mask, kept, 0))
        np.testing.assert_array_equal(found[-1], np.full((3, 1), kept))


def test_weights_come_back_and_the_mask_of_the_last_compression_stays():
    class Counts(keras.callbacks.Callback):
        seen = ()

        def on_train_batch_end(self, batch, logs=None):
            self.seen = (*self.seen, logs["sparsity"])

    model, counts = make_model(CASES["magnitude"], run_eagerly=True), Counts()
    algorithm = callbacks.ACDC(0.75, 2, 10, 1, sparse_period=2, dense_period=2)
    fit(model, algorithm, counts)
    full = 1 - 68 / 272  # 68 of the 272 weights.
    assert counts.seen == (0, full, full, 0, 0, full, full, 0, 0, full, full, full)
    assert sum(int(mask.sum()) for mask in masks_of(model)) == 68
    assert all(algorithm.grown.values()) and algorithm.sparsity == full


def test_n_of_m():
    periods = {"frequency": 1, "sparse_period": 1, "dense_period": 1}
    algorithm = callbacks.ACDC(begin_step=1, end_step=9, **periods, scope="layer", structure="2:4")
    model = prepared(algorithm, [np.arange(1.0, 9.0).reshape(8, 1)])
    algorithm.change_masks(9)
    assert masks_of_bag(model)[0].ravel().tolist() == [False, False, True, True] * 2


def test_a_training_that_ends_in_a_dense_phase_says_so():
    with pytest.warns(UserWarning, match="ACDC will not reach its target sparsity of 0.5: .*`end_step` 90"):
        with pytest.warns(UserWarning, match=r"ACDC ended at a sparsity of 0.0000, below its target"):
            algorithm = callbacks.ACDC(0.5, 2, 90, 1, sparse_period=4, dense_period=7)
            fit(make_model(CASES["magnitude"], run_eagerly=True), algorithm)


def test_phases_that_do_not_fit_are_a_warning():
    with pytest.warns(UserWarning, match="ACDC will not alternate: .* take 10 steps, .*begin_step=1, end_step=9"):
        prepared(callbacks.ACDC(0.5, 1, 9, 1))


@pytest.mark.parametrize(
    "options,message",
    [
        ({"final_sparsity": 1.0}, "final_sparsity=1.0"),
        ({"begin_step": 0}, "`begin_step` must be an integer of at least 1.*begin_step=0"),
        ({"sparse_period": 0}, "`sparse_period` must be an integer of at least 1.*sparse_period=0"),
        ({"dense_period": 1.5}, "`dense_period` .*dense_period=1.5"),
        ({"frequency": lambda step: 3}, "`frequency` must be an integer or 'epoch'"),
        ({"reset_momentum": "no"}, "`reset_momentum` must be True or False.*reset_momentum='no'"),
        ({"scope": "model"}, "`scope` must be one of .*scope='model'"),
        ({"structure": "channel"}, "`structure` must be None: ACDC brings pruned weights back"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        callbacks.ACDC(**{"final_sparsity": 0.5, **options})


def test_the_length_of_training_must_be_known():
    with pytest.raises(ValueError, match="`end_step` must be given"):
        prepared(callbacks.ACDC(0.5, frequency=1))
