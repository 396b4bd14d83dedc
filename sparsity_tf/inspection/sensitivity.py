"""Finds the layers that can be pruned: `sensitivity` prunes each weight alone, measures, and restores it.

The analysis follows Han et al., "Learning both weights and connections for efficient neural networks" (arXiv
1506.02626, figure 6), and Li et al., "Pruning filters for efficient ConvNets" (arXiv 1608.08710, figure 2).
"""

import contextlib
import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from sparsity_tf.backend import as_array, tensor_of
from sparsity_tf.checks import check_built, check_callable, check_fraction, check_integer, check_path
from sparsity_tf.inspection.forward import is_one_batch, unchanged_state
from sparsity_tf.inspection.plots import new_figure, require_matplotlib, written
from sparsity_tf.layers import Masked, get_sparse_weights, make_sparse, unmake_sparse
from sparsity_tf.masks import structures
from sparsity_tf.matching import match_layers
from sparsity_tf.text_table import text_table
from sparsity_tf.type_names import Data, Figure, PathLike, Where


@dataclass(frozen=True)
class SensitivityRow:
    """One weight in a `SensitivityTable`.

    Args:
        name: path of the weight.
        size: int, number of its entries.
        zeros: tuple of ints, number of its zeros at each sparsity of the table.
        values: tuple of floats, the metric at each sparsity. All other weights keep their values.
    """

    name: str
    size: int
    zeros: tuple
    values: tuple


class SensitivityTable:
    """A metric for each weight at each sparsity; made by `sensitivity`.

    `str(table)` is a readable table.

    Args:
        rows: sequence of `SensitivityRow`.
        sparsities: tuple of floats, fractions of zeros.
        metric: name of the metric, such as `"accuracy"` or `"loss"`.
        baseline: float, the metric of the unpruned model.

    Example:

    ```python
    table = sensitivity(model, data, sparsities=(0.5, 0.9))
    table.to_csv("sensitivity.csv")
    ```
    """

    def __init__(
        self, rows: Sequence[SensitivityRow], sparsities: tuple[float, ...], metric: str, baseline: float
    ) -> None:
        self.rows, self.sparsities = list(rows), tuple(sparsities)
        self.metric, self.baseline = metric, baseline

    def __len__(self):
        return len(self.rows)

    def __iter__(self):
        return iter(self.rows)

    def __str__(self):
        header = ["weight", "size", *(_percent(sparsity) for sparsity in self.sparsities)]
        body = [[row.name, f"{row.size:,}", *map(_number, row.values)] for row in self.rows]
        align = ["left", *["right"] * (len(header) - 1)]
        table = text_table(body, header, align)
        return f"{table}\n{self.metric} after one weight alone was pruned. Without pruning: {_number(self.baseline)}"

    def __repr__(self):
        return (
            f"<SensitivityTable rows={len(self.rows)}, sparsities={self.sparsities}, metric={self.metric!r}, "
            f"baseline={self.baseline:.4g}>"
        )

    def to_dict(self) -> dict:
        """Returns the table as plain Python values.

        Returns:
            `{"metric", "baseline", "sparsities": [...], "rows": [{"name", "size", "zeros": [...], "values": [...]},
            ...]}`.
        """
        rows = [
            {"name": row.name, "size": row.size, "zeros": list(row.zeros), "values": list(row.values)}
            for row in self.rows
        ]
        return {
            "metric": self.metric,
            "baseline": self.baseline,
            "sparsities": list(self.sparsities),
            "rows": rows,
        }

    def to_csv(self, path: PathLike) -> None:
        """Writes one line for each weight and sparsity: `name,size,sparsity,zeros,METRIC,METRIC_unpruned`.

        Args:
            path: where to write.
        """
        check_path("path", path)
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["name", "size", "sparsity", "zeros", self.metric, f"{self.metric}_unpruned"])
            for row in self.rows:
                for sparsity, zeros, value in zip(self.sparsities, row.zeros, row.values, strict=True):
                    writer.writerow([row.name, row.size, sparsity, zeros, value, self.baseline])

    def plot(self, path: PathLike | None = None) -> Figure:
        """Draws the table as a heat map, with a row for each weight and a column for each sparsity.

        Args:
            path: where to write a PNG file, or `None`.

        Returns:
            `matplotlib.figure.Figure`.

        Raises:
            ImportError: if matplotlib is missing.
        """
        require_matplotlib()
        values = np.array([row.values for row in self.rows], "float64")
        shown = np.ma.masked_invalid(values)
        finite = [*shown.compressed(), *([self.baseline] if math.isfinite(self.baseline) else [])]
        low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
        high = high if high > low else low + 1e-9
        figure = new_figure((3.6 + 0.75 * values.shape[1], 1.6 + 0.3 * len(self.rows)))
        axes = figure.add_subplot()
        image = axes.imshow(shown, aspect="auto", cmap="viridis", vmin=low, vmax=high)
        figure.colorbar(image, ax=axes, label=self.metric).ax.tick_params(labelsize=8)
        for (line, column), value in np.ndenumerate(values):
            bright = math.isfinite(value) and (value - low) / (high - low) > 0.6
            dark = "black" if bright or not math.isfinite(value) else "white"
            axes.text(column, line, _number(value), ha="center", va="center", fontsize=8, color=dark)
        axes.set_yticks(range(len(self.rows)), [row.name for row in self.rows], fontsize=8)
        axes.set_xticks(range(values.shape[1]), [_percent(sparsity) for sparsity in self.sparsities], fontsize=8)
        axes.set_xlabel("sparsity of this weight (the other weights stay as they are)", fontsize=9)
        axes.set_title(f"{self.metric} (unpruned: {_number(self.baseline)})", fontsize=10, loc="left")
        return written(figure, path)


