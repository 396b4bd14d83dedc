"""Structures say which entries of a weight live and die together.

A structure is written as a string, so that it prints, compares and saves with a layer's config:

* `None`: every entry by itself;
* `"2:4"`: N:M sparsity. Of each M consecutive entries along the input axis at least M - N are zero;
* `"4x1"`: blocks of this shape over the last axes of the kernel (input x output units);
* `"filter"`: whole output units: columns of a dense kernel, filters of a convolution.

Three structures tie layers. `sparsity_tf.shrink` can remove their pruned groups, so the model really gets smaller:

* `"channel"`: the same channel in all layers that the graph of the model ties (an addition ties its operands), with
  bias, gamma and beta: see `sparsity_tf.deploy.channel_groups`. A channel is a filter of a convolution, a unit of a
  dense layer, a column of an embedding or a unit of a recurrent layer;
* `"unit"`: only the units of recurrent layers. A unit is its rows and columns in all gates;
* `"head"`: a head of attention, in the projections of query, key, value and output.

A group's score is the mean of the scores of its entries. Blocks at an edge may be smaller. Sparsities count groups:
floor((1 - sparsity) * groups) of them live. Channels, heads or units that are tied to the same layers are counted
together, and at least one of them lives.
"""

import math
import re
from typing import Any

import numpy as np

from sparsity_tf.call_repr import CallRepr
from sparsity_tf.checks import check_array, check_choice, check_integer, check_integers
from sparsity_tf.masks import ranking
from sparsity_tf.user_warning import warn_user

# The structures that tie layers.
TIED = ("channel", "head", "unit")


def get(structure: Any) -> "Elements":
    """Turns a user's notation for a structure into a structure.

    Args:
        structure: `None`, "N:M" with 1 <= N < M, "AxB..." with positive sizes, "filter", "channel", "head", "unit", or
            a structure.

    Returns:
        An `Elements`, `NM`, `Blocks`, `Filters` or `TiedUnits`.

    Raises:
        ValueError: Anything else.

    Example:

    >>> get("2:4").keep_highest(np.arange(8.0).reshape(4, 2), 0.5).tolist()
    [[False, False], [False, False], [True, True], [True, True]]
    """
    if isinstance(structure, Elements):
        return structure
    if structure is None:
        return Elements()
    if isinstance(structure, str):
        if structure == "filter":
            return Filters()
        if structure in TIED:
            return TiedUnits(structure)
        found = re.fullmatch(r"(\d{1,9}):(\d{1,9})", structure)
        if found and 1 <= int(found[1]) < int(found[2]):
            return NM(int(found[1]), int(found[2]))
        if re.fullmatch(r"[1-9]\d{,8}(x[1-9]\d{,8})*", structure):
            return Blocks(tuple(int(size) for size in structure.split("x")))
    raise ValueError(
        "`structure` must be None, 'N:M' such as '2:4' with 1 <= N < M, the sizes of a block such as '4x1', 'filter', "
        f"'channel', 'head' or 'unit'. Received: structure={structure!r}"
    )


