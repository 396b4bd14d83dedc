"""The report of `prune`, `model.prune_report`: how many entries of each weight live."""

import dataclasses

from sparsity_tf.text_table import text_table, wrapped


@dataclasses.dataclass(frozen=True)
class PruneRow:
    """One weight in a `PruneReport`.

    Attributes:
        name: Path of the weight.
        size: Number of entries of the weight.
        live: Number of live entries under the weight's mask.
        target: The sparsity that the distribution gives to the weight; 0.0 if the weight is kept dense.
    """

    name: str
    size: int
    live: int
    target: float

    @property
    def sparsity(self):
        """Fraction of entries that the mask sets to zero."""
        return 1.0 - self.live / self.size


@dataclasses.dataclass(frozen=True)
class PruneReport:
    """The result of `prune`. `str(report)` is a readable table.

    Attributes:
        by: Name of the scores.
        scope: Which scores were compared with each other.
        rows: Tuple of `PruneRow`s for the masked weights that `where` selects.
        has_batch_normalization: Whether the model has batch normalisation. Its statistics are older than the pruning.

    Example:

    ```python
    model = sparsity_tf.prune(model, 0.8)
    report = model.prune_report
    print(report, report.live, report.sparsity)
    ```
    """

    by: str
    scope: str
    rows: tuple
    has_batch_normalization: bool = False

    @property
    def size(self) -> int:
        """Number of entries of all weights together."""
        return sum(row.size for row in self.rows)

    @property
    def live(self) -> int:
        """Number of live entries of all weights together."""
        return sum(row.live for row in self.rows)

    @property
    def sparsity(self) -> float:
        """Fraction of zeros of all weights together."""
        return 1.0 - self.live / self.size

    def __len__(self):
        return len(self.rows)

    def __iter__(self):
        return iter(self.rows)

    def __str__(self):
        def cells(name, part):
            return [name, f"{part.size:,}", f"{part.live:,}", f"{100 * part.sparsity:.2f} %"]

        body = [cells(row.name, row) for row in self.rows]
        header, align = ["weight", "size", "live", "sparsity"], ["left", "right", "right", "right"]
        if not all(row.target for row in self.rows):
            body = [[*line, "" if row.target else "kept dense"] for line, row in zip(body, self.rows, strict=True)]
            header, align = [*header, ""], [*align, "left"]
        total = [*cells("total", self), *header[4:]]
        table = text_table([*body, total], header, align)
        lines = [f"pruned by {self.by}, scope {self.scope}", table]
        if self.has_batch_normalization:
            lines += wrapped(
                "The statistics of batch normalisation are not adapted to the pruned model: call "
                "`refresh_statistics(model, data)`."
            )
        return "\n".join(lines)
