"""Which algorithm may change the masks of a layer: one at a time, because two would undo each other's counts."""

import weakref

# Layer -> the algorithm that works on it. Neither is kept alive by its entry.
_OWNERS = weakref.WeakKeyDictionary()


def claim(algorithm, weights):
    """Gives an algorithm the masks of weights, until `release`.

    Pruning before training (`SNIP`, `GraSP`) acts once, before the first step, and may be followed by an algorithm
    that goes on with its masks. The order matters: what comes second finds the masks of the first.

    Args:
        algorithm: `MaskAlgorithm`.
        weights: List of `SparseWeight`s.

    Raises:
        ValueError: Another algorithm works on one of the weights. Nothing is claimed then.
    """
    for weight in weights:
        owner = _OWNERS.get(weight.layer, lambda: None)()
        if owner in (None, algorithm) or (owner.acts_once and not algorithm.acts_once):
            continue
        if owner.model is algorithm.model and owner._optimizer is not algorithm._optimizer:
            # Left behind by a loop without `finish`, after which the model was compiled anew.
            owner.detach()
            continue
        raise ValueError(
            f"{type(algorithm).__name__} can't work on {weight.path!r}, whose masks {type(owner).__name__} changes: "
            f"neither count would hold. Give both a `where` that selects different layers, use one of them, or call "
            f"`finish()` of the first before the second begins (or compile the model anew, which ends the first). "
            f"(SNIP and GraSP may be followed by one other algorithm, which must come after them.)"
        )
    for weight in weights:
        _OWNERS[weight.layer] = weakref.ref(algorithm)


def release(algorithm, weights):
    """Undoes `claim`."""
    for weight in weights:
        if _OWNERS.get(weight.layer, lambda: None)() is algorithm:
            del _OWNERS[weight.layer]
