"""The report of `shrink`, layer by layer: `ShrinkReport`."""

from collections.abc import Sequence
from dataclasses import dataclass

from sparsity_tf.text_table import text_table


@dataclass(frozen=True)
class ShrinkRow:
    """One layer in a `ShrinkReport`. The layer has weights, or is the reason why other layers keep all channels.

    Args:
        layer: path of the layer in the given model.
        kind: name of its class.
        before: int, number of output channels before (filters, units, columns).
        after: int, number of output channels left; 0 if the layer is no longer called.
        parameters_before: int, size of all weights before, non-trainable weights included.
        parameters_after: int, the same after shrinking.
        why: what was removed and why, or why nothing was removed.
    """

    layer: str
    kind: str
    before: int
    after: int
    parameters_before: int
    parameters_after: int
    why: str


class ShrinkReport:
    """The report of `shrink`; `str(report)` is a readable table.

    Args:
        rows: sequence of `ShrinkRow`.
        parameters: `(before, after)`, all weights of the models.
        flops: `(before, after)`, multiply-accumulates of one example, `None` if they can't be counted (unknown shapes).
        difference: largest difference between outputs of the two models on random inputs, divided by the largest
            output.

    Example:

    ```python
    model = sparsity_tf.prune(model, 0.5, structure="channel")
    report = sparsity_tf.shrink(model).shrink_report
    print(report.parameters, [row.layer for row in report.changed])
    ```
    """

    def __init__(
        self, rows: Sequence[ShrinkRow], parameters: tuple[int, int], flops: tuple[int, int] | None, difference: float
    ) -> None:
        self.rows = list(rows)
        self.parameters, self.flops, self.difference = parameters, flops, difference

    @property
    def changed(self) -> tuple[ShrinkRow, ...]:
        """The rows of the layers that became smaller."""
        return [row for row in self.rows if row.parameters_after < row.parameters_before or row.after < row.before]

    def __len__(self):
        return len(self.rows)

    def __iter__(self):
        return iter(self.rows)

    def __repr__(self):
        return f"<ShrinkReport parameters={self.parameters}, flops={self.flops}>"

    def __str__(self):
        body = [
            [
                row.layer,
                row.kind,
                f"{row.before:,}",
                f"{row.after:,}",
                f"{row.parameters_before:,}",
                f"{row.parameters_after:,}",
                row.why,
            ]
            for row in self.rows
        ]
        header = ["layer", "kind", "channels", "left", "parameters", "left", "why"]
        align = ["left", "left", "right", "right", "right", "right", "left"]
        lines = [text_table(body, header, align, folds_last=True)] if body else []
        lines.append(_total("parameters", *self.parameters))
        if self.flops is not None:
            lines.append(_total("multiply-accumulates", *self.flops))
        lines.append(f"largest difference on random inputs: {self.difference:.1e} of the largest output")
        return "\n".join(lines)

    def to_dict(self) -> dict:
        """Returns the report as plain Python values.

        Returns:
            `{"rows": [{"layer", "kind", "before", "after", "parameters_before", "parameters_after", "why"}, ...],
            "parameters": [before, after], "flops": [before, after] or None, "difference": float}`.
        """
        return {
            "rows": [dict(vars(row)) for row in self.rows],
            "parameters": list(self.parameters),
            "flops": None if self.flops is None else list(self.flops),
            "difference": self.difference,
        }


def _total(what, before, after):
    ratio = f" ({before / after:.2f} times fewer)" if after and after < before else ""
    return f"{what}: {before:,} -> {after:,}{ratio}"
