"""Makes the learning rate and the optimizer of a recipe, and converts the recipe's epochs into steps."""

import math
import warnings

import keras
from keras import ops

from sparsity_tf.backend import variable_index
from sparsity_tf.checks import check_number
from sparsity_tf.layers import get_sparse_weights


@keras.saving.register_keras_serializable("sparsity_tf")
class HoldThenDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that is constant for a part of the run and then falls to zero.

    The policy "linear" of the SparseVD experiments is `decay_from=0.5`; "linear to 0" is
    `decay_from=0`. The decay matters for the compression: while the rate is high, useless weights
    jitter by about the rate and stay just under the threshold.

    Args:
        learning_rate: Rate of the constant part, > 0.
        total_steps: Steps in the whole run. The rate is 0 from this step on.
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
        # The decay has at least one step, so that decay_from=1 gives a constant rate and no division by zero.
        falling = max(self.total_steps * (1.0 - self.decay_from), 1.0)
        fraction = ops.clip(left / falling, 0.0, 1.0)
        if self.shape == "cosine":
            fraction = 0.5 - 0.5 * ops.cos(math.pi * fraction)
        return self.learning_rate * fraction

    def get_config(self):
        names = ("learning_rate", "total_steps", "decay_from", "shape")
        return {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable("sparsity_tf")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Multiplies a learning rate by a factor that rises linearly from 0 at step 0 to 1 (Goyal et al., 2017).

    Args:
        schedule: A Keras learning-rate schedule, or a number.
        warmup_steps: Number of steps after which the factor is 1, >= 1.

    Example:
        >>> schedule = WarmUp(0.4, warmup_steps=4)
        >>> [round(float(schedule(step)), 3) for step in (0, 1, 4, 9)]
        [0.0, 0.1, 0.4, 0.4]
    """

    def __init__(self, schedule, warmup_steps):
        if not warmup_steps >= 1:
            raise ValueError(f"`warmup_steps` must be at least 1. Received: warmup_steps={warmup_steps}")
        self.schedule = schedule
        self.warmup_steps = warmup_steps

    def __call__(self, step):
        rate = self.schedule(step) if callable(self.schedule) else self.schedule
        return rate * ops.minimum(ops.cast(step, "float32") / self.warmup_steps, 1.0)

    def get_config(self):
        schedule = self.schedule
        if callable(schedule):
            schedule = keras.saving.serialize_keras_object(schedule)
        return {"schedule": schedule, "warmup_steps": self.warmup_steps}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        if isinstance(config["schedule"], dict):
            config["schedule"] = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(**config)


@keras.saving.register_keras_serializable("sparsity_tf")
class ReciprocalSquareRoot(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of the Transformer: c min(1, t / w) / sqrt(max(t, w) d) at step t.

    Source: Vaswani et al., arXiv 1706.03762, equation 3; tensor2tensor's
    `constant*linear_warmup*rsqrt_decay*rsqrt_hidden_size`.

    Args:
        constant: c, > 0; 2 in tensor2tensor's base model.
        warmup_steps: w, >= 1: number of steps in which the rate rises linearly from 0.
        hidden_size: d, the number of units at each position.

    Example:
        >>> schedule = ReciprocalSquareRoot(2.0, warmup_steps=8000, hidden_size=512)
        >>> [f"{float(schedule(step)):.3e}" for step in (0, 8000, 100_000)]
        ['0.000e+00', '9.882e-04', '2.795e-04']
    """

    def __init__(self, constant, warmup_steps, hidden_size):
        for name, value in (("constant", constant), ("warmup_steps", warmup_steps), ("hidden_size", hidden_size)):
            if not value > 0:
                raise ValueError(f"`{name}` must be positive. Received: {name}={value}")
        self.constant, self.warmup_steps, self.hidden_size = constant, warmup_steps, hidden_size

    def __call__(self, step):
        step = ops.cast(step, "float32")
        rise = ops.minimum(1.0, step / self.warmup_steps)
        return self.constant * self.hidden_size**-0.5 * rise * ops.rsqrt(ops.maximum(step, float(self.warmup_steps)))

    def get_config(self):
        return {name: getattr(self, name) for name in ("constant", "warmup_steps", "hidden_size")}


@keras.saving.register_keras_serializable("sparsity_tf")
class AdamOfTwoRates(keras.optimizers.Adam):
    """Adam that multiplies the learning rate of some variables by a factor.

    Structured Bayesian pruning trains the parameters of its noise ten times as fast as the weights.

    Args:
        factor: Factor of the learning rate, > 0.
        paths: List of the paths of the variables that the factor is for.
        *args, **kwargs: Arguments of `keras.optimizers.Adam`.

    A path that no variable has is left out, with a warning when the optimizer is built.

    Raises:
        ValueError: `factor` is not above 0.

    Example:
        >>> optimizer = AdamOfTwoRates(10.0, ["dense/log_sigma"], learning_rate=1e-3)
    """

    def __init__(self, factor, paths, *args, **kwargs):
        check_number("factor", factor, above=0)
        super().__init__(*args, **kwargs)
        self.factor = factor
        self.paths = list(paths)

    def build(self, variables):
        unknown = sorted(set(self.paths) - {variable.path for variable in variables})
        if unknown:
            # No error, because Keras gives the variables of a `Sequential` other paths when it loads one.
            message = f"`factor` has no effect on `paths` that no trained variable has: {', '.join(unknown)}"
            warnings.warn(message, stacklevel=2)
        super().build(variables)
        self._factors = [self.factor if variable.path in self.paths else 1.0 for variable in variables]

    def update_step(self, gradient, variable, learning_rate):
        factor = self._factors[variable_index(self, variable)]
        super().update_step(gradient, variable, learning_rate if factor == 1 else factor * learning_rate)

    def get_config(self):
        return {**super().get_config(), "factor": self.factor, "paths": self.paths}


def learning_rate(recipe, steps):
    """The recipe's learning rate, a number or a Keras schedule. `steps` is the number of steps in an epoch."""
    if recipe.lr_schedule == "rsqrt":
        return ReciprocalSquareRoot(recipe.learning_rate, recipe.warmup_steps, recipe.hidden_size)
    rate, warmup = _after_warmup(recipe, steps), _warmup_steps(recipe, steps)
    return WarmUp(rate, warmup) if warmup else rate


def _warmup_steps(recipe, steps):
    """The number of steps in which the rate rises. A recipe gives it in steps, in epochs, or not at all."""
    if hasattr(recipe, "warmup_steps"):
        return recipe.warmup_steps
    return getattr(recipe, "lr_warmup_epochs", 0) * steps


def _after_warmup(recipe, steps):
    rate = recipe.learning_rate
    if recipe.lr_schedule == "constant":
        return rate
    if recipe.lr_schedule == "piecewise":
        # Keras keeps a value up to and including its boundary step, hence the - 1.
        boundaries = [round(epoch * steps) - 1 for epoch in recipe.lr_boundaries]
        values = [rate, *(rate * factor for factor in recipe.lr_factors)]
        return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values)
    if recipe.lr_schedule == "exponential":
        # EfficientNet (Tan and Le, arXiv 1905.11946): 0.97 every 2.4 epochs, which STR's program calls efficientnet_lr.
        epochs, factor = recipe.lr_decay_epochs or 2.4, recipe.lr_decay_rate or 0.97
        return keras.optimizers.schedules.ExponentialDecay(rate, epochs * steps, factor)
    return HoldThenDecay(rate, recipe.epochs * steps, recipe.lr_decay_from, recipe.lr_schedule)


