"""GradientTap: the gradient of the step, where each of Keras's optimizers receives it."""

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf import callbacks
from sparsity_tf.callbacks.base import loss_gradients
from sparsity_tf.layers import get_sparse_weights
from tests.callbacks import algorithm_checks as checks

OPTIMIZERS = [
    *("SGD", "Adam", "AdamW", "Adamax", "Nadam", "RMSprop", "Adagrad", "Adadelta", "Lion"),
    # On torch Keras updates the variables of these one by one, and those of all others together.
    *("Ftrl", "Lamb"),
]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_gives_the_gradient_of_the_step(name):
    model = checks.make_model(checks.CASES["rigl"])
    model.compile(getattr(keras.optimizers, name)(0.01), "mse", run_eagerly=True)
    model.train_on_batch(checks.X, checks.Y)
    attributes = set(vars(model.optimizer))
    rigl = callbacks.RigL(0.5, frequency=1, end_step=9)
    rigl.prepare(model, 1, 12)
    variables = [weight.variable for weight in get_sparse_weights(model)]
    expected = loss_gradients.gradients(model, (checks.X, checks.Y), variables)
    model.train_on_batch(checks.X, checks.Y)
    for variable, gradient in zip(variables, expected, strict=True):
        assert np.count_nonzero(gradient) == gradient.size, "masked entries are included"
        np.testing.assert_allclose(ops.convert_to_numpy(rigl._tap.gradient(variable)), gradient, rtol=1e-4, atol=1e-6)
    rigl.finish()
    assert set(vars(model.optimizer)) == attributes


class WatchTaps(keras.callbacks.Callback):
    """Notes after which steps the function was one with taps, and how many such functions there were."""

    def on_train_begin(self, logs=None):
        self.open, self.functions = [], set()

    def on_train_batch_end(self, batch, logs=None):
        [tap] = self.model.optimizer._gradient_taps
        self.open.append(tap.open)
        self.functions.add(id(self.model.train_function.untapped))


STEPS = [1, pytest.param(3, marks=pytest.mark.not_on_torch("Keras takes one step a call there"))]


@pytest.mark.compiled
@pytest.mark.parametrize("steps_per_execution", STEPS)
def test_only_calls_in_which_masks_may_change_have_the_branch(monkeypatch, steps_per_execution):
    found = []
    for always in (False, True):
        if always:
            monkeypatch.setattr(callbacks.RigL, "may_keep_gradient", lambda self, steps: True)
        keras.utils.set_random_seed(1)
        model = checks.make_model(checks.CASES["rigl"])
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        model.compile(optimizer, "mse", jit_compile=False, steps_per_execution=steps_per_execution)
        watch, rigl = WatchTaps(), callbacks.RigL(0.5, frequency=4, end_step=9)
        x, y = np.tile(checks.X, (12, 1))[:12], np.tile(checks.Y, (12, 1))[:12]
        model.fit(x, y, batch_size=1, shuffle=False, verbose=0, callbacks=[rigl, watch])
        assert rigl.grown and sum(rigl.grown.values()) >= 0
        if always:
            assert all(watch.open)
        elif steps_per_execution == 1:
            # Updates after steps 4 and 8.
            assert [number for number, is_open in enumerate(watch.open, 1) if is_open] == [4, 8]
            assert len(watch.functions) == 1
        else:
            # Of the calls of three steps each those with step 4 and with step 8.
            assert watch.open == [False, True, True, False]
        found.append([ops.convert_to_numpy(variable) for variable in model.variables])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


X12, Y12 = np.tile(checks.X, (12, 1))[:12], np.tile(checks.Y, (12, 1))[:12]


@pytest.mark.compiled
def test_the_compiled_step_keeps_the_gradient_after_steps_without_it(monkeypatch):
    gradients = []
    change_masks = callbacks.RigL.change_masks

    def note(self, step):
        gradients.append([ops.convert_to_numpy(self._tap.gradient(w.variable)) for w in self.weights])
        change_masks(self, step)

    monkeypatch.setattr(callbacks.RigL, "change_masks", note)
    model = checks.make_model(checks.CASES["rigl"])
    model.compile("sgd", "mse")  # on JAX this means XLA
    # Twice, because the second `fit` must not use the trace of the first.
    for end_step in (9, 21):
        rigl = callbacks.RigL(0.5, frequency=4, end_step=end_step)
        model.fit(X12, Y12, batch_size=1, shuffle=False, verbose=0, callbacks=[rigl])
    assert len(gradients) == 4  # after steps 4 and 8, 16 and 20
    for before, after in zip([[np.zeros(())] * 9, *gradients], gradients, strict=False):
        for one, other in zip(before, after, strict=False):
            assert other.any() and (one != other).any()


@pytest.mark.compiled
def test_the_algorithm_goes_on_after_a_callback_forces_a_new_train_function():
    class Force(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.make_train_function(force=True)

    model = checks.make_model(checks.CASES["rigl"])
    rigl = callbacks.RigL(0.5, frequency=1, end_step=9)
    dropped = []
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: dropped.append(sum(rigl.dropped.values())))
    model.fit(checks.X, checks.Y, epochs=2, verbose=0, callbacks=[rigl, Force(), note])
    assert dropped[1] > dropped[0] > 0
    assert "make_train_function" not in vars(model)
