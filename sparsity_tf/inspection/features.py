"""Measures how much feature maps specialise in single classes: `class_specialization` and `specialization_anova`.

The method comes from Dettmers and Zettlemoyer, "Sparse Networks from Scratch" (arXiv 1907.04840, section 5.2, and the
option `--save-features` of their program). They ask whether sparse networks have more general or more specialised
features than dense networks.

The contribution A[channel, class] of a channel is the sum of |activation| over all examples of a class and over all
positions. The weakest channels, which together contribute at most 5 % of the layer's sum, are left out. The class
specialisation of every other channel is the largest A over all classes, divided by the sum of A over all classes. It is
1/classes for a map that serves all classes equally, and 1 for a map that serves one class.
"""

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

from sparsity_tf.bounded_files import read_npz
from sparsity_tf.checks import check_built, check_fraction, check_instance, check_integer, check_path
from sparsity_tf.inspection.forward import batches_of, run_and_hear
from sparsity_tf.inspection.weights import as_numpy
from sparsity_tf.layers import flatten_layers
from sparsity_tf.matching import match_layers
from sparsity_tf.text_table import text_table
from sparsity_tf.type_names import Data, Where


@dataclass(frozen=True)
class FeatureRow:
    """The feature maps of one layer.

    Args:
        name: path of the layer.
        contributions: float64 array of shape (channels, classes), the sums of |activation|.
        density: fraction of the layer's outputs that are not exactly 0.
        dropped_share: largest share of the layer's sum that the omitted channels may have together.
    """

    name: str
    contributions: np.ndarray
    density: float
    dropped_share: float = 0.05

    @property
    def kept(self) -> np.ndarray:
        """Indices of the channels that count, in the order of growing contribution."""
        totals = self.contributions.sum(axis=1)
        if not np.isfinite(totals).all() or not totals.any():
            return np.empty(0, int)
        order = np.argsort(totals, kind="stable")
        shares = np.cumsum(totals[order]) / totals.sum()
        return order[np.searchsorted(shares, self.dropped_share) :]

    @property
    def specialization(self) -> np.ndarray:
        """Array with a number in [1 / classes, 1] for each of `kept`; empty if all maps are 0 or one is not finite."""
        kept = self.contributions[self.kept]
        return kept.max(axis=1, initial=0) / kept.sum(axis=1)


