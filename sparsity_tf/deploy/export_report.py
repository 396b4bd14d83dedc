"""The report of `export`: the file, and how near its outputs are to the model's outputs."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ExportReport:
    """Describes the file that `export` wrote; `str(report)` is a few readable lines.

    Args:
        path: str.
        format: str.
        bytes: int, size of all written files.
        difference: float, largest difference between outputs of the model and of the file in its runtime, divided by
            the largest output.
        parameters: int, parameters of the model that was written.
        operators: dict, the number of times that each operator occurs in a LiteRT file; empty for other formats.
        sparse_tensors: int, number of tensors that a LiteRT file stores sparsely.
        notes: tuple of strings, one for each step that did not work as hoped, with the reason.

    Example:

    ```python
    report = sparsity_tf.export(model, "model.tflite")
    print(report.bytes, report.difference)
    ```
    """

    path: str
    format: str
    bytes: int
    difference: float
    parameters: int
    operators: dict = field(default_factory=dict)
    sparse_tensors: int = 0
    notes: tuple = ()

    @property
    def densify(self) -> int:
        """Number of sparsely stored tensors that LiteRT unpacks when it loads the file. They give no speed."""
        return self.operators.get("DENSIFY", 0)

    def __str__(self):
        lines = [f"{self.path}: {self.format}, {self.bytes:,} bytes, {self.parameters:,} parameters"]
        lines.append(f"largest difference in its runtime: {self.difference:.1e} of the largest output")
        if self.sparse_tensors:
            lines.append(
                f"{self.sparse_tensors} tensors are stored sparsely, {self.densify} of them unpacked at load time"
            )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])
