"""Throughput of `fit` with each algorithm, at its paper's settings, relative to the dense model.

The networks are LeNet-300-100 on generated digits of MNIST's shape, batch 100, 540 steps an epoch (the training of
sparse momentum's MNIST experiments), and the MLP 784-1024-1024-10 at batch 256. All arms run in one process, one after
the other, in several turns. A ratio is the median over epochs of (median seconds of the dense epochs of the same turn /
arm's seconds). A ratio of 1 means as fast as dense.

    python benchmarks/training_overhead.py [--epochs=4] [--turns=6] [--xla=on|off|both] [--model=lenet|mlp|both] \
        [--algorithms=RigL,StaticSparsity]
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import statistics
import time

import keras
import numpy as np
from _training import repeated
from absl import app, flags
from tabulate import tabulate

import sparsity_tf
from sparsity_tf import callbacks

FLAGS = flags.FLAGS
flags.DEFINE_integer("epochs", 4, "Epochs measured in a turn, after one that compiles.", lower_bound=3)
flags.DEFINE_integer("turns", 6, "How often every arm has its turn.", lower_bound=2)
flags.DEFINE_enum("xla", "on", ["on", "off", "both"], "Compile the step with XLA.")
flags.DEFINE_enum("model", "both", ["lenet", "mlp", "both"], "Which model.")
flags.DEFINE_list("algorithms", [], "Beginnings of the arms' names, such as RigL,StaticSparsity; default all.")
GOAL = 0.95
STEPS = 540


def algorithms(total):
    """The arms at their papers' settings: magnitude pruning runs for half of the training, the others to its end."""
    return {
        "MagnitudePruning": lambda: callbacks.MagnitudePruning(0.95, begin_step=0, end_step=total, frequency=100),
        "RandomPruning": lambda: callbacks.RandomPruning(0.95, begin_step=0, end_step=total, frequency=100),
        "StaticSparsity": lambda: callbacks.StaticSparsity(0.95),
        "SET, once an epoch": lambda: callbacks.SET(0.95, frequency=STEPS, end_step=total),
        "RigL, every 100 steps": lambda: callbacks.RigL(0.95, frequency=100, end_step=total),
        "SparseMomentum, once an epoch": lambda: callbacks.SparseMomentum(0.95, frequency=STEPS, end_step=total),
        "DynamicSparseReparameterization, every 100 steps": lambda: callbacks.DynamicSparseReparameterization(
            0.95, frequency=100, end_step=total, prune_target=600
        ),
    }


def build(name, jit_compile):
    sizes, batch = {"lenet": ((300, 100), 100), "mlp": ((1024, 1024), 256)}[name]
    dense = [keras.layers.Dense(size, activation="relu") for size in sizes]
    model = keras.Sequential([keras.Input((784,)), *dense, keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True)
    model.compile(optimizer, loss, jit_compile=jit_compile, steps_per_execution=20)
    return model, batch


class Arm:
    """A model in training. The seconds of each epoch of `fit` are kept, except the first epoch's."""

    def __init__(self, name, make, jit_compile):
        self.model, batch = build(name, jit_compile)
        rng = np.random.default_rng(0)
        x = rng.normal(size=(batch, 784)).astype("float32")
        self.data = repeated(x, rng.integers(0, 10, batch).astype("int32"))
        self.callbacks = []
        if make is not None:
            sparsity_tf.sparsify(self.model, "masked")
            self.callbacks = [make()]
        self.seconds, self.started = [], None

    def train(self, epochs):
        arm = self

        class Clock(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                arm.started = time.perf_counter()

            def on_epoch_end(self, epoch, logs=None):
                if epoch:
                    arm.seconds.append(time.perf_counter() - arm.started)

        self.model.fit(self.data, steps_per_epoch=STEPS, epochs=epochs, verbose=0, callbacks=[*self.callbacks, Clock()])


def compare(name, jit_compile):
    epochs = 1 + FLAGS.epochs
    made = algorithms(epochs * STEPS)
    chosen = [arm for arm in made if not FLAGS.algorithms or arm.startswith(tuple(FLAGS.algorithms))]
    if unknown := [name for name in FLAGS.algorithms if not any(arm.startswith(name) for arm in made)]:
        raise app.UsageError(f"--algorithms must be beginnings of {list(made)}. Received: {unknown}")
    made = {"dense": None, **{arm: made[arm] for arm in chosen}}
    # The turns are short, because the speed of a busy machine changes within minutes.
    seconds, ratios = {arm: [] for arm in made}, {arm: [] for arm in made}
    for _ in range(FLAGS.turns):
        turn = {}
        for arm, make in made.items():
            current = Arm(name, make, jit_compile)
            current.train(epochs)
            turn[arm] = current.seconds
        dense = statistics.median(turn["dense"])
        for arm, values in turn.items():
            seconds[arm].extend(values)
            ratios[arm].extend(dense / value for value in values)
    rows = []
    for arm, values in seconds.items():
        low, middle, high = statistics.quantiles(ratios[arm], n=4)
        rows.append([arm, f"{statistics.median(values) * 1e3 / STEPS:.2f}", f"{middle:.3f} ({low:.3f} to {high:.3f})"])
    count = FLAGS.turns * FLAGS.epochs
    print(f"\n{name}, XLA {'on' if jit_compile else 'off'}: {count} epochs of {STEPS} steps; goal {GOAL}")
    print(tabulate(rows, headers=["arm", "ms a step", "throughput / dense (quartiles)"], disable_numparse=True))


def main(_):
    for name in ("lenet", "mlp") if FLAGS.model == "both" else (FLAGS.model,):
        for jit_compile in {"on": (True,), "off": (False,), "both": (True, False)}[FLAGS.xla]:
            compare(name, jit_compile)


if __name__ == "__main__":
    app.run(main)