class FeatureTable:
    """Class specialisation, layer by layer; made by `class_specialization`.

    `str(table)` is a readable table.

    Args:
        rows: sequence of `FeatureRow`.

    Example:

    ```python
    table = class_specialization(model, data, where=["conv"])
    print(table, table.mean)
    ```
    """

    def __init__(self, rows: Sequence[FeatureRow]) -> None:
        self.rows = list(rows)

    @property
    def mean(self) -> float:
        """Mean specialisation over the channels of all layers, NaN if there are none."""
        values = np.concatenate([np.empty(0), *[row.specialization for row in self.rows]])
        return float(values.mean()) if values.size else math.nan

    def to_csv(self, path: str | os.PathLike) -> None:
        """Writes the table as CSV: layer, channels, counted channels, mean and highest specialization, density.

        Args:
            path: Path of the file; an existing file is replaced.

        Example:

        ```python
        class_specialization(model, data).to_csv("features.csv")
        ```
        """
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["layer", "channels", "counted", "mean_specialization", "highest", "density"])
            for row in self.rows:
                found = row.specialization
                figures = [found.mean(), found.max()] if found.size else ["", ""]
                writer.writerow([row.name, len(row.contributions), found.size, *figures, row.density])

    def save(self, path: str | os.PathLike) -> None:
        """Writes everything in the table as an `.npz` file, from which `load` makes it again.

        Args:
            path: Path of the file, which ends in `.npz`; an existing file is replaced.

        Raises:
            ValueError: `path` is no path, or has another ending (numpy would write a file of another name).

        Example:

        ```python
        class_specialization(model, data).save("features.npz")
        ```
        """
        check_path("path", path)
        if not os.fspath(path).endswith(".npz"):
            raise ValueError(f"`path` must end in .npz. Received: path={os.fspath(path)!r}")
        arrays = {f"contributions_{k}": row.contributions for k, row in enumerate(self.rows)}
        np.savez_compressed(
            path,
            names=np.array([row.name for row in self.rows]),
            densities=np.array([row.density for row in self.rows], float),
            dropped_shares=np.array([row.dropped_share for row in self.rows], float),
            **arrays,
        )

    @classmethod
    def load(cls, path: str | os.PathLike) -> "FeatureTable":
        """Reads a table that `save` wrote, for example `features.npz` of a training run.

        Args:
            path: Path of the `.npz` file.

        Returns:
            A `FeatureTable`.

        Raises:
            ValueError: The file is damaged or holds something else.

        Example:

        ```python
        class_specialization(model, data).save("features.npz")
        print(FeatureTable.load("features.npz"))
        ```
        """
        head = read_npz(path, ["names", "densities", "dropped_shares"])
        kinds = [(values.ndim, values.dtype.kind) for values in head.values()]
        sizes = {values.size for values in head.values()}
        # An empty list of names is an array of floats.
        of_names = "f" if sizes == {0} else "U"
        if len(sizes) > 1 or kinds != [(1, of_names), (1, "f"), (1, "f")]:
            raise ValueError(f"{path} holds no table of features: names, densities and shares do not fit together.")
        count = sizes.pop()
        arrays = read_npz(path, [f"contributions_{k}" for k in range(count)])
        contributions = [arrays[f"contributions_{k}"] for k in range(count)]
        if any(array.ndim != 2 or array.dtype.kind != "f" for array in contributions):
            raise ValueError(f"{path} holds no table of features: contributions must be channels x classes.")
        rows = zip(head["names"], contributions, head["densities"], head["dropped_shares"], strict=True)
        return cls(FeatureRow(str(name), array, float(density), float(share)) for name, array, density, share in rows)

    def __len__(self):
        return len(self.rows)

    def __iter__(self):
        return iter(self.rows)

    def __str__(self):
        header = ["layer", "channels", "counted", "mean specialization", "highest", "density"]
        body = [self._cells(row) for row in self.rows]
        table = text_table(body, header, ["left", *["right"] * 5])
        return f"{table}\nmean class specialization: {self.mean:.4f}"

    @staticmethod
    def _cells(row):
        values = row.specialization
        if values.size:
            cells = [f"{values.mean():.4f}", f"{values.max():.4f}"]
        else:
            cells = ["all maps are 0" if np.isfinite(row.contributions).all() else "non-finite activations", ""]
        return [row.name, len(row.contributions), len(values), *cells, f"{row.density:.4f}"]

    def __repr__(self):
        return f"<FeatureTable rows={len(self.rows)}, mean={self.mean:.4f}>"


def class_specialization(
    model: keras.layers.Layer,
    data: Data,
    where: Where = None,
    num_classes: int | None = None,
    dropped_share: float = 0.05,
) -> FeatureTable:
    """Measures how much the feature maps of a model belong to single classes.

    Runs the model for inference over labelled data, once, and keeps no activations.

    Args:
        model: built Keras model, dense or sparse.
        data: batches `(inputs, labels)`: one tuple, or an iterable of them such as a `tf.data.Dataset`. Labels are
            integers, shape (n,) or (n, 1), or one-hot, shape (n, classes).
        where: which layers' outputs are features, as in `sparsify`: names, regular expressions or a predicate. `None`
            (default): every layer that ends in a ReLU (`ReLU`, `Activation("relu")`, or `activation="relu"`) and puts
            out maps, that is, positions and channels. In a residual network the source's program takes the two ReLUs of
            each block (here `where=r"stage.*_relu\\d"`).
        num_classes: number of classes; `None`: the width of one-hot labels or of the model's last output.
        dropped_share: share of a layer's sum, 0 to 1. The weakest channels with at most this share together are left
            out.

    Returns:
        A `FeatureTable` with one row for each layer, in the order of the model. Layers that did not run have no row. A
        layer that is called several times counts all its outputs.

    Raises:
        ValueError: if `model` is not built, the data has no labels, labels are outside the classes, the number of
            classes is unknown, or no layer is selected.

    Example:

    ```python
    dense = class_specialization(model, data)
    sparse = class_specialization(sparsity_tf.prune(model, 0.8), data)
    plot_class_specialization(dense, sparse, path="features.png")
    ```
    """
    check_built("model", model)
    check_fraction("dropped_share", dropped_share)
    if num_classes is not None:
        check_integer("num_classes", num_classes, 1)
    selected = feature_layers(model, where)
    sums, counts = {}, {id(layer): np.zeros(2, "int64") for layer in selected}
    heard = []

    def hear(layer, _, outputs):
        maps = as_numpy(outputs)
        if maps.ndim < 2:
            raise ValueError(f"`where` must select layers with channels. Received: the output of {layer.name!r}")
        counts[id(layer)] += np.count_nonzero(maps), maps.size
        heard.append((id(layer), _by_channel(layer, maps)))

    for inputs, labels in batches_of(data):
        heard.clear()
        outputs = run_and_hear(model, inputs, selected, hear)
        one_hot = _one_hot(labels, num_classes, outputs)
        for layer_id, channels in heard:
            contributions = channels.T @ one_hot
            sums[layer_id] = contributions + (sums[layer_id] if layer_id in sums else 0)
    return FeatureTable(
        FeatureRow(
            layer.path or layer.name, sums[id(layer)], counts[id(layer)][0] / counts[id(layer)][1], dropped_share
        )
        for layer in selected
        if id(layer) in sums
    )


