"""The recipes of `python -m sparsity_tf.train.classifier` that have a name: every number of a run, in one place.

One file a data set holds them: `mnist.py`, `cifar.py`, `imagenet.py`.
"""

from sparsity_tf.train.classifier.presets.cifar import CIFAR
from sparsity_tf.train.classifier.presets.imagenet import IMAGENET
from sparsity_tf.train.classifier.presets.mnist import MNIST
from sparsity_tf.train.classifier.recipe import Recipe
from sparsity_tf.train.fields import named

__all__ = ["CIFAR", "IMAGENET", "MNIST", "PRESETS", "Recipe", "get_preset", "named"]

PRESETS = {**MNIST, **CIFAR, **IMAGENET}


def get_preset(name):
    """The recipe of that name; an unknown one is a ValueError that lists the known ones."""
    return named(PRESETS, name)


def __dir__():
    return __all__
