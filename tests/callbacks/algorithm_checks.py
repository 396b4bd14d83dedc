"""What every algorithm of `algorithm_cases.CASES` must pass.

What an algorithm promises: exact counts after every update, masked weights that are exactly zero after every optimizer
step and in every file whatever the order of the callbacks, nothing outside [begin, end], no retracing, a resumed run
equal to the bit, the same masks for the same seed, and a model that is as before when it ends.
"""

import functools

import keras
import numpy as np
from keras import ops

from sparsity_tf import callbacks, layers, to_dense
from sparsity_tf.layers import get_sparse_weights
from tests.callbacks.algorithm_cases import BATCH, CASES, END, EPOCHS, FREQUENCY, STEPS, STEPS_PER_EPOCH, UPDATES, X, Y


def data():
    """Inputs and targets of an epoch."""
    return np.tile(X, (STEPS_PER_EPOCH, 1)), np.tile(Y, (STEPS_PER_EPOCH, 1))


def make_model(case, loss="mse", **compile_options):
    """A small model of two masked layers, always with the same initial weights, compiled."""
    kernel = [keras.initializers.GlorotUniform(seed=seed) for seed in (1, 2)]
    model = keras.Sequential(
        [
            keras.Input((12,)),
            layers.MaskedDense(16, activation="tanh", kernel_initializer=kernel[0], name="first"),
            layers.MaskedDense(5, kernel_initializer=kernel[1], name="second"),
        ]
    )
    # On JAX nothing else is compiled at all; on TensorFlow XLA only costs time here.
    jit_compile = keras.backend.backend() == "jax" and not compile_options.get("run_eagerly")
    model.compile(case.optimizer(), loss, **{"jit_compile": jit_compile, **compile_options})
    model.optimizer.build(model.trainable_variables)
    return model


@functools.cache
def pipeline():
    """The batches of an epoch as a `tf.data.Dataset`. From arrays, Keras makes one anew in every `fit`."""
    import tensorflow as tf

    return tf.data.Dataset.from_tensors((X, Y)).repeat(STEPS_PER_EPOCH)


def fit(model, *used, epochs=EPOCHS, **options):
    if keras.backend.backend() == "tensorflow":
        batches = {"x": pipeline()}
    else:
        batches = dict(zip("xy", data(), strict=True), batch_size=BATCH)
    return model.fit(**batches, epochs=epochs, shuffle=False, verbose=0, callbacks=list(used), **options).history


def masks_of(model):
    """Copies of all masks, a list of bool arrays."""
    return [np.array(ops.convert_to_numpy(weight.mask())) for weight in get_sparse_weights(model)]


def state_of(model):
    """Everything that training changes, a dict of arrays: weights, masks, optimizer."""
    # On JAX the variable itself may hold something where it is masked.
    values = {id(weight.variable): weight.value() for weight in get_sparse_weights(model)}
    state = {f"{index} {v.path}": values.get(id(v), v) for index, v in enumerate(model.weights)}
    state.update({f"{index} of the optimizer": v for index, v in enumerate(model.optimizer.variables)})
    return {name: np.array(ops.convert_to_numpy(value)) for name, value in state.items()}