class Elements(CallRepr):
    """Every entry is a group of its own.

    Example:

    >>> Elements().keep_highest(np.array([[0.3, 0.1], [0.2, 0.4]]), 0.5).tolist()
    [[True, False], [False, True]]
    """

    spec = None
    # Whether a group lies in several layers, biases and normalisation included.
    ties_layers = False

    def number_to_keep(self, sparsity: float, groups: int) -> int:
        """How many of `groups` groups live at a sparsity."""
        return ranking.number_to_keep(sparsity, groups)

    def reduce(self, scores: np.ndarray, filter_axes: tuple[int, ...] = (-1,)) -> np.ndarray:
        """The scores of the groups: an array of any shape with one entry for each group."""
        return scores

    def alive(self, mask: np.ndarray, filter_axes: tuple[int, ...] = (-1,)) -> np.ndarray:
        """Marks the groups that have a live entry: a bool array of the shape that `reduce` returns."""
        return mask if self.spec is None else self.reduce(mask, filter_axes) > 0

    def expand(self, groups: np.ndarray, shape: tuple[int, ...], filter_axes: tuple[int, ...] = (-1,)) -> np.ndarray:
        """Turns a mask of groups into a mask of entries: every entry gets the bit of its group."""
        return np.asarray(groups).reshape(shape)

    def keep_highest(
        self, scores: np.ndarray, sparsity: float, among: np.ndarray | None = None, filter_axes: tuple[int, ...] = (-1,)
    ) -> np.ndarray:
        """The mask of the groups with the highest scores.

        Args:
            scores: Float array, the shape of the weight.
            sparsity: Fraction of groups that are zero.
            among: Bool array of the same shape, the present mask. Dead entries stay dead.
            filter_axes: Axes of the kernel that index output units.

        Returns:
            Bool array with exactly floor((1 - sparsity) * groups) live groups, or all live groups of `among` if these
            are fewer. (If a group was pruned in part before, only the rest of it lives.)
        """
        check_array("scores", scores)
        scores = np.asarray(scores)
        group_scores = self.reduce(scores, filter_axes)
        count = self.number_to_keep(sparsity, group_scores.size)
        alive = None if among is None else self.alive(among, filter_axes)
        if alive is not None:
            count = min(count, int(np.count_nonzero(alive)))
        mask = self.expand(ranking.highest(group_scores, count, alive), scores.shape, filter_axes)
        return mask if among is None else mask & among

    def random_scores(
        self, rng: np.random.Generator, shape: tuple[int, ...], filter_axes: tuple[int, ...] = (-1,)
    ) -> np.ndarray:
        """Draws one uniform random number for each group, the score of all entries of the group.

        Args:
            rng: `numpy.random.Generator`.
            shape: Shape of the weight.
            filter_axes: Axes of the kernel that index output units.
        """
        return rng.random(shape, dtype=np.float32)

    def keep_random(
        self,
        rng: np.random.Generator,
        shape: tuple[int, ...],
        sparsity: float,
        among: np.ndarray | None = None,
        filter_axes: tuple[int, ...] = (-1,),
    ) -> np.ndarray:
        """Applies `keep_highest` to random scores: all groups are equally likely to live."""
        return self.keep_highest(self.random_scores(rng, shape, filter_axes), sparsity, among, filter_axes)


class Blocks(Elements):
    """Every block of a given shape, aligned to the last axes, is a group. (4, 1) is four inputs of one output unit.

    Args:
        shape: Tuple of positive integers.

    Example:

    >>> Blocks((2, 1)).keep_highest(np.array([[4.0, 1.0], [0.0, 1.0]]), 0.5).tolist()
    [[True, False], [True, False]]
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        check_integers("shape", shape, 1)
        self.shape = tuple(shape)
        self.spec = "x".join(str(size) for size in shape)

    def axes(self, shape: tuple[int, ...]) -> tuple[list[int], list[int]]:
        """The block size along every axis of a weight's shape, and the number of blocks along every axis."""
        if len(self.shape) > len(shape):
            raise ValueError(
                f"`structure` must not have more axes than the weight: a block of {len(self.shape)} axes does not fit "
                f"a weight of shape {shape}. Received: structure={self.spec!r}"
            )
        sizes = (1,) * (len(shape) - len(self.shape)) + self.shape
        return sizes, [math.ceil(length / size) for length, size in zip(shape, sizes, strict=True)]

    def reduce(self, scores: np.ndarray, filter_axes: tuple[int, ...] = (-1,)) -> np.ndarray:
        sums, counts = np.asarray(scores, "float64"), np.ones(np.shape(scores))
        for axis, size in enumerate(self.axes(np.shape(scores))[0]):
            starts = np.arange(0, sums.shape[axis], size)
            sums, counts = np.add.reduceat(sums, starts, axis), np.add.reduceat(counts, starts, axis)
        return sums / counts

    def expand(self, groups: np.ndarray, shape: tuple[int, ...], filter_axes: tuple[int, ...] = (-1,)) -> np.ndarray:
        sizes, counts = self.axes(shape)
        mask = np.asarray(groups).reshape(counts)
        for axis, size in enumerate(sizes):
            mask = np.repeat(mask, size, axis)
        return mask[tuple(slice(length) for length in shape)]

    def random_scores(
        self, rng: np.random.Generator, shape: tuple[int, ...], filter_axes: tuple[int, ...] = (-1,)
    ) -> np.ndarray:
        # One number for each block. A mean of one number for each entry would vary more in the smaller blocks at an
        # edge, and so treat them differently.
        return self.expand(rng.random(self.axes(shape)[1]), shape)