def sensitivity(
    model: keras.layers.Layer,
    data: Data,
    sparsities: Sequence[float] = (0.5, 0.7, 0.8, 0.9, 0.95),
    metric: str | keras.metrics.Metric | Callable | None = None,
    structure: str | None = None,
    where: Where = None,
    batch_size: int = 128,
) -> SensitivityTable:
    """Measures a model with each of its weights pruned by magnitude, one weight at a time, at each sparsity.

    Afterwards, also after an error, the model is restored to the bit: its weights, the state of metrics and random
    generators, the classes of its layers. A plain model stays plain.

    Args:
        model: Built Keras model or layer, plain or with masked layers. Weights that are already pruned stay pruned.
        data: Data for the measurement: a tuple `(x, y)` or `(x, y, sample_weight)` of arrays, a list or generator of
            such batches, or anything else that `evaluate` takes: a `tf.data.Dataset`, a `keras.utils.PyDataset`, a
            `DataLoader`.
        sparsities: Sequence of fractions of zeros, in [0, 1). At sparsity s, floor((1 - s) n) of a weight's n entries,
            or n groups of a structure, are live.
        metric: The name of a result of `evaluate` ("loss", "accuracy"), or a Keras metric, its name or a function of
            (y_true, y_pred). Default: the first metric of the compiled model, or its loss.
        structure: As in `sparsity_tf.masks.structures`. Default: the structure of a masked layer; single weights in a
            plain layer. With an N:M structure no sparsity may be above 1 - N/M.
        where: Which layers to prune, as in `sparsify`. Default: all layers that can be pruned.
        batch_size: Integer, the batch size for data given as arrays.

    Returns:
        A `SensitivityTable` with one row for each weight, in the order of the model.

    Raises:
        ValueError: An argument has a value that is not allowed, there is nothing to prune, or layers are sparse by
            another technique than "masked".

    Example:

    ```python
    table = sensitivity(model, (x, y), (0.5, 0.8, 0.9))
    print(table)
    table.plot("sensitivity.png")
    ```
    """
    check_built("model", model)
    check_integer("batch_size", batch_size, 1)
    sparsities = _checked_sparsities(sparsities)
    kind = structures.get(structure)
    data = _evaluation_data(data, batch_size)
    weights = _prunable(model, where, kind)
    _check_structures(weights, sparsities)
    with _unchanged(model, [weight.variable for weight in weights]):
        measure, name = _evaluator(model, metric, data)
        baseline = measure()
        rows = [_row(weight, sparsities, measure) for weight in weights]
    return SensitivityTable(rows, sparsities, name, baseline)


