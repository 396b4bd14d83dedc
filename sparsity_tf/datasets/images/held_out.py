"""Which training examples are held out for validation: how many, and which numbers they have."""

import numpy as np

from sparsity_tf.checks import check_integer, is_integer, is_number


def held_out_count(total, validation_split):
    """The number of training examples to hold out.

    Args:
        total: Number of training examples.
        validation_split: An integer below `total`, or a fraction f below 1: then the number is f x total, rounded up.

    Raises:
        ValueError: `validation_split` is neither, or it leaves nothing to train on.
    """
    if is_integer(validation_split):
        held = validation_split
    elif is_number(validation_split) and 0 <= validation_split < 1:
        # The small number makes up for the rounding of the product, so that 0.1 of 60,000 is 6,000 and not 6,001.
        held = total - int((1 - validation_split) * total + 1e-9)
    else:
        held = -1
    if not 0 <= held < total:
        raise ValueError(
            f"`validation_split` must be a fraction below 1 or a number of images below {total}. "
            f"Received: validation_split={validation_split!r}"
        )
    return held


def held_out_numbers(total, held, seed):
    """The numbers of the examples to train on, and of those to hold out.

    Args:
        total: Number of training examples.
        held: How many of them to hold out.
        seed: `None` for the last examples; a non-negative integer for a random choice without replacement. Both parts
            keep the order of the examples.

    Returns:
        Two slices for `seed=None` and `held=0`, else two rising integer arrays.

    Raises:
        ValueError: `seed` is neither `None` nor a non-negative integer.
    """
    if seed is not None:
        check_integer("validation_seed", seed, 0)
    if seed is None or not held:
        # Slices, because integer arrays would copy the images.
        return slice(0, total - held), slice(total - held, total)
    # The second number tells these draws from those of an epoch, whose seeds have an epoch there.
    order = np.random.default_rng([seed, 2**31]).permutation(total)
    return np.sort(order[held:]), np.sort(order[:held])
