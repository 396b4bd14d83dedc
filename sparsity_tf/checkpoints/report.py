"""The report on the sparsity of a checkpoint: one row a tensor, totals, and JSON."""

import dataclasses
import json

from sparsity_tf.checks import check_integer


@dataclasses.dataclass(frozen=True)
class TensorSparsity:
    """One row of the report.

    Attributes:
        name: str, the checkpoint's name of the counted tensor: the mask, gate or variance where there is one;
            the weight itself for `soft_threshold`, `discovering_wirings`, `top_kast` and `zeros`.
        technique: str, the naming rule that applied.
        shape: Tuple of ints, the shape of the weight.
        size: int, number of entries.
        nonzeros: int, number of entries that are not zero at inference. With a mask, gate or variance: the number of
            entries that it keeps.
        nonzero_values: int or None, the number of kept entries whose value is not exactly 0 (a weight that was just
            grown is 0). None if `nonzeros` already counts values, or if the checkpoint lacks the weight of the mask.
        picture: str or None, the live entries in Braille characters, if `checkpoint_sparsity` was asked for them.

    Example:

    ```python
    sparsity_tf.prune(model, 0.9).save("model.keras")
    for row in checkpoint_sparsity("model.keras").rows:
        print(row.name, row.shape, row.sparsity)
    ```
    """

    name: str
    technique: str
    shape: tuple
    size: int
    nonzeros: int
    nonzero_values: int | None = None
    picture: str | None = None

    @property
    def sparsity(self) -> float:
        """float in [0, 1]: `1 - nonzeros / size`; 0 for an empty tensor."""
        return _sparsity(self.nonzeros, self.size)


@dataclasses.dataclass(frozen=True)
class CheckpointSparsity:
    """The sparsity of a checkpoint, tensor by tensor and in total.

    Attributes:
        path: str, the checkpoint.
        rows: Tuple of `TensorSparsity`, in the order of the names.
        notes: Tuple of str: assumptions that were made because the checkpoint does not hold the fact.

    Example:

    ```python
    sparsity_tf.prune(model, 0.9).save("model.keras")
    report = checkpoint_sparsity("model.keras")
    print(report.to_json())
    ```
    """

    path: str
    rows: tuple
    notes: tuple = ()

    @property
    def size(self) -> int:
        """int, the number of entries in all rows."""
        return sum(row.size for row in self.rows)

    @property
    def nonzeros(self) -> int:
        """int, the number of non-zero entries in all rows."""
        return sum(row.nonzeros for row in self.rows)

    @property
    def nonzero_values(self) -> int:
        """int, as `nonzeros`, but rows whose values are known count only the values that are not exactly 0."""
        return sum(row.nonzeros if row.nonzero_values is None else row.nonzero_values for row in self.rows)

    @property
    def sparsity_of_values(self) -> float:
        """float in [0, 1]: `1 - nonzero_values / size`. `inspection.sparsity_table` counts in the same way."""
        return _sparsity(self.nonzero_values, self.size)

    @property
    def global_sparsity(self) -> float:
        """float in [0, 1]: `1 - nonzeros / size` over all rows together."""
        return _sparsity(self.nonzeros, self.size)

    def to_dict(self) -> dict:
        """Returns: dict with `global_sparsity`, `size`, `nonzeros` and the list `tensors`.

        If some kept weights are exactly 0, the dict also has `sparsity_of_values` and `nonzero_values`, and the
        entries of `tensors` have `nonzero_values`.
        """
        of_values = {}
        if self.nonzero_values != self.nonzeros:
            of_values = {"sparsity_of_values": self.sparsity_of_values, "nonzero_values": self.nonzero_values}
        return {
            "global_sparsity": self.global_sparsity,
            "size": self.size,
            "nonzeros": self.nonzeros,
            **of_values,
            "tensors": [
                {
                    "name": row.name,
                    "shape": list(row.shape),
                    "size": row.size,
                    "nonzeros": row.nonzeros,
                    "sparsity": row.sparsity,
                    **({} if row.nonzero_values in (None, row.nonzeros) else {"nonzero_values": row.nonzero_values}),
                }
                for row in self.rows
            ],
        }

    def to_json(self, indent: int | None = 2) -> str:
        """Returns: str, `to_dict()` as JSON; sparsities are unrounded fractions."""
        if indent is not None:
            check_integer("indent", indent, 0)
        return json.dumps(self.to_dict(), indent=indent)


def _sparsity(nonzeros, size):
    return 1.0 - nonzeros / size if size else 0.0