def assert_same(found, expected):
    """Equal to the bit."""
    for name, a, b in zip(expected, found.values(), expected.values(), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


def count_of(model):
    """Number of optimizer steps taken."""
    return int(ops.convert_to_numpy(model.optimizer.iterations))


def check_zeros(model):
    """Masked weights are exactly zero: what is used, and the variable itself but on JAX."""
    for weight in get_sparse_weights(model):
        mask, value = ops.convert_to_numpy(weight.mask()), ops.convert_to_numpy(weight.value())
        assert np.isfinite(value).all()
        assert (value[~mask] == 0).all()
        if keras.backend.backend() != "jax":
            np.testing.assert_array_equal(ops.convert_to_numpy(weight.variable), value)


class Watch(keras.callbacks.Callback):
    """Keeps the masks after every step, and checks that what they close is zero."""

    def __init__(self, loss=None):
        super().__init__()
        self.steps, self.masks, self.traces, self.loss = [], [], [], loss

    def on_train_batch_end(self, batch, logs=None):
        check_zeros(self.model)
        self.traces.append(getattr(self.loss, "calls", None))
        self.steps.append(count_of(self.model))
        self.masks.append(masks_of(self.model))


class StopAfter(keras.callbacks.Callback):
    """Ends training after a number of batches."""

    def __init__(self, batches):
        super().__init__()
        self.left = batches

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            self.end()

    def end(self):
        self.model.stop_training = True


class CountingLoss:
    """The mean squared error; `calls` counts how often Python calls it: when a step is traced."""

    __name__ = "counting_loss"

    def __init__(self):
        self.calls = 0

    def get_config(self):
        """Keras wants one of whatever a model that is saved was compiled with."""
        return {}

    def __call__(self, y_true, y_pred):
        self.calls += 1
        return ops.mean(ops.square(y_true - y_pred), axis=-1)


class Interruption(Exception):
    """What interrupts training."""


class InterruptAfter(StopAfter):
    """Raises after a number of batches."""

    def end(self):
        raise Interruption


def check_training(case, directory):
    """One compiled `fit`: counts, zeros, the window, the order of callbacks, no retracing, nothing left behind."""
    loss = CountingLoss()
    model, algorithm = make_model(case, loss), case.make()
    config, attributes = model.get_config(), set(vars(model.optimizer))
    before, after = Watch(loss), Watch(loss)
    files = [str(directory / name) for name in ("before.weights.h5", "after.weights.h5")]
    # One file after an update, which the other callbacks see as they do.
    first, last = (keras.callbacks.ModelCheckpoint(f, save_weights_only=True, save_freq=STEPS - 4) for f in files)
    history = fit(model, before, first, algorithm, last, after)
    assert before.steps == after.steps
    # Steps that keep a gradient are a function of their own. On torch nothing is traced: Python calls the loss in
    # every step.
    functions = 2 if "gradient" in algorithm.uses() else 1
    assert len(set(after.traces)) == functions or keras.backend.backend() == "torch"
    for one, other in zip(before.masks, after.masks, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    sizes = [weight.size for weight in get_sparse_weights(model)]
    check_counts(case, algorithm, sizes, after)
    live = sum(int(mask.sum()) for mask in after.masks[-1])
    assert history["sparsity"][-1] == 1 - live / sum(sizes)

    # Nothing of it stays on the model or the optimizer, and the dense model predicts the same.
    assert model.get_config() == config
    assert set(vars(model.optimizer)) == attributes
    assert "make_train_function" not in vars(model)
    dense = to_dense(model)
    np.testing.assert_allclose(dense.predict(X, verbose=0), model.predict(X, verbose=0), rtol=1e-5, atol=1e-6)

    states = []
    for file in files:
        restored = make_model(case)
        restored.load_weights(file)
        states.append(state_of(restored))
    assert_same(*states)
    saved = [int(mask.sum()) for mask in masks_of(restored)]
    assert saved == [int(mask.sum()) for mask in after.masks[STEPS - 5]]


def check_counts(case, algorithm, sizes, watch):
    """The counts after every step are those promised, and nothing changes but after updates."""
    counts = [[int(mask.sum()) for mask in seen] for seen in watch.masks]
    if isinstance(algorithm, callbacks.IterativePruning):
        assert watch.steps == [1, 2, 3, 4, 2, 3, 4, 2, 3, 4, 5, 6]
        assert case.counts(algorithm, sizes, counts[-1], STEPS)
        return
    assert watch.steps == list(range(1, STEPS + 1))
    for step, found in zip(watch.steps, counts, strict=True):
        assert case.counts(algorithm, sizes, found, step), (step, found)
    pairs = zip(watch.steps[1:], watch.masks, watch.masks[1:], strict=False)
    changed = {step for step, old, new in pairs if not all(np.array_equal(a, b) for a, b in zip(old, new, strict=True))}
    assert changed <= set(UPDATES)
    assert bool(changed) == case.moves


class WholeRun:
    """One uninterrupted run, not compiled, that ends one step after the window: what every other run is held against.

    `end` is the state when the run has ended, `masks` holds the masks after each step taken, from 1 on, and `directory`
    a file of weights after each; `model.keras` is the whole model after `FREQUENCY + 1` steps.
    """

    LENGTH = END + 1

    def __init__(self, case, directory):
        self.case, self.directory, watch = case, directory, Watch()
        model = make_model(case, run_eagerly=True)
        # A file is written before the algorithm's turn: it holds masks that have changed all the same.
        fit(model, _Files(directory), case.make(directory), watch, StopAfter(self.LENGTH))
        self.end, self.masks = state_of(model), dict(enumerate(watch.masks, 1))

    def file(self, taken):
        """The weights after so many steps."""
        return self.directory / f"{taken}.weights.h5"


class _Files(keras.callbacks.Callback):
    """Saves the weights after every step, and the model after one that lies between two updates."""

    def __init__(self, directory):
        super().__init__()
        self.directory, self.taken = directory, 0

    def on_train_batch_end(self, batch, logs=None):
        self.taken += 1
        self.model.save_weights(self.directory / f"{self.taken}.weights.h5")
        if self.taken == FREQUENCY + 1:
            self.model.save(self.directory / "model.keras")


def check_other_loops(whole):
    """`train_on_batch` and a loop of one's own come to what `fit` comes to, for the same seed."""
    case = whole.case
    model, algorithm = make_model(case, run_eagerly=True), case.make()
    algorithm.prepare(model, EPOCHS, STEPS_PER_EPOCH)
    for _ in range(WholeRun.LENGTH):
        model.train_on_batch(X, Y)
        algorithm.update(model)
        check_zeros(model)
    algorithm.finish()
    assert_same(state_of(model), whole.end)

    if case.seeded:
        # Two updates are enough: the first may prune nothing yet.
        other, taken = make_model(case, run_eagerly=True), UPDATES[1]
        fit(other, case.make(seed=1), StopAfter(taken))
        assert not all(np.array_equal(a, b) for a, b in zip(masks_of(other), whole.masks[taken], strict=True))


def check_own_loop(case):
    """A TensorFlow loop, compiled, with `optimizer.apply`."""
    import tensorflow as tf

    model, algorithm = make_model(case), case.make()
    algorithm.prepare(model)

    @tf.function
    def train_step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply(gradients, model.trainable_variables)

    sizes, seen = [weight.size for weight in get_sparse_weights(model)], Watch()
    seen.set_model(model)
    for _ in range(STEPS):
        train_step(X, Y)
        algorithm.update(model)
        seen.on_train_batch_end(0)
    algorithm.finish()
    check_counts(case, algorithm, sizes, seen)


def check_interruption(whole, directory):
    """An interrupted `fit` leaves nothing behind, for one with the algorithm and for one without."""
    case, taken = whole.case, 3
    model = make_model(case, run_eagerly=True)
    attributes = set(vars(model.optimizer))
    try:
        fit(model, InterruptAfter(taken), case.make(directory))
    except Interruption:
        pass
    interrupted = masks_of(model)
    model.save_weights(directory / "interrupted.weights.h5")
    goes_on = make_model(case, run_eagerly=True)
    goes_on.load_weights(directory / "interrupted.weights.h5")
    fit(goes_on, case.make(directory), StopAfter(WholeRun.LENGTH - taken))
    assert_same(state_of(goes_on), whole.end)

    fit(model, epochs=1)
    assert all(np.array_equal(a, b) for a, b in zip(masks_of(model), interrupted, strict=True))
    assert set(vars(model.optimizer)) == attributes
    assert "make_train_function" not in vars(model)
    assert not any(weight.technique.dense_gradient_users for weight in get_sparse_weights(model))
    check_zeros(model)


def check_resuming(whole):
    """Goes on from the `.keras` and the `.weights.h5` files of a run: equal to the bit, after every step."""
    case = whole.case
    loaded = keras.saving.load_model(whole.directory / "model.keras")
    loaded.run_eagerly = True
    fit(loaded, case.make(whole.directory), StopAfter(WholeRun.LENGTH - (FREQUENCY + 1)))
    assert_same(state_of(loaded), whole.end)
    # A third of all steps; the algorithms that are alike take different ones.
    for taken in range(1 + list(CASES.values()).index(case) % 3, WholeRun.LENGTH, 3):
        # The same model again and again: what it remembers of other runs does not matter.
        loaded.load_weights(whole.file(taken))
        fit(loaded, case.make(whole.directory), StopAfter(WholeRun.LENGTH - taken))
        assert_same(state_of(loaded), whole.end)


def check_backup(whole, directory):
    """`BackupAndRestore` before or after the algorithm continues an interrupted run, equal to the bit."""
    case = whole.case
    for taken, place in ((3, 0), (6, 1)):
        backups = [keras.callbacks.BackupAndRestore(directory / f"backup{taken}", save_freq=1) for _ in range(2)]

        def ordered(algorithm, backup, place=place):
            return [backup, algorithm] if place == 0 else [algorithm, backup]

        model = make_model(case, run_eagerly=True)
        try:
            fit(model, *ordered(case.make(directory), backups[0]), InterruptAfter(taken))
        except Interruption:
            pass
        model = make_model(case, run_eagerly=True)
        for weight in get_sparse_weights(model):
            weight.variable.assign(weight.variable + 1)  # Another initial state: it is what is restored that counts.
        fit(model, *ordered(case.make(directory), backups[1]), StopAfter(WholeRun.LENGTH - taken))
        assert_same(state_of(model), whole.end)
