"""The recipes of `python -m sparsity_tf.train.classifier` that have a name: every number of a run, in one place.

One file a data set holds them: `mnist_presets.py`, `cifar_presets.py`, `imagenet_presets.py`.
"""

from sparsity_tf.train.cifar_presets import CIFAR
from sparsity_tf.train.fields import named
from sparsity_tf.train.imagenet_presets import IMAGENET
from sparsity_tf.train.mnist_presets import MNIST
from sparsity_tf.train.recipe import Recipe as Recipe

PRESETS = {**MNIST, **CIFAR, **IMAGENET}


def get_preset(name):
    """The recipe of that name; an unknown one is a ValueError that lists the known ones."""
    return named(PRESETS, name)
