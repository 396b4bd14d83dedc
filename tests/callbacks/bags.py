"""Masked weights of any shape and value in a model without a network, for single updates of an algorithm."""

import keras
import numpy as np
from keras import ops

from sparsity_tf import layers
from sparsity_tf.layers import get_sparse_weights


class Bag(keras.Model):
    """One masked Dense layer a shape; `dense` more parameters that no mask covers."""

    def __init__(self, shapes, dense=0):
        super().__init__(name="bag")
        self.parts = [layers.MaskedDense(shape[1], use_bias=False, name=f"part{i}") for i, shape in enumerate(shapes)]
        for part, shape in zip(self.parts, shapes, strict=True):
            part.build((None, shape[0]))
        if dense:
            self.parts.append(keras.layers.Dense(1, use_bias=False))
            self.parts[-1].build((None, dense))
        self.built = True

    def call(self, inputs):
        return inputs


def make_bag(values=(), masks=None, shapes=None, dense=0, optimizer=None):
    """A compiled `Bag` that holds the values under the masks (default: where they are not zero)."""
    model = Bag([np.shape(value) for value in values] if shapes is None else shapes, dense)
    model.compile(optimizer or keras.optimizers.SGD(0.1), "mse")
    masks = [np.asarray(value) != 0 for value in values] if masks is None else masks
    for weight, value, mask in zip(get_sparse_weights(model), values, masks, strict=False):
        weight.variable.assign(np.asarray(value, "float32"))
        weight.assign_mask(mask)
    return model


def set_gradients(algorithm, gradients):
    """Puts gradients where a prepared algorithm finds those of the step."""
    for weight, gradient in zip(algorithm.weights, gradients, strict=True):
        index = algorithm._optimizer._get_variable_index(weight.variable)
        algorithm._tap.buffers[index].assign(gradient)


def set_slots(model, name, arrays):
    """Puts arrays into a slot of the optimizer, such as "momentums"."""
    for weight, array in zip(get_sparse_weights(model), arrays, strict=True):
        getattr(model.optimizer, name)[model.optimizer._get_variable_index(weight.variable)].assign(array)


def masks_of(model):
    return [np.array(ops.convert_to_numpy(weight.mask())) for weight in get_sparse_weights(model)]


def values_of(model):
    return [np.array(ops.convert_to_numpy(weight.value())) for weight in get_sparse_weights(model)]


def first(scores, count, among):
    """The definition: the first `count` of a stable sort of the candidates by falling score."""
    scores, candidates = np.asarray(scores, "float64").ravel(), np.flatnonzero(among)
    mask = np.zeros(scores.size, bool)
    mask[candidates[np.argsort(-scores[candidates], kind="stable")[:count]]] = True
    return mask.reshape(np.shape(among))


def updates(algorithm, steps, by=1):
    """The steps at which a prepared algorithm changes masks, run in pieces of `by` steps: (on the schedule, when)."""
    found, after = [], 0
    for step in range(by, steps + 1, by):
        due = algorithm.due(after, step)
        if due is not None:
            found.append(due if by == 1 else (due, step))
        after = step
    return found
