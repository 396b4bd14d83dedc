"""Batches by their number, for `fit` on backends other than TensorFlow: no `tf.data`, and no TensorFlow at all.

Every data set of this package can say what batch t is from t alone. That is all a `keras.utils.PyDataset` asks for;
threads of Keras draw the batches ahead, in numpy.
"""

import itertools

import keras


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
