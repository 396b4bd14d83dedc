"""Values shared by k-means: few, of the same sign, and close."""

import numpy as np
import pytest

from sparsity_tf.deploy.shared_weights import share_values


def test_clusters_are_the_means_of_what_is_near():
    values = np.array([0.0, 1.0, 1.2, 5.0, 5.2, 0.0, -3.0, -3.2, 9.0, 9.5], "float32")
    shared = share_values(values, 3)  # seven codes for eight values: two negative, five positive
    assert shared.dtype == np.float32
    assert len(np.unique(shared)) <= 8
    shared = share_values(values, 2)  # one negative, two positive
    np.testing.assert_allclose(shared, [0, 3.1, 3.1, 3.1, 3.1, 0, -3.1, -3.1, 9.25, 9.25], rtol=1e-6)


def test_no_rounds_lower_the_squared_error_below_the_result():
    values = np.random.default_rng(0).normal(size=500)
    shared = share_values(values, 4)
    # Each value sits at the nearest centroid of its sign, and each centroid is the mean of its values.
    codes = np.unique(shared)
    assert len(codes) == 15
    for code in codes:
        members = values[shared == code]
        assert members.mean() == pytest.approx(code)
    nearest = np.abs(values[:, None] - codes).argmin(axis=1)
    assert np.mean(codes[nearest] == shared) > 0.99  # but for those at zero, whose sign decides


@pytest.mark.parametrize("values", [np.zeros((3, 4)), np.array([1.0, -1.0, 0.0]), np.array([[2.5]]), np.zeros((0, 3))])
def test_few_values_stay(values):
    np.testing.assert_array_equal(share_values(values, 2), values)


@pytest.mark.parametrize("bits", range(2, 9))
def test_symmetric_values_never_become_zero(bits):
    values = np.linspace(-1, 1, 2001)
    shared = share_values(values, bits)
    np.testing.assert_array_equal(np.sign(shared), np.sign(values))
    assert len(np.unique(shared)) <= 2**bits


def test_one_negative_value_among_many_keeps_its_own_code():
    values = np.concatenate([[-7.0], np.arange(1, 100.0)])
    assert share_values(values, 2)[0] == -7
    assert share_values(-values, 2)[0] == 7


def test_values_that_are_not_finite_stay():
    values = np.concatenate([[np.nan, np.inf], np.arange(1, 50.0)])
    np.testing.assert_array_equal(share_values(values, 2)[:2], [np.nan, np.inf])
