"""Channels, heads and units as algorithms see them: all that are tied to the same layers are one weight, a vector.

`TiedWeight` has what an algorithm asks of a weight (path, shape, technique), and one entry for each channel. Its value
is the importance of the channels, so that scores of weights rank channels as they are. What is decided about the vector
is spread over the parts again: columns of kernels, biases, gammas, betas.
"""

import numpy as np

from sparsity_tf import masks
from sparsity_tf.backend import as_array, tensor_of
from sparsity_tf.callbacks.base.weight_view import read_mask, value_tensor
from sparsity_tf.checks import check_choice
from sparsity_tf.deploy.channel_families import channel_families
from sparsity_tf.layers import SparseWeight
from sparsity_tf.masks import structures
from sparsity_tf.matching import match_masked_weights
from sparsity_tf.sparsify import sparsify

# How the importance of a channel follows from the weights that make it.
IMPORTANCES = ("l1", "l2", "taylor")


class Part:
    """The part of one weight that belongs to a family of channels.

    Args:
        weight: `SparseWeight`.
        axis: axis of the weight.
        indices: int array `(channels, indices of each)` along the axis.
    """

    def __init__(self, weight, axis, indices):
        self.weight, self.axis, self.indices = weight, axis, indices

    @property
    def key(self):
        """What tells the variable from others."""
        return id(self.weight.layer), self.weight.name

    def rows(self, array):
        """The entries of each channel: `(channels, entries)`."""
        found = np.moveaxis(array, self.axis, 0)[self.indices.reshape(-1)]
        return found.reshape(len(self.indices), -1)

    def zero(self, mask, dead):
        """Sets the entries of the channels `dead` in a mask to False."""
        np.moveaxis(mask, self.axis, 0)[self.indices[dead].reshape(-1)] = False


class TiedWeight:
    """A family of channels as one weight: a vector with an entry for each.

    Args:
        family: `ChannelFamily` whose layers are masked.
        parts: list of `Part`, of its members.
        path: string, the weight's name among the others.
    """

    filter_axes = (0,)

    def __init__(self, family, parts, path):
        self.family, self.parts, self.path = family, parts, path
        self.name = path.rpartition("/")[2]
        self.shape, self.size = (family.size,), family.size

    @property
    def layer(self):
        """The first of the layers: what an algorithm remembers is saved with it."""
        return self.parts[0].weight.layer

    @property
    def technique(self):
        """Of the same layer."""
        return self.layer.technique

    def mask(self):
        """Bool array: which channels have a live entry."""
        return np.any([part.rows(read_mask(part.weight)).any(axis=1) for part in self.parts], axis=0)

    def norms(self, arrays, importance="l1"):
        """The importance of each channel by the size of what makes it.

        Args:
            arrays: list of arrays, one for each part, of the shapes of the weights.
            importance: "l1" for the mean of magnitudes, "l2" for the root of the mean of squares.

        Returns:
            Float32 array.
        """
        power = 2 if importance == "l2" else 1
        total, count = np.zeros(self.size), 0
        for part, array in zip(self.parts, arrays, strict=True):
            rows = np.abs(part.rows(array).astype("float64"))
            total, count = total + (rows**power).sum(axis=1), count + rows.shape[1]
        return ((total / count) ** (1 / power)).astype("float32")

    def sums(self, arrays):
        """The sum of all entries of each channel, of arrays as in `norms`."""
        return sum(
            part.rows(array.astype("float64")).sum(axis=1) for part, array in zip(self.parts, arrays, strict=True)
        )

    def values(self):
        """The values of the parts, a list of arrays."""
        return [np.asarray(as_array(value_tensor(part.weight)), "float32") for part in self.parts]

    def clear_means(self, dead):
        """Sets the moving means of channels to 0 where no gamma would: a channel of zeros has no mean."""
        for part in self.family.followers:
            if part.name == "moving_mean" and getattr(part.layer, "gamma", None) is None:
                variable = part.layer.moving_mean
                value = np.array(as_array(tensor_of(variable)))
                value[part.indices[dead].reshape(-1)] = 0
                variable.assign(value)

    def __repr__(self):
        return f"<TiedWeight {self.path} {self.technique.structure}s={self.size} in {len(self.parts)} weights>"