@dataclass(frozen=True)
class _Weight:
    """The facts about a weight that pruning needs, so that the layer itself need not be sparse."""

    name: str
    variable: keras.Variable
    mask: object
    structure: structures.Elements
    filter_axes: tuple


def _row(weight, sparsities, measure):
    before = np.array(as_array(tensor_of(weight.variable)))
    value = before if weight.mask is None else np.where(weight.mask, before, 0)
    scores = np.abs(value.astype("float32"))
    zeros, values = [], []
    try:
        for sparsity in sparsities:
            kept = weight.structure.keep_highest(scores, sparsity, weight.mask, weight.filter_axes)
            pruned = np.where(kept, value, np.zeros((), value.dtype))
            weight.variable.assign(pruned)
            zeros.append(pruned.size - int(np.count_nonzero(pruned)))
            values.append(measure())
    finally:
        weight.variable.assign(before)
    return SensitivityRow(weight.name, before.size, tuple(zeros), tuple(values))


def _checked_sparsities(sparsities):
    if isinstance(sparsities, str | bytes | dict) or not hasattr(sparsities, "__len__"):
        raise ValueError(f"`sparsities` must be a sequence of numbers in [0, 1). Received: sparsities={sparsities!r}")
    sparsities = tuple(sparsities) if getattr(sparsities, "shape", None) != () else (sparsities,)
    for sparsity in sparsities:
        check_fraction("sparsities", sparsity)
    if not sparsities:
        raise ValueError("`sparsities` must hold at least one number in [0, 1). Received: none")
    return tuple(float(str(sparsity)) for sparsity in sparsities)


def _check_structures(weights, sparsities):
    for weight in weights:
        kind = weight.structure
        if isinstance(kind, structures.Blocks):
            kind.axes(tuple(weight.variable.shape))
        if isinstance(kind, structures.NM) and max(sparsities) > kind.sparsity + 1e-9:
            raise ValueError(
                f"`sparsities` must be at most {kind.sparsity} with structure {kind.spec!r}. "
                f"Received: sparsities={sparsities}"
            )


def _prunable(model, where, kind):
    """The weights to prune: those of masked layers, or the weights of a plain model that `sparsify` would take."""
    from sparsity_tf.sparsify import plan

    listed = get_sparse_weights(model)
    others = sorted({weight.technique.name for weight in listed if weight.technique.name != "masked"})
    if others:
        raise ValueError(
            f"`model` must be a plain model or have masked layers. Received: layers of {others}, whose zeros follow "
            "from other variables. Pass `sparsity_tf.to_dense(model)`."
        )
    if listed:
        chosen = {id(layer) for layer in match_layers(model, where)}
        found = [
            _Weight(
                weight.path,
                weight.variable,
                as_array(tensor_of(weight.extra_variable("mask"))),
                kind if kind.spec else structures.get(weight.technique.structure),
                weight.filter_axes,
            )
            for weight in listed
            if id(weight.layer) in chosen and weight.size
        ]
        if not found:
            raise ValueError(f"`where` selects none of the model's masked layers. Received: where={where!r}")
        return found
    layers, _ = plan(model, Masked(), where)
    found = []
    for layer in layers:
        # Only a sparse layer can say which of its weights are prunable, and which of their axes index output units.
        try:
            make_sparse(layer, Masked())
            weights = [weight for weight in get_sparse_weights(layer) if weight.size]
            found += [_Weight(weight.path, weight.variable, None, kind, weight.filter_axes) for weight in weights]
        finally:
            unmake_sparse(layer)
    return found


# Measuring.


