"""Counts the operations of a forward pass, dense and sparse: `count_flops`.

There are two conventions, both for one example (batch size 1):

* `"mac"`, from soft threshold reparameterisation (Kusupati et al., ICML 2020, and its budget tables): a
  multiply-accumulate is one operation. The kernels of all layers count, plus one addition for each input element of a
  global average pooling. Biases, normalisation and activations do not count.
* `"rigl"`, from RigL (Evci et al., ICML 2020, appendix "Calculation of FLOPs"): multiplications and additions both
  count. An output element that combines V weights costs V multiplications and V - 1 additions, plus one addition for a
  bias and one multiplication for a ReLU, whether the layer has them or not. Pooling costs nothing. The output size of a
  `"same"` convolution is ceil((in - k + 1 + 2 floor(k / 2)) / stride). This equals Keras's size for odd kernels and is
  one more for some even kernels.

Sparse operations count the non-zero weights only, and exactly: a weight of a convolution is used at every output
position, so the count is non-zeros x positions for any pattern of zeros.
"""

import math
from collections import defaultdict, namedtuple
from collections.abc import Sequence
from dataclasses import dataclass

import keras

from sparsity_tf.checks import check_choice, check_layer
from sparsity_tf.inspection.layer_operations import operations_of
from sparsity_tf.inspection.tracing import trace_calls
from sparsity_tf.inspection.weights import own_matrices, weight_records
from sparsity_tf.layers import flatten_layers
from sparsity_tf.text_table import text_table, wrapped
from sparsity_tf.type_names import Shape

_CONVENTIONS = ("mac", "rigl")

_Cost = namedtuple("_Cost", ["dense", "sparse"])


@dataclass(frozen=True)
class FlopsRow:
    """The operations of one layer, summed over its calls.

    Args:
        name: path of the layer.
        kind: name of its class.
        calls: int, how often one forward pass calls the layer (for the cell of a recurrent layer: calls the recurrent
            layer).
        output_shape: shape of the layer's last output, batch of 1 included, or `None` if the layer was not called.
        dense: int, operations if no weight were zero.
        sparse: operations of the non-zero weights; int, or NaN when the weights are not finite.
        params_dense: int, kernel entries of the layer.
        params_nonzero: int, kernel entries that are not exactly 0.
        note: string, empty for an ordinary row. It begins with "not counted" or "not called" if this is why `dense` is
            0.
    """

    name: str
    kind: str
    calls: int
    output_shape: object
    dense: int
    sparse: object
    params_dense: int
    params_nonzero: int
    note: str = ""


class FlopsTable:
    """Operations of a model, layer by layer and in total; made by `count_flops`.

    `str(table)` is a readable table.

    Args:
        rows: sequence of `FlopsRow`.
        convention: `"mac"` or `"rigl"`.

    Example:

    ```python
    flops = count_flops(model)
    print(flops.dense, flops.sparse, [row.name for row in flops])
    ```
    """

    def __init__(self, rows: Sequence[FlopsRow], convention: str) -> None:
        self.rows = list(rows)
        self.convention = convention

    @property
    def dense(self) -> int:
        """Operations of one forward pass if no weight were zero."""
        return sum(row.dense for row in self.rows)

    @property
    def sparse(self) -> int | float:
        """Operations of one forward pass without the zeros; NaN when weights are not finite."""
        return sum(row.sparse for row in self.rows)

    @property
    def ratio(self) -> float:
        """`sparse / dense`; 1.0 for a model without operations."""
        return self.sparse / self.dense if self.dense else 1.0

    @property
    def params_dense(self) -> int:
        """Kernel entries of all rows, biases left out."""
        return sum(row.params_dense for row in self.rows)

    @property
    def params_nonzero(self) -> int:
        """Kernel entries of all rows that are not exactly 0."""
        return sum(row.params_nonzero for row in self.rows)

    @property
    def not_counted(self) -> tuple[FlopsRow, ...]:
        """Rows that the totals leave out, because the kind of layer or its shape is not known."""
        return [row for row in self.rows if row.note.startswith("not counted")]

    def __len__(self):
        return len(self.rows)

    def __iter__(self):
        return iter(self.rows)

    def __str__(self):
        header = [
            "layer",
            "kind",
            "calls",
            "output",
            "weights",
            "non-zeros",
            "dense",
            "sparse",
            "sparse/dense",
            "",
        ]
        body = [self._cells(row) for row in self.rows]
        ratio = _ratio_text(self.sparse, self.dense)
        total = ["total", "", "", "", f"{self.params_dense:,}", f"{self.params_nonzero:,}"]
        body.append(total + [f"{self.dense:,}", f"{self.sparse:,}", ratio, ""])
        align = ["left", "left", "right", "left"] + ["right"] * 5 + ["left"]
        if not any(line[-1] for line in body):  # The column of notes is empty.
            header, align, body = header[:-1], align[:-1], [line[:-1] for line in body]
        table = text_table(body, header, align, folds_last=align[-1] == "left")
        unit = {
            "mac": "multiply-accumulates for one example (convention 'mac')",
            "rigl": "multiplications + additions for one example (convention 'rigl')",
        }[self.convention]
        lines = [table, f"dense and sparse: {unit}"]
        if self.not_counted:
            names = ", ".join(row.name for row in self.not_counted)
            lines += wrapped(f"not counted, so missing in the totals: {names}")
        return "\n".join(lines)

    def __repr__(self):
        return f"<FlopsTable convention={self.convention!r}, dense={self.dense}, sparse={self.sparse}>"

    @staticmethod
    def _cells(row):
        counted = not row.note.startswith(("not counted", "not called"))
        costs = [f"{row.dense:,}", f"{row.sparse:,}", _ratio_text(row.sparse, row.dense)] if counted else [""] * 3
        shape = "" if row.output_shape is None else str(row.output_shape)
        counts = [f"{row.params_dense:,}", f"{row.params_nonzero:,}"] if row.params_dense else ["", ""]
        return [row.name, row.kind, row.calls, shape, *counts, *costs, row.note]


