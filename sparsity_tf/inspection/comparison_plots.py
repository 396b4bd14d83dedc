"""Pictures of the results of `estimate_speedup` and `class_specialization`.

As in `plots.py`, every function returns a `matplotlib.figure.Figure` that belongs to no window, and writes it as PNG
when given a path.
"""

import math

import numpy as np

from sparsity_tf.inspection.features import FeatureTable, check_pair
from sparsity_tf.inspection.plots import new_figure, require_matplotlib, written
from sparsity_tf.inspection.speedup import SpeedupTable
from sparsity_tf.type_names import Figure, PathLike

_COLORS = {"dense": "#b9c2cc", "channel": "#7fa3c7", "sparse": "#3b6ea8"}
_NAMES = {"dense": "dense", "channel": "without channels that are 0", "sparse": "without any 0"}


def plot_speedup(table: SpeedupTable, path: PathLike | None = None) -> Figure:
    """Shows the estimated time of each convolution, dense and without its zeros, as bars.

    Args:
        table: a `SpeedupTable`.
        path: where to write a PNG file, or `None`.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        ValueError: if `table` is not a `SpeedupTable` or has no rows.
        ImportError: if matplotlib is missing.

    Example:

    ```python
    plot_speedup(estimate_speedup(model, x[:32]), "speedup.png")
    ```
    """
    require_matplotlib()
    if not isinstance(table, SpeedupTable) or not table.rows:
        raise ValueError(f"`table` must be a `SpeedupTable` with rows. Received: table={table!r}")
    positions = np.arange(len(table))
    figure = new_figure((8.5, 1.5 + 0.42 * len(table)))
    axes = figure.add_subplot()
    for offset, field in ((-0.26, "dense"), (0, "channel"), (0.26, "sparse")):
        milliseconds = [1e3 * getattr(row, field) / row.calls for row in table]
        axes.barh(positions + offset, milliseconds, 0.24, color=_COLORS[field], label=_NAMES[field])
    for position, row in zip(positions, table, strict=True):
        axes.text(
            1.01,
            position,
            f"{row.sparse_speedup:.1f}x",
            va="center",
            fontsize=8,
            transform=axes.get_yaxis_transform(),
        )
    axes.set_yticks(positions, [row.name for row in table], fontsize=8)
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.set_xlabel("milliseconds a call (dense: measured; others: estimated)", fontsize=9)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    # The legend stands below the axes, because the longest bar may be anywhere inside them.
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    title = f"{table.channel_speedup:.2f}x without channels that are 0, {table.sparse_speedup:.2f}x without any 0"
    axes.set_title(title, fontsize=10, loc="left")
    return written(figure, path)


def plot_class_specialization(
    dense: FeatureTable,
    sparse: FeatureTable,
    path: PathLike | None = None,
    labels: tuple[str, str] = ("Dense", "Sparse"),
) -> Figure:
    """Draws histograms of class specialisation back to back, one box a layer.

    The layout follows the source: 49 bins from 0.09 to 0.51 (ten classes), one network's channels to the left, the
    other network's to the right. Channels with larger values are added to the last bin, and the box says how many there
    are.

    Args:
        dense: `FeatureTable` of the network on the left.
        sparse: `FeatureTable` of the network on the right, with the same number of layers.
        path: where to write a PNG file, or `None`.
        labels: names of the two networks.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        ValueError: if the arguments are not `FeatureTable`s, or their numbers of layers are 0 or differ.
        ImportError: if matplotlib is missing.

    Example:

    ```python
    dense = class_specialization(model, data, where=["conv"])
    sparse = class_specialization(sparsity_tf.prune(model, 0.8), data, where=["conv"])
    plot_class_specialization(dense, sparse, "features.png")
    ```
    """
    require_matplotlib()
    for argument, table in (("dense", dense), ("sparse", sparse)):
        if not isinstance(table, FeatureTable) or not table.rows:
            raise ValueError(f"`{argument}` must be a `FeatureTable` with rows. Received: {argument}={table!r}")
    check_pair(dense, sparse)
    if not isinstance(labels, list | tuple) or len(labels) != 2 or not all(isinstance(one, str) for one in labels):
        raise ValueError(f"`labels` must be the names of the two networks. Received: labels={labels!r}")
    columns = min(5, len(dense))
    rows = math.ceil(len(dense) / columns)
    figure = new_figure((0.6 + 2.6 * columns, 0.8 + 2.4 * rows))
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axes in grid[len(dense) :]:
        axes.remove()
    for index, (axes, *pair) in enumerate(zip(grid, dense, sparse, strict=False)):
        _draw_pair(axes, *[row.specialization for row in pair])
        axes.set_title(_layer_title(*[row.name for row in pair]), fontsize=8)
        if index % columns == 0:
            axes.set_ylabel("class specialization", fontsize=8)
        if index + columns >= len(dense):
            axes.set_xlabel("channel count", fontsize=8)
    means = [f"{label} {table.mean:.4f}" for label, table in zip(labels, (dense, sparse), strict=True)]
    figure.suptitle(
        f"Left: {labels[0]}, right: {labels[1]}. Mean class specialization: {', '.join(means)}", fontsize=10
    )
    return written(figure, path)


_EDGES = np.linspace(0.09, 0.51, 50)


def _draw_pair(axes, *values):
    width = _EDGES[1] - _EDGES[0]
    centres = _EDGES[:-1] + width / 2
    counts = [np.histogram(np.clip(v, _EDGES[0], _EDGES[-1]), _EDGES)[0] for v in values]
    limit = max(1, *[count.max() for count in counts]) * 1.08
    for count, sign, field in zip(counts, (-1, 1), ("dense", "sparse"), strict=True):
        axes.barh(centres, sign * count, 0.7 * width, color=_COLORS[field])
    axes.axvline(0, color="black", linewidth=0.6)
    axes.set_xlim(-limit, limit)
    axes.xaxis.set_major_formatter(lambda x, _: f"{abs(x):g}")
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    above = [int((v > _EDGES[-1]).sum()) for v in values]
    if any(above):
        axes.text(
            0.5, 0.97, f"above: {above[0]} | {above[1]}", ha="center", va="top", fontsize=7, transform=axes.transAxes
        )


def _layer_title(dense, sparse):
    return dense if dense == sparse else f"{dense} | {sparse}"
