"""Pictures of sparse models: surviving inputs, filters, and sparsity layer by layer.

The first two pictures imitate the Sparse VD repository (Molchanov, Ashukha and Vetrov, ICML 2017). They show the border
pixels of MNIST that no unit reads any more, and convolution kernels with few entries left. Every function returns a
`matplotlib.figure.Figure` that belongs to no window and no pyplot state, which a notebook shows, and writes it as PNG
when given a path. Only the plots need matplotlib: `pip install "sparsity-tf[plot]"`.
"""

import functools
import io
import math

import keras
import numpy as np

from sparsity_tf.checks import check_built, check_integer, check_integers, check_path
from sparsity_tf.extras import import_optional
from sparsity_tf.inspection.tables import SparsityTable, sparsity_table
from sparsity_tf.inspection.weights import kernel_value
from sparsity_tf.layers import flatten_layers
from sparsity_tf.type_names import Figure, PathLike

_DEAD = (0.87, 0.87, 0.87)
_LINES = (0.75, 0.75, 0.75)
_DOTS_PER_INCH = 150
_DOTS_PER_INCH_IN_NOTEBOOKS = 100


def plot_input_mask(
    layer_or_model: keras.layers.Layer, image_shape: tuple[int, ...] = (28, 28), path: PathLike | None = None
) -> Figure:
    """Shows which input pixels a fully connected layer still looks at.

    Args:
        layer_or_model: a dense layer on flattened images, or a model, whose first `Dense` layer is taken.
        image_shape: `(height, width)` or `(height, width, channels)` of the images before
            flattening. Channels are added up.
        path: where to write a PNG file, or `None`.

    Returns:
        `matplotlib.figure.Figure`: for each pixel the number of units with a non-zero weight on it. Pixels without such
        a unit are grey.

    Raises:
        ValueError: if there is no dense layer, or its inputs are not the pixels of `image_shape`.
        ImportError: if matplotlib is missing.

    Example:

    ```python
    lenet = sparsity_tf.prune(sparsity_tf.models.lenet_300_100(), 0.98)
    plot_input_mask(lenet, (28, 28), "inputs.png")
    ```
    """
    require_matplotlib()
    layer = _first_dense(layer_or_model)
    kernel = kernel_value(layer)
    check_integers("image_shape", image_shape, 1)
    image_shape = tuple(image_shape)
    if len(image_shape) not in (2, 3) or math.prod(image_shape) != kernel.shape[0]:
        raise ValueError(
            "`image_shape` must be (height, width) or (height, width, channels) with "
            f"{kernel.shape[0]} values, the inputs of layer {layer.name!r}. "
            f"Received: image_shape={image_shape}"
        )
    live = np.count_nonzero(kernel, axis=1).reshape(image_shape[:2] + (-1,)).sum(axis=-1)
    possible = kernel.shape[1] * math.prod(image_shape[2:])

    figure = new_figure((5.6, 5.2))
    axes = figure.add_subplot()
    colors = _colormap("viridis").with_extremes(bad=_DEAD)
    image = axes.imshow(np.ma.masked_equal(live, 0), cmap=colors, vmin=0, vmax=max(live.max(), 1))
    figure.colorbar(image, ax=axes, shrink=0.85, label=f"non-zero weights per pixel (of {possible:,})")
    used = f"{np.count_nonzero(live):,} of {live.size:,} input pixels in use"
    title = f"{layer.path or layer.name}: {used}"
    axes.set_title(_with_warning(title, kernel), fontsize=10)
    axes.set_xlabel("column (grey: pixel not used)")
    axes.set_ylabel("row")
    return written(figure, path)


def plot_filters(layer: keras.layers.Layer, path: PathLike | None = None, max_filters: int = 100) -> Figure:
    """Shows the kernels of a convolution with their zeros.

    Args:
        layer: a convolution, sparse or plain. Each box shows the kernel from one input channel to one filter (for
            `Conv1D`: one filter, steps down and channels across), filter by filter. If the kernel is a matrix, as in
            `Dense`, one box shows all of it, inputs down and units across.
        path: where to write a PNG file, or `None`.
        max_filters: largest number of boxes. If there are more, the first ones are shown.

    Returns:
        `matplotlib.figure.Figure`: blue negative, red positive, symmetric about 0; exact zeros are
        white.

    Raises:
        ValueError: if the layer has no kernel, or `max_filters` is not a positive integer.
        ImportError: if matplotlib is missing.

    Example:

    ```python
    plot_filters(sparsity_tf.prune(model, 0.8).get_layer("conv"), "filters.png")
    ```
    """
    pieces = kernel_pieces(layer, max_filters)
    return written(draw_pieces(pieces, piece_title(layer, pieces)), path)