def make_optimizer(recipe, steps):
    """Makes the recipe's Keras optimizer. `steps` is the number of steps in an epoch."""
    rate, decay = learning_rate(recipe, steps), recipe.weight_decay
    if recipe.optimizer == "sgd":
        return keras.optimizers.SGD(rate, recipe.momentum, recipe.nesterov, weight_decay=decay or None)
    if recipe.optimizer == "adamw":
        return keras.optimizers.AdamW(rate, weight_decay=decay)
    return keras.optimizers.Adam(rate, weight_decay=decay or None)


def with_rate_of_technique(optimizer, recipe, model):
    """The optimizer of a recipe, which trains the variables of the technique at the recipe's `technique_rate`.

    Args:
        optimizer: The optimizer that `make_optimizer` made.
        recipe: The recipe. One without the setting leaves the optimizer as it is.
        model: The recipe's network.

    Raises:
        ValueError: The technique has no variable to train.
    """
    factor = getattr(recipe, "technique_rate", 1.0)
    if factor == 1:
        return optimizer
    layers = {id(weight.layer): weight.layer for weight in get_sparse_weights(model)}.values()
    variables = [v for layer in layers for v in layer.trainable_variables if v.name in layer.technique_variables]
    if not variables:
        raise ValueError(
            "`technique_rate` needs a technique that adds variables to train, such as sbp or vd. "
            f"Received: technique_rate={factor}, technique={recipe.technique}"
        )
    return AdamOfTwoRates.from_config(
        {**optimizer.get_config(), "factor": factor, "paths": [variable.path for variable in variables]}
    )
