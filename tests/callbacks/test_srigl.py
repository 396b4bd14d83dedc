"""SRigL: the published fan-ins, an update against its definition, and which units live."""

import keras
import numpy as np
import pytest

from sparsity_tf import callbacks, layers, masks
from sparsity_tf.callbacks.srigl import fan_in_of, next_mask
from sparsity_tf.layers import get_sparse_weights
from tests.callbacks.bags import first, make_bag, masks_of, set_gradients

RNG = np.random.default_rng(0)


def update(weights, gradients, live, **options):
    """`next_mask` of units x inputs, with the budget of the live entries."""
    options = {"budget": int(live.sum()), "drops": 0, "least_salient": 0, "least_units": 1, **options}
    return next_mask(np.asarray(weights, float), np.asarray(gradients, float), live, **options)


@pytest.mark.parametrize(
    "units,inputs,sparsity,budget,expected",
    [
        (8, 20, 0.9, 16, {0: 2, 1: 2, 4: 4}),
        (64, 576, 0.95, 1843, {0: 28, 1: 29, 32: 57}),
        (10, 27, 0.9, 27, {0: 2, 1: 3, 2: 3, 5: 5}),
        (4, 3, 0.5, 6, {0: 1, 2: 3, 3: 3}),  # No unit has more inputs than there are.
    ],
)
def test_the_published_fan_ins(units, inputs, sparsity, budget, expected):
    assert masks.number_to_keep(sparsity, units * inputs) == budget
    assert {ablated: fan_in_of(budget, units - ablated, inputs) for ablated in expected} == expected


