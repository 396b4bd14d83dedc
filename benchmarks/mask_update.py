"""Compares one mask update with one training step, and with TensorFlow Model Optimization.

The benchmark measures three ratios, each within one run:

* an update of each algorithm / one training step of the same model (MLP 784-1024-1024-10, batch 256);
* `fit` with an update every 100 steps / `fit` of the dense model;
* one global magnitude update of ResNet-50 (25.5 million weights) / its training step at batch 32.

    python benchmarks/mask_update.py [--rounds=15] [--xla=on|off|both] [--noresnet]

On a GPU, on JAX: `KERAS_BACKEND=jax python benchmarks/mask_update.py --xla=on`.

With `--tfmot=PYTHON`, TFMOT also prunes the same MLP, in a process of its own. PYTHON is the interpreter of a virtual
environment with `tensorflow-model-optimization` and `tf-keras` (`python -m venv tfmot; tfmot/bin/pip install
tensorflow-model-optimization tf-keras tensorflow`). The time of TFMOT's update is the time of a step with an update
minus the time of a step without one.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import json
import pathlib
import statistics
import subprocess
import time

import keras
import numpy as np
from _training import TrainingSteps, repeated
from absl import app, flags
from tabulate import tabulate

import sparsity_tf
from sparsity_tf import callbacks

FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 15, "Rounds; every arm runs once in each.", lower_bound=3)
flags.DEFINE_integer("steps", 10, "Training steps of an arm in a round.", lower_bound=1)
flags.DEFINE_enum("xla", "both", ["on", "off", "both"], "Compile the step with XLA.")
flags.DEFINE_bool("resnet", True, "Measure ResNet-50, too (a few minutes on two cores).")
flags.DEFINE_string("tfmot", None, "Python interpreter with tensorflow-model-optimization and tf-keras.")

BATCH = 256
# Pruning in the upper half of its schedule, where most of its updates are. Every update prunes some more weights.
RISING = {"final_sparsity": 0.95, "schedule": lambda step: min(0.85 + 0.001 * step, 0.95), "end_step": 10**6}
ALGORITHMS = {
    "MagnitudePruning, layer": lambda: callbacks.MagnitudePruning(**RISING),
    "MagnitudePruning, global": lambda: callbacks.MagnitudePruning(**RISING, scope="global"),
    "RandomPruning": lambda: callbacks.RandomPruning(**RISING),
    "SET": lambda: callbacks.SET(0.9, frequency=1, end_step=10**6),
    "RigL": lambda: callbacks.RigL(0.9, frequency=1, end_step=10**6),
    "SparseMomentum": lambda: callbacks.SparseMomentum(0.9, frequency=1, end_step=10**6),
    "DynamicSparseReparameterization": lambda: callbacks.DynamicSparseReparameterization(
        0.9, frequency=1, end_step=10**6
    ),
}


def mlp():
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense
    return keras.Sequential(
        [keras.Input((784,)), dense(1024, activation="relu"), dense(1024, activation="relu"), dense(10)]
    )


def batch(examples=BATCH):
    rng = np.random.default_rng(0)
    return rng.normal(size=(examples, 784)).astype("float32"), rng.integers(0, 10, examples).astype("int32")


def compile_model(model, jit_compile):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-3, momentum=0.9), loss, jit_compile=jit_compile)
    return model


class Step:
    """Training steps of a model on one batch that is already on the device."""

    def __init__(self, model, x, y):
        self.training, self.seconds = TrainingSteps(model, x, y), []
        self.run(3, keep=False)

    def run(self, steps, keep=True):
        seconds = self.training.run(steps)
        if keep:
            self.seconds.append(seconds / steps)


class Update:
    """Mask updates of one algorithm on a model of its own, between training steps."""

    def __init__(self, make, model, x, y):
        self.algorithm, self.seconds = make(), []
        self.model = model
        self.algorithm.prepare(model, epochs=10, steps_per_epoch=1000)
        self.step, self.updates = Step(model, x, y), 0
        self.run(keep=False)

    def run(self, keep=True):
        # Two steps give new weights, gradients and momenta before each update.
        self.step.run(2, keep=False)
        self.updates += 1
        start = time.perf_counter()
        self.algorithm.change_masks(self.updates)
        seconds = time.perf_counter() - start
        if keep:
            self.seconds.append(seconds)


def ratio(arms, others):
    """The median and the quartiles of the ratios, which are taken round by round."""
    low, middle, high = statistics.quantiles([a / b for a, b in zip(arms, others, strict=True)], n=4)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})", middle


def updates_against_steps(jit_compile):
    x, y = batch()
    dense = Step(compile_model(mlp(), jit_compile), x, y)
    frozen = Step(compile_model(sparsity_tf.sparsify(mlp(), "masked"), jit_compile), x, y)
    arms = {}
    for name, make in ALGORITHMS.items():
        arms[name] = Update(make, compile_model(sparsity_tf.sparsify(mlp(), "masked"), jit_compile), x, y)
    for _ in range(FLAGS.rounds):
        dense.run(FLAGS.steps)
        frozen.run(FLAGS.steps)
        for arm in arms.values():
            arm.run()
    step = 1e3 * statistics.median(dense.seconds)
    print(
        f"\nMLP 784-1024-1024-10, batch {BATCH}, XLA {'on' if jit_compile else 'off'}: a dense step takes {step:.1f} ms"
    )
    print(f"masked step between updates / dense step: {ratio(frozen.seconds, dense.seconds)[0]} (goal 1.02)")
    rows = [
        [name, f"{1e3 * statistics.median(arm.seconds):.2f}", ratio(arm.seconds, dense.seconds)[0], 0.3]
        for name, arm in arms.items()
    ]
    headers = ["algorithm", "ms an update", "update / dense step (quartiles)", "goal"]
    print(tabulate(rows, headers=headers, disable_numparse=True), flush=True)
    return statistics.median(a / b for a, b in zip(arms["MagnitudePruning, layer"].seconds, dense.seconds, strict=True))


def fit_against_fit(jit_compile, steps=400):
    """Measures `fit` with magnitude pruning every 100 steps / dense `fit`, in turns."""
    data = repeated(*batch())
    dense = compile_model(mlp(), jit_compile)
    pruned = compile_model(sparsity_tf.sparsify(mlp(), "masked"), jit_compile)
    seconds = {"dense": [], "pruned": []}
    for round_ in range(1 + FLAGS.rounds):
        begin = round_ * steps
        pruning = callbacks.MagnitudePruning(0.9, begin_step=begin, end_step=begin + steps, frequency=100)
        for name, model, added in (("dense", dense, []), ("pruned", pruned, [pruning])):
            start = time.perf_counter()
            model.fit(data, steps_per_epoch=steps, epochs=1, verbose=0, callbacks=added)
            if round_:  # the first round compiles and is not counted
                seconds[name].append(time.perf_counter() - start)
    text, _ = ratio(seconds["pruned"], seconds["dense"])
    print(f"fit of {steps} steps with an update every 100 / dense fit: {text} (goal 1.02)", flush=True)


def resnet():
    """Compares a global magnitude update of ResNet-50 with a training step."""
    model = keras.applications.ResNet50(weights=None, input_shape=(224, 224, 3), classifier_activation=None)
    jit_compile = keras.backend.backend() == "jax"
    compile_model(sparsity_tf.sparsify(model, "masked"), jit_compile)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 224, 224, 3)).astype("float32"), rng.integers(0, 1000, 32).astype("int32")
    update = Update(ALGORITHMS["MagnitudePruning, global"], model, x, y)
    for _ in range(3):
        update.step.run(1)
        update.run()
    size = sum(weight.size for weight in sparsity_tf.get_sparse_weights(model))
    milliseconds, step = (1e3 * statistics.median(times) for times in (update.seconds, update.step.seconds))
    print(
        f"\nResNet-50, {size:,} masked weights, batch 32, XLA {'on' if jit_compile else 'off'}: "
        f"global update {milliseconds:.0f} ms, step {step:.0f} ms, update / step: {milliseconds / step:.3f} (goal 1)"
    )


def against_tfmot(jit_compile, ours):
    script = pathlib.Path(__file__).with_name("_tfmot.py")
    done = subprocess.run(
        [FLAGS.tfmot, str(script), f"--xla={int(jit_compile)}"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "TF_USE_LEGACY_KERAS": "1"},
    )
    theirs = json.loads(done.stdout.splitlines()[-1])
    print(
        f"TFMOT {theirs['version']}, same MLP, same run: update / its own dense step {theirs['update']:.2f}, "
        f"frozen mask {theirs['frozen']:.3f}, fit with an update every 100 steps {theirs['fit']:.3f}; "
        f"its update / ours, each in dense steps: {theirs['update'] / ours:.1f} (goal 10)",
        flush=True,
    )


def main(_):
    for jit_compile in {"on": (True,), "off": (False,), "both": (True, False)}[FLAGS.xla]:
        ours = updates_against_steps(jit_compile)
        fit_against_fit(jit_compile)
        if FLAGS.tfmot:
            against_tfmot(jit_compile, ours)
    if FLAGS.resnet:
        resnet()


if __name__ == "__main__":
    app.run(main)