def feature_layers(model, where=None):
    """The layers whose outputs `class_specialization` takes for features.

    Raises:
        ValueError: `where` is `None`, and no layer ends in a ReLU and puts out maps.
    """
    if where is not None:
        return match_layers(model, where)
    chosen = [layer for layer in flatten_layers(model) if _ends_in_relu(layer) and _puts_out_maps(layer)]
    if not chosen:
        raise ValueError(
            "`where` must be given, because no layer of this model has feature maps as outputs and ends in a ReLU. "
            f"Received: where=None with model={model.name!r}"
        )
    return chosen


def _ends_in_relu(layer):
    return isinstance(layer, keras.layers.ReLU) or getattr(layer, "activation", None) is keras.activations.relu


def _puts_out_maps(layer):
    try:
        return len(layer.output.shape) > 2
    except (AttributeError, ValueError):  # The layer is not in a functional graph, so its class must decide.
        return not isinstance(layer, keras.layers.Dense)


def _by_channel(layer, maps):
    """Sums of |activation| over all positions, float64 of shape (examples, channels)."""
    data_format = getattr(layer, "data_format", None) or keras.config.image_data_format()
    channel = 1 if data_format == "channels_first" else maps.ndim - 1
    positions = tuple(axis for axis in range(1, maps.ndim) if axis != channel)
    return np.abs(maps).sum(axis=positions, dtype="float64")


def _one_hot(labels, num_classes, outputs):
    """Float64 array of shape (examples, classes)."""
    if labels is None:
        raise ValueError("`data` must hold labels: tuples (inputs, labels). Received: inputs only")
    labels = as_numpy(labels)
    if labels.ndim == 2 and labels.shape[1] > 1:
        if num_classes not in (None, labels.shape[1]):
            raise ValueError(
                f"`num_classes` must be the width of one-hot labels, {labels.shape[1]}. "
                f"Received: num_classes={num_classes}"
            )
        return labels.astype("float64")
    labels = labels.reshape(-1).astype("int64")
    classes = num_classes or _width(outputs)
    if labels.size and not (0 <= labels.min() and labels.max() < classes):
        raise ValueError(
            f"`data` must hold labels from 0 to {classes - 1}. Received: labels from {labels.min()} to {labels.max()}"
        )
    return np.eye(classes)[labels]


def _width(outputs):
    if not hasattr(outputs, "shape") or len(outputs.shape) != 2 or outputs.shape[1] < 2:
        raise ValueError("`num_classes` must be given for a model whose output is not one score for each class.")
    return int(outputs.shape[1])


@dataclass(frozen=True)
class AnovaRow:
    """One source of variance in an `Anova`.

    Args:
        source: "layer", "network", "layer x network" or "residual".
        sum_of_squares: float.
        degrees: int, degrees of freedom.
        f: mean square / residual mean square; NaN for the residual.
        eta_squared: sum of squares / total sum of squares.
        omega_squared: (sum of squares - degrees x residual mean square) / (total + residual mean square); NaN for the
            residual.
    """

    source: str
    sum_of_squares: float
    degrees: int
    f: float
    eta_squared: float
    omega_squared: float


