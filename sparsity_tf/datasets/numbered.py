"""Batches by their number: every data set in memory can say in numpy what batch t is, from t alone.

`numbered_batches` makes of such a function what `fit` takes: on TensorFlow a `tf.data.Dataset`, elsewhere
`NumberedBatches`, a `keras.utils.PyDataset` that needs no TensorFlow at all.
"""

import itertools

import keras

from sparsity_tf.backend import uses_tf_data


def numbered_batches(draw, like, begin=0, end=None, structure=tuple):
    """Batches `begin`, `begin + 1`, ... of a function from a number to a batch, drawn ahead in numpy.

    Args:
        draw: Function of a number, called by several threads: a list of arrays, the same for the same number.
        like: Shape and type of each array, a list of pairs; a size that varies is `None`.
        begin: First number.
        end: Number after the last; `None`: there is none.
        structure: Function from a list of arrays or tensors to what `fit` takes.

    Returns:
        A `tf.data.Dataset` on TensorFlow, elsewhere `NumberedBatches`.
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
    """Batches `begin`, `begin + 1`, ... of a function from a number to a batch.

    Args:
        draw: Function of a number, called by several threads: a tuple of arrays, the same for the same number.
        begin: First number.
        end: Number after the last; `None`: there is none.
        workers: Threads that draw ahead.

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
        """Number of batches; `None` where there is no end."""
        return None if self._end is None else self._end - self._begin

    def __getitem__(self, index):
        return self._draw(self._begin + index)

    def __iter__(self):
        numbers = itertools.count(self._begin) if self._end is None else range(self._begin, self._end)
        return map(self._draw, numbers)
