"""Shows how sparse a model is, weight by weight: `sparsity_table`.

The rows come from the protocol of sparse layers, so one table serves every technique; plain Keras layers whose kernels
hold zeros (a model converted back with `to_dense`, a model pruned elsewhere) are counted as well. Two further layouts,
`summary_table` and `stats_table`, have the columns of the `dst` package for dynamic sparse reparameterisation (Mostafa
and Wang, 2019, "Parameter efficient training of deep convolutional neural networks by dynamic sparse
reparameterization").
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass

import keras

from sparsity_tf.checks import check_bool, check_built, check_path
from sparsity_tf.inspection.weights import weight_records
from sparsity_tf.layers import flatten_layers
from sparsity_tf.text_table import text_table, wrapped
from sparsity_tf.type_names import PathLike


@dataclass(frozen=True)
class SparsityRow:
    """One weight of a `SparsityTable`.

    Args:
        name: path of the weight, e.g. `"encoder/dense_1/kernel"`.
        shape: tuple of ints.
        size: int, number of entries.
        nonzeros: int, entries of the value used at inference that are not exactly 0.
        threshold: `None`, a float, or `(lowest, highest)`. For variational dropout the threshold on
            log alpha, for soft-threshold reparameterisation the threshold(s) on the magnitude.
        finite: bool, whether all values behind the row are finite.
        sparse: bool, whether the weight belongs to a sparse layer.
        live: `None`, or int, number of live entries in the weight's mask. It is larger than `nonzeros` if live entries
            are exactly 0, e.g. weights that were just grown.
        note: string, empty for an ordinary row. Otherwise it says why an N:M pattern gives fewer zeros than its name
            says.
        stored: `None`, or int, how many numbers hold the weight at inference, if these are not its non-zeros: the bank
            of a hashed layer, whose weights share their numbers.
    """

    name: str
    shape: tuple
    size: int
    nonzeros: int
    threshold: object = None
    finite: bool = True
    sparse: bool = True
    live: int | None = None
    note: str = ""
    stored: int | None = None

    @property
    def sparsity(self) -> float:
        """Fraction of zeros, exact; NaN when the row is not finite."""
        return _sparsity(self.size, self.nonzeros, self.finite)

    @property
    def parameters(self) -> int:
        """How many numbers hold the weight at inference: `stored`, or the non-zeros."""
        return self.nonzeros if self.stored is None else self.stored


def _sparsity(size, nonzeros, finite):
    if not finite:
        return math.nan
    return 1.0 - nonzeros / size if size else 0.0


class SparsityTable:
    """Sparsity of a model, weight by weight and in total; made by `sparsity_table`.

    The totals are over the weights in the rows. Biases, normalisation parameters and the
    technique's own parameters (variances, gates, thresholds) are in no row and in no total.

    `str(table)` is a readable table.

    Args:
        rows: sequence of `SparsityRow`.
        parameters: int, number of parameters of the whole model for `summary_table`: all trainable parameters, and the
            frozen weights in the rows. The weights of a hashed layer count, and not the numbers of its bank.

    Example:

    ```python
    table = sparsity_table(sparsity_tf.prune(model, 0.9))
    print(table.sparsity, table.compression)
    table.to_csv("sparsity.csv")
    ```
    """

    def __init__(self, rows: Sequence[SparsityRow], parameters: int) -> None:
        self.rows = list(rows)
        self.parameters = parameters

    @property
    def size(self) -> int:
        """Number of weights in all rows."""
        return sum(row.size for row in self.rows)

    @property
    def nonzeros(self) -> int:
        """Number of weights in all rows that are not exactly 0."""
        return sum(row.nonzeros for row in self.rows)

    @property
    def stored(self) -> int:
        """How many numbers hold the weights in all rows at inference: non-zeros, and the banks of hashed layers."""
        return sum(row.parameters for row in self.rows)

    @property
    def live(self) -> int:
        """Number of live entries of the masks; in rows without a mask the number of non-zero entries."""
        return sum(row.nonzeros if row.live is None else row.live for row in self.rows)

    @property
    def finite(self) -> bool:
        """Whether every row is finite. If not, `sparsity` and `compression` are NaN."""
        return all(row.finite for row in self.rows)

    @property
    def sparsity(self) -> float:
        """Fraction of zeros over all rows; 0.0 without rows, NaN if a row is not finite."""
        return _sparsity(self.size, self.nonzeros, self.finite)

    @property
    def sparsity_of_sparse_weights(self) -> float | None:
        """Fraction of zeros over the rows of sparse layers; `None` without such rows, NaN if one is not finite."""
        rows = [row for row in self.rows if row.sparse]
        if not rows:
            return None
        finite = all(row.finite for row in rows)
        return _sparsity(sum(row.size for row in rows), sum(row.nonzeros for row in rows), finite)

    @property
    def compression(self) -> float:
        """All weights / non-zero weights; of a hashed layer all weights / numbers in its bank.

        `inf` if no weight is left, 1.0 without rows, NaN if a row is not finite.
        """
        if not self.finite:
            return math.nan
        if not self.size:
            return 1.0
        return self.size / self.stored if self.stored else math.inf

    def __len__(self):
        return len(self.rows)

    def __iter__(self):
        return iter(self.rows)

    def __str__(self):
        with_threshold = any(row.threshold is not None for row in self.rows)
        body = [self._cells(row, with_threshold) for row in self.rows]
        total = [
            "total",
            "",
            f"{self.size:,}",
            f"{self.nonzeros:,}",
            _percent(self.sparsity, self.finite),
        ]
        totals = [total]
        sparse = [row for row in self.rows if row.sparse]
        if 0 < len(sparse) < len(self.rows):
            size, nonzeros = (sum(getattr(row, name) for row in sparse) for name in ("size", "nonzeros"))
            share = _percent(self.sparsity_of_sparse_weights, all(row.finite for row in sparse))
            totals.append(["sparse weights alone", "", f"{size:,}", f"{nonzeros:,}", share])
        if with_threshold:
            totals = [[*cells, ""] for cells in totals]
        header = ["weight", "shape", "size", "non-zeros", "sparsity"] + ["threshold"] * with_threshold
        if self._shares_numbers:
            header.append("stored")
            body = [[*cells, f"{row.parameters:,}"] for cells, row in zip(body, self.rows, strict=True)]
            of_sparse = sum(row.parameters for row in sparse)
            totals = [[*cells, f"{n:,}"] for cells, n in zip(totals, (self.stored, of_sparse), strict=False)]
        align = ["left", "left"] + ["right"] * (len(header) - 2)
        if any(row.note for row in self.rows):
            header, align = [*header, ""], [*align, "left"]
            body = [[*cells, row.note] for cells, row in zip(body, self.rows, strict=True)]
            totals = [[*cells, ""] for cells in totals]
        table = text_table(body + totals, header, align, folds_last=align[-1] == "left")
        return "\n".join([table, *(line for part in self._verdict().split("\n") for line in wrapped(part))])

    def __repr__(self):
        return f"<SparsityTable rows={len(self.rows)}, size={self.size}, nonzeros={self.nonzeros}>"

    def to_dict(self) -> dict:
        """Returns the table as plain Python values.

        Returns:
            `{"rows": [{"name", "shape", "size", "nonzeros", "sparsity", "threshold", "finite",
            "sparse", "live", "note", "stored"}, ...], "total": {"size", "nonzeros", "sparsity",
            "sparsity_of_sparse_weights", "compression", "finite", "live", "stored"}}`.
            Shapes are lists, sparsities are fractions.
        """
        rows = [
            {
                "name": row.name,
                "shape": list(row.shape),
                "size": row.size,
                "nonzeros": row.nonzeros,
                "sparsity": row.sparsity,
                "threshold": row.threshold,
                "finite": row.finite,
                "sparse": row.sparse,
                "live": row.live,
                "note": row.note,
                "stored": row.parameters,
            }
            for row in self.rows
        ]
        fields = (
            "size",
            "nonzeros",
            "sparsity",
            "sparsity_of_sparse_weights",
            "compression",
            "finite",
            "live",
            "stored",
        )
        return {"rows": rows, "total": {field: getattr(self, field) for field in fields}}

    def to_csv(self, path: PathLike) -> None:
        """Writes one line for each weight, without a total: `name,shape,size,nonzeros,sparsity,threshold`.

        Args:
            path: where to write. Shapes are written as `784x300`, sparsities as fractions (`nan` when the weight is not
                finite), several thresholds as `lowest..highest`, a missing threshold as an empty field.
        """
        check_path("path", path)
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["name", "shape", "size", "nonzeros", "sparsity", "threshold"])
            for row in self.rows:
                threshold = _threshold_text(row.threshold, "r")
                writer.writerow(
                    [
                        row.name,
                        "x".join(map(str, row.shape)),
                        row.size,
                        row.nonzeros,
                        row.sparsity,
                        threshold,
                    ]
                )

    def summary_table(self, free_parameters: bool = True) -> str:
        """The one-line `sum_table` of the `dst` package.

        Sparse parameters are the weights in the rows of this table. Dense parameters are all other trainable parameters
        of the model, a technique's variances or thresholds included. Free parameters = dense + non-zero (of a hashed
        layer the numbers of its bank, instead of its non-zeros). Sparsity is
        defined as in the `dst` package: zeros / **all** trainable parameters, not zeros / sparse parameters.

        Args:
            free_parameters: whether to show the column "# free parameters", which early versions of the package lack.

        Returns:
            String.
        """
        from tabulate import tabulate

        check_bool("free_parameters", free_parameters)
        dense = self.parameters - self.size
        sparsity = (self.size - self.nonzeros) / self.parameters if self.parameters else 0.0
        columns = {
            "# total parameters": self.parameters,
            "# sparse parameters": self.size,
            "# dense parameters": dense,
            "# nonzero parameters in sparse": self.nonzeros,
            "# free parameters": dense + self.stored,
            "sparsity": f"{sparsity:.4f}" if self.finite else "non-finite weights",
        }
        if not free_parameters:
            del columns["# free parameters"]
        return tabulate([list(columns.values())], columns, colalign=["right"] * len(columns), disable_numparse=True)

    def stats_table(self) -> str:
        """The `stats_table` of the `dst` package: one line for each weight, sparsity with four decimals.

        Returns:
            String.
        """
        body = [
            [
                row.name,
                row.size,
                row.nonzeros,
                f"{row.sparsity:.4f}" if row.finite else "non-finite weights",
            ]
            for row in self.rows
        ]
        header = ["Parameter tensor", "# total", "# nonzero", "sparsity"]
        return text_table(body, header, ["left", "right", "right", "right"])

    @property
    def _shares_numbers(self):
        return any(row.stored is not None for row in self.rows)

    def _cells(self, row, with_threshold):
        shape = " x ".join(map(str, row.shape))
        cells = [
            row.name,
            shape,
            f"{row.size:,}",
            f"{row.nonzeros:,}",
            _percent(row.sparsity, row.finite),
        ]
        return cells + [_threshold_text(row.threshold, ".4g")] * with_threshold

    def _verdict(self):
        if not self.rows:
            return "no kernels or embeddings"
        if not self.finite:
            bad = [row.name for row in self.rows if not row.finite]
            return f"non-finite weights: {', '.join(bad)}; the sparsity of this model is unknown"
        ratio = "all weights / numbers stored" if self._shares_numbers else "all weights / non-zeros"
        if not self.stored:
            text = f"compression ({ratio}): inf, no weight is left"
        else:
            text = f"compression ({ratio}): {self.compression:.4g}x"
        if self.live == self.nonzeros:
            return text
        by_masks = _percent(_sparsity(self.size, self.live, True), True)
        return (
            f"{text}\nsparsity by values: {_percent(self.sparsity, True)}, by masks: {by_masks} "
            f"({self.live - self.nonzeros:,} live weights are exactly 0, for example because they were just grown)"
        )


def sparsity_table(model: keras.layers.Layer, include_dense: bool = False) -> SparsityTable:
    """Counts the zeros in a model, weight by weight.

    Every layer counts once, also if it is shared. Nested models, wrappers and the projections inside
    `MultiHeadAttention` are included. Counts are exact, and taken from the values that inference uses.

    Args:
        model: a built `keras.Model`, or one built layer.
        include_dense: whether to add rows for the kernels and embeddings of plain Keras layers,
            with their exact zeros. A model that has no sparse layer at all gets these rows anyway.
            Biases and normalisation parameters never have rows.

    Returns:
        A `SparsityTable`. Weights that are NaN or infinite give rows with `finite=False` and
        sparsity NaN, never 1.0.

    Raises:
        ValueError: if `model` is not a Keras layer or is not built.

    Example:

    ```python
    table = sparsity_table(model)
    print(table)
    table.sparsity, table.compression
    ```
    """
    check_built("model", model)
    check_bool("include_dense", include_dense)
    layers = flatten_layers(model)
    records = [record for layer in layers for record in weight_records(layer)]
    if not include_dense and any(record.sparse for record in records):
        records = [record for record in records if record.sparse]
    rows = [
        SparsityRow(
            record.path,
            record.shape,
            math.prod(record.shape),
            record.nonzeros,
            record.threshold,
            record.finite,
            record.sparse,
            record.live,
            record.note,
            record.stored,
        )
        for record in records
    ]
    sizes = {id(variable): math.prod(variable.shape) for variable in model.trainable_variables}
    # The variable of a hashed layer is its bank. In the table it stands for all weights that share the bank.
    sizes.update({id(record.variable): math.prod(record.shape) for record in records})
    parameters = sum(sizes.values())
    return SparsityTable(rows, parameters)


def _percent(sparsity, finite):
    if not finite:
        return "non-finite weights"
    text = f"{100 * sparsity:.2f} %"
    # A few survivors among millions must not look like none, and a few zeros must not look like a dense weight.
    if text == "100.00 %" and sparsity < 1:
        return "> 99.99 %"
    return "< 0.01 %" if text == "0.00 %" and sparsity > 0 else text


def _threshold_text(threshold, spec):
    if threshold is None:
        return ""
    if spec == "r":
        return repr(threshold) if isinstance(threshold, float) else f"{threshold[0]!r}..{threshold[1]!r}"
    if isinstance(threshold, float):
        return format(threshold, spec)
    return f"{threshold[0]:{spec}}..{threshold[1]:{spec}}"
