"""From scores to masks, against a stable sort of numpy: exact counts, ties to the lower index."""

import functools

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies as st
from keras import ops

from sparsity_tf import masks
from sparsity_tf.masks import ranking
from tests.gradients import compiled

SHAPES = [(), (1,), (0,), (37,), (5, 8), (2, 0, 3), (2, 3, 4), (2, 3, 2, 5)]
SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-42, 1e-38, 3.4e38, float("inf"), -float("inf")]
ENTRIES = {
    "any": st.floats(width=32, allow_nan=False),
    "tied": st.sampled_from([0.0, 0.5, -0.5, 2.0]),
    "equal": st.just(-0.25),
    "zero": st.sampled_from([0.0, -0.0]),
    "special": st.sampled_from(SPECIAL),
}


def sorted_mask(scores, k):
    """The definition: the first k of a stable sort by falling magnitude, in row-major order."""
    flat = np.abs(np.asarray(scores, "float64")).ravel()
    mask = np.zeros(flat.size, bool)
    mask[np.argsort(-flat, kind="stable")[: max(k, 0)]] = True
    return mask.reshape(np.shape(scores))


@functools.lru_cache
def mode(compile_it):
    return compiled(masks.top_k_mask) if compile_it else masks.top_k_mask


def check(scores, k, compile_it):
    mask = mode(compile_it)(ops.convert_to_tensor(scores), ops.convert_to_tensor(k, "int32"))
    np.testing.assert_array_equal(ops.convert_to_numpy(mask), sorted_mask(scores, k))


def ways(shape):
    """Eager and compiled. XLA compiles each shape: three of the eight moved to `make test-all`."""
    slow = [pytest.mark.slow] if shape in ((1,), (2, 0, 3), (2, 3, 4)) else []
    return [
        pytest.param(shape, False, id=f"{shape}-eager"),
        pytest.param(shape, True, id=f"{shape}-compiled", marks=slow),
    ]


@pytest.mark.parametrize("shape,compile_it", [way for shape in SHAPES for way in ways(shape)])
def test_agrees_with_a_stable_sort(shape, compile_it):
    size = int(np.prod(shape))

    @hypothesis.settings(max_examples=40 if compile_it else 4, deadline=None, derandomize=True, database=None)
    @hypothesis.given(data=st.data())
    def agrees(data):
        entries = ENTRIES[data.draw(st.sampled_from(sorted(ENTRIES)))]
        values = data.draw(st.lists(entries, min_size=size, max_size=size))
        k = data.draw(st.integers(-1, size + 2))
        check(np.array(values, "float32").reshape(shape), k, compile_it)

    agrees()


@pytest.mark.parametrize("compile_it", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("k", [0, 1, 3, 6, 7, 100])
def test_ties_go_to_the_lower_index(k, compile_it):
    check(np.array([2.0, -1.0, 1.0, 3.0, 1.0, -1.0, 0.0], "float32"), k, compile_it)


def test_denormals_are_told_apart():
    check(np.array([0.0, 1e-45, -3e-45, 1e-40, 0.0], "float32"), 2, False)
    check(np.array([0.0, 1e-45, -3e-45, 1e-40, 0.0], "float32"), 2, True)


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.999, 1.0])
def test_count_is_exact_on_a_large_normal_tensor(sparsity):
    scores = np.random.default_rng(0).normal(size=(300, 333)).astype("float32")
    k = scores.size - int(sparsity * scores.size)
    mask = ops.convert_to_numpy(mode(True)(scores, np.int32(k)))
    assert mask.sum() == k
    assert k in (0, mask.size) or np.abs(scores)[mask].min() >= np.abs(scores)[~mask].max()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int32"])
def test_other_dtypes_are_ranked_by_their_values(dtype):
    scores = ops.cast(np.array([1, -7, 3, 0, 7], "float32"), dtype)
    mask = ops.convert_to_numpy(masks.top_k_mask(scores, 2))
    assert mask.dtype == bool
    assert mask.tolist() == [False, True, False, False, True]


def test_nan_counts_as_the_largest():
    mask = masks.top_k_mask(np.array([1.0, np.nan, np.inf], "float32"), 1)
    assert ops.convert_to_numpy(mask).tolist() == [False, True, False]


