"""Which entries of a weight live: exact counts, ranking, and entries that live and die together."""

from sparsity_tf.masks.ranking import (
    highest,
    highest_overall,
    largest_on_device,
    number_of_zeros,
    number_to_keep,
    random_mask,
    top_k_mask,
    zero_outside,
)
