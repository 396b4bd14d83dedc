"""Channels, heads and units as algorithms see them. All channels that are tied to the same layers form one weight.

This weight is a `TiedWeight`: a vector with one entry for each channel, and with the attributes that an algorithm needs
(path, shape, technique). The value of an entry is the importance of the channel, so the scores for single weights also
rank channels. A decision about an entry is then spread over the parts of the channel: columns of kernels, biases,
gammas, betas. (Here "channel" also stands for a head or a unit.)
"""

import numpy as np

from sparsity_tf import masks
from sparsity_tf.backend import as_array, tensor_of
from sparsity_tf.callbacks.base.weight_view import WeightView, read_mask, value_tensor
from sparsity_tf.checks import check_choice
from sparsity_tf.deploy.channel_families import channel_families
from sparsity_tf.layers import SparseWeight
from sparsity_tf.masks import structures
from sparsity_tf.sparsify import mask_selected

# The ways in which the importance of a channel follows from the weights that make it.
IMPORTANCES = ("l1", "l2", "taylor")


class Part:
    """The part of one weight that belongs to a family of channels.

    Args:
        weight: `SparseWeight`.
        axis: integer, the axis of the weight that holds the channels.
        indices: int array of shape `(channels, indices of each channel)`: positions along the axis.
    """

    def __init__(self, weight, axis, indices):
        self.weight, self.axis, self.indices = weight, axis, indices

    @property
    def key(self):
        """The key that identifies the variable: its layer and its name."""
        return id(self.weight.layer), self.weight.name

    def rows(self, array):
        """The entries of each channel: an array of shape `(channels, entries)`."""
        found = np.moveaxis(array, self.axis, 0)[self.indices.reshape(-1)]
        return found.reshape(len(self.indices), -1)

    def zero(self, mask, dead):
        """Sets all entries of the channels `dead` to False in a mask."""
        np.moveaxis(mask, self.axis, 0)[self.indices[dead].reshape(-1)] = False


class TiedWeight:
    """A family of channels as one weight: a vector with an entry for each channel.

    Args:
        family: `ChannelFamily` whose layers are masked.
        parts: list of the `Part`s of the family's members.
        path: string, the path that identifies this weight.
    """

    filter_axes = (0,)

    def __init__(self, family, parts, path):
        self.family, self.parts, self.path = family, parts, path
        self.name = path.rpartition("/")[2]
        self.shape, self.size = (family.size,), family.size

    @property
    def layer(self):
        """The first of the layers. The numbers that an algorithm remembers are saved with this layer."""
        return self.parts[0].weight.layer

    @property
    def technique(self):
        """The technique of the first layer."""
        return self.layer.technique

    def mask(self):
        """Marks the channels that have a live entry: a bool array."""
        return np.any([part.rows(read_mask(part.weight)).any(axis=1) for part in self.parts], axis=0)

    def norms(self, arrays, importance="l1"):
        """The importance of each channel, measured by the size of its entries in all parts.

        Args:
            arrays: list of arrays, one for each part, in the shapes of the weights.
            importance: "l1" for the mean of magnitudes, "l2" for the root of the mean of squares, "scale" for the mean
                of the magnitudes of gammas alone.

        Returns:
            Float32 array.
        """
        power = 2 if importance == "l2" else 1
        total, count = np.zeros(self.size), 0
        for part, array in zip(self.parts, arrays, strict=True):
            if importance == "scale" and part.weight.name != "gamma":
                continue
            rows = np.abs(part.rows(array).astype("float64"))
            total, count = total + (rows**power).sum(axis=1), count + rows.shape[1]
        return ((total / count) ** (1 / power)).astype("float32")

    def sums(self, arrays):
        """The sum of all entries of each channel. `arrays` is a list as in `norms`."""
        return sum(
            part.rows(array.astype("float64")).sum(axis=1) for part, array in zip(self.parts, arrays, strict=True)
        )

    def values(self):
        """The list of the values of the parts, as arrays."""
        return [np.asarray(as_array(value_tensor(part.weight)), "float32") for part in self.parts]

    def view(self, importance, gradient=None, **common):
        """The `WeightView` of the channels at one update.

        Args:
            importance: As in `norms`; "taylor" measures by `saliency`.
            gradient: Function that maps a `keras.Variable` to its gradient, a tensor; `None` for no gradients.
            **common: Arguments of `WeightView` that are the same for all weights.
        """

        def saliency():
            gradients = [as_array(gradient(part.weight.variable)) for part in self.parts]
            return self.sums([value * g for value, g in zip(self.values(), gradients, strict=True)])

        return WeightView(
            path=self.path,
            value=lambda: self.norms(self.values(), importance),
            mask=self.mask(),
            filter_axes=self.filter_axes,
            _slots={} if gradient is None else {"saliency": saliency},
            _weight=self,
            **common,
        )

    def clear_means(self, dead):
        """Sets the moving means of dead channels to 0 in layers without gamma: a channel of zeros has the mean 0."""
        for part in self.family.followers:
            if part.name == "moving_mean" and getattr(part.layer, "gamma", None) is None:
                variable = part.layer.moving_mean
                value = np.array(as_array(tensor_of(variable)))
                value[part.indices[dead].reshape(-1)] = 0
                variable.assign(value)

    def __repr__(self):
        return f"<TiedWeight {self.path} {self.technique.structure}s={self.size} in {len(self.parts)} weights>"


