"""From a `Recipe` to what `fit` needs beside batches: compiled model, penalty ramp, algorithm.

Also the one place that chooses, by device, what the recipe leaves open (`jit_compile=auto`, the
number of steps in one call of the compiled function).
"""

import inspect

import keras

from sparsity_tf import models
from sparsity_tf.datasets.batches import first_of
from sparsity_tf.train import algorithms, optimizers, technique, trainer
from sparsity_tf.train.losses import SmoothedCrossentropy


def make_algorithm(recipe, batches, folder=None):
    """The recipe's algorithm that moves masks, a callback, or `None`.

    Pruning at initialisation measures the loss on the first batch of the run.

    Args:
        recipe: A `Recipe`.
        batches: Its `datasets.Batches`.
        folder: As for `algorithms.make`.
    """
    return algorithms.make(recipe, batches.steps_per_epoch, lambda: first_of(batches.train()), folder)


def rehearse(recipe, batches):
    """`techniques.rehearse` of the recipe's algorithm, on a network of its own."""

    def make():
        model = make_model(recipe, batches)
        compile_model(recipe, model, batches.steps_per_epoch)
        return model

    technique.rehearse(recipe, make_algorithm(recipe, batches), make, batches.steps_per_epoch)


def make_model(recipe, batches):
    """The recipe's network with its technique for the images and classes of `batches`, not compiled.

    Raises:
        ValueError: An option that the network or the technique does not have, or a value it refuses; masks or weights
            that do not fit.
    """
    builder = _network(recipe)
    with algorithms.naming_options(recipe, "model_options", "technique_options"):
        model = builder(
            **recipe.model_options,
            input_shape=batches.image_shape,
            num_classes=batches.num_classes,
            kernel_regularizer=_regularizer(recipe),
            **technique.arguments(recipe),
            **_initializer(recipe),
        )
    if recipe.other_l2:
        _regularize_others(model, recipe.other_l2)
    technique.begin_with(model, recipe)
    return model


def _network(recipe):
    """The builder of the recipe's network, whose own arguments `model_options` may hold."""
    builder = getattr(models, recipe.model)
    given = {"input_shape", "num_classes", "kernel_initializer", "kernel_regularizer"}
    given |= {"technique", "technique_options", "where", "name"}
    parameters = inspect.signature(builder).parameters
    known = set(parameters) - given
    needed = {name for name in known if parameters[name].default is inspect.Parameter.empty}
    unknown = sorted(set(recipe.model_options) - known)
    if unknown:
        raise ValueError(
            f"`model_options` of {recipe.model} may hold {', '.join(sorted(known)) or 'nothing'}. "
            f"Received: {', '.join(unknown)}"
        )
    if needed - set(recipe.model_options):
        raise ValueError(
            f"`model_options` of {recipe.model} must hold {', '.join(sorted(needed))}. Received: {recipe.model_options}"
        )
    return builder


def _initializer(recipe):
    """The argument of the builder; none for "default", which leaves each layer what its paper has."""
    name, _, stddev = recipe.kernel_initializer.partition(":")
    if name == "default":
        return {}
    if name == "normal":
        return {"kernel_initializer": keras.initializers.RandomNormal(stddev=float(stddev))}
    if name == "torch_default":
        return {"kernel_initializer": keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")}
    return {"kernel_initializer": name}


def _regularize_others(model, factor):
    """L2 of biases, gammas and betas: of the built variables, and in the config that is saved."""
    for layer in model.layers:
        for name in ("bias", "gamma", "beta"):
            variable = getattr(layer, name, None)
            if variable is not None and variable.trainable:
                regularizer = keras.regularizers.L2(factor)
                variable.regularizer = regularizer
                setattr(layer, f"{name}_regularizer", regularizer)


def _regularizer(recipe):
    if recipe.kernel_l1:
        return keras.regularizers.L1L2(recipe.kernel_l1, recipe.kernel_l2)
    return keras.regularizers.L2(recipe.kernel_l2) if recipe.kernel_l2 else None


def choose_jit_compile(recipe, model):
    """Whether to compile the step with XLA, where the recipe says "auto".

    Always on a GPU and with JAX. On a CPU yes for dense nets (LeNet-300-100: 0.94 against 1.12 s an epoch
    without technique, two cores) and no with convolutions, whose gradients XLA:CPU computes about
    three times slower than TensorFlow's own kernels (LeNet-5: 8.2 against 2.6 s for 60 steps).
    """
    if recipe.jit_compile != "auto":
        return recipe.jit_compile == "true"
    return trainer.always_compiles() or all(len(variable.shape) <= 2 for variable in model.trainable_variables)


def choose_steps_per_execution(recipe, steps):
    """The largest divisor of `steps`, the steps an epoch, up to the recipe's number (0: 20).

    A divisor, because Keras runs the last call of an epoch in full, into the next epoch's data. Several replicas or
    workers take one: the collective operations of TensorFlow 2.21 fail in the loop over steps. (A TPU needs the loop.)
    """
    if recipe.strategy in ("mirrored", "multiworker"):
        return 1
    return trainer.largest_divisor(steps, recipe.steps_per_execution or 20)


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
        optimizers.make_optimizer(recipe, steps),
        SmoothedCrossentropy(recipe.label_smoothing),
        metrics=["accuracy"],
        jit_compile=choose_jit_compile(recipe, model),
        steps_per_execution=choose_steps_per_execution(recipe, per_call),
    )


def penalty_callbacks(recipe, num_examples, steps):
    """`techniques.penalty_callbacks` with a ramp in epochs of `steps` steps."""
    return technique.penalty_callbacks(recipe, num_examples, *technique.ramp_in_epochs(recipe, steps))


def settled_from(recipe, algorithm, steps):
    """`techniques.settled_from` of the recipe; `steps` is the steps an epoch."""
    end = technique.ramp_in_epochs(recipe, steps)[1]
    return technique.settled_from(recipe, algorithm, recipe.epochs * steps, end)


def shortfall(recipe, algorithm, steps):
    """`techniques.shortfall` of the recipe; `steps` is the steps an epoch."""
    ramp = technique.ramp_in_epochs(recipe, steps)
    return technique.shortfall(recipe, algorithm, recipe.epochs * steps, *ramp)
