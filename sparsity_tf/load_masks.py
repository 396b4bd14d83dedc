"""Takes the masks of one model, or of a file, into another: scratch experiments and lottery tickets."""

import os
import re
import tempfile

import keras
import numpy as np
from keras import ops

from sparsity_tf.checkpoints import open_checkpoint, state_of_sparsity
from sparsity_tf.checkpoints.checkpoint import natural_order
from sparsity_tf.checkpoints.keras_files import HDF5Checkpoint
from sparsity_tf.layers import get_masked_parts
from sparsity_tf.type_names import PathLike

# Under which layers write their number while the places of their masks are asked for.
_NUMBER = "number_for_load_masks"


def load_masks(model: keras.layers.Layer, source: keras.layers.Layer | PathLike) -> keras.layers.Layer:
    """Sets the masks of a model's masked layers to those of another model or of a checkpoint.

    Weights outside the new masks become exactly zero; those inside stay as they are. (For a lottery ticket load the
    initial weights first, for a scratch experiment draw new ones: `sparsity_tf.initializers.reinitialize`.)

    Args:
        model: Built Keras model with masked layers (`sparsify(model, "masked")`).
        source: A Keras model with sparse layers of any technique, of which the entries alive at inference are taken;
            or the path of a checkpoint that holds masks: `.keras`, `.weights.h5`, a SavedModel or a TensorFlow
            checkpoint, those of *State of Sparsity* included. Masks are matched by the weights' paths where all of
            them are found (of the Transformers and ResNets of *State of Sparsity* those of `models.Transformer` and
            `models.resnet`); else, in a Keras file, by their places in the model (as `model.load_weights` does); else
            by their order, if number and shapes agree. (The order of a Keras file is not the model's, so that there it
            decides only among layers of one kind in one container.)

    Returns:
        The model.

    Raises:
        ValueError: The model has no masked layers, the source no masks, or the two do not fit. Nothing is changed then.

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
    """Masks by the path of the weight they belong to: the mask's own, with the name of the weight in its place.

    Returns:
        Dict from path to mask, and for Keras files one from path to the place in the file.
    """
    found, places = {}, {}
    with open_checkpoint(path) as checkpoint:
        if state_of_sparsity.network_kind(checkpoint):
            return _of_model(state_of_sparsity.build_model(checkpoint)), places
        # By place in the file, which tells the order of layers of one kind; names need not.
        for name in sorted(checkpoint.names(), key=lambda name: natural_order(checkpoint.aliases(name)[0])):
            aliases = [alias for alias in checkpoint.aliases(name) if alias.endswith("mask")]
            if aliases:
                # The last: a path made of layer names, where there is one, rather than of positions. (Nested models
                # may have it twice.)
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
            f"`source` holds {len(found)} masks ({', '.join(list(found)[:6])}, ...), which fit the model's "
            f"{len(weights)} masked weights ({', '.join(weight.path for weight in weights[:6])}, ...) neither by name "
            f"nor by number. Received: source={source!r}"
        )
    for weight, mask in zip(weights, chosen, strict=True):
        if tuple(np.shape(mask)) != weight.shape:
            raise ValueError(
                f"`source` has a mask of shape {tuple(np.shape(mask))} for {weight.path!r} of shape {weight.shape}. "
                f"Received: source={source!r}"
            )
    return chosen


def _by_place(model, weights, found, places):
    """The masks of the weights that stand where the model's own would stand in a file; `None` unless all are there."""
    own = _own_places(model, weights)
    at = {place: found[path] for path, place in places.items()}
    return [at[place] for place in own] if all(place in at for place in own) else None


def _own_places(model, weights):
    """Where the masks of a model's weights stand in a file that Keras writes of it, a list of paths."""
    for index, weight in enumerate(weights):
        # Layers write what their technique remembers, too.
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
    """Container and class of the layer that a place in a Keras file belongs to: `layers/dense_1/vars/mask`."""
    layer, _, rest = place.rpartition("/vars/")
    return re.sub(r"_\d+$", "", layer), rest


def _named(model, weight, found):
    """The path in `found` that is the weight's, or `None`; the name of the model itself does not matter."""
    own = (weight.path, weight.extra_variable("mask").path)
    exact = next((path for path in found if path in own), None)
    if exact is not None:
        return exact
    within = [path.removeprefix(f"{model.name}/") for path in own]
    same = [path for path in found if path in within or path.partition("/")[2] in within]
    return same[0] if len(same) == 1 else None
