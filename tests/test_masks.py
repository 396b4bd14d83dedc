"""`top_k_mask` against a stable sort of numpy: exact counts, ties to the lower index."""

import functools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from keras import ops

from sparsity_tf import masks
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


@pytest.mark.parametrize("compile_it", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
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
    [(0.0, 10, 0), (0.9, 10, 9), (0.7, 10, 7), (0.29, 100, 29), (0.9, 7, 6), (0.999, 10, 9), (1.0, 3, 3), (0.5, 0, 0)],
)
def test_the_number_of_zeros_is_the_floor_of_the_decimal_product(sparsity, size, zeros):
    assert masks.number_of_zeros(sparsity, size) == zeros
