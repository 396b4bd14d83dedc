"""Copies masks from a model or a file into another model, for scratch experiments and lottery tickets."""

import os
import re
import tempfile

import keras
import numpy as np
from keras import ops

from sparsity_tf.checkpoints import open_checkpoint, state_of_sparsity, str_checkpoints
from sparsity_tf.checkpoints.checkpoint import natural_order
from sparsity_tf.checkpoints.keras_files import HDF5Checkpoint
from sparsity_tf.layers import get_masked_parts
from sparsity_tf.type_names import PathLike

# The name under which layers save their number while `_own_places` looks up the places of their masks.
_NUMBER = "number_for_load_masks"


def load_masks(model: keras.layers.Layer, source: keras.layers.Layer | PathLike) -> keras.layers.Layer:
    """Sets the masks of a model's masked layers to the masks of another model or of a checkpoint.

    Weights outside the new masks become exactly zero. Weights inside stay as they are. (For a lottery ticket, load the
    initial weights first. For a scratch experiment, draw new weights: `sparsity_tf.initializers.reinitialize`.)

    Masks are matched by the paths of the weights, if all paths are found. (For the networks of *State of Sparsity* and
    of STR these are the paths in `models.Transformer`, `models.resnet` and `models.mobilenet_v1`.) Otherwise masks in a
    Keras file are matched by their places in the model, as in `model.load_weights`. Otherwise they are matched by
    order, if their number and shapes agree. (A Keras file has another order than the model. So its order is used only
    if all masks belong to layers of one kind in one container.)

    Args:
        model: Built Keras model with masked layers (`sparsify(model, "masked")`).
        source: A Keras model with sparse layers of any technique, whose masks are the entries alive at inference; or
            the path of a checkpoint that holds masks: `.keras`, `.weights.h5`, a SavedModel or a TensorFlow checkpoint,
            also a checkpoint of *State of Sparsity*; or a PyTorch checkpoint of STR (`.pth`), whose masks are the
            weights that are not zero at inference.

    Returns:
        The model.

    Raises:
        ValueError: The model has no masked layers, the source has no masks, or the two do not fit. The model is then
            unchanged.

    Example:

    ```python
    pruned = sparsity_tf.prune(keras.models.clone_model(model), 0.9)
    ticket = sparsity_tf.sparsify(model, "masked")
    sparsity_tf.load_masks(ticket, pruned)
    ```
    """
    weights = [weight for weight in get_masked_parts(model) if weight.technique.name == "masked"]
    if not weights:
        raise ValueError(
            f"`model` must have masked layers; `sparsify(model, 'masked')` makes them. Received: model={model.name!r}"
        )
    if not isinstance(source, keras.layers.Layer | str | os.PathLike) or source == "":
        raise ValueError(f"`source` must be a Keras model or the path of a checkpoint. Received: source={source!r}")
    found, places = (_of_model(source), {}) if isinstance(source, keras.layers.Layer) else _of_checkpoint(source)
    if not found:
        raise ValueError(f"`source` holds no masks. Received: source={source!r}")
    chosen = _match(model, weights, found, places, source)
    for weight, mask in zip(weights, chosen, strict=True):
        weight.assign_mask(mask)
    return model


def _of_model(model):
    return {weight.path: ops.convert_to_numpy(weight.mask()) for weight in get_masked_parts(model)}


def _of_checkpoint(path):
    """The masks of a checkpoint, by the path of the mask. (In files of *State of Sparsity*, by the path of the weight.)

    Returns:
        Dict from path to mask, and a dict from path to the place in the file. The second is empty unless the file is a
        Keras file.
    """
    found, places = {}, {}
    with open_checkpoint(path) as checkpoint:
        if state_of_sparsity.network_kind(checkpoint):
            return _of_model(state_of_sparsity.build_model(checkpoint)), places
        if str_checkpoints.network_kind(checkpoint):
            found = _of_model(str_checkpoints.build_model(checkpoint, "masked"))
            # Files of the program's other techniques hold dense weights: their masks are nowhere in the file.
            return {} if all(mask.all() for mask in found.values()) else found, places
        # Sort by place in the file. The places tell the order of layers of one kind, while names need not.
        for name in sorted(checkpoint.names(), key=lambda name: natural_order(checkpoint.aliases(name)[0])):
            aliases = [alias for alias in checkpoint.aliases(name) if alias.endswith("mask")]
            if aliases:
                # The last alias is a path of layer names, if there is one, and not a path of positions. (Two nested
                # models may have the same path.)
                alias = aliases[-1] if aliases[-1] not in found else name
                found[alias] = checkpoint.tensor(name) != 0
                if isinstance(checkpoint, HDF5Checkpoint):
                    places[alias] = aliases[0]
    return found, places


def _match(model, weights, found, places, source):
    by_path = [_named(model, weight, found) for weight in weights]
    if None not in by_path and len(set(by_path)) == len(weights):
        chosen = [found[path] for path in by_path]
    elif places and (by_place := _by_place(model, weights, found, places)):
        chosen = by_place
    elif len(found) == len(weights) and len({_kind(place) for place in places.values()}) <= 1:
        chosen = list(found.values())
    else:
        raise ValueError(
            "`source` must hold masks for the model's masked weights, with the same names or in the same number. "
            f"Received: source={source!r} with {len(found)} masks ({', '.join(list(found)[:6])}, ...) for "
            f"{len(weights)} weights ({', '.join(weight.path for weight in weights[:6])}, ...)"
        )
    for weight, mask in zip(weights, chosen, strict=True):
        if tuple(np.shape(mask)) != weight.shape:
            raise ValueError(
                f"`source` has a mask of shape {tuple(np.shape(mask))} for {weight.path!r} of shape {weight.shape}. "
                f"Received: source={source!r}"
            )
    return chosen


def _by_place(model, weights, found, places):
    """The masks at the places where a file of the model itself would have them; `None` unless all are there."""
    own = _own_places(model, weights)
    at = {place: found[path] for path, place in places.items()}
    return [at[place] for place in own] if all(place in at for place in own) else None


def _own_places(model, weights):
    """The places of the masks of a model's weights in a file that Keras writes of the model, a list of paths."""
    for index, weight in enumerate(weights):
        # Layers also write the states of their technique into the file.
        weight.technique.states[_NUMBER] = np.array([index])
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.weights.h5")
            model.save_weights(path)
            with open_checkpoint(path) as checkpoint:
                names = [
                    name for name in checkpoint.names() if checkpoint.aliases(name)[0].endswith(_NUMBER + "_state")
                ]
                layers = {int(checkpoint.tensor(n)[0]): checkpoint.aliases(n)[0].rpartition("/")[0] for n in names}
    finally:
        for weight in weights:
            weight.technique.states.pop(_NUMBER, None)
    by_layer = {id(weights[index].layer): place for index, place in layers.items()}
    return [f"{by_layer[id(weight.layer)]}/{weight.extra_variable('mask').name}" for weight in weights]


def _kind(place):
    """The container and the class of the layer of a place in a Keras file, such as `layers/dense_1/vars/mask`."""
    layer, _, rest = place.rpartition("/vars/")
    return re.sub(r"_\d+$", "", layer), rest


def _named(model, weight, found):
    """The path in `found` that belongs to the weight, or `None`. The name of the model itself does not matter."""
    own = (weight.path, weight.extra_variable("mask").path)
    exact = next((path for path in found if path in own), None)
    if exact is not None:
        return exact
    within = [path.removeprefix(f"{model.name}/") for path in own]
    same = [path for path in found if path in within or path.partition("/")[2] in within]
    return same[0] if len(same) == 1 else None
