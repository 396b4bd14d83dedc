"""Dynamic sparse reparameterization: the counts of WRN-28-2 and LeNet-300-100, the threshold, where growth goes."""

import numpy as np
import pytest

from sparsity_tf.callbacks import DynamicSparseReparameterization
from sparsity_tf.callbacks.dynamic_reparameterization import HEURISTICS
from tests.callbacks.bags import make_bag, masks_of, values_of

# The 24 convolutions of WRN-28-2 that are sparse; 16,090 parameters are not.
WIDE_RESNET = [4608] + [9216] * 7 + [18432] + [36864] * 7 + [73728] + [147456] * 7
MLP = [(784, 300), (300, 100), (100, 10)]


def wide_resnet():
    return make_bag(shapes=[(size // 36, 36) for size in WIDE_RESNET], dense=16090)


def test_counts_of_the_paper():
    assert sum(WIDE_RESNET) == 1_451_520
    for sparsity, expected in ((0.9, 145_139), (0.8, 290_294), (0.7, 435_442), (0.6, 580_597), (0.5, 725_760)):
        assert sum(int((1 - sparsity) * size + 0.1) for size in WIDE_RESNET) == expected
    model, algorithm = wide_resnet(), DynamicSparseReparameterization(0.9, end_step=1)
    algorithm.prepare(model)
    assert sum(algorithm.active_counts()) == 145_139
    assert algorithm.total == 1_467_610
    for sparsity, expected in ((0.99, 2662), (0.9, 26620)):
        algorithm = DynamicSparseReparameterization(sparsity, end_step=1)
        algorithm.prepare(make_bag(shapes=MLP))
        assert sum(algorithm.active_counts()) == expected


def test_counts_of_the_package():
    """Sparsity is zeros under masks / all parameters: 130,671 of 1,467,610 live at .9, rounded up in each weight."""
    model = wide_resnet()
    algorithm = DynamicSparseReparameterization(0.9, variant="model", end_step=1)
    algorithm.prepare(model)
    assert 130_671 <= sum(algorithm.active_counts()) <= 130_671 + 24
    assert round(algorithm.model_sparsity(), 4) == 0.9
    # One per cent of all parameters is to be pruned: 14,676, so that 13,000 are too few and 14,000 are not.
    values = np.zeros(sum(WIDE_RESNET), "float32")
    live = np.concatenate([mask.ravel() for mask in masks_of(model)])
    for count, threshold in ((13_000, 2e-3), (14_000, 1e-3), (16_200, 5e-4)):
        algorithm.remember(threshold=1e-3)
        values[live] = 1.0
        values[np.flatnonzero(live)[:count]] = 1e-4
        place = 0
        for weight, mask in zip(algorithm.weights, masks_of(model), strict=True):
            weight.assign_mask(np.ones(mask.shape))
            weight.variable.assign(values[place : place + mask.size].reshape(mask.shape))
            weight.assign_mask(live[place : place + mask.size].reshape(mask.shape))
            place += mask.size
        before = sum(algorithm.active_counts())
        algorithm.prune_by_threshold()
        assert sum(algorithm.active_counts()) == before - count
        assert algorithm.adjust_pruning_threshold() == threshold
    algorithm.reallocate_free_parameters()
    assert sum(algorithm.active_counts()) == 130_671


def small(variant="paper", **options):
    values = [np.array([[0.5, 0.0, 1e-4], [0.6, 1e-4, 0.0]]), np.array([[1e-4, 0.9, 0.0, 0.0, 0.0, 0.0]])]
    model = make_bag(values)
    algorithm = DynamicSparseReparameterization(0.5, variant=variant, end_step=10, **options)
    algorithm.prepare(model)
    return model, algorithm


def test_the_three_steps_one_by_one():
    model, algorithm = small(prune_target=4)
    assert algorithm.prune_by_threshold() == {"part0/kernel": (4, 2), "part1/kernel": (2, 1)}
    assert algorithm.adjust_pruning_threshold() == algorithm.threshold == 2e-3
    # Three in proportion to the survivors, 2 : 1; what was just pruned does not come back, which leaves room for 2 + 4.
    assert algorithm.reallocate_free_parameters() == {"part0/kernel": 2, "part1/kernel": 1}
    assert masks_of(model)[0].tolist() == [[True, True, False], [True, False, True]]
    assert not masks_of(model)[1][0, 0]
    assert [np.count_nonzero(value) for value in values_of(model)] == [2, 1]


@pytest.mark.parametrize(
    "target,options,expected",
    [
        (3, {}, 1e-3),
        (4, {}, 2e-3),
        (2, {}, 5e-4),
        (4, {"tolerance": 0.3}, 1e-3),
        (4, {"gain": 5.0}, 5e-3),
        (2, {"gain": 4.0}, 2.5e-4),
    ],
)
def test_the_threshold_doubles_or_halves(target, options, expected):
    _, algorithm = small(prune_target=target)
    algorithm.prune_by_threshold()
    assert algorithm.adjust_pruning_threshold(**options) == pytest.approx(expected)


@pytest.mark.parametrize(
    "name,expected",
    [("survivors", [2, 1]), ("pruned", [2, 1]), ("zeros", [4, 5]), ("live", [4, 2]), ("size", [6, 6])],
)
def test_what_growth_is_shared_out_by(name, expected):
    size, before, after = np.array([6, 6]), np.array([4, 2]), np.array([2, 1])
    assert HEURISTICS[name](size, before, after).tolist() == expected


def test_names_of_the_package_and_functions_are_heuristics():
    for names in (("paper", "R_p_sphere", "survivors"), ("within_param", "K_p_sphere"), ("anti_paper", "Z_p_sphere")):
        assert len({small(redistribution=name)[1].redistribution for name in names}) == 1
    _, algorithm = small(redistribution=lambda size, before, after: np.array([0.0, 1.0]))
    algorithm.change_masks(1)
    assert algorithm.active_counts() == [2, 4]
    # A power makes shares more unequal: 4 : 1 of three.
    _, algorithm = small(power=5.0)
    algorithm.prune_by_threshold()
    assert list(algorithm.reallocate_free_parameters().values()) == [2, 1]  # No more room in the first.


def test_the_budget_survives_where_nothing_else_has_room():
    model = make_bag([np.full((4, 4), 1e-4), np.ones((2, 2))])
    algorithm = DynamicSparseReparameterization(0.0, end_step=10)
    algorithm.prepare(model)
    algorithm.change_masks(1)
    assert sum(algorithm.active_counts()) == 20
    assert np.count_nonzero(values_of(model)[0]) == 1  # the one that is always kept


def test_a_weight_that_would_lose_all_keeps_its_first():
    model = make_bag([np.array([[0.0, 1e-4, 1e-4]]), np.ones((1, 3))])
    algorithm = DynamicSparseReparameterization(0.5, end_step=10)
    algorithm.prepare(model)
    algorithm.prune_by_threshold()
    assert masks_of(model)[0].tolist() == [[False, True, False]]
    model = make_bag([np.array([[0.0, 1e-4, 1e-4]]), np.ones((1, 3))])
    algorithm = DynamicSparseReparameterization(0.1, variant="model", end_step=10)
    algorithm.prepare(model)
    algorithm.prune_by_threshold()
    assert masks_of(model)[0].sum() == 0


def test_by_default_updates_end_after_nine_tenths_of_training():
    algorithm = DynamicSparseReparameterization(0.5, frequency=1)
    algorithm.prepare(make_bag(shapes=[(4, 4)]), epochs=4, steps_per_epoch=5)
    assert algorithm.last_step == 18


def test_a_redistribution_that_nobody_knows_is_named():
    for redistribution in ("fair", 3):
        with pytest.raises(ValueError, match=f"`redistribution` must be one of .*redistribution={redistribution!r}"):
            DynamicSparseReparameterization(redistribution=redistribution)


def test_a_sparsity_that_the_masks_cannot_hold_is_an_error():
    model = make_bag(shapes=[(10, 10)], dense=50)
    with pytest.raises(
        ValueError, match=r"`sparsity` must be below 0.6667.*150 parameters.*only 100 of them.*sparsity=0.7"
    ):
        DynamicSparseReparameterization(0.7, variant="model", end_step=10).prepare(model)
