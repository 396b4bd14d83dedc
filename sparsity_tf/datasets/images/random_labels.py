"""Training images whose labels say nothing: the test of memorisation.

Zhang et al. (ICLR 2017, arXiv 1611.03530) show that networks fit such labels without an error. Under sparse variational
dropout (Molchanov et al., ICML 2017, arXiv 1701.05369) nothing pays for the weights that memorise, so all of them go
and a constant prediction is left.
"""

import dataclasses

import numpy as np

from sparsity_tf.checks import check_choice, check_instance, check_integer
from sparsity_tf.datasets.images.image_data import ImageData
from sparsity_tf.datasets.sequences.sequence_data import SequenceData

KINDS = ("uniform", "permuted")
_LARGEST_SEED = 2**32 - 1


def random_labels(data: ImageData | SequenceData, kind: str = "uniform", seed: int = 0) -> ImageData | SequenceData:
    """Replaces the labels of the training examples by random ones. Examples and test labels stay.

    Since the test labels stay, a network that has memorised the labels has the test error of a guess: 1 - 1 / classes
    for `"uniform"`.

    Args:
        data: An `ImageData` or a `SequenceData`.
        kind: `"uniform"`: each label is drawn independently, every class with the same probability (SparseVD's
            program). `"permuted"`: the labels change places, so each class keeps its number of examples.
        seed: Integer from 0 to 2^32 - 1. The same seed gives the same labels in every version of numpy.

    Returns:
        A new object of the same class, which shares the examples with `data`. Its `source` says that the labels are
        random.

    Raises:
        ValueError: An argument is not as described.

    Example:

    >>> images, labels = np.zeros((6, 28, 28), "uint8"), np.arange(6, dtype="uint8")
    >>> data = ImageData(images, labels, images, labels, 10, "blank", "Made here.")
    >>> random_labels(data, "permuted", seed=1).y_train
    array([2, 1, 4, 0, 3, 5], dtype=uint8)
    """
    check_instance("data", data, ImageData, SequenceData)
    check_choice("kind", kind, KINDS)
    check_integer("seed", seed, 0, _LARGEST_SEED)
    random = np.random.RandomState(seed)  # gives the same numbers in every version of numpy
    if kind == "uniform":
        labels = random.randint(data.num_classes, size=len(data.y_train)).astype(data.y_train.dtype)
    else:
        labels = random.permutation(data.y_train)
    source = f"{data.source} The training labels are random ({kind}, seed {seed})."
    return dataclasses.replace(data, y_train=labels, source=source)
