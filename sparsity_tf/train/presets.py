"""The recipes of `python -m sparsity_tf.train.classifier` that have a name: every number of a run, in one place.

One file a data set holds them: `mnist_presets.py`, `cifar_presets.py`, `imagenet_presets.py`.
"""

from sparsity_tf.train.cifar_presets import CIFAR
from sparsity_tf.train.imagenet_presets import IMAGENET
from sparsity_tf.train.mnist_presets import MNIST
from sparsity_tf.train.recipe import Recipe as Recipe

PRESETS = {**MNIST, **CIFAR, **IMAGENET}


def get_preset(name):
    """Looks a recipe up by its name.

    Raises:
        ValueError: Unknown name; the message lists the known ones.
    """
    if name not in PRESETS:
        raise ValueError(f"`config` must be one of {', '.join(PRESETS)}. Received: config={name}")
    return PRESETS[name]
