"""Training of image classifiers: `python -m sparsity_tf.train.classifier`."""

__all__ = []


def __dir__():
    return __all__
