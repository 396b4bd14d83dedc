"""`frequency="epoch"`: what is measured at the end of an epoch is a network that has trained with its weights."""

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf import callbacks as c
from sparsity_tf.layers import get_sparse_weights
from tests.callbacks.algorithm_checks import (
    BATCH,
    CASES,
    STEPS_PER_EPOCH,
    assert_same,
    fit,
    make_model,
    masks_of,
    state_of,
)

pytestmark = pytest.mark.not_on_torch("Keras takes steps_per_execution=1 only")


class AtEpochEnds(keras.callbacks.Callback):
    """The masks at the ends of epochs, whether live weights are zero then, and the state that a file would hold."""

    def __init__(self, directory=None):
        super().__init__()
        self.masks, self.untrained, self.directory = [], [], directory

    def on_epoch_end(self, epoch, logs=None):
        self.masks.append(masks_of(self.model))
        values = [ops.convert_to_numpy(weight.value()) for weight in get_sparse_weights(self.model)]
        pairs = zip(values, self.masks[-1], strict=True)
        self.untrained.append(sum(int((value[mask] == 0).sum()) for value, mask in pairs))
        if self.directory:
            self.model.save_weights(self.directory / f"{epoch}.weights.h5")


# So dense that no unit loses all its connections: every live weight has a gradient.
def algorithm(cls=c.SET, **options):
    return cls(0.3, frequency="epoch", drop_fraction=0.4, **options)


# Each number of steps and each algorithm once; the other pairs are in `make test-all`.
FAST = {1: c.SET, 4: c.RigL, 5: c.SparseMomentum, 20: c.RigL}


def marks(steps, cls):
    if FAST.get(steps) != cls:
        return [pytest.mark.slow]
    return [pytest.mark.compiled] if steps == 4 else []


@pytest.mark.parametrize(
    "steps,cls",
    [
        pytest.param(steps, cls, marks=marks(steps, cls))
        for steps in (1, 2, 4, 5, 6, 7, 20)
        for cls in (c.SET, c.SparseMomentum, c.RigL)
    ],
)
def test_weights_that_grew_have_trained_when_an_epoch_ends(cls, steps):
    model = make_model(CASES["rigl"], steps_per_execution=steps)
    seen, moving = AtEpochEnds(), algorithm(cls, end_step=100)
    fit(model, moving, seen, epochs=3)
    assert seen.untrained == [0, 0, 0]
    for one, other in zip(seen.masks, seen.masks[1:], strict=False):
        assert any((a != b).any() for a, b in zip(one, other, strict=True))
    assert sum(moving.grown.values()) > 0


@pytest.mark.parametrize("batches,steps", [(1, 1), (1, 3), (2, 2), (3, 2)])
def test_in_epochs_of_a_few_steps(batches, steps):
    model, seen, moving = make_model(CASES["set"], steps_per_execution=steps), AtEpochEnds(), algorithm(end_step=100)
    x, y = np.ones((batches * BATCH, 12), "float32"), np.ones((batches * BATCH, 5), "float32")
    model.fit(x + np.random.default_rng(0).normal(size=x.shape), y, BATCH, 3, verbose=0, callbacks=[moving, seen])
    assert seen.untrained == [0, 0, 0]
    assert sum(moving.grown.values()) > 0


def test_an_update_before_an_epoch_belongs_to_the_step_before():
    model, moving, updates = make_model(CASES["set"], steps_per_execution=6), algorithm(), []
    moving.change_masks = updates.append
    fit(model, moving, epochs=4)
    assert updates == [STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH, 3 * STEPS_PER_EPOCH]


@pytest.mark.parametrize("cls", [c.SET, c.SparseMomentum])
def test_a_run_stopped_between_epochs_continues_exactly(cls, tmp_path):
    whole = make_model(CASES["set"], steps_per_execution=6)
    fit(whole, algorithm(cls, end_step=17), AtEpochEnds(tmp_path), epochs=3)
    goes_on = make_model(CASES["set"], steps_per_execution=6)
    goes_on.load_weights(tmp_path / "1.weights.h5")
    fit(goes_on, algorithm(cls, end_step=17), epochs=3, initial_epoch=2)
    assert_same(state_of(goes_on), state_of(whole))


def test_a_gradient_that_no_file_holds_leaves_an_update_out_and_says_so():
    model = make_model(CASES["rigl"], steps_per_execution=6)
    fit(model, algorithm(c.RigL, end_step=17), epochs=1)
    with pytest.warns(UserWarning, match="RigL leaves out the update .* step 6.*gradient"):
        fit(model, algorithm(c.RigL, end_step=17), epochs=2, initial_epoch=1)
