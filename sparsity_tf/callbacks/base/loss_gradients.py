"""Derivatives of a model's loss on one batch, for pruning before training and after it."""

import contextlib

import keras
import numpy as np
from keras import ops

from sparsity_tf.backend import loss_derivatives


def gradients(model, data, variables, loss=None, training=True):
    """The gradient dL/dw of the model's loss on one batch.

    Args:
        model: Keras model. It must be compiled, unless a loss is given.
        data: Tuple (x, y) or (x, y, sample_weight).
        variables: List of the model's `keras.Variable`s. Frozen variables are allowed.
        loss: `None` for the compiled loss (with the losses that layers add), or a `keras.losses.Loss`.
        training: Bool, the mode in which the model runs.

    Returns:
        List of numpy arrays, the shapes of the variables.
    """
    with _watchable(variables):
        return _evaluate(model, data, variables, 1.0, hessian=False, loss_function=loss, training=training)


def hessian_gradient_products(model, data, variables, temperature=1.0):
    """The product H g for the model's loss: its Hessian over these variables, times its gradient.

    Args:
        model, data, variables: As for `gradients`.
        temperature: The outputs are divided by this number before the loss is computed.

    Returns:
        List of numpy arrays, the shapes of the variables.
    """
    return _evaluate(model, data, variables, temperature, hessian=True)


@contextlib.contextmanager
def _watchable(variables):
    """Makes frozen variables trainable for a while, so that the backends compute gradients for them."""
    frozen = [variable for variable in variables if not variable.trainable]
    for variable in frozen:
        variable.trainable = True
    try:
        yield
    finally:
        for variable in frozen:
            variable.trainable = False


def _evaluate(model, data, variables, temperature, hessian, loss_function=None, training=True):
    x, y, *rest = data
    sample_weight = rest[0] if rest else None
    # A forward pass in training mode changes variables such as the averages of batch normalisation. Restore them later.
    others = [variable for variable in model.variables if not variable.trainable]
    saved = [np.array(ops.convert_to_numpy(variable)) for variable in others]

    def loss():
        outputs = model(x, training=training)
        if temperature != 1.0:
            outputs = keras.tree.map_structure(lambda output: output / temperature, outputs)
        if loss_function is None:
            value = model.compute_loss(x=x, y=y, y_pred=outputs, sample_weight=sample_weight, training=training)
        else:
            value = loss_function(y, outputs, sample_weight)
        return ops.cast(value, "float32")

    try:
        found = _scaled(loss, variables, hessian, model)
    finally:
        for variable, value in zip(others, saved, strict=True):
            variable.assign(value)
        if loss_function is None:
            # A loss of several outputs has metrics, which have seen this batch.
            model.reset_metrics()
    return [np.zeros(v.shape, "float32") if f is None else f for v, f in zip(variables, found, strict=True)]


def _scaled(loss, variables, hessian, model):
    """Derivatives, computed with the loss scale of the model's optimizer: without it float16 loses small values."""
    scale = float(ops.convert_to_numpy(getattr(getattr(model, "optimizer", None), "dynamic_scale", 1.0)))
    while True:
        found = loss_derivatives(loss, variables, scale, hessian)
        if not any(f is not None and f.any() for f in found):
            raise ValueError("The model's loss does not depend on its masked weights: there is nothing to measure.")
        if all(f is None or np.isfinite(f).all() for f in found):
            return found
        if scale <= 1:
            raise ValueError("The loss of the model on `data` has derivatives that are NaN or infinite.")
        # The scale was too large. Make it smaller, as in training.
        scale = max(scale / 2, 1.0)