class Filters(Elements):
    """Every output unit is a group.

    Example:

    >>> Filters().keep_highest(np.array([[4.0, 1.0], [0.0, 1.0]]), 0.5).tolist()
    [[True, False], [True, False]]
    """

    spec = "filter"

    def reduce(self, scores: np.ndarray, filter_axes: tuple[int, ...] = (-1,)) -> np.ndarray:
        inputs = self._input_axes(np.ndim(scores), filter_axes)
        # The mean over the inputs; 0 for a unit without inputs.
        count = math.prod(np.shape(scores)[axis] for axis in inputs)
        return np.sum(scores, axis=inputs, dtype="float64") / max(count, 1) if inputs else scores

    def expand(self, groups: np.ndarray, shape: tuple[int, ...], filter_axes: tuple[int, ...] = (-1,)) -> np.ndarray:
        inputs = self._input_axes(len(shape), filter_axes)
        return np.broadcast_to(np.expand_dims(groups, inputs), shape).copy()

    def random_scores(
        self, rng: np.random.Generator, shape: tuple[int, ...], filter_axes: tuple[int, ...] = (-1,)
    ) -> np.ndarray:
        inputs = self._input_axes(len(shape), filter_axes)
        units = [length for axis, length in enumerate(shape) if axis not in inputs]
        return self.expand(rng.random(units), shape, filter_axes)

    def _input_axes(self, rank, filter_axes):
        outputs = {axis % rank for axis in filter_axes}
        return tuple(axis for axis in range(rank) if axis not in outputs)


class TiedUnits(Elements):
    """Channels, heads or units. An algorithm sees all units that are tied to the same layers as one vector.

    Args:
        spec: "channel", "head" or "unit".

    Example:

    >>> TiedUnits("channel").number_to_keep(0.99, 64)
    1
    """

    ties_layers = True

    def __init__(self, spec: str) -> None:
        check_choice("spec", spec, TIED)
        self.spec = spec

    def number_to_keep(self, sparsity: float, groups: int) -> int:
        # A layer needs at least one unit.
        return max(ranking.number_to_keep(sparsity, groups), min(groups, 1))


