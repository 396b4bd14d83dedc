"""Compares a training step of a Transformer with each technique to the dense one: tokens a second, with XLA.

All matrices are sparse (also the embedding, if the technique supports it). Training uses Adam, label smoothing and
dropout as published. All arms run in one process, interleaved round after round, so that a change in the machine's
speed affects them alike. A ratio is the median over rounds of (arm / dense of the same round), both for the wall clock
and for the processor time of the process, which other work on the machine disturbs less. A second dense arm shows the
noise.

    python benchmarks/transformer.py [--rounds=5] [--steps=3] [--size=tiny|base] [--vocabulary=8000] [--noxla]
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import statistics
import time

import keras
import numpy as np
from absl import app, flags
from tabulate import tabulate

import sparsity_tf
from sparsity_tf import models

FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 5, "Rounds; every arm runs once in each.", lower_bound=1)
flags.DEFINE_integer("steps", 3, "Training steps of an arm in a round.", lower_bound=1)
flags.DEFINE_enum("size", "tiny", list(models.TRANSFORMER_SIZES), "Size of the model.")
flags.DEFINE_integer("vocabulary", 8000, "Symbols.", lower_bound=10)
flags.DEFINE_integer("batch", 32, "Sentences of a batch.", lower_bound=1)
flags.DEFINE_integer("length", 32, "Tokens of a source, and of a target.", lower_bound=2)
flags.DEFINE_bool("xla", True, "Compile the step with XLA.")
flags.DEFINE_list("arms", None, "Names of the arms to run beside the dense one; default all.")
flags.DEFINE_bool("keras_dropout", False, "An arm more: dense, with the dropout of Keras instead of ours.")

ARMS = {
    "dense": (None, {}),
    "dense again": (None, {}),
    "masked": ("masked", {}),
    "masked, dense gradient": ("masked", {"dense_gradient": True}),
    "STR (embedding dense)": ("str", {}),
    "DNW (embedding dense)": ("dnw", {}),
    "L0": ("l0", {"penalty_weight": 1e-6}),
    "VD": ("vd", {"penalty_weight": 1e-6}),
    "VD, shared noise": ("vd", {"penalty_weight": 1e-6, "share_noise": True}),
}


class Arm:
    """An arm that repeats one compiled training step on fixed data."""

    def __init__(self, technique, options, keras_dropout=False):
        import tensorflow as tf

        model = models.Transformer(FLAGS.vocabulary, size=FLAGS.size, technique=technique, **options)
        if keras_dropout:
            for layer in model._flatten_layers():
                if isinstance(layer, sparsity_tf.models.FastDropout):
                    layer.__class__ = keras.layers.Dropout
        if technique == "masked":
            rng = np.random.default_rng(1)
            for weight in sparsity_tf.get_sparse_weights(model):
                weight.assign_mask(rng.random(weight.shape) < 0.1)
        optimizer = keras.optimizers.Adam(1e-4, beta_2=0.997, epsilon=1e-9)
        optimizer.build(model.trainable_variables)
        rng = np.random.default_rng(0)
        shape = (FLAGS.batch, FLAGS.length)
        ids = {key: tf.constant(rng.integers(2, FLAGS.vocabulary, shape), tf.int32) for key in ("inputs", "targets")}

        def step(ids):
            with tf.GradientTape() as tape:
                logits = model(ids, training=True)
                log_probs = tf.nn.log_softmax(logits)
                right = tf.gather(log_probs, ids["targets"], batch_dims=2)
                loss = -tf.reduce_mean(0.9 * right + 0.1 * tf.reduce_mean(log_probs, -1)) + sum(model.losses)
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
            return loss

        self.step = tf.function(step, jit_compile=FLAGS.xla)
        self.ids = ids
        self.wall, self.processor = [], []
        for _ in range(2):
            self.step(ids).numpy()

    def run(self, steps):
        wall, processor = time.perf_counter(), time.process_time()
        for _ in range(steps):
            loss = self.step(self.ids)
        loss.numpy()
        self.wall.append((time.perf_counter() - wall) / steps)
        self.processor.append((time.process_time() - processor) / steps)


def main(_):
    keras.utils.set_random_seed(0)
    wanted = ["dense", *FLAGS.arms] if FLAGS.arms else list(ARMS)
    unknown = [name for name in wanted if name not in ARMS]
    if unknown:
        raise app.UsageError(f"--arms must be among {list(ARMS)}. Received: {unknown}")
    arms = {name: Arm(*ARMS[name]) for name in wanted}
    if FLAGS.keras_dropout:
        arms["dense, dropout of Keras"] = Arm(None, {}, keras_dropout=True)
    for _ in range(FLAGS.rounds):
        for arm in arms.values():
            arm.run(FLAGS.steps)
    tokens = FLAGS.batch * FLAGS.length
    rows = []
    for name, arm in arms.items():
        ratios = [sorted(a / b for a, b in zip(arm.wall, arms["dense"].wall, strict=True))]
        ratios.append([a / b for a, b in zip(arm.processor, arms["dense"].processor, strict=True)])
        rows.append(
            [
                name,
                f"{tokens / statistics.median(arm.wall):,.0f}",
                f"{statistics.median(ratios[0]):.3f} ({ratios[0][0]:.3f} to {ratios[0][-1]:.3f})",
                f"{statistics.median(ratios[1]):.3f}",
                f"{1 / statistics.median(ratios[1]):.3f}",
            ]
        )
    print(
        f"\nTransformer {FLAGS.size}, {FLAGS.vocabulary} symbols, {FLAGS.batch} x {FLAGS.length} target tokens, XLA "
        f"{'on' if FLAGS.xla else 'off'}: {FLAGS.rounds} rounds of {FLAGS.steps} steps, {os.cpu_count()} cores"
    )
    headers = ["arm", "target tokens/s", "time / dense, wall (range)", "processor", "tokens/s of dense (processor)"]
    print(tabulate(rows, headers=headers, disable_numparse=True), flush=True)


if __name__ == "__main__":
    app.run(main)
