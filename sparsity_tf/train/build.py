"""From a `Recipe` to what `fit` needs: data, compiled model, learning rate, penalty ramp, algorithm.

Also the one place that chooses, by device, what the recipe leaves open (`jit_compile=auto`, the
number of steps in one call of the compiled function).
"""

import dataclasses
import math
import warnings

import keras
import numpy as np
from keras import ops

from sparsity_tf import datasets, initializers, layers, models
from sparsity_tf.datasets import pipeline
from sparsity_tf.load_masks import load_masks
from sparsity_tf.train import algorithms


@keras.saving.register_keras_serializable("sparsity_tf")
class HoldThenDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that is constant for a part of the run and then falls to zero.

    The policy "linear" of the SparseVD experiments is `decay_from=0.5`, "linear to 0" is
    `decay_from=0`. The decay makes the compression: while the rate is high, useless weights
    jitter by about the rate and stay just under the threshold.

    Args:
        learning_rate: Rate of the constant part, > 0.
        total_steps: Steps in the whole run; the rate is 0 from there on.
        decay_from: Fraction of the run, 0 to 1, after which the rate falls.
        shape: `"linear"`, or `"cosine"` for half a cosine wave.

    Example:
        >>> schedule = HoldThenDecay(0.1, total_steps=100, decay_from=0.5)
        >>> [round(float(schedule(step)), 3) for step in (0, 50, 75, 100)]
        [0.1, 0.1, 0.05, 0.0]
    """

    def __init__(self, learning_rate, total_steps, decay_from=0.5, shape="linear"):
        if shape not in ("linear", "cosine"):
            raise ValueError(f"`shape` must be 'linear' or 'cosine'. Received: shape={shape!r}")
        if total_steps < 1 or not 0 <= decay_from <= 1:
            raise ValueError(
                "`total_steps` must be positive and `decay_from` between 0 and 1. "
                f"Received: total_steps={total_steps}, decay_from={decay_from}"
            )
        self.learning_rate = learning_rate
        self.total_steps = total_steps
        self.decay_from = decay_from
        self.shape = shape

    def __call__(self, step):
        left = self.total_steps - ops.cast(step, "float32")
        # At least one step, so that decay_from=1 is a constant rate and no division by zero.
        falling = max(self.total_steps * (1.0 - self.decay_from), 1.0)
        fraction = ops.clip(left / falling, 0.0, 1.0)
        if self.shape == "cosine":
            fraction = 0.5 - 0.5 * ops.cos(math.pi * fraction)
        return self.learning_rate * fraction

    def get_config(self):
        names = ("learning_rate", "total_steps", "decay_from", "shape")
        return {name: getattr(self, name) for name in names}


def load_data(recipe):
    """The recipe's data set as an `ImageData`; where it came from is in its `source`."""
    with warnings.catch_warnings():
        # The run prints `source` itself, so the loader need not warn of a stand-in as well.
        warnings.simplefilter("ignore")
        if recipe.dataset == "mnist_demo":
            data = datasets.mnist_demo()
        else:
            load = {"mnist": datasets.mnist, "fashion_mnist": datasets.fashion_mnist}[recipe.dataset]
            data = load(recipe.data_dir)
    count = recipe.train_examples
    if count > len(data.x_train):
        raise ValueError(
            f"`train_examples` must be at most {len(data.x_train)}, the examples of {recipe.dataset}. "
            f"Received: train_examples={count}"
        )
    if not count:
        return data
    return dataclasses.replace(data, x_train=data.x_train[:count], y_train=data.y_train[:count])


def _normalizer(recipe, data):
    """What is left to do to images from which the mean image has been removed: a function, or `None`."""
    if recipe.normalize == "mean_image":
        return None
    mean, stddev = data.x_train.mean() / 255, data.x_train.std() / 255
    shift = (pipeline.mean_image(data.x_train) - mean)[..., np.newaxis]
    scale, shift = np.float32(1 / stddev), np.float32(shift / stddev)
    return lambda images: images * scale + shift


def train_batches(recipe, data, first_epoch=0):
    """The recipe's training batches from an epoch on: an endless `tf.data.Dataset`."""
    import tensorflow as tf

    batches = datasets.train_batches(
        data,
        recipe.batch_size,
        recipe.seed,
        first_epoch=first_epoch,
        augment=recipe.augment,
        shift_pixels=recipe.shift_pixels,
    )
    normalizer = _normalizer(recipe, data)
    if normalizer is None:
        return batches
    return batches.map(lambda images, labels: (normalizer(images), labels)).prefetch(tf.data.AUTOTUNE)


def test_arrays(recipe, data):
    """The test set, preprocessed as in training: (x, y)."""
    images, labels = datasets.test_arrays(data)
    normalizer = _normalizer(recipe, data)
    return (normalizer(images) if normalizer else images), labels


test_arrays.__test__ = False  # it is no test, whatever pytest makes of the name


def make_algorithm(recipe, data, steps, folder=None):
    """The recipe's algorithm that moves masks, a callback, or `None`; arguments as of `algorithms.make`.

    Pruning at initialisation measures the loss on the first batch of the run.
    """

    def batch():
        images, labels = pipeline.epoch_images(data, recipe.seed, 0, recipe.augment, recipe.shift_pixels)
        first = dataclasses.replace(data, x_test=images[: recipe.batch_size], y_test=labels[: recipe.batch_size])
        return test_arrays(recipe, first)

    return algorithms.make(recipe, steps, batch, folder)


