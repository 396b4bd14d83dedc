"""The variables of a sparse layer in Keras's files: stored under their names, and read with errors that say what to do.

Keras reads a sublayer of a subclassed model at two places of the file, and keeps the result of the second reading. One
of the places is always empty. So an empty place must be refused, also if the layer has no variables: Keras would forget
the error of the first reading, and load nothing without a word. A layer that is saved before it is built therefore says
so in the file.
"""

import numpy as np

# The entry of a layer that was saved before it was built, for example because the model never calls the layer.
_NOT_BUILT = "not_built"


def save(layer, variables, store):
    """Stores the variables of a layer under their names, so that a file can be inspected without the classes in it."""
    for variable in variables:
        store[variable.name] = variable
    if not layer.built:
        store[_NOT_BUILT] = np.array(True)


def load(layer, variables, store):
    """Assigns the variables that `save` stored.

    Raises:
        ValueError: The file holds other variables, or the layer was built there and is not built here.
    """
    expected, found = {variable.name for variable in variables}, set(store.keys())
    if not found or found != expected | ({_NOT_BUILT} if not layer.built else set()):
        raise ValueError(_refusal(layer, expected, found))
    for variable in variables:
        variable.assign(store[variable.name])


def _refusal(layer, expected, found):
    name = f"{layer.name!r} ({type(layer).__name__})"
    if not layer.built:
        return (
            f"Layer {name} is not built, so no variables can be loaded into it. Call the model on a batch before "
            "`load_weights`, or give the model a `build` that builds its layers: Keras's own `build` marks a "
            "subclassed model as built, and leaves its layers as they are."
        )
    if not found:
        return (
            f"The file has no variables for layer {name}. It was saved from a model with other techniques (give "
            "`sparsify` the same technique), from the dense model (load its weights before `sparsify`), or from a "
            "model that had never called this layer."
        )
    return (
        f"Layer {name} expected the variables {sorted(expected)} in the file. Received: {sorted(found)}. Was the file "
        "saved from a model with the same techniques?"
    )
