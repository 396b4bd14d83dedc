"""Training of sentence translators: `python -m sparsity_tf.train.translator`."""

__all__ = []


def __dir__():
    return __all__
