"""Training of text classifiers: `python -m sparsity_tf.train.text_classifier`."""

__all__ = []


def __dir__():
    return __all__
