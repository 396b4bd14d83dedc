"""Bool arrays packed into float64 numbers: every bit comes back, for every size."""

import numpy as np
import pytest

from sparsity_tf.masks import packed_bits


@pytest.mark.parametrize("shape", [(1,), (8,), (47,), (48,), (49,), (1000,), (3, 7, 5)])
def test_bits_are_packed_without_loss(shape):
    bits = np.random.default_rng(0).random(shape) < 0.5
    numbers = packed_bits.pack(bits)
    assert numbers.dtype == np.float64 and len(numbers) == packed_bits.length(bits.size) == -(-bits.size // 48)
    np.testing.assert_array_equal(packed_bits.unpack(numbers, shape), bits)
