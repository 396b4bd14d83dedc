"""Structures: which entries live and die together, with exact counts of groups."""

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies as st

from sparsity_tf import layers, masks
from sparsity_tf.masks import structures

RNG = np.random.default_rng(11)
# Shape, axes of output units, and the input axis along which N:M groups lie.
KERNELS = {
    "dense": ((12, 5), (1,), 0),
    "conv": ((3, 3, 8, 6), (3,), 2),
    "embedding": ((7, 16), (0,), 1),
    "depthwise": ((4, 8, 3, 2), (2, 3), 1),
}


def groups_along(mask, axis, m):
    """Rows of M consecutive entries, the incomplete last groups left out."""
    rows = np.moveaxis(mask, axis, -1)
    whole = rows.shape[-1] // m * m
    return rows[..., :whole].reshape(-1, m)


@pytest.mark.parametrize("spec", [None, "2:4", "1:2", "4x1", "2x3x1", "8", "filter"])
def test_a_structure_is_written_as_it_was_read(spec):
    structure = structures.get(spec)
    assert structure.spec == spec
    assert structures.get(structure) is structure
    assert structures.get(structure.spec).spec == spec


@pytest.mark.parametrize("wrong", ["", "4:2", "2:2", "0:4", "0x4", "4x", "x", "rows", "2:4:8", 4, (4, 1), -1])
def test_anything_else_is_an_error(wrong):
    with pytest.raises(ValueError, match="`structure`.*Received"):
        structures.get(wrong)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("n,m", [(2, 4), (1, 4), (1, 2)])
def test_nm_keeps_the_n_highest_of_every_group(kernel, n, m):
    shape, filter_axes, axis = KERNELS[kernel]
    scores = RNG.random(shape)
    structure = structures.get(f"{n}:{m}")
    mask = structure.keep_highest(scores, structure.sparsity, filter_axes=filter_axes)
    assert mask.shape == shape and mask.dtype == bool
    kept, ranked = groups_along(mask, axis, m), groups_along(scores, axis, m)
    assert (kept.sum(axis=1) == n).all()
    assert (np.where(kept, ranked, np.inf).min(axis=1) > np.where(kept, -np.inf, ranked).max(axis=1)).all()


@pytest.mark.parametrize(
    "layer,x,axis",
    [
        (layers.MaskedDense(6), np.ones((2, 8)), 0),
        (layers.MaskedConv2D(6, 3), np.ones((2, 5, 5, 8)), 2),
        (layers.MaskedEmbedding(6, 8), np.ones((2, 3), "int32"), 1),
    ],
    ids=["dense", "conv", "embedding"],
)
def test_nm_groups_lie_along_the_input_axis_of_a_layer(layer, x, axis):
    layer(x)
    weight = layer.sparse_weights[0]
    mask = structures.get("2:4").keep_highest(RNG.random(weight.shape), 0.5, filter_axes=weight.filter_axes)
    assert (groups_along(mask, axis, 4).sum(axis=1) == 2).all()


def test_an_incomplete_last_group_keeps_as_many_as_it_has():
    for length, kept in ((4, 2), (5, 3), (6, 4), (7, 4), (1, 1)):
        mask = structures.get("2:4").keep_highest(RNG.random((length, 3)), 0.5, filter_axes=(1,))
        assert (mask.sum(axis=0) == kept).all()


@pytest.mark.parametrize("sparsity,kept", [(0.0, 4), (0.24, 4), (0.25, 3), (0.49, 3), (0.5, 2), (0.9, 2)])
def test_nm_groups_empty_one_by_one_while_sparsity_rises(sparsity, kept):
    mask = structures.get("2:4").keep_highest(RNG.random((8, 5)), sparsity, filter_axes=(1,))
    assert (groups_along(mask, 0, 4).sum(axis=1) == kept).all()


def test_nm_keeps_only_what_is_alive():
    scores = np.array([[9.0], [8.0], [2.0], [1.0], [4.0], [3.0], [2.0], [1.0]])
    among = np.array([[0], [0], [1], [1], [1], [0], [0], [0]], bool)
    mask = structures.get("2:4").keep_highest(scores, 0.5, among, (1,))
    assert np.flatnonzero(mask).tolist() == [2, 3, 4]


