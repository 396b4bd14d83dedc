"""From a `Recipe` to what `fit` needs: data, compiled model, learning rate, penalty ramp.

Also the one place that chooses, by device, what the recipe leaves open (`jit_compile=auto`, the
number of steps in one call of the compiled function).
"""

import math
import warnings

import keras
from keras import ops

from sparsity_tf import datasets, models
from sparsity_tf.train import presets


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
            return datasets.mnist_demo()
        load = {"mnist": datasets.mnist, "fashion_mnist": datasets.fashion_mnist}[recipe.dataset]
        return load(recipe.data_dir)


def make_model(recipe, data):
    """The recipe's network with its technique, not compiled.

    Raises:
        ValueError: An option that the technique does not have, or a value it refuses.
    """
    initializer = recipe.kernel_initializer
    if initializer.startswith("normal:"):
        stddev = float(initializer.partition(":")[2])
        initializer = keras.initializers.RandomNormal(stddev=stddev)
    technique, options = None, None
    if recipe.technique != "none":
        technique, options = recipe.technique, dict(recipe.technique_options)
        known = presets.technique_class(technique).option_names()
        if "sparsity" in known:
            options.setdefault("sparsity", recipe.sparsity)
        if "threshold_regularizer" in known and recipe.threshold_l2:
            options.setdefault("threshold_regularizer", keras.regularizers.L2(recipe.threshold_l2))
    builder = {"lenet_300_100": models.lenet_300_100, "lenet_5_caffe": models.lenet_5_caffe}
    return builder[recipe.model](
        input_shape=(*data.x_train.shape[1:], 1),
        num_classes=data.num_classes,
        kernel_initializer=initializer,
        kernel_regularizer=keras.regularizers.L2(recipe.kernel_l2) if recipe.kernel_l2 else None,
        technique=technique,
        technique_options=options,
        where=recipe.where if technique else None,
    )


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
        return keras.optimizers.SGD(rate, momentum=recipe.momentum, weight_decay=decay or None)
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


def compile_model(recipe, model, steps):
    """Compiles a fresh model with the recipe's optimizer; `steps` is the steps an epoch."""
    model.compile(
        make_optimizer(recipe, steps),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=choose_jit_compile(recipe, model),
        steps_per_execution=choose_steps_per_execution(recipe, steps),
    )


def penalty_callbacks(recipe, num_examples, steps):
    """The callback that moves the penalty weight, in a list; empty for techniques without one."""
    technique = presets.technique_class(recipe.technique)
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
