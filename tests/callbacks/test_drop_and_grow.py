"""Drop and grow against its definition, functions of the user's own, and weights at the extremes.

(`test_dynamic.py` has the steps, counts and scores of SET and RigL one by one.)
"""

import functools

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies as st

from sparsity_tf import callbacks, masks, schedules
from sparsity_tf.callbacks import criteria
from tests.callbacks.bags import first, make_bag, masks_of, set_gradients, updates, values_of

few_examples = hypothesis.settings(max_examples=12, deadline=None, derandomize=True, database=None)


def prepared(algorithm, values, **options):
    model = make_bag(values, **options)
    algorithm.prepare(model)
    return model


# When, and how many.


def test_a_schedule_of_the_interval():
    """The periods of dynamic sparse reparameterization: 100, 200, 400, ... as training goes on."""
    period = schedules.Piecewise((300, 800), (100, 200, 400))
    algorithm = callbacks.DynamicSparseReparameterization(0.5, frequency=period, end_step=2000)
    prepared(algorithm, [], shapes=[(9, 9)])
    assert updates(algorithm, 2500) == [100, 200, 400, 600, 800, 1200, 1600, 2000]
    assert updates(algorithm, 2500, by=150)[:3] == [(100, 150), (200, 300), (400, 450)]


@pytest.mark.parametrize(
    "step,fraction", [(0, 0.3), (25, 0.256066), (50, 0.15), (75, 0.043934), (100, 0.0), (120, 0.0)]
)
def test_the_cosine_of_rigl(step, fraction):
    """Measured from `begin_step`, where the published program measures from step 0."""
    algorithm = callbacks.RigL(begin_step=40, end_step=140)
    prepared(algorithm, [], shapes=[(9, 9)])
    assert algorithm.drop_fraction_at(40 + step) == pytest.approx(fraction, abs=5e-7)


def test_linear_and_constant_decay_and_functions():
    for decay, expected in (("linear", [0.4, 0.2, 0.0]), ("constant", [0.4, 0.4, 0.4])):
        algorithm = callbacks.SET(drop_fraction=0.4, decay=decay, frequency=10, end_step=100)
        prepared(algorithm, [], shapes=[(9, 9)])
        assert [algorithm.drop_fraction_at(step) for step in (0, 50, 100)] == pytest.approx(expected)
    algorithm = callbacks.SET(drop_fraction=lambda step: 1 / (2 + step), frequency=10, end_step=100)
    prepared(algorithm, [], shapes=[(9, 9)])
    assert algorithm.drop_fraction_at(2) == 0.25


# Which.


@few_examples
@hypothesis.given(st.integers(0, 10**6), st.sampled_from(["normal", "tied", "equal", "zero"]), st.floats(0.0, 1.0))
def test_rigl_drops_the_smallest_and_grows_the_largest_gradients(seed, kind, fraction):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 12, 2))
    draw = {
        "normal": lambda: rng.normal(size=shape),
        "tied": lambda: rng.integers(-2, 3, shape),
        "equal": lambda: np.full(shape, 0.5),
        "zero": lambda: np.zeros(shape),
    }[kind]
    mask, value, gradient = rng.random(shape) < rng.random(), draw().astype("float32"), draw().astype("float32")
    algorithm = callbacks.RigL(0.5, drop_fraction=fraction, decay="constant", end_step=9, distribution="uniform")
    model = make_bag([value, np.eye(3)], [mask, np.eye(3, dtype=bool)])
    algorithm.prepare(model)
    mask, value = masks_of(model)[0], values_of(model)[0]
    set_gradients(algorithm, [gradient, np.zeros((3, 3))])
    algorithm.change_masks(1)
    count = masks.number_of_zeros(fraction, int(mask.sum()))
    kept = first(abs(value), int(mask.sum()) - count, mask)
    expected = kept | first(abs(gradient), count, ~kept)
    if not mask.all():
        np.testing.assert_array_equal(masks_of(model)[0], expected)
    assert masks_of(model)[0].sum() == mask.sum()
    np.testing.assert_array_equal(values_of(model)[0], np.where(expected & mask, value, 0))


def test_scores_may_be_compared_over_all_weights():
    values = [np.array([[0.1, 0.2, 0.3, 0, 0]]), np.array([[1.0, 2.0, 3.0, 0, 0]])]
    algorithm = callbacks.DropAndGrow(drop="global_magnitude", drop_fraction=0.5, decay="constant", end_step=9)
    model = prepared(algorithm, values)
    view_counts = []
    algorithm.grow = lambda weight: (view_counts.append(weight.active), np.arange(5.0)[None])[1]
    algorithm.change_masks(1)
    # One of three in each weight would be 0.1 and 1; together they are 0.1 and 0.2.
    assert [mask.tolist() for mask in masks_of(model)] == [
        [[False, False, True, True, True]],
        [[True, True, True, False, False]],
    ]