def test_nm_ties_go_to_the_lower_index_and_nan_is_an_error():
    structure = structures.get("2:4")
    assert np.flatnonzero(structure.keep_highest(np.zeros((8, 1)), 0.5, filter_axes=(1,))).tolist() == [0, 1, 4, 5]
    with pytest.raises(ValueError, match="1 NaN of 4"):
        structure.keep_highest(np.array([[1.0], [np.nan], [0.0], [2.0]]), 0.5, filter_axes=(1,))
    with pytest.raises(ValueError, match="groups can't be ranked"):
        structure.reduce(np.zeros((8, 1)))


def test_blocks_are_ranked_by_the_mean_of_their_entries():
    scores = np.array([[1.0, 0.0, 9.0], [1.0, 0.0, 9.0], [5.0, 5.0, 8.0]])
    structure = structures.get("2x2")
    # Blocks at the edges are smaller: 2x1, 1x2 and 1x1.
    np.testing.assert_array_equal(structure.reduce(scores), [[0.5, 9.0], [5.0, 8.0]])
    mask = structure.keep_highest(scores, 0.5)
    np.testing.assert_array_equal(mask, [[0, 0, 1], [0, 0, 1], [0, 0, 1]])


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
@hypothesis.given(
    shape=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    block=st.lists(st.integers(1, 4), min_size=1, max_size=2),
    sparsity=st.sampled_from([0.0, 0.3, 0.5, 0.9, 0.99]),
)
def test_the_count_of_blocks_is_exact(shape, block, sparsity):
    structure = structures.Blocks(tuple(block))
    mask = structure.keep_highest(RNG.random(shape), sparsity)
    live = structure.reduce(mask)
    assert set(np.unique(live)) <= {0.0, 1.0}
    assert live.sum() == masks.number_to_keep(sparsity, live.size)
    np.testing.assert_array_equal(structure.expand(live > 0, tuple(shape)), mask)


