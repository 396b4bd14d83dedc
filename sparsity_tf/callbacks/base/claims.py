"""Claims: only one algorithm at a time may change the masks of a layer. Two would undo each other's counts."""

import weakref

# Layer -> weak reference to the algorithm that changes its masks. The dict keeps neither of them alive.
_OWNERS = weakref.WeakKeyDictionary()


def claim(algorithm, weights):
    """Claims the masks of weights for an algorithm, until `release`.

    Pruning before training (`SNIP`, `GraSP`) acts once, before the first step. Another algorithm may follow and go on
    with these masks. The order matters: the second algorithm must find the masks of the first.

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
            # The claim is a leftover: a loop ended without `finish`, and the model was compiled anew.
            owner.detach()
            continue
        raise ValueError(
            f"{type(algorithm).__name__} can't work on {weight.path!r}, because {type(owner).__name__} already "
            "changes the masks of this weight: each would undo the other's work. Do one of these: select different "
            "layers with the `where` of each; use only one of them; or end the first with `finish()` before the "
            "second begins (compiling the model anew ends it, too). SNIP and GraSP may be followed by one other "
            "algorithm, which must come after them."
        )
    for weight in weights:
        _OWNERS[weight.layer] = weakref.ref(algorithm)


def release(algorithm, weights):
    """Undoes `claim`."""
    for weight in weights:
        if _OWNERS.get(weight.layer, lambda: None)() is algorithm:
            del _OWNERS[weight.layer]
