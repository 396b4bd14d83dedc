"""Decides which entries of a weight live: exact counts, ranking, and entries that live and die together."""

from sparsity_tf.backend import zero_outside
from sparsity_tf.masks import structures
from sparsity_tf.masks.ranking import highest, highest_overall, number_of_zeros, number_to_keep, random_mask
from sparsity_tf.ops.top_k import largest_on_device, top_k_mask

__all__ = [
    "highest",
    "highest_overall",
    "largest_on_device",
    "number_of_zeros",
    "number_to_keep",
    "random_mask",
    "structures",
    "top_k_mask",
    "zero_outside",
]


def __dir__():
    return __all__