def rehearse(recipe, data, steps):
    """Prepares the recipe's algorithm on a network of its own: what does not fit is an error now, and not in `fit`.

    Raises:
        ValueError: The optimizer, the layers or the length of the training do not suit the algorithm.
    """
    algorithm = make_algorithm(recipe, data, steps)
    if algorithm is None:
        return
    model = make_model(recipe, data)
    compile_model(recipe, model, steps)
    with algorithms.recipe_names(recipe):
        algorithm.prepare(model, recipe.epochs, steps)
    algorithm.finish()


def make_model(recipe, data):
    """The recipe's network with its technique, not compiled.

    Raises:
        ValueError: An option that the technique does not have, or a value it refuses; masks that do not fit.
    """
    technique, options = None, None
    if recipe.technique in algorithms.ALGORITHMS:
        technique, options = "masked", {}
    elif recipe.technique != "none":
        technique, options = recipe.technique, dict(recipe.technique_options)
        known = layers.TECHNIQUES[technique].option_names()
        if "sparsity" in known and recipe.final_sparsity is not None:
            options.setdefault("sparsity", recipe.final_sparsity)
        if "threshold_regularizer" in known and recipe.threshold_l2:
            options.setdefault("threshold_regularizer", keras.regularizers.L2(recipe.threshold_l2))
    model = getattr(models, recipe.model)(
        input_shape=(*data.x_train.shape[1:], 1),
        num_classes=data.num_classes,
        kernel_initializer=_initializer(recipe),
        kernel_regularizer=_regularizer(recipe),
        technique=technique,
        technique_options=options,
        where=recipe.where if technique else None,
    )
    if recipe.load_masks is not None:
        load_masks(model, recipe.load_masks)
    if recipe.reinitialize is not None:
        initializers.reinitialize(model, recipe.reinitialize, seed=recipe.seed)
    return model


def _initializer(recipe):
    name, _, stddev = recipe.kernel_initializer.partition(":")
    if name == "normal":
        return keras.initializers.RandomNormal(stddev=float(stddev))
    if name == "torch_default":
        return keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
    return name


def _regularizer(recipe):
    if recipe.kernel_l1:
        return keras.regularizers.L1L2(recipe.kernel_l1, recipe.kernel_l2)
    return keras.regularizers.L2(recipe.kernel_l2) if recipe.kernel_l2 else None


def learning_rate(recipe, steps):
    """The recipe's learning rate, a number or a Keras schedule; `steps` is the steps an epoch."""
    rate = recipe.learning_rate
    if recipe.lr_schedule == "constant":
        return rate
    if recipe.lr_schedule == "piecewise":
        # Keras keeps a value up to and including its boundary step.
        boundaries = [round(epoch * steps) - 1 for epoch in recipe.lr_boundaries]
        values = [rate, *(rate * factor for factor in recipe.lr_factors)]
        return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values)
    return HoldThenDecay(rate, recipe.epochs * steps, recipe.lr_decay_from, recipe.lr_schedule)


def make_optimizer(recipe, steps):
    """The recipe's Keras optimizer; `steps` is the steps an epoch."""
    rate, decay = learning_rate(recipe, steps), recipe.weight_decay
    if recipe.optimizer == "sgd":
        return keras.optimizers.SGD(rate, recipe.momentum, recipe.nesterov, weight_decay=decay or None)
    if recipe.optimizer == "adamw":
        return keras.optimizers.AdamW(rate, weight_decay=decay)
    return keras.optimizers.Adam(rate, weight_decay=decay or None)


def choose_jit_compile(recipe, model):
    """Whether to compile the step with XLA, where the recipe says "auto".

    Always on a GPU. On a CPU yes for dense nets (LeNet-300-100: 0.94 against 1.12 s an epoch
    without technique, two cores) and no with convolutions, whose gradients XLA:CPU computes about
    three times slower than TensorFlow's own kernels (LeNet-5: 8.2 against 2.6 s for 60 steps).
    """
    if recipe.jit_compile != "auto":
        return recipe.jit_compile == "true"
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        return True
    return all(len(variable.shape) <= 2 for variable in model.trainable_variables)


def choose_steps_per_execution(recipe, steps):
    """The largest divisor of `steps`, the steps an epoch, up to the recipe's number (0: 20).

    A divisor, because Keras runs the last call of an epoch in full, into the next epoch's data.
    """
    limit = recipe.steps_per_execution or 20
    return max(k for k in range(1, min(limit, steps) + 1) if steps % k == 0)


def compile_model(recipe, model, steps, grid=None):
    """Compiles a fresh model with the recipe's optimizer.

    Args:
        recipe: A `Recipe`.
        model: Its network.
        steps: Steps an epoch.
        grid: Divisor of `steps` that the number of steps in one call should divide, unless the recipe says it.
    """
    per_call = steps if recipe.steps_per_execution else grid or steps
    model.compile(
        make_optimizer(recipe, steps),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=choose_jit_compile(recipe, model),
        steps_per_execution=choose_steps_per_execution(recipe, per_call),
    )


def penalty_callbacks(recipe, num_examples, steps):
    """The callback that moves the penalty weight, in a list; empty for techniques without one."""
    technique = layers.TECHNIQUES.get(recipe.technique)
    if technique is None or not technique.penalized:
        return []
    from sparsity_tf.callbacks import PenaltyRamp

    return [
        PenaltyRamp(
            weight=recipe.penalty_weight,
            num_examples=num_examples,
            begin_step=round(recipe.penalty_begin_epoch * steps),
            end_step=round(recipe.penalty_end_epoch * steps),
            schedule=recipe.penalty_schedule,
        )
    ]
