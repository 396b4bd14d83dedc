"""Drop and grow: RigL's steps, counts, which weights go and come, slots, sharing out, the gradient that RigL sees."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from sparsity_tf import layers, schedules
from sparsity_tf.callbacks import SET, DropAndGrow, RigL, StaticSparsity, WeightView, criteria, uses
from sparsity_tf.callbacks.dynamic import share_out
from sparsity_tf.inspection import sparsity_table
from sparsity_tf.layers import get_sparse_weights
from tests.callbacks import algorithm_checks as checks


def make_model(*widths, optimizer=None):
    """A chain of bias-free masked dense layers a, b, ..., compiled."""
    model = keras.Sequential([keras.Input((widths[0],))], name="chain")
    for name, width in zip("abcdef", widths[1:], strict=False):
        model.add(layers.MaskedDense(width, use_bias=False, name=name))
    model.compile(optimizer or keras.optimizers.SGD(0.1, momentum=0.9), "mse", jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    return model


def the_weight(model):
    (weight,) = get_sparse_weights(model)
    return weight


def mask_of(weight):
    return np.array(ops.convert_to_numpy(weight.mask()))


def value_of(weight):
    return np.array(ops.convert_to_numpy(weight.value()))


def counts_of(model):
    return [int(mask_of(weight).sum()) for weight in get_sparse_weights(model)]


def updates(algorithm, last):
    """The steps after which masks change when asked after each."""
    return [step for step in range(1, last + 1) if algorithm.due(step - 1, step) == step]


def view(value, mask=None, **slots):
    """A `WeightView` of a matrix (inputs, outputs)."""
    value = np.asarray(value, "float32")
    mask = value != 0 if mask is None else np.asarray(mask, bool)
    slots = {name: np.asarray(array, "float32") for name, array in slots.items()}
    return WeightView("w", value, mask, rng=np.random.default_rng(0), drop_fraction=0.5, _slots=slots)


# When, and how much.


@pytest.mark.parametrize(
    "begin,end,frequency,expected",
    [(3, 7, 2, [3, 5, 7]), (1, 5, 3, [1, 4]), (0, 4, 1, [1, 2, 3, 4]), (0, 9, 4, [4, 8]), (2, None, 5, [2, 7, 12])],
)
def test_rigls_steps(begin, end, frequency, expected):
    rigl = RigL(0.5, begin_step=begin, end_step=end, frequency=frequency, decay="constant")
    rigl.prepare(make_model(4, 3))
    assert updates(rigl, 14) == expected
    # The gradient is kept at these steps: what the compiled step asks for is the same.
    assert [step for step in range(1, 15) if bool(ops.convert_to_numpy(rigl._is_due(step)))] == expected
    rigl.finish()


def test_default_ends():
    # Once an epoch means one step into the next.
    for algorithm, expected in ((RigL(0.5, frequency=4), [4, 8, 12]), (SET(0.5), [6, 11, 16])):
        algorithm.prepare(make_model(4, 3), epochs=4, steps_per_epoch=5)
        assert updates(algorithm, 40) == expected
        algorithm.finish()


def test_gradients_are_kept_one_step_into_the_epoch():
    rigl = RigL(0.5, frequency="epoch", end_step=12)
    rigl.prepare(make_model(4, 3), epochs=4, steps_per_epoch=5)
    assert updates(rigl, 20) == [6, 11]
    assert [step for step in range(1, 21) if bool(ops.convert_to_numpy(rigl._is_due(step)))] == [6, 11]
    rigl.finish()


def test_the_end_of_an_epoch_shows_a_network_that_has_trained_with_its_weights():
    model, seen = make_model(8, 6), []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            weights = get_sparse_weights(self.model)
            values, live = (
                ops.convert_to_numpy(array) for weight in weights for array in (weight.value(), weight.mask())
            )
            seen.append((np.count_nonzero(values), np.count_nonzero(live)))

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 8)).astype("float32"), rng.normal(size=(20, 6)).astype("float32")
    model.fit(x, y, batch_size=5, epochs=4, verbose=0, callbacks=[SET(0.5, drop_fraction=0.5), Look()])
    assert all(nonzeros == live == 24 for nonzeros, live in seen)


@pytest.mark.parametrize(
    "options,expected",
    [
        (dict(), [0.3, 0.3, 0.15 * (1 + 0.5**0.5), 0.15, 0.0, 0.0]),
        (dict(decay="linear"), [0.3, 0.3, 0.225, 0.15, 0.0, 0.0]),
        (dict(decay="constant"), [0.3] * 6),
        (dict(drop_fraction=schedules.Linear(1.0, 0.0, 0, 100)), [1.0, 0.8, 0.6, 0.4, 0.0, 0.0]),
        (dict(drop_fraction=lambda step: 1 / (1 + step)), [1, 1 / 21, 1 / 41, 1 / 61, 1 / 101, 1 / 201]),
    ],
)
def test_drop_fractions(options, expected):
    algorithm = DropAndGrow(0.5, begin_step=20, end_step=100, **options)
    algorithm.prepare(make_model(4, 3))
    found = [algorithm.drop_fraction_at(step) for step in (0, 20, 40, 60, 100, 200)]
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("active,fraction,dropped", [(50, 0.3, 15), (49, 0.3, 14), (3, 0.3, 0), (7, 1.0, 7), (9, 0, 0)])
def test_the_number_dropped_is_truncated(active, fraction, dropped):
    model = make_model(10, 10)
    algorithm = DropAndGrow((100 - active) / 100, drop_fraction=fraction, decay="constant", end_step=9)
    algorithm.prepare(model)
    # No dropped weight is grown again where the scores say so: it is what the mask loses.
    before = mask_of(the_weight(model))
    algorithm.grow = lambda weight: np.where(before, -1.0, 0.0)
    algorithm.change_masks(1)
    after = mask_of(the_weight(model))
    assert (before & ~after).sum() == (after & ~before).sum() == dropped
    assert after.sum() == before.sum() == active


@settings(max_examples=12, deadline=None)
@given(
    widths=st.lists(st.integers(1, 12), min_size=2, max_size=4),
    percent=st.integers(0, 99),
    fraction=st.floats(0, 1),
    redistribution=st.sampled_from([None, "magnitude", "momentum", "size", "nonzeros"]),
)
def test_counts_are_conserved(widths, percent, fraction, redistribution):
    model = make_model(*widths)
    algorithm = DropAndGrow(
        percent / 100, drop_fraction=fraction, redistribution=redistribution, decay="constant", end_step=9
    )
    algorithm.prepare(model)
    before = counts_of(model)
    for step in (1, 2):
        algorithm.change_masks(step)
    after = counts_of(model)
    assert (after == before) if redistribution is None else (sum(after) == sum(before))


@pytest.mark.parametrize("structure,group", [("2:4", (4, 1)), ("filter", (8, 1)), ("2x3", (2, 3))])
def test_a_random_mask_has_the_structure(structure, group):
    model = make_model(8, 6)
    StaticSparsity(0.5, structure=structure).prepare(model)
    mask = mask_of(the_weight(model))
    rows, columns = group
    counts = mask.reshape(8 // rows, rows, 6 // columns, columns).sum(axis=(1, 3))
    assert mask.sum() == 24
    assert set(counts.reshape(-1)) == ({2} if structure == "2:4" else {0, rows * columns})


def test_the_initial_masks_belong_to_step_0():
    # So the first update, after step 1, has random numbers of its own.
    class Watched(StaticSparsity):
        def initial_mask(self, view, sparsity, structure):
            steps.append(view.step)
            return super().initial_mask(view, sparsity, structure)

    steps = []
    Watched(0.5).prepare(make_model(4, 3, 2))
    assert steps == [0, 0]


# Which.


def test_set_drops_the_same_share_of_both_signs():
    model = make_model(10, 10)
    weight, rng = the_weight(model), np.random.default_rng(1)
    value = np.concatenate([rng.uniform(0.5, 1, 40), -rng.uniform(0.01, 0.1, 20), np.zeros(40)])
    value = rng.permutation(value).reshape(10, 10).astype("float32")
    weight.variable.assign(value)
    weight.assign_mask(value != 0)
    evolution = SET(0.4, drop_fraction=0.25, end_step=9, frequency=1)
    evolution.prepare(model)
    evolution.grow = lambda view: np.where(value != 0, -1.0, 0.0)
    evolution.change_masks(1)
    kept = mask_of(weight) & (value != 0)
    assert (kept & (value > 0)).sum() == 30 and (kept & (value < 0)).sum() == 15
    for sign in (1, -1):
        size = sign * value
        assert size[kept & (size > 0)].min() > size[~kept & (size > 0)].max()


def test_set_grows_at_random_over_all_that_is_free():
    grown = np.zeros((10, 10))
    for seed in range(40):
        model = make_model(10, 10)
        weight = the_weight(model)
        weight.assign_mask(np.arange(100).reshape(10, 10) < 20)
        evolution = SET(0.8, drop_fraction=0.5, end_step=9, frequency=1, seed=seed)
        evolution.prepare(model)
        evolution.change_masks(1)
        grown += mask_of(weight) & (np.arange(100).reshape(10, 10) >= 20)
    # Of 10 grown each time 8 / 9 are among the 80 that were not there.
    assert grown.sum() == pytest.approx(40 * 10 * 8 / 9, rel=0.06)
    assert (grown.reshape(-1)[20:] > 0).mean() >= 0.9


@pytest.mark.parametrize("grow,best", [("gradient", [3, 5]), ("inverted_gradient", [4, 7])])
def test_the_largest_gradients_among_the_free_grow(grow, best):
    model = make_model(4, 2)
    weight = the_weight(model)
    weight.variable.assign(np.array([4, 3, 0.1, 0, 0, 0, 0.2, 0], "float32").reshape(4, 2))
    weight.assign_mask(np.array([1, 1, 1, 0, 0, 0, 1, 0], bool).reshape(4, 2))
    rigl = RigL(0.5, grow=grow, drop_fraction=0.5, decay="constant", end_step=9, frequency=1)
    rigl.prepare(model)
    gradient = np.array([9, 9, 1, -3, 0.5, 2, -1, 0.1], "float32").reshape(4, 2)
    rigl._tap.gradient = lambda variable: gradient
    rigl.change_masks(1)
    assert np.flatnonzero(mask_of(weight)).tolist() == sorted([0, 1, *best])
    assert value_of(weight).reshape(-1)[best].tolist() == [0, 0]
    assert rigl.dropped == rigl.grown == {weight.path: 2}
    rigl.finish()


@pytest.mark.parametrize("optimizer", [keras.optimizers.SGD(0.1, momentum=0.9), keras.optimizers.Adam(0.1)])
def test_what_grows_starts_at_zero_and_what_is_regrown_goes_on(optimizer):
    model = make_model(4, 2, optimizer=optimizer)
    weight = the_weight(model)
    weight.variable.assign(np.arange(1, 9, dtype="float32").reshape(4, 2))
    weight.assign_mask(np.arange(8).reshape(4, 2) < 4)
    algorithm = DropAndGrow(
        0.5, grow=lambda view: np.array([9, 0, 0, 0, 8, 0, 0, 0.0]).reshape(4, 2), drop_fraction=0.5, end_step=99
    )
    algorithm.prepare(model)
    slots = [v for v in model.optimizer.variables if tuple(v.shape) == (4, 2)]
    for slot in slots:
        slot.assign(np.ones((4, 2)))
    algorithm.change_masks(algorithm.begin_step)  # Entries 0 and 1 go; 0 and 4 come.
    assert value_of(weight).reshape(-1).tolist() == [1, 0, 3, 4, 0, 0, 0, 0]
    assert np.flatnonzero(mask_of(weight)).tolist() == [0, 2, 3, 4]
    assert len(slots) == (2 if isinstance(optimizer, keras.optimizers.Adam) else 1)
    for slot in slots:
        assert ops.convert_to_numpy(slot).reshape(-1)[[0, 2, 3, 4]].tolist() == [1, 1, 1, 0]


def test_momentum_of_a_unit_decides_how_much_it_grows():
    scores = criteria.momentum_neuron(view(np.zeros((12, 3)), momentum=np.tile([3, 1, 2], (12, 1))))
    for count in (6, 12, 18):
        best = np.argsort(-scores.reshape(-1), kind="stable")[:count]
        assert np.bincount(best % 3, minlength=3).tolist() == [count // 2, count // 6, count // 3]


def test_momentum_neuron_prefers_the_largest_of_a_unit_among_the_free():
    momentum = np.array([[5, 1], [4, 1], [3, 1], [2, 1]], "float32")
    mask = np.array([[1, 0], [0, 0], [0, 0], [0, 0]], bool)
    scores = criteria.momentum_neuron(view(mask * 1.0, mask, momentum=momentum))
    assert scores[1, 0] > scores[2, 0] > scores[3, 0] > scores[0, 0]


def test_small_and_uncertain_weights_go_first():
    scores = criteria.magnitude_variance(view([[1, 1, 2, 0]], variance=[[1, 4, 1, 0.01]]))
    np.testing.assert_allclose(scores[0, :3], [0.5, 0.25, 1.0], rtol=1e-6)


def test_variances_count_however_small_they_are():
    # 1 / sqrt(v) is 1000 and 100; magnitudes are 1 and 4: 1 * 1/4, 0.1 * 1.
    scores = criteria.magnitude_variance(view([[1, 4]], variance=[[1e-6, 1e-4]]))
    np.testing.assert_allclose(scores, [[0.25, 0.1]], rtol=1e-6)
    # Live weights that are all zero have equal, finite scores.
    np.testing.assert_array_equal(criteria.magnitude_variance(view([[0, 0]], [[1, 1]], variance=[[1, 1]])), [[0, 0]])


def test_momentum_neuron_ranks_free_entries_without_momentum_before_live_ones():
    momentum, mask = np.array([[0], [0], [5]], "float32"), np.array([[1], [0], [1]], bool)
    scores = criteria.momentum_neuron(view(mask * 1.0, mask, momentum=momentum))
    assert scores[1, 0] > max(scores[0, 0], scores[2, 0])


def test_magnitude_variance_serves_empty_weights_and_needs_adam():
    assert not criteria.magnitude_variance(view([[0, 0]], variance=[[1, 1]])).any()
    with pytest.raises(ValueError, match="variance.*optimizer=SGD"):
        DropAndGrow(0.5, drop="magnitude_variance", end_step=9).prepare(make_model(4, 3))


def test_redistribution_moves_weights_to_where_the_statistic_is_large():
    model = make_model(10, 10, 10)
    algorithm = DropAndGrow(
        0.5, drop_fraction=0.4, decay="constant", end_step=9, redistribution=lambda weight: float("a/" in weight.path)
    )
    algorithm.prepare(model)
    algorithm.change_masks(1)
    assert counts_of(model) == [70, 30]


def test_drop_scores_over_all_weights_take_from_the_small_ones():
    model = make_model(4, 4, 4)
    for weight, scale in zip(get_sparse_weights(model), (1, 100), strict=True):
        weight.variable.assign(scale * np.arange(1, 17, dtype="float32").reshape(4, 4))
        weight.assign_mask(np.ones((4, 4)) * np.arange(4) % 2 == 0)
    algorithm = DropAndGrow(0.5, drop="global_magnitude", redistribution="size", drop_fraction=0.25, end_step=9)
    algorithm.decay = "constant"
    algorithm.prepare(model)
    before = mask_of(get_sparse_weights(model)[1])
    algorithm.grow = lambda view: view.value * 0 - view.mask
    algorithm.change_masks(1)
    assert sum(counts_of(model)) == 16
    assert not (before & ~mask_of(get_sparse_weights(model)[1])).any()


# The gradient that RigL sees.


@pytest.mark.parametrize("accumulation", [None, 2])
def test_rigls_gradient_is_the_dense_one_of_that_very_step(accumulation):
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=accumulation)
    model, rng = make_model(5, 3, optimizer=optimizer), np.random.default_rng(3)
    rigl = RigL(0.5, end_step=9, frequency=2, begin_step=2)
    rigl.prepare(model)
    batches = [(rng.normal(size=(6, 5)), rng.normal(size=(6, 3))) for _ in range(2 * (accumulation or 1))]
    for x, y in batches[: len(batches) // 2]:
        model.train_on_batch(x, y)
    weight, expected = the_weight(model), 0.0
    value, last = value_of(weight), batches[len(batches) // 2 :]
    for x, y in last:
        expected = expected + 2 * x.T @ (x @ value - y) / y.size / len(last)
        model.train_on_batch(x, y)
    assert not mask_of(weight).all()
    np.testing.assert_allclose(rigl._tap.gradient(weight.variable), expected, rtol=1e-4, atol=1e-5)
    rigl.finish()


# Sharing out.


@settings(max_examples=60, deadline=None)
@given(data=st.data(), statistics=st.lists(st.floats(0, 1e6), min_size=1, max_size=8))
def test_shares_add_up_and_find_room(data, statistics):
    room = data.draw(st.lists(st.integers(0, 50), min_size=len(statistics), max_size=len(statistics)))
    total = data.draw(st.integers(0, sum(room)))
    counts = share_out(total, statistics, room)
    assert sum(counts) == total
    assert all(0 <= count <= limit for count, limit in zip(counts, room, strict=True))


@settings(max_examples=30, deadline=None)
@given(statistics=st.lists(st.integers(1, 1000), min_size=1, max_size=8), total=st.integers(0, 10_000))
def test_shares_are_proportional_where_there_is_room(statistics, total):
    counts = share_out(total, statistics, [total] * len(statistics))
    exact = np.array(statistics) * total / sum(statistics)
    assert np.abs(np.array(counts) - exact).max() < 1


@pytest.mark.parametrize(
    "total,statistics,room,expected",
    [
        (10, [1, 1], [2, 20], [2, 8]),
        (10, [3, 1], [20, 20], [8, 2]),  # 7.5 and 2.5: the earlier of equal remainders.
        (5, [16, 9], [20, 20], [3, 2]),  # 3.2 and 1.8: the larger remainder, not the larger share.
        (9, [0, 0, 0], [9, 9, 9], [3, 3, 3]),
        (5, [1, 0], [3, 5], [3, 2]),
        (0, [1, 2], [0, 0], [0, 0]),
        (0, [], [], []),
        (4, [1e-300, 3e-300], [9, 9], [1, 3]),
    ],
)
def test_shares(total, statistics, room, expected):
    assert share_out(total, statistics, room) == expected


@pytest.mark.parametrize("statistics", [[-1, 2], [float("nan"), 1], [float("inf"), 1]])
def test_shares_of_bad_statistics(statistics):
    with pytest.raises(ValueError, match="numbers >= 0"):
        share_out(1, statistics, [5, 5])


def test_there_must_be_room():
    with pytest.raises(ValueError, match="total=3"):
        share_out(3, [1, 1], [1, 1])


# Bad input.


@pytest.mark.parametrize(
    "options,message",
    [
        (dict(sparsity=1.0), "`sparsity` .*sparsity=1.0"),
        (dict(sparsity=-0.5), "sparsity=-0.5"),
        (dict(drop_fraction=1.5), "drop_fraction=1.5"),
        (dict(decay="square"), "decay='square'"),
        (dict(drop="oldest"), "drop='oldest'"),
        (dict(grow="weeds"), "grow='weeds'"),
        (dict(redistribution="fair"), "redistribution='fair'"),
        (dict(distribution="best"), "distribution='best'"),
        (dict(frequency=0), "frequency=0"),
        (dict(begin_step=4, end_step=4), "begin_step=4, end_step=4"),
        (dict(structure="2:4"), "structure='2:4'"),
    ],
)
@pytest.mark.parametrize("kind", [DropAndGrow, RigL, SET])
def test_bad_arguments_are_named(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**options)


@pytest.mark.parametrize(
    "algorithm,message",
    [
        (RigL(0.5, end_step=9, where="nothing"), "nothing"),
        (RigL(0.5), "end_step=None"),
        (RigL(0.5, end_step=9, frequency=lambda step: 2), "`frequency`"),
        (SET(0.5), "frequency='epoch'"),
        (RigL(0.5, end_step=9, dense="nothing"), "nothing"),
        (DropAndGrow(0.5, end_step=9, grow="momentum"), "momentum.*optimizer=SGD"),
        (DropAndGrow(0.5, end_step=9, drop_fraction=lambda step: 2.0), "drop_fraction=2.0"),
        (StaticSparsity(0.6, structure="2:4"), "sparsity=0.6"),
    ],
)
def test_what_does_not_fit_the_model_is_said_before_training(algorithm, message):
    with pytest.raises(ValueError, match=message):
        algorithm.prepare(make_model(8, 2, optimizer=keras.optimizers.SGD(0.1)))


def test_scores_must_have_the_weights_shape():
    algorithm = DropAndGrow(0.5, drop=lambda weight: np.zeros(3), decay="constant", end_step=9)
    algorithm.prepare(make_model(4, 3))
    with pytest.raises(ValueError, match=r"\(4, 3\).*shape=\(3,\)"):
        algorithm.change_masks(1)


def test_a_function_must_say_what_it_reads():
    algorithm = DropAndGrow(0.5, grow=lambda weight: weight.gradient, decay="constant", end_step=9)
    algorithm.prepare(make_model(4, 3))
    with pytest.raises(ValueError, match="gradient.*uses"):
        algorithm.change_masks(1)
    with pytest.raises(ValueError, match="weather"):
        uses("weather")


def test_what_is_kept_dense_gives_nothing_away():
    model = checks.make_model(checks.CASES["set"])
    algorithm = DropAndGrow(0.8, dense="first", redistribution="magnitude", frequency=2, end_step=11)
    checks.fit(model, algorithm)
    first, second = get_sparse_weights(model)
    masks = checks.masks_of(model)
    assert masks[0].all() and masks[1].sum() == 16
    assert algorithm.grown[first.path] == 0 < algorithm.grown[second.path]


def test_what_was_dropped_and_grown_is_counted_by_the_names_of_the_table():
    inner = keras.Sequential([keras.layers.Dense(8, name="first"), keras.layers.Dense(8)], name="inner")
    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.layers.Dense(3, name="last")(inner(inputs)))
    model.compile("sgd", "mse", run_eagerly=True)
    rigl = RigL(0.5, end_step=4, frequency=1)
    model.fit(np.ones((8, 6)), np.ones((8, 3)), batch_size=2, verbose=0, callbacks=[rigl])
    names = [row.name for row in sparsity_table(model).rows]
    assert list(rigl.grown) == list(rigl.dropped) == names and names[0] == "inner/first/kernel"
