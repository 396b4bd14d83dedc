"""The report of `sparsify`: which layers it changed, and why it skipped the others."""

import collections
import dataclasses
from typing import ClassVar, NamedTuple

from sparsity_tf.layers import Technique
from sparsity_tf.matching import shorten
from sparsity_tf.text_table import text_table, wrapped


class ChangedLayer(NamedTuple):
    """A layer that `sparsify` made sparse, in a `SparsifyReport`.

    Attributes:
        path: The layer's path in the model.
        kind: Name of the layer's class after the change.
        weights: Number of weights that can now be zero; 0 before the layer is built.
    """

    path: str
    kind: str
    weights: int


class SkippedLayer(NamedTuple):
    """A layer with weights that `sparsify` left as it was, in a `SparsifyReport`.

    Attributes:
        path: The layer's path in the model.
        reason: The reason, a text.
    """

    path: str
    reason: str


@dataclasses.dataclass(frozen=True)
class SparsifyReport:
    """The report of `sparsify`: the changed layers, and the skipped layers with the reasons.

    It has the form of the report of Keras's `model.quantize`.

    Attributes:
        technique: The configured technique.
        changed: Tuple of `ChangedLayer`s, named tuples (path, kind, weights).
        skipped: Tuple of `SkippedLayer`s, named tuples (path, reason), for layers with weights that stay dense.
        notes: Tuple of further remarks.
        SKIP_FILTERED, SKIP_ALREADY_SPARSE, SKIP_NO_SUPPORT: Beginnings of reasons, for `skipped_by_reason`.

    Example:
        >>> report = sparsity_tf.sparsify(model, "masked").sparsify_report
        >>> [entry.path for entry in report.changed]
        ['conv', 'hidden', 'logits']
    """

    SKIP_FILTERED: ClassVar[str] = "not selected by `where`"
    SKIP_ALREADY_SPARSE: ClassVar[str] = "already sparse"
    SKIP_NO_SUPPORT: ClassVar[str] = "no sparse form"

    technique: Technique
    changed: tuple
    skipped: tuple
    notes: tuple = ()

    def skipped_by_reason(self, reason: str) -> list[str]:
        """The paths of the layers that were skipped for a reason that begins with this text."""
        return [entry.path for entry in self.skipped if entry.reason.startswith(reason)]

    def __str__(self):
        weights = sum(entry.weights for entry in self.changed)
        lines = wrapped(f"{self.technique!r}: {len(self.changed)} layers made sparse, {weights:,} weights", "  ")
        if self.changed:
            rows = [(e.path, e.kind, f"{e.weights:,}" if e.weights else "not built yet") for e in self.changed]
            lines.append(text_table(rows, ["layer", "kind", "weights"], ["left", "left", "right"]))
        reasons = collections.defaultdict(list)
        for entry in self.skipped:
            reasons[entry.reason].append(entry.path)
        for reason, paths in reasons.items():
            lines += wrapped(f"skipped, {reason}: {shorten(paths, 6)}", "  ")
        for note in self.notes:
            lines += wrapped(note)
        return "\n".join(lines)