def plot_layer_sparsity(model_or_table: keras.layers.Layer | SparsityTable, path: PathLike | None = None) -> Figure:
    """Shows the sparsity of each weight as a bar, with the number of weights left.

    Args:
        model_or_table: a Keras model, or the `SparsityTable` of one.
        path: where to write a PNG file, or `None`.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        ValueError: if there are no weights to show.
        ImportError: if matplotlib is missing.

    Example:

    ```python
    plot_layer_sparsity(sparsity_tf.prune(model, 0.8), "sparsity.png")
    ```
    """
    require_matplotlib()
    table = model_or_table
    if not isinstance(table, SparsityTable):
        check_built("model_or_table", model_or_table)
        table = sparsity_table(table)
    if not table.rows:
        raise ValueError("`model_or_table` must have at least one kernel or embedding. Received one without any.")
    rows = table.rows
    positions = np.arange(len(rows))
    figure = new_figure((8.5, 1.3 + 0.28 * len(rows)))
    axes = figure.add_subplot()
    percent = [100 * row.sparsity if row.finite else 0 for row in rows]
    axes.barh(positions, [100] * len(rows), color="#eceff3", height=0.72)
    axes.barh(positions, percent, color="#3b6ea8", height=0.72)
    for position, row in zip(positions, rows, strict=True):
        left = f"{row.nonzeros:,} of {row.size:,}" if row.finite else "non-finite weights"
        axes.text(101.5, position, left, va="center", fontsize=8)
        if row.finite:
            # The text stands inside a long bar, but to the right of a short one.
            inside = row.sparsity > 0.15
            axes.text(
                100 * row.sparsity + (-1 if inside else 1),
                position,
                f"{100 * row.sparsity:.1f}",
                va="center",
                ha="right" if inside else "left",
                color="white" if inside else "black",
                fontsize=8,
            )
    axes.set_yticks(positions, [row.name for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    # The counts stand to the right of the axes; the layout makes room for them.
    axes.set_xlim(0, 100)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("sparsity (% of weights that are exactly 0)", fontsize=9)
    axes.tick_params(axis="x", labelsize=8)
    axes.text(101.5, -0.62, "weights left", fontsize=8, fontweight="bold", va="bottom")
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    if table.finite:
        left = f"{table.nonzeros:,} of {table.size:,} weights left"
        title = f"{100 * table.sparsity:.2f} % sparse: {left}"
    else:
        title = "sparsity unknown: non-finite weights"
    axes.set_title(title, fontsize=10, loc="left", pad=18)
    return written(figure, path)


def kernel_pieces(layer, max_filters):
    """The images that `plot_filters` shows: an array of shape (boxes, height, width)."""
    check_integer("max_filters", max_filters, 1)
    kernel = kernel_value(layer)
    if kernel.ndim == 2:
        return kernel[None]
    if kernel.ndim == 3:
        return kernel.transpose(2, 0, 1)[:max_filters]
    order = (kernel.ndim - 1, kernel.ndim - 2) + tuple(range(kernel.ndim - 2))
    return kernel.transpose(order).reshape((-1,) + kernel.shape[-4:-2])[:max_filters]


def piece_title(layer, pieces):
    """Title for `draw_pieces`: the layer, the part of it that is shown, and the sparsity of the whole kernel."""
    kernel = kernel_value(layer)
    shown = "" if pieces.size == kernel.size else f" (first {len(pieces):,} kernels)"
    zeros = f"{kernel.size - np.count_nonzero(kernel):,} of {kernel.size:,} weights are 0"
    return _with_warning(f"{layer.path or layer.name}{shown}\n{zeros}", kernel)


def draw_pieces(pieces, title):
    """Draws kernels in a square grid of framed boxes, one colour scale for all, symmetric about 0.

    Args:
        pieces: array of shape (boxes, height, width).
        title: string.

    Returns:
        `matplotlib.figure.Figure` of 6 x 6 inches.
    """
    require_matplotlib()
    cm, scaling = import_optional("matplotlib.cm"), import_optional("matplotlib.colors")
    mosaic, empty = _mosaic(pieces)
    finite = np.abs(mosaic[np.isfinite(mosaic)])
    limit = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    norm, colors = scaling.Normalize(-limit, limit), _colormap("RdBu_r")
    pixels = colors(norm(np.nan_to_num(mosaic, nan=0.0, posinf=0.0, neginf=0.0)))[..., :3]
    pixels[mosaic == 0] = 1.0
    pixels[~np.isfinite(mosaic)] = 0.0
    pixels[empty] = _LINES

    # Axes have fixed places that depend on the shape of the grid only: the frames of an animation must not move when
    # tick labels change. The cells of a single matrix need not be square.
    wanted = pixels.shape[0] / pixels.shape[1] if len(pieces) > 1 else 0.86 / 0.78
    height = min(0.86, 0.78 * wanted)
    width = height / wanted
    figure = new_figure((6, 6), layout=None)
    axes = figure.add_axes((0.03, 0.91 - height, width, height))
    smooth = max(pixels.shape) > 900
    axes.imshow(pixels, interpolation="antialiased" if smooth else "nearest", aspect="auto")
    axes.set_xticks([])
    axes.set_yticks([])
    bar = figure.add_axes((0.05 + width, 0.91 - height, 0.03, height))
    figure.colorbar(cm.ScalarMappable(norm, colors), cax=bar).set_label("weight (exact zeros: white)", fontsize=8)
    bar.tick_params(labelsize=8)
    figure.text(0.03, 0.92, title, fontsize=9, va="bottom")
    return figure


def _mosaic(pieces):
    """Puts the boxes side by side, each entry as a cell of pixels. Also returns where there is no box."""
    count, height, width = pieces.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    cell = max(1, 600 // max(rows * height, columns * width))
    line = 0 if count == 1 else max(1, cell // 3)
    step = height * cell + line, width * cell + line
    mosaic = np.zeros((rows * step[0] + line, columns * step[1] + line), "float32")
    empty = np.ones(mosaic.shape, bool)
    for index, piece in enumerate(pieces):
        top, left = (index // columns) * step[0] + line, (index % columns) * step[1] + line
        box = slice(top, top + height * cell), slice(left, left + width * cell)
        mosaic[box] = piece.repeat(cell, axis=0).repeat(cell, axis=1)
        empty[box] = False
    return mosaic, empty


def _first_dense(layer_or_model):
    check_built("layer_or_model", layer_or_model)
    for layer in flatten_layers(layer_or_model):
        if isinstance(layer, keras.layers.Dense):
            return layer
    raise ValueError(f"`layer_or_model` must be or contain a `Dense` layer. Received: {layer_or_model!r}")


def _with_warning(title, kernel):
    return title if np.isfinite(kernel).all() else f"{title}\nnon-finite weights"


def new_figure(size, layout="constrained"):
    """A figure of `size` inches that belongs to no window. A notebook shows it as the result of a cell."""
    figure = import_optional("matplotlib.figure").Figure(figsize=size, layout=layout)
    import_optional("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    # IPython draws figures by itself only after an import of pyplot. It asks any other object for this method.
    vars(figure)["_repr_png_"] = functools.partial(_as_png, figure)
    return figure


def _as_png(figure):
    """The PNG file of a figure, as bytes, in the size for a notebook."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DOTS_PER_INCH_IN_NOTEBOOKS)
    return file.getvalue()


def _colormap(name):
    return import_optional("matplotlib").colormaps[name]


def require_matplotlib():
    """Raises an `ImportError` that says what to install when matplotlib is missing."""
    # A submodule is imported: the package alone may exist in name only.
    import_optional("matplotlib.figure")


def written(figure, path):
    """Writes the figure as PNG, unless `path` is `None`; returns it."""
    if path is not None:
        check_path("path", path)
        figure.savefig(path, format="png", dpi=_DOTS_PER_INCH)
    return figure