@pytest.mark.parametrize(
    "sparsity,size,zeros",
    [(0.0, 10, 0), (0.9, 10, 9), (0.7, 10, 7), (0.29, 100, 29), (0.9, 7, 6), (0.999, 10, 9), (1.0, 3, 3), (0.5, 0, 0)]
    # No float is nearer to the quotient of these counts.
    + [(1 / 3, 3, 1), (2 / 7, 7, 2), (100 * (5 / 11) / 100, 11, 5)]
    # A number that is written with fewer digits is no quotient.
    + [(0.3333333, 3, 0), (0.333333333333, 3, 0), (0.9999999999999999, 10, 9)],
)
def test_the_number_of_zeros_is_the_floor_of_the_decimal_product(sparsity, size, zeros):
    assert masks.number_of_zeros(sparsity, size) == zeros


@pytest.mark.parametrize(
    "sparsity,size,kept",
    [(0.0, 10, 10), (0.9, 10, 1), (0.9, 7, 0), (0.7, 10, 3), (0.71, 100, 29), (1.0, 3, 0), (0.5, 0, 0)],
)
def test_the_number_to_keep_is_the_floor_of_the_decimal_product(sparsity, size, kept):
    assert masks.number_to_keep(sparsity, size) == kept


def first_of_a_stable_sort(scores, count, among=None):
    """The definition of `highest`: the first `count` candidates by falling score, in row-major order."""
    flat = np.asarray(scores).ravel()
    candidates = np.arange(flat.size) if among is None else np.flatnonzero(among)
    order = candidates[np.argsort(-flat[candidates], kind="stable")]
    mask = np.zeros(flat.size, bool)
    mask[order[:count]] = True
    return mask.reshape(np.shape(scores))


SOME_EXAMPLES = hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
ENTRIES_BY_SIGN = {**ENTRIES, "signs": st.sampled_from([-1.0, 0.0, 1.0])}


@SOME_EXAMPLES
@hypothesis.given(data=st.data())
def test_highest_is_the_start_of_a_stable_sort(data):
    shape = data.draw(st.sampled_from(SHAPES))
    size = int(np.prod(shape))
    entries = ENTRIES_BY_SIGN[data.draw(st.sampled_from(sorted(ENTRIES_BY_SIGN)))]
    scores = np.array(data.draw(st.lists(entries, min_size=size, max_size=size)), "float32").reshape(shape)
    among = None
    if data.draw(st.booleans()):
        among = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)), bool).reshape(shape)
    count = data.draw(st.integers(0, size if among is None else int(among.sum())))
    mask = masks.highest(scores, count, among)
    np.testing.assert_array_equal(mask, first_of_a_stable_sort(scores, count, among))