def count_flops(
    model: keras.layers.Layer,
    convention: str = "mac",
    input_shape: Shape | list[Shape] | dict[str, Shape] | None = None,
) -> FlopsTable:
    """Counts the operations of one forward pass of `model` on one example.

    The function works on any Keras model: functional, sequential, subclassed, nested. It records a symbolic call, so
    the shapes are the ones that the layers really see. If a layer is called twice, its operations count twice, its
    weights once.

    The table counts `Dense`, `EinsumDense`, `Conv1D/2D/3D` (strides, dilation, groups, any padding and data format),
    their transposes, depthwise and separable convolutions, `ReversibleEmbedding` in reverse, `SimpleRNN`, `LSTM`, `GRU`
    and our `FastGRNN` (and their cells), `ConvLSTM1D/2D/3D`, the products of queries, keys and values in
    `MultiHeadAttention`, `GroupQueryAttention` and our `DotProductAttention` (a row without weights, equal in dense and
    sparse), and under `"mac"` the additions of global average pooling. A lookup in an embedding costs 0. Other layers
    that hold matrices have a row that says "not counted" and are listed in `table.not_counted`; operations without
    weights (activations, `Dot`, `Attention`, bare `keras.ops`) are left out.

    Args:
        model: a Keras model or layer.
        convention: `"mac"` or `"rigl"`; see the top of `inspection/flops.py`.
        input_shape: shape of the input without the batch dimension, or a list or dict of shapes. `None` (default): the
            shape with which the model was built. A model that is not built is built with the given shape.

    Returns:
        A `FlopsTable`.

    Raises:
        ValueError: if `convention` is unknown, or the input shape is neither given nor known.

    Example:

    ```python
    flops = count_flops(keras.applications.ResNet50(weights=None))
    flops.dense  # 3858073600: 3,857,973,248 multiply-accumulates, 100,352 additions of the pooling
    ```
    """
    check_layer("model", model)
    check_choice("convention", convention, _CONVENTIONS)
    calls = trace_calls(model, input_shape)
    found_by_layer = defaultdict(list)
    for call in calls:
        found = operations_of(call, convention)
        for layer_id in {id(layer) for layer in found.layers}:
            found_by_layer[layer_id].append((call, found))
    rows = [_row(layer, found_by_layer[id(layer)], convention) for layer in flatten_layers(model)]
    return FlopsTable([row for row in rows if row is not None], convention)


def _row(layer, found, convention):
    """Makes a layer's row from its (call, operations) pairs; `None` if it has neither kernels nor operations."""
    operations = [o for _, f in found for o in f.operations if o.layer is layer]
    problem = next((f.problem for _, f in found if f.problem), None)
    records = {record.name: record for record in weight_records(layer)}
    if not records and not own_matrices(layer) and not operations:
        return None
    note = ""
    dense = sparse = 0
    if any(o.weight is not None and o.weight not in records for o in operations):
        # For instance a quantised layer: it packs its kernel under another name.
        problem = "its kernel is stored in a way that is not known"
    if problem:
        note = f"not counted: {problem}"
    elif not found:
        note = "not called"
    else:
        for operation in operations:
            cost = _cost(operation, records, convention)
            dense, sparse = dense + cost.dense, sparse + cost.sparse
            note = operation.note or note
    return FlopsRow(
        name=layer.path or layer.name,
        kind=type(layer).__name__,
        calls=len(found),
        output_shape=found[-1][0].output_shape if found else None,
        dense=dense,
        sparse=sparse,
        params_dense=sum(math.prod(record.shape) for record in records.values()),
        params_nonzero=sum(record.nonzeros for record in records.values()),
        note=note,
    )


def _cost(operation, records, convention):
    if operation.weight is None:
        total = _in_convention(operation.uses, operation.outputs, convention, activated=False)
        return _Cost(total, total)
    record = records[operation.weight]
    dense = _in_convention(math.prod(record.shape) * operation.uses, operation.outputs, convention)
    if not record.finite:
        return _Cost(dense, math.nan)
    return _Cost(dense, _in_convention(record.nonzeros * operation.uses, operation.outputs, convention))


def _in_convention(macs, outputs, convention, activated=True):
    if convention == "mac":
        return macs
    # An output element costs V = macs / outputs multiplications and V - 1 additions, + 1 for the bias, + 1 for the
    # ReLU.
    return 2 * macs - outputs + 2 * outputs * activated


def _ratio_text(sparse, dense):
    if math.isnan(sparse):
        return "non-finite weights"
    return f"{sparse / dense:.4f}" if dense else ""
