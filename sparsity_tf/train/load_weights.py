"""Starts a network with the weights of a saved one: lottery tickets, and training on from a dense network."""

import os

from sparsity_tf.train import state


def load_weights(model, path):
    """Sets the variables of a model to those of the same names in a saved model.

    Variables that only one of the two has stay as they are: those of a technique, where the other is dense.

    Args:
        model: Built Keras model.
        path: Path of a `.keras` file whose network has the same layers, e.g. a run's `initial.keras`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no sound `.keras` file, lacks a kernel or bias, or a shape differs. Nothing is changed then.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"`load_weights` does not exist. Received: load_weights={path}")
    source = state.load(path, compile=False)
    found = {variable.path: variable for variable in source.weights}
    chosen = []
    for variable in model.weights:
        saved = found.get(variable.path)
        if saved is None:
            if variable.name in ("kernel", "bias", "embeddings"):
                raise ValueError(f"`load_weights` has no {variable.path!r}. Received: load_weights={path}")
        elif tuple(saved.shape) != tuple(variable.shape):
            raise ValueError(
                f"`load_weights` has {variable.path!r} of shape {tuple(saved.shape)}, the model of shape "
                f"{tuple(variable.shape)}. Received: load_weights={path}"
            )
        else:
            chosen.append((variable, saved))
    for variable, saved in chosen:
        variable.assign(saved)
