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


def held_out_numbers(total, held, seed, labels=None):
    """The numbers of the examples to train on, and of those to hold out.

    Args:
        total: Number of training examples.
        held: How many of them to hold out.
        seed: `None` for the last examples; a non-negative integer for a random choice without replacement. Both parts
            keep the order of the examples.
        labels: Integer array `(total,)`, to hold out of each class the number that `held_out_by_class` gives (the last
            examples of the class, or a random choice); `None` to choose without regard to classes.

    Returns:
        Two slices, or two rising integer arrays.

    Raises:
        ValueError: `seed` is neither `None` nor a non-negative integer, or as for `held_out_by_class`.
    """
    if seed is not None:
        check_integer("validation_seed", seed, 0)
    if not held or (seed is None and labels is None):
        # Slices, because integer arrays would copy the images.
        return slice(0, total - held), slice(total - held, total)
    # The second number tells these draws from those of an epoch, whose seeds have an epoch there.
    order = np.arange(total)[::-1] if seed is None else np.random.default_rng([seed, 2**31]).permutation(total)
    if labels is None:
        chosen = order[:held]
    else:
        counts = held_out_by_class(np.bincount(labels), held)
        of_class = np.asarray(labels)[order]
        chosen = np.concatenate([order[of_class == one][:count] for one, count in enumerate(counts)])
    kept = np.ones(total, bool)
    kept[chosen] = False
    return np.flatnonzero(kept), np.flatnonzero(~kept)


def held_out_by_class(counts, held):
    """How many examples of each class to hold out, so that the classes have the same shares in both parts.

    Each class gives its exact share, rounded down. The examples that are then missing come one each from the classes
    whose shares were cut most; of equal ones, from the first. No class gives its only example.

    Args:
        counts: Integer array, the number of training examples of each class.
        held: Number of examples to hold out, below the sum of `counts`.

    Returns:
        Integer array of the same length, whose sum is `held`.

    Raises:
        ValueError: So many can't be held out without taking all examples of a class.

    Example:
        >>> held_out_by_class(np.array([50, 30, 20]), 10).tolist()
        [5, 3, 2]
        >>> held_out_by_class(np.array([5, 5, 5]), 4).tolist()
        [2, 1, 1]
    """
    total = int(counts.sum())
    share, cut = np.divmod(counts.astype(np.int64) * held, total)
    missing = held - int(share.sum())
    able = np.flatnonzero(share + 1 < counts)
    if missing > len(able):
        raise ValueError(
            "`validation_stratified` must leave an example of each class to train on. Received: "
            f"{held} of {total} examples to hold out, where the smallest class has {counts[counts > 0].min()}"
        )
    share[able[np.argsort(-cut[able], kind="stable")][:missing]] += 1
    return share