class NM(Elements):
    """N:M sparsity: of each M consecutive entries along the input axis at most N live.

    The input axis is the last axis that does not index output units. While a schedule ramps up, each group keeps
    max(N, ceil((1 - sparsity) M)) entries. Where M does not divide the axis, the last group is shorter. It keeps as
    many entries as a full group, if it has them.

    Args:
        n: Number of live entries in a group, >= 1.
        m: Size of a group, > n.

    Example:

    >>> NM(2, 4).sparsity, NM(2, 4).sparsity_of((6, 8))
    (0.5, 0.3333333333333333)
    """

    def __init__(self, n: int, m: int) -> None:
        check_integer("n", n, 1)
        check_integer("m", m, 2)
        if n >= m:
            raise ValueError(f"`n` must be smaller than `m`. Received: n={n}, m={m}")
        self.n, self.m = n, m
        self.spec = f"{n}:{m}"

    @property
    def sparsity(self) -> float:
        """Fraction of zeros of the full pattern, 1 - N / M."""
        return 1 - self.n / self.m

    def sparsity_of(self, shape: tuple[int, ...], filter_axes: tuple[int, ...] = (-1,)) -> float:
        """The fraction of zeros of the pattern in a weight of this shape: below 1 - N / M if a group is short."""
        length = shape[self.axis(len(shape), filter_axes)]
        groups, rest = divmod(length, self.m)
        return (groups * (self.m - self.n) + max(rest - self.n, 0)) / length if length else 0.0

    def problem(self, shape: tuple[int, ...], filter_axes: tuple[int, ...] = (-1,)) -> str | None:
        """The warning about a weight whose shape can't hold the pattern's ratio; `None` if the shape can hold it."""
        sparsity = self.sparsity_of(shape, filter_axes)
        if abs(sparsity - self.sparsity) < 1e-12:
            return None
        length = shape[self.axis(len(shape), filter_axes)]
        return (
            f"{self.spec} gives only {100 * sparsity:.2f} % zeros here, because {length} inputs are not a multiple of "
            f"{self.m}"
        )

    def axis(self, rank: int, filter_axes: tuple[int, ...] = (-1,)) -> int:
        """The axis along which the groups of a weight of this rank lie."""
        outputs = {axis % rank for axis in filter_axes}
        return max((axis for axis in range(rank) if axis not in outputs), default=rank - 1)

    def reduce(self, scores: np.ndarray, filter_axes: tuple[int, ...] = (-1,)) -> np.ndarray:
        raise ValueError(
            f"Structure {self.spec!r} sets how many weights of each group live, so groups can't be ranked against "
            "each other."
        )

    def keep_highest(
        self, scores: np.ndarray, sparsity: float, among: np.ndarray | None = None, filter_axes: tuple[int, ...] = (-1,)
    ) -> np.ndarray:
        check_array("scores", scores)
        scores = np.asarray(scores, "float64")
        if np.isnan(scores).any():
            raise ValueError(
                f"`scores` must not hold NaN. Received: {np.isnan(scores).sum()} NaN of {scores.size} scores"
            )
        axis = self.axis(scores.ndim, filter_axes)
        length = scores.shape[axis]

        def in_groups(array, filler):
            rows = np.moveaxis(array, axis, -1)
            padding = [(0, 0)] * (rows.ndim - 1) + [(0, -length % self.m)]
            return np.pad(rows, padding, constant_values=filler)

        padded = in_groups(scores, -np.inf)
        groups = padded.reshape(padded.size // self.m, self.m)
        dead = np.zeros(groups.shape, bool) if among is None else in_groups(~among, True).reshape(groups.shape)
        count = max(self.n, self.m - ranking.number_of_zeros(sparsity, self.m))
        chosen = np.zeros(groups.shape, bool)
        # The sort is stable: among equal scores the lower index wins.
        np.put_along_axis(chosen, np.lexsort((-groups, dead), axis=1)[:, :count], True, axis=1)
        return np.moveaxis((chosen & ~dead).reshape(padded.shape)[..., :length], -1, axis)


def check(name: str, sparsity: float, weights: list) -> None:
    """Checks that the structures of weights fit their shapes, and that a sparsity fits the N:M structures.

    It raises a ValueError if one does not fit. It warns of weights whose shape can't hold the ratio of their N:M
    structure.

    Args:
        name: Name of the argument that holds the sparsity.
        sparsity: Float.
        weights: List of masked `SparseWeight`.

    Example:

    ```python
    weights = sparsity_tf.get_sparse_weights(sparsity_tf.sparsify(model, "masked", structure="2:4"))
    check("sparsity", 0.5, weights)
    ```
    """
    for weight in weights:
        structure = get(weight.technique.structure)
        if isinstance(structure, Blocks):
            structure.axes(weight.shape)
        # A sparsity slightly below the ratio of N:M would leave one entry more in every group.
        if isinstance(structure, NM) and (
            abs(structure.sparsity - sparsity) > 1e-9
            or ranking.number_of_zeros(sparsity, structure.m) < structure.m - structure.n
        ):
            raise ValueError(
                f"`{name}` must be {structure.sparsity} with structure {structure.spec!r}. Received: {name}={sparsity}"
            )
    problems = [f"{weight.path}: {text}" for weight in weights if (text := problem(weight)) is not None]
    if problems:
        warn_user(f"Some weights become less sparse than the structure says: {'; '.join(problems)}.")


def problem(weight: Any) -> str | None:
    """The warning about a `SparseWeight` whose shape can't hold the ratio of its N:M structure, or `None`.

    Example:

    >>> weights = sparsity_tf.get_sparse_weights(sparsity_tf.sparsify(model, "masked", structure="2:4"))
    >>> [weight.path for weight in weights if problem(weight) is not None]
    ['conv/kernel']
    """
    structure = get(getattr(weight.technique, "structure", None))
    return structure.problem(weight.shape, weight.filter_axes) if isinstance(structure, NM) else None
