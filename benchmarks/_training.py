"""Runs Keras's own train function on one batch that is already on the device, for TensorFlow and JAX."""

import itertools
import time

import keras

from sparsity_tf.backend import build_for_data, put_jax_state, take_jax_state


def repeated(x, y):
    """An endless dataset for `fit` that repeats one batch in the device's memory."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.data.Dataset.from_tensors((tf.constant(x), tf.constant(y))).cache().repeat()
    import jax

    batch = jax.device_put(x), jax.device_put(y)
    return (batch for _ in itertools.count())


class TrainingSteps:
    """Trains a compiled, built model on one batch, a few steps at a time.

    Args:
        model: Compiled Keras model.
        x: Inputs, a numpy array.
        y: Targets, a numpy array.
    """

    def __init__(self, model, x, y):
        self.model = model
        if keras.backend.backend() == "jax":
            build_for_data(model, (x, y))
        self.iterator = iter(repeated(x, y))
        model.make_train_function()

    def run(self, steps):
        """Trains for some steps and updates the model's variables. Returns the seconds until the last loss is known."""
        model = self.model
        if keras.backend.backend() == "tensorflow":
            start = time.perf_counter()
            for _ in range(steps):
                logs = model.train_function(self.iterator)
            float(logs["loss"])
            return time.perf_counter() - start
        state = take_jax_state(model)
        start = time.perf_counter()
        for _ in range(steps):
            logs, state = model.train_function(state, self.iterator)
        float(logs["loss"])
        seconds = time.perf_counter() - start
        put_jax_state(model, state)
        return seconds
