"""Batches by their number: for every data set in memory, a numpy function computes batch t from t alone.

`numbered_batches` turns such a function into a dataset for `fit`: a `tf.data.Dataset` on TensorFlow, and on other
backends `NumberedBatches`, a `keras.utils.PyDataset` that needs no TensorFlow.
"""

import itertools

import keras

from sparsity_tf.backend import uses_tf_data


def numbered_batches(draw, like, begin=0, end=None, structure=tuple):
    """A dataset of the batches `begin`, `begin + 1`, ..., which a function computes ahead of time in numpy.

    Args:
        draw: Function that takes the number of a batch and returns it as a list of arrays. Several threads call it. The
            same number must give the same arrays.
        like: List of pairs, the shape and type of each array. A size that varies is `None`.
        begin: Number of the first batch.
        end: Number after the last batch; `None` for an endless dataset.
        structure: Function that turns a list of arrays or tensors into the structure that `fit` takes.

    Returns:
        A `tf.data.Dataset` on TensorFlow, `NumberedBatches` on other backends.
    """
    if not uses_tf_data():
        return NumberedBatches(lambda number: structure(draw(number)), begin, end)
    import tensorflow as tf

    def batch(number):
        arrays = tf.numpy_function(draw, [number], [dtype for _, dtype in like], stateful=False)
        return structure([tf.ensure_shape(array, shape) for array, (shape, _) in zip(arrays, like, strict=True)])

    numbers = tf.data.Dataset.range(begin, 2**62 if end is None else end)
    return numbers.map(batch, num_parallel_calls=tf.data.AUTOTUNE)


class NumberedBatches(keras.utils.PyDataset):
    """The batches `begin`, `begin + 1`, ..., which a function computes from their numbers.

    Args:
        draw: Function that takes the number of a batch and returns it as a tuple of arrays. Several threads call it.
            The same number must give the same arrays.
        begin: Number of the first batch.
        end: Number after the last batch; `None` for an endless dataset.
        workers: Number of threads that compute batches ahead of time.

    Example:
        >>> squares = NumberedBatches(lambda number: number**2, begin=3, end=6)
        >>> list(squares)
        [9, 16, 25]
    """

    def __init__(self, draw, begin=0, end=None, workers=2):
        super().__init__(workers=workers, max_queue_size=8)
        self._draw, self._begin, self._end = draw, begin, end

    @property
    def num_batches(self):
        """Number of batches; `None` for an endless dataset."""
        return None if self._end is None else self._end - self._begin

    def __getitem__(self, index):
        return self._draw(self._begin + index)

    def __iter__(self):
        numbers = itertools.count(self._begin) if self._end is None else range(self._begin, self._end)
        return map(self._draw, numbers)
