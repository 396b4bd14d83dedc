"""A weight as a matrix: a row for each input of a unit, a column for each output unit."""

import math

import numpy as np


def as_matrix(array, filter_axes):
    """An array of a kernel's shape as a matrix (inputs of a unit, output units)."""
    outputs = [axis % array.ndim for axis in filter_axes]
    inputs = [axis for axis in range(array.ndim) if axis not in outputs]
    rows, columns = (math.prod(array.shape[axis] for axis in axes) for axes in (inputs, outputs))
    return np.transpose(array, inputs + outputs).reshape(rows, columns)


def from_matrix(matrix, shape, filter_axes):
    """Undoes `as_matrix` for a kernel of this shape."""
    outputs = [axis % len(shape) for axis in filter_axes]
    order = [axis for axis in range(len(shape)) if axis not in outputs] + outputs
    return np.transpose(matrix.reshape([shape[axis] for axis in order]), np.argsort(order))
