"""Compares a training step of each sparse layer with the dense layer: time and peak memory, with XLA and without.

The layers are Dense 1024 -> 1024 at batch 256, and Conv2D 64 -> 64, 3x3, on 32x32 images at batch 16. With `--large`,
for a GPU, they are 4096 -> 4096 at batch 8192, and 256 -> 256 on 28x28 at batch 128. They train with SGD with momentum
through Keras's own `train_function`. All arms of a comparison run in one process, interleaved round after round, so
that a change in the machine's speed affects them alike. A ratio is the median over rounds of (arm / dense of the same
round), both for the wall clock and for the processor time of the process, which other work on the machine disturbs
less. A second dense arm shows the noise. For peak memory each arm runs in a process of its own; the figure is its
largest resident set minus the dense arm's.

    python benchmarks/layers.py [--rounds=20] [--steps=10] [--kind=dense|conv|both] [--xla=on|off|both] [--nomemory]

On a GPU, on JAX: `KERAS_BACKEND=jax python benchmarks/layers.py --xla=on --large --nomemory`.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import statistics
import subprocess
import sys
import time

import keras
import numpy as np
from _training import TrainingSteps
from absl import app, flags
from tabulate import tabulate

import sparsity_tf

FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 20, "Rounds; every arm runs once in each.", lower_bound=1)
flags.DEFINE_integer("steps", 10, "Training steps of an arm in a round.", lower_bound=1)
flags.DEFINE_enum("kind", "both", ["dense", "conv", "both"], "Which layer.")
flags.DEFINE_enum("xla", "both", ["on", "off", "both"], "Compile the step with XLA.")
flags.DEFINE_bool("large", False, "Sizes that keep a GPU busy.")
flags.DEFINE_bool("memory", True, "Measure peak memory, too: one more process for each arm.")
flags.DEFINE_string("memory_of", None, "Run this arm alone and print its peak memory in KiB (used by the parent).")

ARMS = {
    "dense": (None, {}),
    "dense again": (None, {}),
    "masked": ("masked", {}),
    "masked, dense gradient": ("masked", {"dense_gradient": True}),
    "STR": ("str", {}),
    "DNW": ("dnw", {}),
    "L0": ("l0", {"penalty_weight": 1e-6}),
    "VD": ("vd", {"penalty_weight": 1e-6}),
    "VD, mean masked in training": ("vd", {"penalty_weight": 1e-6, "mask_in_training": True}),
}
# Shapes of the inputs; the outputs have the same shapes.
SMALL = {"dense": (256, 1024), "conv": (16, 32, 32, 64)}
LARGE = {"dense": (8192, 4096), "conv": (128, 28, 28, 256)}
GOALS = {"masked": {True: 1.02, False: 1.05}, "STR": {True: 1.15, False: 1.15}, "L0": {True: 1.15, False: 1.15}}
GOALS["VD"] = {True: 2.2, False: 2.2}


def build(kind):
    """A model that consists of one layer, its inputs and its targets."""
    rng = np.random.default_rng(0)
    shape = (LARGE if FLAGS.large else SMALL)[kind]
    units, inputs = shape[-1], keras.Input(shape[1:])
    layer = keras.layers.Dense(units) if kind == "dense" else keras.layers.Conv2D(units, 3, padding="same")
    model = keras.Model(inputs, layer(inputs))
    x = rng.normal(size=shape).astype("float32")
    return model, x, np.zeros((len(x), *model.output_shape[1:]), "float32")


class Arm:
    """Training steps of one layer."""

    def __init__(self, kind, technique, options, jit_compile):
        model, x, y = build(kind)
        if technique is not None:
            sparsity_tf.sparsify(model, technique, **options)
            if technique == "masked":
                rng = np.random.default_rng(1)
                for weight in sparsity_tf.get_sparse_weights(model):
                    weight.assign_mask(rng.random(weight.shape) < 0.1)
        model.compile(keras.optimizers.SGD(1e-4, momentum=0.9), "mse", jit_compile=jit_compile)
        self.training = TrainingSteps(model, x, y)
        self.wall, self.processor = [], []
        self.training.run(3)

    def run(self, steps):
        processor = time.process_time()
        self.wall.append(self.training.run(steps) / steps)
        self.processor.append((time.process_time() - processor) / steps)


def compare(kind, jit_compile):
    """Times all arms and prints the table."""
    arms = {name: Arm(kind, *arm, jit_compile) for name, arm in ARMS.items()}
    for _ in range(FLAGS.rounds):
        for arm in arms.values():
            arm.run(FLAGS.steps)
    memory = {name: peak_memory(kind, name, jit_compile) for name in ARMS} if FLAGS.memory else {}
    rows = []
    for name, arm in arms.items():
        wall = ratios(arm.wall, arms["dense"].wall)
        rows.append(
            [
                name,
                f"{1e3 * statistics.median(arm.wall):.2f}",
                f"{wall[1]:.3f} ({wall[0]:.3f} to {wall[2]:.3f})",
                f"{ratios(arm.processor, arms['dense'].processor)[1]:.3f}",
                f"{(memory[name] - memory['dense']) / 1024:+.0f}" if memory else "",
                GOALS.get(name, {}).get(jit_compile, ""),
            ]
        )
    print(f"\n{kind}, XLA {'on' if jit_compile else 'off'}: {FLAGS.rounds} rounds of {FLAGS.steps} steps")
    headers = ["arm", "ms a step", "wall / dense (quartiles)", "processor / dense", "MiB over dense", "goal"]
    print(tabulate(rows, headers=headers, disable_numparse=True), flush=True)


def ratios(seconds, dense):
    """Quartiles over rounds of the ratios (arm / dense)."""
    values = [a / d for a, d in zip(seconds, dense, strict=True)]
    return statistics.quantiles(values, n=4) if len(values) > 1 else values * 3


def peak_memory(kind, name, jit_compile):
    """The peak memory of an arm in KiB. The arm runs in a new process, because a process's peak never falls."""
    command = [sys.executable, __file__, f"--kind={kind}", f"--xla={'on' if jit_compile else 'off'}"]
    done = subprocess.run([*command, f"--memory_of={name}"], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def own_peak_memory():
    """This process's peak memory in KiB, from /proc (Linux): `getrusage` would include the parent's at the fork."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))


def main(_):
    if FLAGS.memory_of:
        Arm(FLAGS.kind, *ARMS[FLAGS.memory_of], FLAGS.xla == "on").run(3)
        print(own_peak_memory())
        return
    for kind in ("dense", "conv") if FLAGS.kind == "both" else (FLAGS.kind,):
        for jit_compile in {"on": (True,), "off": (False,), "both": (True, False)}[FLAGS.xla]:
            compare(kind, jit_compile)


if __name__ == "__main__":
    app.run(main)
