"""Training of character models: `python -m sparsity_tf.train.language_model`."""

__all__ = []


def __dir__():
    return __all__