def find(model, weights):
    """Combines masked weights, whose structure ties layers, into tied weights.

    Args:
        model: Keras model.
        weights: List of masked `SparseWeight`s: the kernels that an algorithm works on.

    Returns:
        List of `TiedWeight`s. A family is left out if one of its kernels is not among `weights`, or is frozen.

    Raises:
        ValueError: the model is neither functional nor sequential.
    """
    known = {(id(weight.layer), weight.name) for weight in weights}
    found, paths = [], set()
    for structure in [spec for spec in structures.TIED if any(w.technique.structure == spec for w in weights)]:
        for family in channel_families(model, structure):
            parts = [_part(part, structure, known) for part in family.members]
            if all(parts):
                first = next(part.weight for part in parts if part.weight.name in part.weight.layer.sparse_weight_names)
                path = f"{first.layer.path}/{structure}"
                while path in paths:
                    path += "_"
                paths.add(path)
                found.append(TiedWeight(family, parts, path))
    return found


def _part(part, structure, known):
    """The `Part` for a member of a family, or `None` if the member can't be pruned."""
    layer, name = part.owner, part.name
    technique = getattr(layer, "technique", None)
    if technique is None or technique.name != "masked" or technique.structure != structure:
        return None
    bound = name in layer.bound_weight_names
    if not bound and (id(layer), name) not in known:
        return None
    weight = SparseWeight(layer, name)
    return Part(weight, part.axis, part.indices) if weight.variable.trainable else None


def of_model(model, structure="channel", where=None):
    """The channels, heads or units of a model, for pruning without an algorithm. Plain layers are made masked first.

    Args:
        model: Built Keras model.
        structure: "channel", "head" or "unit".
        where: The argument of `sparsify`.

    Returns:
        Non-empty list of `TiedWeight`s.

    Raises:
        ValueError: as `sparsify`; or no channel, head or unit can be pruned, for example because the masked layers have
            another structure.
    """
    check_choice("structure", structure, structures.TIED)
    weights = [w for w in mask_selected(model, where, structure) if w.technique.structure == structure]
    found = find(model, weights)
    if not found:
        frozen = [weight.layer.path for weight in weights if not weight.variable.trainable]
        if frozen:
            raise ValueError(
                f"There is no {structure} to prune: the weights of these layers are frozen, as `enable_lora` or "
                f"`trainable = False` leaves them: {', '.join(frozen[:6])}{', ...' if len(frozen) > 6 else ''}. Prune "
                "before you freeze."
            )
        raise ValueError(
            f"There is no {structure} to prune: `where` selects none, or the masked layers have another structure. "
            f"Received: where={where!r}"
        )
    return found


def choose(weights, scores, targets, scope="layer"):
    """Marks the channels that shall live: the channels with the highest scores among the live channels.

    Args:
        weights: List of `TiedWeight`s.
        scores: List of vectors with a number for each channel.
        targets: Dict: path of a weight -> its target sparsity. With scope "global" all targets are equal.
        scope: "layer", or "global": the scores of all channels are compared.

    Returns:
        List of bool vectors. Of n channels max(1, floor((1 - s) n)) live, but never more than lived before.
    """
    alive = [weight.mask() for weight in weights]
    if scope == "global":
        return highest_overall(scores, targets[weights[0].path], alive)
    kinds = [structures.get(weight.technique.structure) for weight in weights]
    rows = zip(weights, kinds, scores, alive, strict=True)
    return [kind.keep_highest(vector, targets[weight.path], mask) for weight, kind, vector, mask in rows]


def highest_overall(scores, sparsity, alive):
    """Marks the channels with the highest scores of all layers together, and at least the best channel of each layer.

    Args:
        scores: List of vectors.
        sparsity: Fraction of all channels to prune.
        alive: List of bool vectors: the candidates.

    Returns:
        List of bool vectors. In total they mark max(number of vectors, floor((1 - sparsity) n)) channels, or all live
        channels if these are fewer.
    """
    count = max(masks.number_to_keep(sparsity, sum(mask.size for mask in alive)), len(alive))
    count = min(count, sum(int(np.count_nonzero(mask)) for mask in alive))
    spared = []
    for score, mask in zip(scores, alive, strict=True):
        score = np.array(score, "float64")
        # Every layer keeps at least its best channel.
        score[np.argmax(np.where(mask, score, -np.inf))] = np.inf
        spared.append(score)
    return masks.highest_overall(spared, count, alive)


def parts_of(weights):
    """The list of the `SparseWeight`s behind the weights of an algorithm, each once."""
    found = {}
    for weight in weights:
        for one in [part.weight for part in weight.parts] if isinstance(weight, TiedWeight) else [weight]:
            found.setdefault((id(one.layer), one.name), one)
    return list(found.values())


def spread(weights, chosen, kept, cleared):
    """Turns decisions about the weights of an algorithm into decisions about the `SparseWeight`s behind them.

    Args:
        weights: List of weights, which may contain `TiedWeight`s.
        chosen, kept: Lists of bool arrays, one for each weight.
        cleared: List of bool arrays, or `None`.

    Returns:
        `(weights, chosen, kept, cleared)` for the `SparseWeight`s.
    """
    if not any(isinstance(weight, TiedWeight) for weight in weights):
        return weights, chosen, kept, cleared
    parts = parts_of(weights)
    now = {(id(part.layer), part.name): np.array(read_mask(part)) for part in parts}
    forgotten = {key: np.zeros(mask.shape, bool) for key, mask in now.items()}
    for index, weight in enumerate(weights):
        for part in weight.parts:
            part.zero(now[part.key], ~chosen[index])
            if cleared is not None:
                entries = np.ones(part.weight.shape, bool)
                part.zero(entries, cleared[index])
                forgotten[part.key] |= ~entries
        weight.clear_means(~chosen[index])
    chosen = list(now.values())
    return parts, chosen, chosen, None if cleared is None else list(forgotten.values())