class _Measured(keras.Model):
    """Wraps a model to give it a separate metric, so that the compiled state of the model does not change."""

    def __init__(self, model):
        super().__init__(name="measured")
        self.model = model

    def call(self, inputs):
        return self.model(inputs, training=False)

    def compute_loss(self, *args, **kwargs):
        return ops.zeros(())


def _evaluator(model, metric, data):
    """Returns (function without arguments that measures, name of the metric)."""
    if metric is None and not getattr(model, "compiled", False):
        raise ValueError("`metric` must be given for a model that is not compiled. Received: metric=None")
    if metric is None or isinstance(metric, str) and getattr(model, "compiled", False):
        found = model.evaluate(**data, verbose=0, return_dict=True)
        name = metric or next((name for name in found if name != "loss"), "loss")
        if name in found:
            return (lambda: float(model.evaluate(**data, verbose=0, return_dict=True)[name])), name
    measured = _Measured(model)
    measured.compile(metrics=[_own_metric(metric)])

    def measure():
        found = measured.evaluate(**data, verbose=0, return_dict=True)
        return float(next(value for name, value in found.items() if name != "loss"))

    return measure, metric if isinstance(metric, str) else getattr(
        metric, "name", getattr(metric, "__name__", "metric")
    )


def _own_metric(metric):
    """Checks a metric and returns it; a metric with a state is copied."""
    if isinstance(metric, keras.metrics.Metric):
        return type(metric).from_config(metric.get_config())
    if isinstance(metric, keras.losses.Loss):
        return lambda y, outputs: metric(y, outputs)
    if isinstance(metric, str) and metric not in ("accuracy", "acc", "crossentropy", "ce"):
        try:
            known = callable(keras.metrics.get(metric))
        except ValueError:
            known = False
    else:
        known = isinstance(metric, str) or callable(metric)
        if known and not isinstance(metric, str):
            check_callable("metric", metric, "y_true", "y_pred")
    if not known:
        raise ValueError(
            "`metric` must be a result of the compiled model's `evaluate`, or a Keras metric, its name or a function "
            f"of (y_true, y_pred). Received: metric={metric!r}"
        )
    return metric


def _evaluation_data(data, batch_size):
    """Keyword arguments for `evaluate` that can be used many times."""
    if isinstance(data, tuple):
        _check_batch(data)
        return {**dict(zip(("x", "y", "sample_weight"), data, strict=False)), "batch_size": batch_size}
    many = hasattr(data, "__iter__") or isinstance(data, keras.utils.PyDataset)
    if is_one_batch(data) or not many or isinstance(data, str | bytes):
        raise ValueError(
            f"`data` must be a tuple (x, y) or batches of them. Received: data of type {type(data).__name__}"
        )
    if type(data).__module__ == "builtins" or (hasattr(data, "__iter__") and iter(data) is data):
        batches = list(data)
        for batch in batches:
            _check_batch(batch)
        if not batches:
            raise ValueError("`data` must hold at least one batch. Received: none")
        return {"x": _Batches(batches)}
    return {"x": data}


def _check_batch(batch):
    if not isinstance(batch, tuple) or len(batch) not in (2, 3):
        raise ValueError(
            "`data` must hold tuples (x, y) or (x, y, sample_weight). Received one of type "
            f"{type(batch).__name__}{f' and length {len(batch)}' if isinstance(batch, tuple) else ''}"
        )


class _Batches(keras.utils.PyDataset):
    """A list of batches in a form that `evaluate` accepts."""

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


@contextlib.contextmanager
def _unchanged(model, variables):
    """A context that restores the pruned weights and all state that evaluation changes."""
    metrics = list(getattr(model, "metrics_variables", ()))
    with unchanged_state(model, [*variables, *metrics]):
        try:
            yield
        finally:
            if len(getattr(model, "metrics_variables", ())) != len(metrics):
                # Evaluation may have created metrics; they are reset.
                model.reset_metrics()


def _percent(sparsity):
    return f"{100 * sparsity:g} %"


def _number(value):
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"
