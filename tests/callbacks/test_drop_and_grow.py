"""RigL, SET and their relatives: what is dropped and grown, how many, when; and functions of the user's own."""

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies as st
from keras import ops

from sparsity_tf import callbacks, masks, schedules
from sparsity_tf.callbacks import criteria
from sparsity_tf.callbacks.dynamic import share_out
from sparsity_tf.layers import get_sparse_weights
from tests.callbacks import algorithm_checks as checks
from tests.callbacks.bags import first, make_bag, masks_of, set_gradients, set_slots, values_of
from tests.callbacks.test_pruning import updates
from tests.gradients import gradients

few_examples = hypothesis.settings(max_examples=12, deadline=None, derandomize=True, database=None)


def prepared(algorithm, values, **options):
    model = make_bag(values, **options)
    algorithm.prepare(model)
    return model


# When, and how many.


@pytest.mark.parametrize(
    "begin,end,frequency,expected",
    [
        # The published program's first update is at `begin` too, also at 0, and each takes the place of a step.
        (3, 7, 2, [3, 5, 7]),
        (1, 5, 3, [1, 4]),
        (0, 4, 1, [1, 2, 3, 4]),
        (0, 75000, 25000, [25000, 50000, 75000]),
    ],
)
def test_steps_of_rigl(begin, end, frequency, expected):
    algorithm = callbacks.RigL(begin_step=begin, end_step=end, frequency=frequency)
    prepared(algorithm, [], shapes=[(9, 9)])
    assert updates(algorithm, end + 10, by=1 if end < 10 else 1000) == (
        expected if end < 10 else [(step, step) for step in expected]
    )


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


@pytest.mark.parametrize("step,rate", [(1, 0.499878), (10, 0.487886), (25, 0.427509), (50, 0.2525), (99, 0.005122)])
def test_the_cosine_of_sparse_momentum(step, rate):
    algorithm = callbacks.SparseMomentum()
    algorithm.prepare(make_bag(shapes=[(9, 9)], optimizer=keras.optimizers.SGD(0.1, momentum=0.9)), 10, 10)
    assert algorithm.drop_fraction_at(step) == pytest.approx(rate, abs=5e-7)
    assert algorithm.drop_fraction_at(100) == algorithm.drop_fraction_at(105) == 0.005
    assert algorithm.last_step == 99


def test_linear_and_constant_decay_and_functions():
    for decay, expected in (("linear", [0.4, 0.2, 0.0]), ("constant", [0.4, 0.4, 0.4])):
        algorithm = callbacks.SET(drop_fraction=0.4, decay=decay, frequency=10, end_step=100)
        prepared(algorithm, [], shapes=[(9, 9)])
        assert [algorithm.drop_fraction_at(step) for step in (0, 50, 100)] == pytest.approx(expected)
    algorithm = callbacks.SET(drop_fraction=lambda step: 1 / (2 + step), frequency=10, end_step=100)
    prepared(algorithm, [], shapes=[(9, 9)])
    assert algorithm.drop_fraction_at(2) == 0.25


@pytest.mark.parametrize(
    "fraction,live,dropped", [(0.29, 100, 29), (0.3, 10, 3), (0.3, 9, 2), (0.1, 9, 0), (1.0, 7, 7)]
)
def test_the_number_dropped_is_rounded_down(fraction, live, dropped):
    values = np.zeros((20, 20))
    values.flat[:live] = np.linspace(1, 2, live)
    algorithm = callbacks.DropAndGrow(drop_fraction=fraction, decay="constant", end_step=100)
    model = prepared(algorithm, [values])
    algorithm.change_masks(1)
    kept = masks_of(model)[0].flat[:live]
    # Those of the smallest magnitude: some of them may have been grown again.
    assert kept[dropped:].all() and not kept[:dropped].all() or not dropped
    assert masks_of(model)[0].sum() == live


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


def test_the_gradient_of_rigl_is_the_dense_one_of_that_very_step():
    case = checks.CASES["rigl"]
    model, algorithm = checks.make_model(case), case.make()
    dense = {}

    class Differentiate(keras.callbacks.Callback):
        """The gradient that the coming step will have, before it is taken."""

        def on_train_batch_begin(self, batch, logs=None):
            weights = get_sparse_weights(self.model)
            loss = lambda: ops.mean(ops.square(self.model(checks.X, training=True) - checks.Y))  # noqa: E731
            dense[checks.count_of(self.model) + 1] = gradients(loss, [weight.variable for weight in weights])

    seen = {}
    change_masks = algorithm.change_masks

    def change(step):
        seen[step] = [np.array(view.gradient) for view in algorithm.views(step)], checks.masks_of(model)
        change_masks(step)

    algorithm.change_masks = change
    checks.fit(model, Differentiate(), algorithm)
    assert list(seen) == list(checks.UPDATES)
    for step, (found, live) in seen.items():
        for gradient, expected, mask in zip(found, dense[step], live, strict=True):
            np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)
            assert (gradient[~mask] != 0).any()


def test_set_drops_the_same_share_of_both_signs():
    values = np.zeros((6, 10))
    values.flat[:20] = np.linspace(0.1, 2, 20)
    values.flat[20:30] = -np.linspace(0.01, 0.1, 10)
    algorithm = callbacks.SET(drop_fraction=0.3, frequency=1, end_step=9)
    model = prepared(algorithm, [values])
    view = algorithm.view(0, 1, drop_fraction=0.3)
    kept = criteria.lowest_live([view], [criteria.signed_magnitude(view)], [9], False)[0]
    lost = (view.mask & ~kept).ravel()
    # Six of twenty and three of ten, each closest to zero, although all negative ones are smaller.
    assert np.flatnonzero(lost).tolist() == [0, 1, 2, 3, 4, 5, 20, 21, 22]
    algorithm.change_masks(1)
    assert masks_of(model)[0].sum() == 30


