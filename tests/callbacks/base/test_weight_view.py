"""WeightView: arrays that are read when they are first used, defaults, and the saliency of an entry."""

import keras
import numpy as np
import pytest

from sparsity_tf import layers
from sparsity_tf.callbacks import StaticSparsity, WeightView

VALUE = np.array([[2.0, -3.0], [0.0, 0.5]], "float32")
GRADIENT = np.array([[0.5, 4.0], [7.0, -1.0]], "float32")


def view(**options):
    return WeightView("w", VALUE, VALUE != 0, **options)


def test_saliency_is_value_times_gradient():
    found = view(_slots={"gradient": GRADIENT}).saliency
    np.testing.assert_array_equal(found, np.array([[1.0, -12.0], [0.0, -0.5]], "float32"))


def test_an_algorithm_may_give_another_saliency():
    # A channel has the sum over its parts, which is not the product of its value and a gradient.
    found = view(_slots={"saliency": lambda: GRADIENT + 1, "gradient": GRADIENT}).saliency
    np.testing.assert_array_equal(found, GRADIENT + 1)


def test_saliency_reads_the_gradient_and_a_function_must_say_so():
    with pytest.raises(ValueError, match="reads the gradient of 'w', but does not declare it.*uses\\(\"gradient\"\\)"):
        view().saliency  # noqa: B018


def test_a_view_of_ones_own_drops_nothing():
    assert view().drop_fraction == 0 and view().step == 0


def test_each_array_is_read_once_and_when_it_is_used():
    reads = []
    lazy = WeightView("w", lambda: (reads.append("value"), VALUE)[1], VALUE != 0, rng=lambda: reads.append("rng"))
    assert lazy.active == 3 and lazy.live.tolist() == [0, 1, 3] and reads == []
    assert lazy.value is lazy.value is VALUE
    assert lazy.rng is None and lazy.rng is None
    assert reads == ["value", "rng"]


def test_only_a_weight_on_an_accelerator_has_tensors():
    assert view().tensor("value") is None
    assert view(_tensors={"value": lambda: "tensor"}).tensor("value") == "tensor"


def test_a_weight_is_zero_where_it_is_masked_after_a_step_of_training():
    # The optimizer's momentum moves masked entries, too. On JAX only the forward pass masks them.
    model = keras.Sequential([keras.Input((3,)), layers.MaskedDense(2, use_bias=False)])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", run_eagerly=True)
    model.optimizer.build(model.trainable_variables)
    mask = np.array([[True, False], [False, True], [True, True]])
    model.layers[0].sparse_weights[0].assign_mask(mask)
    model.optimizer.momentums[0].assign(np.ones((3, 2)))
    model.train_on_batch(np.ones((4, 3)), np.ones((4, 2)))
    algorithm = StaticSparsity(0.3)
    algorithm.prepare(model)
    value = algorithm.view(0, 1).value
    assert not value[~mask].any() and value[mask].all()