@pytest.mark.parametrize("shape,axes", [((20, 8), (1,)), ((3, 3, 4, 6), (3,)), ((5, 4, 3), (1, 2))])
def test_every_unit_starts_with_the_same_number_of_inputs(shape, axes):
    algorithm = callbacks.SRigL(0.8, "uniform")
    view = callbacks.WeightView("w", np.ones(shape), np.ones(shape, bool), rng=RNG, filter_axes=axes)
    mask = algorithm.initial_mask(view, 0.8, None)
    inputs = tuple(axis for axis in range(len(shape)) if axis not in axes)
    units = int(np.prod([shape[axis] for axis in axes]))
    counts = mask.sum(axis=inputs)
    assert mask.shape == shape and (counts == masks.number_to_keep(0.8, mask.size) // units).all()
    assert len({row.tobytes() for row in np.moveaxis(mask, axes, range(len(axes))).reshape(units, -1)}) > 1


def test_a_budget_below_one_input_a_unit_leaves_some_units_out():
    algorithm = callbacks.SRigL(0.9, "uniform")
    view = callbacks.WeightView("w", np.ones((5, 8)), np.ones((5, 8), bool), rng=RNG, filter_axes=(1,))
    mask = algorithm.initial_mask(view, 0.9, None)
    assert mask.sum() == 4 and sorted(mask.sum(axis=0)) == [0] * 4 + [1] * 4


@pytest.mark.parametrize("seed", range(8))
def test_an_update_without_ablation_against_its_definition(seed):
    rng = np.random.default_rng(seed)
    units, inputs, k, drops = 6, 9, 4, 7
    live = np.array([rng.permutation(inputs) < k for _ in range(units)])
    weights = np.where(live, rng.normal(size=live.shape), 0)
    gradients = rng.integers(-3, 4, live.shape) if seed % 2 else rng.normal(size=live.shape)
    found = update(weights, gradients, live, drops=drops)
    kept = first(abs(weights), units * k - drops, live)
    for row, keep, old in zip(found, kept, abs(np.asarray(gradients, float)), strict=True):
        np.testing.assert_array_equal(row, keep | first(old, k - keep.sum(), ~keep))
    assert (found.sum(axis=1) == k).all()


def test_units_with_few_salient_weights_are_ablated_and_the_others_share_their_inputs():
    """Unit 2 has one weight among the six that stay and no large gradient. The budget of 9 gives k = 3, then 4."""
    live = np.array([[1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0]], bool)
    weights = live * np.array([[9, 8, 7, 0, 0, 0], [6, 5, 0.3, 0, 0, 0], [4, 0.2, 0.1, 0, 0, 0]])
    gradients = np.array([[0, 0, 0, 0, 9, 0], [0, 0, 0, 0, 8, 7], [0] * 6])
    found = update(weights, gradients, live, drops=3, least_salient=2)
    # Stay: 9 8 7 | 6 5 and, without the ablated unit, 0.3. Grown by gradient: one in unit 0, one in unit 1.
    assert found.astype(int).tolist() == [[1, 1, 1, 0, 1, 0], [1, 1, 1, 0, 1, 0], [0] * 6]
    assert update(weights, gradients, live, drops=3, least_salient=1).sum(axis=1).tolist() == [3, 3, 3]


def test_surplus_weights_of_a_unit_are_cut_by_magnitude():
    """The authors' program cuts by position. Here unit 0 may keep k = 2 of its four, the largest."""
    live = np.array([[1, 1, 1, 1], [1, 0, 0, 0]], bool)
    weights = np.array([[1, 2, 4, 3], [0.5, 0, 0, 0]])
    found = update(weights, np.zeros((2, 4)), live, budget=4)
    assert found[0].tolist() == [False, False, True, True] and found.sum(axis=1).tolist() == [2, 2]


def test_an_ablated_unit_comes_back_by_its_gradients():
    live = np.array([[1, 1, 1, 1], [0, 0, 0, 0]], bool)
    weights, gradients = live * np.array([[4.0, 3, 2, 1]]), np.array([[0, 0, 0, 0], [0, 9, 8, 0]])
    assert update(weights, gradients, live, drops=2, least_salient=1).sum(axis=1).tolist() == [2, 2]
    assert update(weights, 0 * gradients, live, drops=0, least_salient=1).sum(axis=1).tolist() == [4, 0]


def test_never_fewer_units_than_the_budget_fills():
    """Twelve live weights of three units with four inputs: all three are needed, however unsalient."""
    live = np.ones((3, 4), bool)
    weights = np.array([[9, 9, 9, 9], [1, 1, 1, 1], [2, 2, 2, 2.0]])
    assert update(weights, 0 * weights, live, drops=6, least_salient=4, least_units=3).all()
    counts = update(weights, 0 * weights, live, budget=8, drops=4, least_salient=4, least_units=2).sum(axis=1)
    assert counts.tolist() == [4, 0, 4]


def test_a_budget_below_one_input_a_unit_never_empties_a_weight():
    live = np.eye(5, 4, dtype=bool)[[0, 1, 4, 4, 4]]
    weights, gradients = np.where(live, 1.0, 0.0), np.zeros((5, 4))
    np.testing.assert_array_equal(update(weights, gradients, live), live)
    gradients[3, 2] = 9.0
    found = update(np.where(live, [[2.0], [1.0], [0], [0], [0]], 0), gradients, live, drops=1)
    np.testing.assert_array_equal(np.argwhere(found), [[0, 0], [3, 2]])


def test_an_update_of_the_algorithm_and_its_slots():
    value = np.zeros((6, 4), "float32")
    value[:2] = RNG.normal(size=(2, 4))
    gradient = RNG.normal(size=(6, 4)).astype("float32")
    algorithm = callbacks.SRigL(2 / 3, "uniform", ablation=0.0, drop_fraction=0.5, decay="constant", end_step=9)
    model = make_bag([value])
    algorithm.prepare(model)
    set_gradients(algorithm, [gradient])
    algorithm.change_masks(1)
    (found,) = masks_of(model)
    expected = next_mask(value.T, gradient.T, value.T != 0, budget=8, drops=4, least_salient=0, least_units=1).T
    np.testing.assert_array_equal(found, expected)
    assert (found.sum(axis=0) == 2).all() and algorithm.sparsity == 1 - 8 / 24


def test_output_layers_keep_their_units():
    model = keras.Sequential(
        [keras.Input((20,)), layers.MaskedDense(12, "relu", name="hidden"), layers.MaskedDense(6, name="logits")]
    )
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    x, y = RNG.normal(size=(48, 20)).astype("float32"), RNG.normal(size=(48, 6)).astype("float32")
    algorithm = callbacks.SRigL(0.75, "uniform", ablation=1.0, drop_fraction=0.5, frequency=1)
    model.fit(x, y, batch_size=8, epochs=3, verbose=0, callbacks=[algorithm])
    hidden, logits = (np.asarray(mask.sum(axis=0)) for mask in masks_of(model))
    assert set(logits) == {3} and len(set(hidden) - {0}) == 1
    assert (hidden == 0).any() and hidden.max() == 60 // (hidden > 0).sum()
    assert all(weight.sparsity() >= 0.75 for weight in get_sparse_weights(model))


@pytest.mark.parametrize("ablation,least", [(0.0, 0), (0.3, 1), (0.5, 2), (1.0, 5), (3, 3)])
def test_the_threshold_is_a_share_of_the_fan_in_or_a_number(ablation, least):
    algorithm = callbacks.SRigL(0.5, ablation=ablation)
    assert algorithm.least_salient(5) == least


@pytest.mark.parametrize(
    "options,message",
    [
        ({"sparsity": 1.0}, "sparsity=1.0"),
        ({"ablation": -0.1}, "`ablation` must be .*ablation=-0.1"),
        ({"ablation": 1.5}, "`ablation` must be a share from 0 to 1, or an integer.*ablation=1.5"),
        ({"structure": "2:4"}, "`structure` must be None: SRigL.*structure='2:4'"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        callbacks.SRigL(**{"sparsity": 0.5, **options})
