"""Algorithms where torch differs: variables that change in place, `torch.compile`."""

import keras
import numpy as np
import pytest

from sparsity_tf import backend, callbacks
from tests.callbacks import algorithm_checks as checks

pytestmark = pytest.mark.skipif(keras.config.backend() != "torch", reason="needs KERAS_BACKEND=torch")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bool"])
def test_a_tensor_or_array_of_a_variable_keeps_its_content(dtype):
    variable = keras.Variable(np.array([1, 0, 1]), dtype=dtype, trainable=dtype != "bool")
    tensor = backend.tensor_of(variable)
    array = backend.as_array(tensor)
    variable.assign(np.array([0, 1, 0]))
    assert not tensor.requires_grad
    np.testing.assert_array_equal(array, [1, 0, 1])
    np.testing.assert_array_equal(backend.as_array(variable.value), [0, 1, 0])
    assert not backend.is_on_accelerator(tensor)


def test_what_an_algorithm_sees_does_not_change_when_masks_do():
    model = checks.make_model(checks.CASES["static"])
    algorithm = callbacks.StaticSparsity(0.7)
    algorithm.prepare(model)
    view = algorithm.view(0, step=1)
    mask, value = view.mask, view.value
    before = mask.copy(), value.copy()
    algorithm.assign([view], [~mask])
    np.testing.assert_array_equal(mask, before[0])
    np.testing.assert_array_equal(value, before[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["magnitude", "rigl"])
def test_torch_compile(name):
    case, seen = checks.CASES[name], checks.Watch()
    model, algorithm = checks.make_model(case, jit_compile=True), case.make()
    checks.fit(model, algorithm, seen)
    checks.check_counts(case, algorithm, [weight.size for weight in checks.get_sparse_weights(model)], seen)