def find(model, weights):
    """Puts masked weights whose structure ties layers together.

    Args:
        model: Keras model.
        weights: List of masked `SparseWeight`, the kernels that an algorithm works on.

    Returns:
        List of `TiedWeight`. A family is left out if one of its kernels is not among `weights`, or is frozen.

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
    """The `Part` of a member of a family, or `None` if it can't be pruned."""
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
    """The channels, heads or units of a model, for pruning without an algorithm. A plain model is made masked first.

    Args:
        model: Built Keras model.
        structure: "channel", "head" or "unit".
        where: As in `sparsify`.

    Returns:
        List of `TiedWeight`, at least one.

    Raises:
        ValueError: as `sparsify`; or the masked layers have another structure.
    """
    check_choice("structure", structure, structures.TIED)
    if not match_masked_weights(model):
        sparsify(model, "masked", where=where, structure=structure)
        where = None
    weights = [w for w in match_masked_weights(model, where) if w.technique.structure == structure]
    found = find(model, weights)
    if not found:
        raise ValueError(
            f"There is no {structure} to prune: `where` selects none, or the masked layers have another structure. "
            f"Received: where={where!r}"
        )
    return found


def choose(weights, scores, targets, scope="layer"):
    """Which channels live: those with the highest scores among the ones that are alive.

    Args:
        weights: List of `TiedWeight`.
        scores: List of vectors, a number for each channel.
        targets: Dict: path of a weight -> the sparsity that it shall have. With scope "global" all are equal.
        scope: "layer", or "global": the scores of all channels are compared.

    Returns:
        List of bool vectors. Of n channels max(1, floor((1 - s) n)) live, as many as lived before at most.
    """
    alive = [weight.mask() for weight in weights]
    if scope == "global":
        return highest_overall(scores, targets[weights[0].path], alive)
    kinds = [structures.get(weight.technique.structure) for weight in weights]
    rows = zip(weights, kinds, scores, alive, strict=True)
    return [kind.keep_highest(vector, targets[weight.path], mask) for weight, kind, vector, mask in rows]


def highest_overall(scores, sparsity, alive):
    """Marks the channels with the highest scores of all layers together, and the best of each layer.

    Args:
        scores: List of vectors.
        sparsity: Fraction of all channels that go.
        alive: List of bool vectors, the candidates.

    Returns:
        List of bool vectors: in all max(number of vectors, floor((1 - sparsity) n)) channels, if as many are alive.
    """
    count = max(masks.number_to_keep(sparsity, sum(mask.size for mask in alive)), len(alive))
    count = min(count, sum(int(np.count_nonzero(mask)) for mask in alive))
    spared = []
    for score, mask in zip(scores, alive, strict=True):
        score = np.array(score, "float64")
        # No layer can do with none.
        score[np.argmax(np.where(mask, score, -np.inf))] = np.inf
        spared.append(score)
    return masks.highest_overall(spared, count, alive)


def parts_of(weights):
    """The `SparseWeight`s behind the weights of an algorithm, each once, a list."""
    found = {}
    for weight in weights:
        for one in [part.weight for part in weight.parts] if isinstance(weight, TiedWeight) else [weight]:
            found.setdefault((id(one.layer), one.name), one)
    return list(found.values())


def spread(weights, chosen, kept, cleared):
    """From decisions about the weights of an algorithm to those about the `SparseWeight`s behind them.

    Args:
        weights: List of weights, `TiedWeight`s among them.
        chosen, kept: Lists of bool arrays, one for each weight.
        cleared: List of bool arrays, or `None`.

    Returns:
        `(weights, chosen, kept, cleared)`, of `SparseWeight`s.
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
