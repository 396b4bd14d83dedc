"""How the cost of an update grows: stacks of masked `Dense(4096)` layers, SGD with momentum, on TensorFlow or JAX.

For each number of layers (16.8 million weights each) and each algorithm: nanoseconds a weight of one update of the
masks (ranking, new masks, values, optimizer slots), the median over rounds by the clock, and the memory that the update
takes at its peak beyond the memory of the process before it, in bytes a weight (the most of all rounds). RigL's update
needs a gradient: random numbers. Every update changes masks: each round prunes a twentieth further, or drops and grows
30 %.

    python benchmarks/scale.py [--layers=2,8,32] [--rounds=3] [--algorithms=magnitude,global,rigl]
    KERAS_BACKEND=jax python benchmarks/scale.py

32 layers are 537 million weights: 2.1 GB of kernels, as much again for the momentum and for RigL's gradient, 0.5 GB of
masks.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import gc
import statistics
import time

import keras
import numpy as np
from absl import app, flags
from keras import layers
from tabulate import tabulate

import sparsity_tf
from sparsity_tf import callbacks

FLAGS = flags.FLAGS
UNITS = 4096
ALGORITHMS = {
    "magnitude": lambda: callbacks.MagnitudePruning(0.9, 0, 100, frequency=1, schedule="linear"),
    "global": lambda: callbacks.MagnitudePruning(0.9, 0, 100, frequency=1, schedule="linear", scope="global"),
    "rigl": lambda: callbacks.RigL(0.9, distribution="uniform", frequency=1, end_step=1000),
}
flags.DEFINE_list("layers", ["2", "8", "32"], "Numbers of layers.")
flags.DEFINE_list("algorithms", list(ALGORITHMS), f"Some of {list(ALGORITHMS)}.")
flags.DEFINE_integer("rounds", 3, "Updates that are timed, after one that is not timed.", lower_bound=1)


def numbers(rng):
    """Normal random numbers of the shape of a kernel."""
    return rng.standard_normal((UNITS, UNITS), dtype=np.float32)


def stack(count):
    """A compiled stack of masked layers."""
    model = keras.Sequential([keras.Input((UNITS,))])
    for _ in range(count):
        model.add(layers.Dense(UNITS, use_bias=False, kernel_initializer="zeros"))
    rng = np.random.default_rng(0)
    for layer in model.layers:
        layer.kernel.assign(numbers(rng))
    sparsity_tf.sparsify(model, "masked")
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    return model


def status(name):
    """A line of `/proc/self/status` in bytes: "VmRSS", what the process holds; "VmHWM", the most that it held."""
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(name))


def peak_of(function):
    """Bytes that a call takes beyond what the process held before it, at its peak; and its seconds."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # Resets VmHWM.
    before, start = status("VmRSS"), time.perf_counter()
    function()
    seconds = time.perf_counter() - start
    return max(status("VmHWM") - before, 0), seconds


def measure(name, count):
    """Nanoseconds and bytes a weight of an update; how many weights there are."""
    model, algorithm = stack(count), ALGORITHMS[name]()
    algorithm.prepare(model, epochs=1, steps_per_epoch=1000)
    size = sum(weight.size for weight in algorithm.weights)
    rng, found = np.random.default_rng(1), []
    for turn in range(FLAGS.rounds + 1):
        if name == "rigl":
            # Grown weights get values, as training would give them.
            for weight in algorithm.weights:
                weight.variable.assign(numbers(rng) * keras.ops.convert_to_numpy(weight.mask()))
            for buffer in algorithm._tap.buffers.values():
                buffer.assign(numbers(rng))
        found.append(peak_of(lambda step=5 * (turn + 1): algorithm.change_masks(step)))
    algorithm.detach()
    # Later updates reuse memory that the first one took, so it counts. It is not timed, because it compiles.
    return size, statistics.median(seconds for _, seconds in found[1:]) / size, max(taken for taken, _ in found) / size


def main(argv):
    del argv
    rows = []
    for count in map(int, FLAGS.layers):
        for name in FLAGS.algorithms:
            size, seconds, taken = measure(name, count)
            rows.append([name, f"{size / 1e6:,.0f}", f"{1e9 * seconds:.2f}", f"{taken:.2f}"])
            print(*rows[-1], flush=True)
            keras.backend.clear_session()
            gc.collect()
    headers = ["algorithm", "million weights", "ns a weight", "extra bytes a weight"]
    print(f"\n{keras.backend.backend()}, {os.cpu_count()} cores")
    print(tabulate(rows, headers=headers, disable_numparse=True))


if __name__ == "__main__":
    app.run(main)
