"""Starts a network with the weights of a saved network: for lottery tickets, to go on, and for transfer learning."""

import os
import warnings

from sparsity_tf.checkpoints import networks, open_checkpoint
from sparsity_tf.layers import get_sparse_weights
from sparsity_tf.train import run_folder


def load_weights(model, path):
    """Sets the variables of a model to the variables of the same names in a saved model.

    If a weight has the same technique in both models, or is plain in the saved model, its variable is copied as it is.
    If the techniques differ, the weight gets the value that the saved network uses at inference, exact zeros included
    (the thresholded weights of STR, the gated weights of L0). A variable that only one of the models has is left alone,
    such as a technique's own variable if the other model is dense.

    If the saved network has another number of classes, the layers of that width keep their initial values, and a
    warning names them: the classifier, and what follows it.

    Args:
        model: Built Keras model.
        path: Path of a network with the same layers, but for the number of classes: a `.keras` file, e.g. a run's
            `initial.keras`, or a TensorFlow checkpoint of *State of Sparsity* (its prefix or folder, or the published
            `.tar`), or a PyTorch checkpoint of STR (`.pth`).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged or of another kind, lacks a kernel or bias, or has one of another shape. The
            model is then not changed at all.
    """
    source = _open(path)
    found = {variable.path: variable for variable in source.weights}
    sparse, of_model = _by_variable(source), _by_variable(model)
    head = _head(model, source, found)
    chosen = []
    for variable in model.weights:
        saved = found.get(variable.path)
        if _layer_of(variable) in head:
            continue
        if saved is None:
            if variable.name in ("kernel", "bias", "bank", "embeddings"):
                raise ValueError(
                    f"`load_weights` must be a file with all weights of the model: it has no {variable.path!r}. "
                    f"Received: load_weights={path}"
                )
        elif tuple(saved.shape) != tuple(variable.shape):
            raise ValueError(
                f"`load_weights` must be a file with weights of the model's shapes: its {variable.path!r} has the "
                f"shape {tuple(saved.shape)}, in the model it has {tuple(variable.shape)}. Received: "
                f"load_weights={path}"
            )
        else:
            weight = sparse.get(variable.path)
            _check_pattern(of_model.get(variable.path), weight, path)
            same = weight is None or _technique(weight) == _technique(of_model.get(variable.path))
            chosen.append((variable, saved if same else weight.value()))
    for variable, value in chosen:
        variable.assign(value)
        weight, saved = of_model.get(variable.path), sparse.get(variable.path)
        if _technique(weight) == _technique(saved) == "hashed":
            # A bank belongs to the pattern of its seed.
            weight.technique.set_seed(weight, saved.technique.seed)
    if head:
        counts = [one.output_shape[-1] for one in (source, model)]
        warnings.warn(
            f"{path} is a network of {counts[0]} classes and the model has {counts[1]}: {', '.join(head)} keep their "
            "initial values, all other weights are loaded",
            stacklevel=2,
        )


def _check_pattern(weight, saved, path):
    """Raises a ValueError if both weights are hashed and differ in what else than the seed decides the pattern."""
    if not _technique(weight) == _technique(saved) == "hashed":
        return
    of_file, of_model = (
        {name: getattr(one.technique, name) for name in ("assignment", "signs")} for one in (saved, weight)
    )
    if of_file != of_model:
        raise ValueError(
            "`load_weights` must be a file whose hashed layers have the options of the model's, because the numbers of "
            f"a bank belong to their positions: {weight.path!r} has {of_file} in the file and {of_model} in the model. "
            f"Received: load_weights={path}"
        )


def _head(model, source, found):
    """The paths of the layers that must differ because the numbers of classes differ, a list."""
    shapes = [getattr(one, "output_shape", None) for one in (source, model)]
    if not all(isinstance(shape, tuple) for shape in shapes):
        return []
    before, now = (shape[-1] for shape in shapes)
    layers = []
    for variable in model.weights if before != now else ():
        shape, saved = tuple(variable.shape), found.get(variable.path)
        # The width is the last axis of kernels, biases and normalisations. An embedding that the output shares has the
        # classes in its first axis: without its rows the rest of the network would be of no use.
        if saved is not None and shape[-1:] == (now,) and tuple(saved.shape) == (*shape[:-1], before):
            layers.append(_layer_of(variable))
    return list(dict.fromkeys(layers))


def _layer_of(variable):
    return variable.path.rpartition("/")[0]


def _open(path):
    """Loads the network in a file, a Keras model."""
    if not (os.path.exists(path) or os.path.isfile(f"{path}.index")):
        raise FileNotFoundError(f"`load_weights` does not exist. Received: load_weights={path}")
    if os.path.isfile(path) and str(path).endswith(".keras"):
        return run_folder.load(path, compile=False)
    try:
        with open_checkpoint(path) as checkpoint:
            return networks.build_network(checkpoint)
    except ValueError as error:
        raise ValueError(
            f"`load_weights` must be a .keras file or a TensorFlow checkpoint of State of Sparsity or a "
            f"PyTorch checkpoint of STR: {error}. "
            f"Received: load_weights={path}"
        ) from error


def _by_variable(model):
    """A model's sparse weights by the path of the variable behind them."""
    return {weight.variable.path: weight for weight in get_sparse_weights(model)}


def _technique(weight):
    return None if weight is None else weight.technique.name