@pytest.mark.parametrize("signs", [(1,), (-1,), (-1, 1)])
@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_signed_magnitude_is_in_units_of_the_quantile_of_its_sign(signs, fraction):
    rng = np.random.default_rng(0)
    mask = rng.random((40, 30)) < 0.3
    value = (np.abs(rng.normal(size=mask.shape)) * rng.choice(signs, size=mask.shape) * mask).astype("float32")
    scores = criteria.signed_magnitude(callbacks.WeightView("w", value, mask, drop_fraction=fraction))
    for sign in signs:
        own = mask & (np.sign(value) == sign)
        size = np.sort(np.abs(value[own]))
        unit = size[min(int(fraction * size.size), size.size - 1)]
        np.testing.assert_allclose(scores[own], np.abs(value[own]) / unit, rtol=1e-6)
    assert not scores[~mask].any()


def test_signed_magnitude_without_live_weights():
    view = callbacks.WeightView("w", np.zeros((2, 3), "float32"), np.zeros((2, 3), bool), drop_fraction=0.3)
    np.testing.assert_array_equal(criteria.signed_magnitude(view), np.zeros((2, 3)))


@pytest.mark.parametrize("name,expected", [("momentum", 2.0), ("magnitude", 0.5), ("nonzeros", 2), ("size", 4)])
def test_redistribution_statistics(name, expected):
    value, mask = np.array([[0.5, -0.5], [0, 0]]), np.array([[True, True], [False, False]])
    slots = {"momentum": np.array([[-3.0, 1.0], [9.0, 9.0]])}
    assert criteria.REDISTRIBUTION[name](callbacks.WeightView("w", value, mask, _slots=slots)) == expected
    without = callbacks.WeightView("w", value, np.zeros_like(mask), _slots=slots)
    assert criteria.REDISTRIBUTION[name](without) in (0.0, 2, 4)


def test_momentum_is_shared_out_over_output_units():
    rng = np.random.default_rng(0)
    for shape, axes in (((50, 4), (-1,)), ((3, 3, 5, 4), (3,)), ((4, 50), (0,))):
        momentum = np.abs(rng.normal(size=shape))
        units = np.moveaxis(momentum, axes[0], 0).reshape(4, -1)
        units *= np.array([1, 2, 3, 0])[:, None] / units.mean(axis=1, keepdims=True)
        size = [shape[axes[0]], *np.delete(shape, axes[0])]
        momentum = np.moveaxis(units.reshape(size), 0, axes[0])
        view = callbacks.WeightView(
            "w", np.zeros(shape), np.zeros(shape, bool), filter_axes=axes, _slots={"momentum": momentum}
        )
        grown = masks.highest(criteria.momentum_neuron(view), 30)
        rows = np.moveaxis(grown, axes[0], 0).reshape(4, -1)
        # In proportion to the mean momentum, the largest of each unit.
        assert rows.sum(axis=1).tolist() == [5, 10, 15, 0]
        for row, values in zip(rows, units, strict=True):
            np.testing.assert_array_equal(row, first(values, int(row.sum()), np.ones(row.shape)))


# Functions of the user's own.


def test_what_the_decorators_leave():
    found = callbacks.overall(callbacks.uses("momentum")(lambda weight: weight.momentum))
    assert found.overall is True and found.uses == {"momentum"}
    for function in (criteria.global_magnitude, criteria.global_momentum):
        assert function.overall is True
    assert not getattr(criteria.magnitude, "overall", False)


def test_a_partial_function_keeps_the_marks_of_the_function_inside():
    @callbacks.uses("gradient")
    def powered(weight, power=1):
        return np.abs(weight.gradient) ** power

    algorithm = callbacks.DropAndGrow(grow=functools.partial(functools.partial(powered), power=2), end_step=9)
    assert algorithm.uses() == {"gradient"}
    assert criteria.mark_of(functools.partial(criteria.global_magnitude), "overall", False)
    assert not criteria.mark_of(functools.partial(criteria.magnitude), "overall", False)


