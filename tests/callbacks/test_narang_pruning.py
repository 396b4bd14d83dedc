"""The rising threshold of Narang et al.: its golden values, what it prunes, and when."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf.callbacks import NarangPruning
from sparsity_tf.layers import MaskedDense, get_sparse_weights
from tests.callbacks.bags import make_bag


def make_model():
    model = keras.Sequential([keras.Input((8,)), MaskedDense(16, name="first"), MaskedDense(4, name="second")])
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
    return model


def prepared(**options):
    algorithm = NarangPruning(**options)
    algorithm.prepare(make_model(), epochs=20, steps_per_epoch=10)
    return algorithm


def test_golden_values_of_the_threshold():
    # s = 10, r = 50, e = 100, q = 0.1: the slope a / f is 0.2 / (2 * 40 + 3 * 50).
    algorithm = prepared(target_magnitude=0.1)
    slope = 0.2 / 230
    assert algorithm.threshold_at(10) == 0
    assert algorithm.threshold_at(11) == pytest.approx(slope)
    assert algorithm.threshold_at(50) == pytest.approx(40 * slope)
    assert algorithm.threshold_at(51) == pytest.approx((41 + 1.5) * slope)
    assert algorithm.threshold_at(100) == pytest.approx(0.1 + slope)
    # The published form, with batches counted from 0 and the frequency f written out.
    f, s, r, e, q = 100, 10, 50, 100, 0.1
    a = 2 * q * f / (2 * (r - s) + 3 * (e - r))
    for i in range(s, e):
        eps = a * (i - s + 1) / f if i < r else (a * (r - s + 1) + 1.5 * a * (i - r + 1)) / f
        assert algorithm.threshold_at(i + 1) == pytest.approx(eps)


def test_the_schedule_can_be_given():
    algorithm = prepared(target_magnitude=1.0, begin_step=4, ramp_step=6, end_step=8, frequency=2)
    assert [step for step in range(1, 30) if algorithm.due(step - 1, step)] == [4, 6, 8]
    assert algorithm.threshold_at(8) == pytest.approx(1.0 + 2.0 / (2 * 2 + 3 * 2))


def test_small_weights_go_in_all_layers_and_never_come_back():
    model = make_model()
    algorithm = NarangPruning(target_magnitude=0.2, frequency=1)
    weights = get_sparse_weights(model)
    before = [np.abs(ops.convert_to_numpy(weight.variable)) for weight in weights]
    live = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if keras.backend.backend() == "jax":
                self.model.jax_state_sync()  # else Keras has the variables elsewhere meanwhile
            live.append([weight.count() for weight in weights])

    x, y = np.ones((40, 8), "float32"), np.ones((40, 4), "float32")
    model.fit(x, y, batch_size=4, epochs=4, callbacks=[algorithm, Watch()], verbose=0)
    assert (np.diff(live, axis=0) <= 0).all()
    # q is reached, and a step's rise more; weights stand still (the learning rate is 0).
    for weight, magnitudes in zip(weights, before, strict=True):
        kept = ops.convert_to_numpy(weight.mask())
        np.testing.assert_array_equal(kept, magnitudes >= algorithm.threshold_at(20))
    assert live[19] == live[-1]
    assert algorithm.sparsity > 0.3


@pytest.mark.parametrize(
    "options,message",
    [
        ({"target_magnitude": 0}, "`target_magnitude` must be a finite number above 0. Received: target_magnitude=0"),
        ({"target_magnitude": "q"}, "`target_magnitude` must be a finite number"),
        ({"begin_step": ""}, "`begin_step` must be an integer of at least 0. Received: begin_step=''"),
        ({"begin_step": []}, "`begin_step` must be .* Received: begin_step=\\[\\]"),
        ({"frequency": "epoch"}, "`frequency` must be"),
        ({"ramp_step": -1}, "`ramp_step` must be"),
        ({"begin_step": 30, "ramp_step": 20}, "must be in rising order. .*begin_step=30, ramp_step=20, end_step=100"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        prepared(**options)


def test_the_length_of_training_must_be_known_or_said():
    with pytest.raises(ValueError, match="`begin_step` must be given"):
        NarangPruning(ramp_step=5, end_step=10).prepare(make_model())
    with pytest.raises(ValueError, match="`ramp_step` must be given"):
        NarangPruning(begin_step=1, end_step=10).prepare(make_model())
    NarangPruning(begin_step=1, ramp_step=5, end_step=10).prepare(make_model())


def test_an_epoch_of_accumulated_gradients_has_fewer_steps():
    model = make_bag(shapes=[(4, 4)], optimizer=keras.optimizers.SGD(0.1, gradient_accumulation_steps=4))
    algorithm = NarangPruning(0.1, frequency=1)
    algorithm.prepare(model, epochs=16, steps_per_epoch=8)
    assert (algorithm._first, algorithm._ramp, algorithm.last_step) == (2, 8, 16)


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("steps", [2, 7, 40])
def test_the_defaults_hold_in_short_trainings(epochs, steps):
    algorithm = NarangPruning(frequency=1)
    algorithm.prepare(make_model(), epochs, steps)
    total = epochs * steps
    assert (algorithm._first, algorithm._ramp) == (min(steps, total // 4), total // 4)
    assert algorithm.last_step == total // 2
    thresholds = [algorithm.threshold_at(step) for step in range(total)]
    assert thresholds == sorted(thresholds)
    assert algorithm.threshold_at(total // 2) >= 0.1


@pytest.mark.parametrize("frequency,warned", [(5, True), (4, False)])
def test_a_schedule_with_no_step_above_the_threshold_of_zero_is_said(frequency, warned):
    """Its only update would be at `begin_step`, where nothing is below the threshold."""
    model = make_model()
    algorithm = NarangPruning(target_magnitude=0.2, begin_step=4, ramp_step=6, end_step=8, frequency=frequency)
    x, y = np.ones((40, 8), "float32"), np.ones((40, 4), "float32")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(x, y, batch_size=4, epochs=1, callbacks=[algorithm], verbose=0)
    said = [str(one.message) for one in caught if "NarangPruning will not change the masks" in str(one.message)]
    assert bool(said) == warned and (algorithm.sparsity > 0) != warned
    assert not warned or "(frequency=5) has no step" in said[0]
