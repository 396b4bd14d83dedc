"""The presets of `python -m sparsity_tf.train.classifier`: recipes with a name, which hold every number of a run.

Each kind of data has a file: `mnist.py`, `cifar.py`, `imagenet.py`, `sequences.py`. `scratch.py` has the recipes that
train under the masks of another run. `published.py` has the settings of the presets for which more than one sparsity is
published.
"""

from sparsity_tf.train.classifier.presets.cifar import CIFAR
from sparsity_tf.train.classifier.presets.imagenet import IMAGENET
from sparsity_tf.train.classifier.presets.mnist import MNIST
from sparsity_tf.train.classifier.presets.published import LEVELS
from sparsity_tf.train.classifier.presets.scratch import SCRATCH
from sparsity_tf.train.classifier.presets.sequences import SEQUENCES
from sparsity_tf.train.classifier.recipe import Recipe
from sparsity_tf.train.fields import named

__all__ = ["CIFAR", "IMAGENET", "LEVELS", "MNIST", "PRESETS", "Recipe", "SCRATCH", "SEQUENCES", "get_preset", "named"]

PRESETS = {**MNIST, **CIFAR, **IMAGENET, **SCRATCH, **SEQUENCES}


def get_preset(name):
    """The recipe with this name. For an unknown name, a ValueError lists the known names."""
    return named(PRESETS, name)


def __dir__():
    return __all__
