"""MaskWriter: what it writes, in one compiled call or one by one."""

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf import callbacks
from sparsity_tf.backend import slots_of
from sparsity_tf.callbacks.base.mask_writer import MaskWriter
from sparsity_tf.layers import get_sparse_weights
from tests.callbacks.bags import make_bag, masks_of, set_slots, values_of

pytestmark = pytest.mark.xla

RNG = np.random.default_rng(5)
SHAPES = [(4, 5), (5, 3)]


def draw():
    return [RNG.random(shape) < 0.5 for shape in SHAPES]


@pytest.mark.parametrize("in_place", [True, False])
def test_writes_masks_values_and_slots(in_place, monkeypatch):
    if not in_place:
        monkeypatch.setattr(MaskWriter, "_writes_in_place", lambda self: False)
    values = [RNG.normal(size=shape).astype("float32") for shape in SHAPES]
    model = make_bag(values, optimizer=keras.optimizers.SGD(0.1, momentum=0.9))
    model.optimizer.build(model.trainable_variables)
    momenta = [RNG.normal(size=shape).astype("float32") for shape in SHAPES]
    set_slots(model, "momentums", momenta)
    weights = get_sparse_weights(model)
    writer = MaskWriter(weights, [slots_of(model.optimizer, w.variable) for w in weights])
    for _ in range(2):  # the second call is not traced again
        masks, cleared = draw(), draw()
        kept = [mask & other for mask, other in zip(masks, draw(), strict=True)]
        before = [ops.convert_to_numpy(weight.value()).copy() for weight in weights]
        old = [ops.convert_to_numpy(variable).copy() for variable in model.optimizer.momentums]
        writer(masks, kept, cleared)
        for index in range(2):
            np.testing.assert_array_equal(masks_of(model)[index], masks[index])
            np.testing.assert_array_equal(values_of(model)[index], np.where(kept[index], before[index], 0))
            slot = ops.convert_to_numpy(model.optimizer.momentums[index])
            np.testing.assert_array_equal(slot, np.where(cleared[index], 0, old[index]))


@pytest.mark.not_on_torch("Keras writes variables in place, and a tensor of one is its memory")
def test_what_others_hold_of_a_weight_does_not_change():
    """In-place writing must not be seen in a tensor or array that was read before."""
    model = make_bag([np.ones(shape) for shape in SHAPES])
    weights = get_sparse_weights(model)
    held = [ops.convert_to_tensor(weight.variable) for weight in weights]
    arrays = [np.asarray(tensor) for tensor in held]
    masks = draw()
    MaskWriter(weights, [])(masks, masks, [])
    for array, mask, weight in zip(arrays, masks, weights, strict=True):
        assert array.all()
        np.testing.assert_array_equal(np.array(weight.value()) != 0, mask)


def test_slots_become_what_they_begin_with():
    """Ftrl divides by its accumulator: zero would make NaN."""
    model = make_bag([np.ones(shape) for shape in SHAPES], optimizer=keras.optimizers.Ftrl(0.1))
    model.optimizer.build(model.trainable_variables)
    weights = get_sparse_weights(model)
    slots = [slots_of(model.optimizer, weight.variable) for weight in weights]
    for pairs in slots:
        for variable, _ in pairs:
            variable.assign(ops.full(variable.shape, 7.0))
    cleared, full = draw(), [np.ones(shape, bool) for shape in SHAPES]
    MaskWriter(weights, slots)(full, full, cleared)
    for index, clear in enumerate(cleared):
        np.testing.assert_array_equal(model.optimizer._accumulators[index], np.where(clear, np.float32(0.1), 7))
        np.testing.assert_array_equal(model.optimizer._linears[index], np.where(clear, 0, 7))


def test_a_mask_of_another_shape_is_refused():
    model = make_bag([np.ones(shape) for shape in SHAPES])
    algorithm = callbacks.StaticSparsity(0.5)
    algorithm.prepare(model)
    before = masks_of(model)
    with pytest.raises(ValueError, match=r"must have the shape \(5, 3\) for .*part1.* shape=\(1, 3\)"):
        algorithm.assign(algorithm.views(0), [np.zeros((4, 5)), np.zeros((1, 3))])
    np.testing.assert_array_equal(masks_of(model)[0], before[0])