class Anova:
    """A two-way analysis of variance; made by `specialization_anova`. `str(anova)` is a readable table.

    Args:
        rows: sequence of four `AnovaRow`.
    """

    def __init__(self, rows):
        self.rows = list(rows)

    def __iter__(self):
        return iter(self.rows)

    def __str__(self):
        header = ["source", "sum of squares", "degrees", "F", "eta^2", "omega^2"]
        body = [
            [row.source, f"{row.sum_of_squares:.4g}", row.degrees]
            + ["" if math.isnan(v) else f"{v:.4g}" for v in (row.f, row.eta_squared, row.omega_squared)]
            for row in self.rows
        ]
        return text_table(body, header, ["left", *["right"] * 5])


def specialization_anova(dense: FeatureTable, sparse: FeatureTable) -> "Anova":
    """Says how much of the variance of class specialisation is due to the layer, to sparsity, and to their interaction.

    The model is specialisation ~ layer + network + layer x network over all channels, with effect sizes, as in the
    source's analysis. Sums of squares are of type 1: each source of variance counts only what the sources before it
    leave. Layers are paired by their order.

    Args:
        dense: `FeatureTable` of the dense network.
        sparse: `FeatureTable` of the sparse network, with the same number of layers.

    Returns:
        An `Anova`.

    Raises:
        ValueError: if the numbers of layers differ, there are fewer than two layers, or a layer has no channels in one
            of the networks.

    Example:

    ```python
    network = sparsity_tf.models.lenet_5_caffe(input_shape=(28, 28, 1))
    images, labels = np.random.rand(32, 28, 28, 1), np.arange(32) % 10
    dense = class_specialization(network, (images, labels), where=["conv.*"])
    sparse = class_specialization(sparsity_tf.prune(network, 0.5), (images, labels), where=["conv.*"])
    print(specialization_anova(dense, sparse))
    ```
    """
    check_pair(dense, sparse)
    groups = [[row.specialization for row in table] for table in (dense, sparse)]
    values = np.concatenate([v for group in groups for v in group])
    layer = np.concatenate([np.full(v.size, i) for group in groups for i, v in enumerate(group)])
    network = np.concatenate([np.full(v.size, i) for i, group in enumerate(groups) for v in group])
    count = len(groups[0])
    if count < 2 or any(not v.size for group in groups for v in group) or values.size <= 2 * count:
        raise ValueError(
            "`dense` and `sparse` must have two layers or more, with several channels each. "
            f"Received: {[[v.size for v in group] for group in groups]} channels"
        )
    by_layer, by_network = np.eye(count)[layer], network[:, None].astype("float64")
    designs = [np.ones((values.size, 1)), by_layer, by_network, by_layer * by_network]
    residuals = [_residual(values, np.concatenate(designs[: n + 1], axis=1)) for n in range(4)]
    degrees = (count - 1, 1, count - 1)
    total, error_degrees = residuals[0], values.size - 2 * count
    error = residuals[3] / error_degrees
    rows = []
    for source, degree, before, after in zip(
        ("layer", "network", "layer x network"), degrees, residuals[:3], residuals[1:], strict=True
    ):
        squares = before - after
        f = squares / degree / error if error else math.inf
        rows.append(AnovaRow(source, squares, degree, f, squares / total, (squares - degree * error) / (total + error)))
    rows.append(AnovaRow("residual", residuals[3], error_degrees, math.nan, residuals[3] / total, math.nan))
    return Anova(rows)


def _residual(values, design):
    """The residual sum of squares of a linear model. The design matrix may have dependent columns."""
    fitted = design @ np.linalg.lstsq(design, values, rcond=None)[0]
    return float(np.square(values - fitted).sum())


def check_pair(dense, sparse):
    """Raises a ValueError unless two `FeatureTable`s have the same number of layers."""
    check_instance("dense", dense, FeatureTable)
    check_instance("sparse", sparse, FeatureTable)
    if len(dense) != len(sparse):
        raise ValueError(
            f"`dense` and `sparse` must have the same number of layers. Received: {len(dense)} and {len(sparse)} layers"
        )
