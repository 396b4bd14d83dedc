"""TensorFlow Model Optimization on Keras 2: the sub-process of `mask_update.py`, in its own environment.

It prints one line of JSON: the time of a mask update, of a step with a frozen mask, and of `fit` with an update every
100 steps, each relative to the dense model in the same process.
"""

import argparse
import json
import os
import statistics
import time

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras

BATCH, STEPS, ROUNDS = 256, 200, 4


def mlp(jit_compile, frequency=None):
    dense = keras.layers.Dense
    model = keras.Sequential(
        [keras.Input((784,)), dense(1024, activation="relu"), dense(1024, activation="relu"), dense(10)]
    )
    if frequency:
        schedule = tfmot.sparsity.keras.ConstantSparsity(0.9, begin_step=0, end_step=-1, frequency=frequency)
        model = tfmot.sparsity.keras.prune_low_magnitude(model, pruning_schedule=schedule)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-3, momentum=0.9), loss, jit_compile=jit_compile)
    return model


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--xla", type=int, default=0)
    jit_compile = bool(parser.parse_args().xla)
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(BATCH, 784)).astype("float32"))
    y = tf.constant(rng.integers(0, 10, BATCH).astype("int32"))
    data = tf.data.Dataset.from_tensors((x, y)).cache().repeat()
    # "every" updates masks in every step, "never" in no step of the run, "hundred" every 100 steps.
    arms = {
        "dense": (mlp(jit_compile), STEPS),
        "every": (mlp(jit_compile, 1), STEPS // 10),
        "never": (mlp(jit_compile, 10**6), STEPS),
        "hundred": (mlp(jit_compile, 100), STEPS),
    }
    seconds = {name: [] for name in arms}
    for round_ in range(1 + ROUNDS):
        for name, (model, steps) in arms.items():
            added = [] if name == "dense" else [tfmot.sparsity.keras.UpdatePruningStep()]
            start = time.perf_counter()
            model.fit(data, steps_per_epoch=steps, epochs=1, verbose=0, callbacks=added)
            if round_:  # the first round compiles and is not counted
                seconds[name].append((time.perf_counter() - start) / steps)
    ratios = {
        name: statistics.median(a / b for a, b in zip(values, seconds["dense"], strict=True))
        for name, values in seconds.items()
    }
    print(
        json.dumps(
            {
                "version": tfmot.__version__,
                "update": ratios["every"] - ratios["never"],
                "frozen": ratios["never"],
                "fit": ratios["hundred"],
            }
        )
    )


if __name__ == "__main__":
    main()