def test_grown_weights_start_at_zero_with_fresh_slots_and_regrown_ones_keep_theirs():
    value, gradient = np.array([[0.1, 0.2, 0.3, 0.4, 0, 0]]), np.array([[9.0, 0, 0, 0, 8, 0]])
    for name, optimizer in (
        ("momentums", keras.optimizers.SGD(0.1, momentum=0.9)),
        ("_velocities", keras.optimizers.Adam()),
    ):
        algorithm = callbacks.RigL(drop_fraction=0.5, decay="constant", end_step=9)
        model = prepared(algorithm, [value], optimizer=optimizer)
        set_slots(model, name, [np.full((1, 6), 7.0)])
        set_gradients(algorithm, [gradient])
        algorithm.change_masks(1)
        # The first is dropped and grown again, the second makes room for the fifth.
        assert masks_of(model)[0].tolist() == [[True, False, True, True, True, False]]
        np.testing.assert_allclose(values_of(model)[0], [[0.1, 0, 0.3, 0.4, 0, 0]])
        slot = getattr(model.optimizer, name)[0]
        assert ops.convert_to_numpy(slot).tolist() == [[7, 7, 7, 7, 0, 7]]
        assert algorithm.grown == algorithm.dropped == {"part0/kernel": 1}


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


def test_redistribution_moves_counts_and_conserves_them():
    values = [
        np.ones((4, 4)) * (np.arange(16).reshape(4, 4) < 8),
        3 * np.ones((4, 4)) * (np.arange(16).reshape(4, 4) < 8),
    ]
    algorithm = callbacks.DropAndGrow(redistribution="magnitude", drop_fraction=0.5, decay="constant", end_step=9)
    model = prepared(algorithm, values)
    algorithm.change_masks(1)
    # Eight to grow, one quarter and three quarters.
    assert [mask.sum() for mask in masks_of(model)] == [4 + 2, 4 + 6]


@pytest.mark.parametrize("name,expected", [("momentum", 2.0), ("magnitude", 0.5), ("nonzeros", 2), ("size", 4)])
def test_redistribution_statistics(name, expected):
    view = callbacks.WeightView(
        path="w",
        value=np.array([[0.5, -0.5], [0, 0]]),
        mask=np.array([[True, True], [False, False]]),
        _slots={"momentum": np.array([[-3.0, 1.0], [9.0, 9.0]])},
    )
    assert criteria.REDISTRIBUTION[name](view) == expected
    view.mask[:] = False
    assert criteria.REDISTRIBUTION[name](view) in (0.0, 2, 4)


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


def test_a_function_must_say_what_it_reads():
    def undeclared(weight):
        return np.abs(weight.gradient)

    model = checks.make_model(checks.CASES["rigl"], run_eagerly=True)
    with pytest.raises(ValueError, match=r'reads the gradient of .*kernel.*uses\("gradient"\)'):
        checks.fit(model, callbacks.DropAndGrow(0.5, grow=undeclared, frequency=1, end_step=9))
    with pytest.raises(ValueError, match="`uses` takes gradient, momentum, variance.*loss"):
        callbacks.uses("loss")


def test_what_functions_return_is_checked():
    cases = (
        (dict(drop=lambda weight: np.zeros(3)), r"<lambda> must return scores of the weight's shape \(1, 4\).*\(3,\)"),
        (dict(grow=lambda weight: weight.value * np.nan), "`scores` must not hold NaN"),
        (dict(redistribution=lambda weight: -1.0), "numbers >= 0"),
        (dict(drop_fraction=lambda step: 1.5), "`drop_fraction` must be a number in .*1.5"),
    )
    for options, message in cases:
        algorithm = callbacks.DropAndGrow(end_step=9, decay="constant", **{"drop_fraction": 0.5, **options})
        with pytest.raises(ValueError, match=message):
            prepared(algorithm, [np.array([[1.0, 2.0, 0, 0]])])
            algorithm.change_masks(1)


# How growth is shared out.


@few_examples
@hypothesis.given(st.data())
def test_shares_are_whole_numbers_with_the_right_sum(data):
    room = data.draw(st.lists(st.integers(0, 20), min_size=1, max_size=6))
    numbers = st.one_of(st.just(0.0), st.floats(0, 1e300), st.floats(0, 1))
    statistics = data.draw(st.lists(numbers, min_size=len(room), max_size=len(room)))
    total = data.draw(st.integers(0, sum(room)))
    counts = share_out(total, statistics, room)
    assert sum(counts) == total and all(0 <= count <= n for count, n in zip(counts, room, strict=True))
    if sum(statistics) and all(count < n for count, n in zip(counts, room, strict=True)):
        for count, statistic in zip(counts, statistics, strict=True):
            assert abs(count - total * (statistic / sum(statistics))) < 1


def test_what_finds_no_room_goes_to_the_others():
    assert share_out(10, [1, 1, 2], [1, 20, 20]) == [1, 3, 6]
    assert share_out(5, [1, 0], [2, 10]) == [2, 3]
    assert share_out(3, [0, 0, 0], [5, 5, 5]) == [1, 1, 1]
    with pytest.raises(ValueError, match="room for 3 weights.*total=4"):
        share_out(4, [1, 1], [1, 2])


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