def test_a_block_must_fit_the_rank_of_the_weight():
    with pytest.raises(ValueError, match="block of 3 axes"):
        structures.get("2x2x2").keep_highest(np.zeros((4, 4)), 0.5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_filters_live_and_die_whole(kernel):
    shape, filter_axes, _ = KERNELS[kernel]
    structure, scores = structures.get("filter"), RNG.random(shape)
    mask = structure.keep_highest(scores, 0.6, filter_axes=filter_axes)
    live, means = structure.reduce(mask, filter_axes), structure.reduce(scores, filter_axes)
    assert set(np.unique(live)) == {0.0, 1.0}
    assert live.sum() == masks.number_to_keep(0.6, live.size)
    assert means[live > 0].min() > means[live == 0].max()


def test_a_unit_without_inputs_scores_zero():
    assert structures.get("filter").reduce(np.zeros((0, 3))).tolist() == [0, 0, 0]


def test_dead_groups_stay_dead():
    scores, alive = np.array([9.0, 1.0, 8.0, 2.0]), np.array([False, True, False, True])
    for sparsity, kept in ((1.0, []), (0.75, [3]), (0.5, [1, 3]), (0.25, [1, 3]), (0.0, [1, 3])):
        mask = structures.get(None).keep_highest(scores, sparsity, alive)
        assert np.flatnonzero(mask).tolist() == kept


@pytest.mark.parametrize("spec", [None, "2x1", "filter"])
def test_what_is_pruned_stays_pruned_while_sparsity_rises(spec):
    structure, among = structures.get(spec), None
    for sparsity in (0.2, 0.5, 0.8):
        mask = structure.keep_highest(RNG.random((10, 10)), sparsity, among, (1,))
        assert among is None or not (mask & ~among).any()
        among = mask


def test_the_sparsity_of_an_nm_structure_is_fixed():
    layer = layers.MaskedDense(4, structure="2:4")
    layer.build((None, 8))
    structures.check("final_sparsity", 0.5, layer.sparse_weights)
    with pytest.raises(ValueError, match=r"`final_sparsity` must be 0.5.*Received: final_sparsity=0.6"):
        structures.check("final_sparsity", 0.6, layer.sparse_weights)


@pytest.mark.parametrize(
    "share, right", [(3 / 7, True), (1 - 4 / 7, True), (0.42857142857, False), (0.4285714286, True)]
)
def test_a_share_that_would_prune_one_entry_less_is_no_nm_sparsity(share, right):
    layer = layers.MaskedDense(4, structure="4:7")
    layer.build((None, 7))
    if right:
        structures.check("sparsity", share, layer.sparse_weights)
        mask = structures.get("4:7").keep_highest(RNG.random((7, 4)), share)
        assert np.count_nonzero(mask) == 16
    else:
        with pytest.raises(
            ValueError, match=r"`sparsity` must be 0.4285714285714286 .*Received: sparsity=0.42857142857"
        ):
            structures.check("sparsity", share, layer.sparse_weights)


@pytest.mark.parametrize(
    "spec,shape", [("4x1", (9, 6)), ("2x2", (5, 5)), ("filter", (7, 5)), (None, (6, 6)), ("2:4", (8, 6))]
)
def test_random_groups_are_equally_likely(spec, shape):
    """Smaller blocks at an edge, too: a mean of fewer numbers would be more extreme."""
    structure, rng = structures.get(spec), np.random.default_rng(0)
    draws = 2000
    alive = sum(structure.keep_random(rng, shape, 0.5).astype(int) for _ in range(draws)) / draws
    count = len(np.unique(structure.random_scores(rng, shape)))
    share = 0.5 if spec == "2:4" else masks.number_to_keep(0.5, count) / count
    np.testing.assert_allclose(alive, share, atol=0.06)


@pytest.mark.parametrize(
    "spec, length, zeros", [("2:4", 3, 1), ("2:4", 8, 4), ("2:4", 9, 4), ("1:4", 7, 5), ("2:4", 1, 0)]
)
def test_what_a_pattern_gives_in_a_shape_is_what_it_prunes(spec, length, zeros):
    structure = structures.get(spec)
    mask = structure.keep_highest(RNG.normal(size=(3, length, 5)), structure.sparsity)
    assert structure.sparsity_of((3, length, 5)) == zeros / length
    assert np.count_nonzero(~mask) == 15 * zeros
    assert (structure.problem((3, length, 5)) is None) == (zeros / length == structure.sparsity)


def test_a_ratio_that_cannot_be_held_is_said_before_training():
    model = keras.Sequential([keras.Input((3,)), layers.MaskedDense(4, structure="2:4", name="narrow")])
    with pytest.warns(UserWarning, match="narrow/kernel: 2:4 gives only 33.33 % zeros here, because 3 inputs"):
        structures.check("final_sparsity", 0.5, layers.get_sparse_weights(model))


@pytest.mark.parametrize("spec", ["2x1", "filter"])
def test_a_group_lives_while_one_of_its_entries_does(spec):
    structure, among = structures.get(spec), np.array([[True, False, False], [False, False, True]])
    assert structure.alive(among).ravel().tolist() == [True, False, True]
    mask = structure.keep_highest(np.array([[1.0, 9.0, 2.0], [1.0, 9.0, 2.0]]), 0.5, among)
    # One of three columns lives. The second is dead already; of the third only the live entry remains.
    np.testing.assert_array_equal(mask, [[False, False, False], [False, False, True]])


def test_a_block_of_fewer_axes_than_the_weight_has_lies_along_the_last():
    scores = np.arange(12.0).reshape(2, 2, 3)
    np.testing.assert_array_equal(structures.get("2").reduce(scores), [[[0.5, 2], [3.5, 5]], [[6.5, 8], [9.5, 11]]])
    assert structures.get("2x1").axes((3, 5, 4)) == ((1, 2, 1), [3, 3, 4])


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_output_axes_may_be_counted_from_the_end(rank):
    scores = RNG.random((4,) * rank)
    for spec in ("filter", "2:4"):
        structure = structures.get(spec)
        from_the_end = structure.keep_highest(scores, 0.5, filter_axes=(-1,))
        np.testing.assert_array_equal(from_the_end, structure.keep_highest(scores, 0.5, filter_axes=(rank - 1,)))
        np.testing.assert_array_equal(from_the_end, structure.keep_highest(scores, 0.5))
    assert structures.get("filter").random_scores(RNG, scores.shape).shape == scores.shape


def test_nm_groups_lie_along_the_last_axis_where_every_axis_indexes_outputs():
    mask = structures.get("1:2").keep_highest(RNG.random((3, 4)), 0.5, filter_axes=(0, 1))
    assert (groups_along(mask, 1, 2).sum(axis=1) == 1).all()