LARGE = {
    "normal": lambda rng, n: rng.normal(size=n),
    "nine in ten are zero": lambda rng, n: rng.normal(size=n) * (rng.random(n) < 0.1),
    "three values": lambda rng, n: rng.integers(0, 3, n),
    "all equal": lambda rng, n: np.full(n, 0.5),
    "all zero": lambda rng, n: np.zeros(n),
    "sorted": lambda rng, n: np.arange(n),
    "periodic, so that the sample is misled": lambda rng, n: np.arange(n) % max(n // 10_000, 1),
    "infinite at both ends": lambda rng, n: np.where(rng.random(n) < 0.3, np.inf, -np.inf),
}


@pytest.mark.parametrize("masked", [False, True], ids=["all", "among"])
@pytest.mark.parametrize("kind", LARGE)
def test_highest_of_a_large_array_is_the_start_of_a_stable_sort(kind, masked):
    rng, size = np.random.default_rng(3), 54_321
    scores = LARGE[kind](rng, size).astype("float32")
    among = rng.random(size) < 0.2 if masked else None
    available = int(among.sum()) if masked else size
    for count in (0, 1, 2, available // 10, available // 2, available - 1, available):
        mask = masks.highest(scores, count, among)
        np.testing.assert_array_equal(mask, first_of_a_stable_sort(scores, count, among), err_msg=str(count))


@pytest.mark.parametrize("period", [3, 4])
@pytest.mark.parametrize("sign", [1, -1], ids=["sees the lowest only", "sees the highest only"])
def test_highest_is_right_where_the_sample_misleads(sign, period):
    """Every third or fourth entry is looked at for a bracket, and these are all equal."""
    scores = (sign * (np.arange(period * 10_000) % period)).astype("float32")
    for count in (1, scores.size // 2, scores.size - 1):
        mask = masks.highest(scores, count)
        np.testing.assert_array_equal(mask, first_of_a_stable_sort(scores, count), err_msg=str(count))


def test_highest_among_a_few_of_a_large_array():
    scores, among = np.random.default_rng(0).normal(size=40_000).astype("float32"), np.zeros(40_000, bool)
    among[[5, 7, 39_999]] = True
    np.testing.assert_array_equal(masks.highest(scores, 2, among), first_of_a_stable_sort(scores, 2, among))


@pytest.mark.parametrize("size", [0, 1, 50, 30_000])
def test_highest_by_a_function_ranks_its_results(size):
    rng = np.random.default_rng(4)
    scores, among = rng.normal(size=size).astype("float32"), rng.random(size) < 0.5
    mask = masks.highest(scores, int(among.sum()) // 2, among, by=np.abs)
    np.testing.assert_array_equal(mask, masks.highest(np.abs(scores), int(among.sum()) // 2, among))
    both = masks.highest_overall([scores, -2 * scores], size, by=np.abs)
    for found, expected in zip(both, masks.highest_overall([np.abs(scores), 2 * np.abs(scores)], size), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", LARGE)
@pytest.mark.xla
def test_largest_on_device_gives_the_masks_of_highest_overall(kind):
    rng = np.random.default_rng(5)
    scores = [LARGE[kind](rng, size).astype("float32") for size in (1_000, 30_000, 1)]
    scores[1] = scores[1].reshape(300, 100)
    among = [rng.random(array.shape) < 0.3 for array in scores]
    available = sum(int(mask.sum()) for mask in among)
    tensors = [keras.ops.convert_to_tensor(array) for array in scores]
    for count in (0, 1, available // 3, available - 1, available):
        found = masks.largest_on_device(tensors, count, among)
        for mask, expected in zip(found, masks.highest_overall(scores, count, among, np.abs), strict=True):
            np.testing.assert_array_equal(mask, expected)


def test_largest_on_device_takes_a_candidate_that_is_zero_before_what_is_no_candidate():
    tensors = [keras.ops.convert_to_tensor([0.0, 5.0, 0.0, -0.0, 7.0])]
    [mask] = masks.largest_on_device(tensors, 2, [np.array([False, False, True, True, False])])
    assert mask.tolist() == [False, False, True, True, False]


def test_largest_on_device_refuses_what_highest_refuses():
    tensors = [keras.ops.convert_to_tensor([1.0, np.nan, 2.0])]
    [mask] = masks.largest_on_device(tensors, 1, [np.array([True, False, True])])
    assert mask.tolist() == [False, False, True]
    with pytest.raises(ValueError, match="1 NaN of 2 scores"):
        masks.largest_on_device(tensors, 1, [np.array([True, True, False])])
    for count in (-1, 3):
        with pytest.raises(ValueError, match=f"from 0 to the 2 candidates. Received: count={count}"):
            masks.largest_on_device(tensors, count, [np.array([True, False, True])])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_zero_outside_is_exact_whatever_is_there(dtype):
    tensor = keras.ops.convert_to_tensor([1.5, -2.0, np.nan, np.inf, -0.0, np.inf], dtype)
    found = masks.zero_outside(keras.ops.convert_to_tensor([True, False, False, False, True, True]), tensor)
    assert keras.backend.standardize_dtype(found.dtype) == dtype
    found = keras.ops.convert_to_numpy(keras.ops.cast(found, "float32"))
    np.testing.assert_array_equal(found, [1.5, 0, 0, 0, 0, np.inf])


@pytest.mark.parametrize("size", [4, 30_000])
def test_a_candidate_that_is_nan_is_an_error(size):
    scores = np.zeros(size, "float32")
    scores[1] = np.nan
    with pytest.raises(ValueError, match="1 NaN of"):
        masks.highest(scores, 1)
    with pytest.raises(ValueError, match="1 NaN of"):
        masks.highest(scores, 1, np.ones(size, bool))


@pytest.mark.parametrize("size", [4, 30_000])
def test_nan_elsewhere_does_not_matter(size):
    scores = np.arange(size, dtype="float32")
    scores[1::2] = np.nan
    mask = masks.highest(scores, 1, np.arange(size) % 2 == 0)
    assert np.flatnonzero(mask).tolist() == [size - 2]


@pytest.mark.parametrize("count", [-1, 3])
def test_more_than_there_are_can_not_be_chosen(count):
    among = np.array([True, False, True])
    with pytest.raises(ValueError, match=f"2 candidates. Received: count={count}"):
        masks.highest(np.zeros(3), count, among)
    with pytest.raises(ValueError, match=f"2 candidates. Received: count={count}"):
        masks.random_mask((3,), count, np.random.default_rng(0), among)
    with pytest.raises(ValueError, match="3 candidates. Received: count=4"):
        masks.highest(np.zeros(3), 4)


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"`among` must have the shape \(3,\).*\(4,\)"):
        masks.highest(np.zeros(3), 1, np.ones(4, bool))
    with pytest.raises(ValueError, match="`scores` must be an array of numbers"):
        masks.highest(np.array(["a", "b"]), 1)
    with pytest.raises(ValueError, match="`among` must have one array for each of the 2 arrays of scores. Received: 1"):
        masks.highest_overall([np.zeros(3), np.zeros(3)], 1, [np.ones(3, bool)])
    for k in ([1, 2], 1.0):
        with pytest.raises(ValueError, match="`k` must be an integer"):
            masks.top_k_mask(np.zeros(3), ops.convert_to_tensor(k))


def test_highest_overall_compares_all_arrays():
    first, second = masks.highest_overall([np.array([[1.0, 5.0], [2.0, 0.0]]), np.array([3.0, 2.0])], 3)
    assert first.tolist() == [[False, True], [True, False]]  # Its 2 stands before the other's.
    assert second.tolist() == [True, False]


def test_highest_overall_chooses_candidates_only():
    among = [np.array([False, True]), np.array([], bool), np.array([True])]
    found = masks.highest_overall([np.array([9.0, 1.0]), np.array([]), np.array([0.0])], 1, among)
    assert [mask.tolist() for mask in found] == [[False, True], [], [False]]
    with pytest.raises(ValueError, match="2 candidates"):
        masks.highest_overall([np.zeros(2), np.zeros(0), np.zeros(1)], 3, among)


# Many of the candidates are ranked by random numbers; few of many are drawn one by one.
@pytest.mark.parametrize("count", [0, 1, 3, 20, 30], ids=str)
def test_random_masks_are_uniform_among_the_candidates(count):
    rng, draws = np.random.default_rng(5), 3000
    among = np.ones((4, 10), bool)
    among[:, 3] = False
    among[0, :6] = False
    total = np.zeros(among.shape)
    for _ in range(draws):
        mask = masks.random_mask(among.shape, count, rng, among)
        assert mask.sum() == count and not (mask & ~among).any()
        total += mask
    share = count / among.sum()
    deviation = np.sqrt(draws * share * (1 - share))
    assert np.abs(total[among] - draws * share).max() <= 4.5 * deviation


def test_a_random_mask_may_be_empty():
    rng = np.random.default_rng(0)
    assert masks.random_mask((0, 3), 0, rng).shape == (0, 3)
    assert masks.random_mask((2, 0), 0, rng, np.ones((2, 0), bool)).shape == (2, 0)


def test_a_random_mask_among_all_has_the_exact_count():
    mask = masks.random_mask((200, 300), 12_345, np.random.default_rng(0))
    assert mask.shape == (200, 300) and mask.sum() == 12_345


@pytest.mark.parametrize("masked", [False, True], ids=["all", "among"])
def test_the_bracket_of_a_sample_holds_the_threshold_and_little_else(masked):
    """A wrong bracket gives the same mask, but several times later."""
    rng, size = np.random.default_rng(8), 54_321
    for share in (0.0, 0.02, 0.3, 0.5, 0.7, 0.98, 1.0) * 3:
        scores = rng.normal(size=size)
        among = rng.random(size) < 0.4 if masked else None
        candidates = np.sort(scores[among] if masked else scores)[::-1]
        count = int(share * candidates.size)
        low, high = ranking._bracket([scores], [among], count, candidates.size, np.asarray)
        inside = np.count_nonzero((candidates >= low) & (candidates <= high))
        if share in (0, 1):
            assert inside == 0 and np.count_nonzero(candidates >= low) == count
        else:
            assert low <= candidates[count - 1] <= high
            assert inside <= 0.06 * candidates.size


def test_the_bracket_reaches_to_the_ends():
    scores = np.random.default_rng(9).normal(size=54_321)
    assert ranking._bracket([scores], [None], 1, scores.size, np.asarray)[1] == np.inf
    assert ranking._bracket([scores], [None], scores.size - 1, scores.size, np.asarray)[0] == -np.inf


@pytest.mark.parametrize("ties", [3, 4, 5, 6, 7, 8])
def test_largest_on_device_fills_up_with_as_many_ties_as_are_missing(ties):
    scores = [np.array([2.0, 1.0, -1.0, 1.0]), np.array([1.0, 3.0, 1.0, -1.0, 0.0, 1.0, 4.0])]
    among = [np.ones(array.shape, bool) for array in scores]
    tensors = [keras.ops.convert_to_tensor(array.astype("float32")) for array in scores]
    found = masks.largest_on_device(tensors, ties, among)
    for mask, expected in zip(found, masks.highest_overall(scores, ties, among, np.abs), strict=True):
        np.testing.assert_array_equal(mask, expected)


def test_no_arrays_at_all():
    assert masks.highest_overall([], 0) == []
    with pytest.raises(ValueError, match="`count` must be from 0 to the 0 candidates"):
        masks.highest_overall([], 1)
