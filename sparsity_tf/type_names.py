"""Names for types that many public signatures share.

The names say which values an argument may have, in the words of the documentation. `checks.py` checks the values:
nothing reads annotations while a program runs.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

# A `matplotlib.figure.Figure`. Matplotlib need not be installed.
Figure = Any

PathLike = str | os.PathLike
Shape = tuple[int, ...]
# A tensor of the present backend. The backends have no common class of tensors.
Tensor = Any
# Batches that a model is trained, measured or calibrated on: an array, a tuple `(x, y)`, or an iterable of batches.
Data = np.ndarray | tuple | list | Iterable
# Data for training or evaluation: an endless or finite iterable of tuples (a `tf.data.Dataset` on TensorFlow).
Dataset = Iterable[tuple]
# A selection of layers: all, names and regular expressions, or a predicate.
Where = str | Sequence[str] | Callable[[keras.layers.Layer], bool] | None
# The weights that stay dense: none, "first", names and regular expressions, or a predicate of a weight.
DenseWeights = str | Sequence[str] | Callable[[Any], bool] | None
# An argument of `distributions.get`: a name, a dict by name, the path of a CSV file, or a function of
# (tensors, sparsity).
DistributionLike = str | os.PathLike | Mapping[str, float] | Callable[[Sequence[Any], float | None], Sequence[float]]
# A number, or a schedule or other function of the step.
NumberOrSchedule = float | Callable[[int], float]
# Steps between updates: a number, "epoch", or a schedule or other function of the step.
Frequency = int | str | Callable[[int], int]
Initializer = str | dict | keras.initializers.Initializer
Regularizer = str | dict | keras.regularizers.Regularizer