def test_functions_of_the_users_own():
    @callbacks.uses("gradient")
    def saliency(weight):
        return np.abs(weight.value * weight.gradient)

    @callbacks.overall
    def first_free(weight):
        return -np.arange(weight.value.size, dtype=float).reshape(weight.value.shape)

    values = [np.array([[1.0, 2.0, 3.0, 0]]), np.array([[4.0, 5.0, 6.0, 0]])]
    algorithm = callbacks.DropAndGrow(
        drop=saliency,
        grow=first_free,
        redistribution=lambda weight: weight.drop_fraction,
        drop_fraction=0.34,
        end_step=9,
    )
    assert algorithm.uses() == {"gradient"}
    model = prepared(algorithm, values)
    set_gradients(algorithm, [np.array([[1, 0.1, 1, 1]]), np.array([[1, 1, 0.1, 1]])])
    algorithm.change_masks(1)
    # Dropped: 2 and 6. The entries of the lowest index grow, of both weights together.
    assert masks_of(model)[0].tolist() == [[True, True, True, False]]
    assert masks_of(model)[1].tolist() == [[True, True, True, False]]


def test_what_functions_return_is_checked():
    cases = (
        (dict(drop=lambda weight: np.zeros(3)), r"<lambda> must return scores of the weight's shape \(1, 4\).*\(3,\)"),
        (dict(grow=lambda weight: weight.value * np.nan), "scores of <lambda> must not hold NaN for '.*kernel'"),
        *(
            (
                dict(redistribution=lambda weight, value=value: value),
                f"`redistribution` must return a finite number >= 0 .*of <lambda> for '.*kernel': .*{shown}",
            )
            for value, shown in (
                (-1.0, "-1.0"),
                (np.nan, "nan"),
                (None, "None"),
                ("all", "all"),
                (np.ones((1, 4)), r"\(1, 4\)"),
            )
        ),
        (dict(drop_fraction=lambda step: 1.5), "`drop_fraction` must be a number in .*1.5"),
    )
    for options, message in cases:
        algorithm = callbacks.DropAndGrow(end_step=9, decay="constant", **{"drop_fraction": 0.5, **options})
        with pytest.raises(ValueError, match=message):
            prepared(algorithm, [np.array([[1.0, 2.0, 0, 0]])])
            algorithm.change_masks(1)


# Whatever the weights.

ALGORITHMS = {
    "rigl": lambda: callbacks.RigL(0.5, end_step=9, frequency=1, drop_fraction=0.5, distribution="uniform"),
    "set": lambda: callbacks.SET(0.5, end_step=9, frequency=1, distribution="uniform", drop_fraction=0.5),
    "sparse-momentum": lambda: callbacks.SparseMomentum(0.5, end_step=9, frequency=1),
    "global": lambda: callbacks.SparseMomentum(
        0.5, end_step=9, frequency=1, drop="global_magnitude", grow="global_momentum"
    ),
    "neuron": lambda: callbacks.DropAndGrow(
        0.5, end_step=9, frequency=1, grow="momentum_neuron", redistribution="momentum"
    ),
    "dsr": lambda: callbacks.DynamicSparseReparameterization(0.5, end_step=9, frequency=1),
    "magnitude": lambda: callbacks.MagnitudePruning(0.5, end_step=9, frequency=1),
    "random": lambda: callbacks.RandomPruning(0.5, end_step=9, frequency=1),
    "static": lambda: callbacks.StaticSparsity(0.5),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_weights_that_are_empty_full_single_or_zero(name):
    values = [np.zeros((3, 4)), np.ones((3, 4)), np.ones((1, 1)), np.zeros((2, 2)), np.ones((4, 5))]
    live = [np.zeros((3, 4)), np.ones((3, 4)), np.ones((1, 1)), np.ones((2, 2)), np.eye(4, 5)]
    algorithm = ALGORITHMS[name]()
    model = make_bag(values, live, optimizer=keras.optimizers.SGD(0.1, momentum=0.9))
    algorithm.prepare(model)
    before = sum(mask.sum() for mask in masks_of(model))
    for step in range(1, 4):
        if algorithm.scheduled:
            algorithm.change_masks(step)
        assert all(np.isfinite(value).all() for value in values_of(model))
        after = sum(mask.sum() for mask in masks_of(model))
        if isinstance(algorithm, callbacks.SparseMomentum):
            assert abs(after - before) <= 5
        elif name not in ("magnitude", "random"):
            assert after == before
    # A layer without inputs has nothing to prune, which is no reason to stop.
    algorithm = ALGORITHMS[name]()
    algorithm.prepare(make_bag(shapes=[(0, 4), (6, 6)], optimizer=keras.optimizers.SGD(0.1, momentum=0.9)))
    assert len(algorithm.weights) == 1
