"""Counts the sparsity of a checkpoint: the zeros that each technique's tensors make (`sparse_tensors.py` finds them).

The naming rules and formulas come from "The State of Sparsity in Deep Neural Networks" (Gale,
Elsen, Hooker, arXiv:1902.09574) and its published checkpoints, extended by the variables of this
package's layers. The list says for each technique which names it looks for, and when an entry is non-zero:

- magnitude_pruning, random_pruning: names ending in "mask"; mask != 0.
- l0_regularization: names ending in "log_alpha" or "_aux"; the deterministic gate
  clip(sigmoid(a) (zeta - gamma) + gamma, 0, 1) != 0.
- variational_dropout: names ending in "log_sigma2" or "_aux", with a weight theta of equal shape
  beside them; s - ln(theta^2 + 1e-8) < threshold, not clipped. Group variables ("gate_log_sigma2" with "gate_mean", and
  so on) zero the rows and columns of the weights beside them by the same rule.
- soft_threshold (Kusupati et al., arXiv:2002.03231): "raw_threshold" or "threshold" with a weight
  and no mask beside it; abs(W) > g(s).
- discovering_wirings (Wortsman et al., arXiv:1906.00586): a weight "kernel", "recurrent_kernel",
  "depthwise_kernel" or "pointwise_kernel" with a number "sparsity", either a tensor beside it or the layer's
  argument in a `.keras` file; W != 0 and abs(W) among the n - floor(sparsity n) largest.
- top_kast (arXiv:2106.03517): the same for a layer with the arguments "sparsity" and "exploration" in a `.keras` file.
- zeros: floating-point tensors with two or more dimensions; value != 0.

"auto" refuses a checkpoint with layers of other techniques of this package (`uncountable.py`).

Where there is a mask, gate or variance, it alone decides: a weight that it keeps counts as non-zero even if its value
is zero, as the value of a weight that was just grown is. The report also says how many values are not zero, if the
checkpoint holds the weight.
"""

import math

import numpy as np

from sparsity_tf import masks
from sparsity_tf.checkpoints.checkpoint import CheckpointError
from sparsity_tf.checkpoints.readers import open_checkpoint
from sparsity_tf.checkpoints.report import CheckpointSparsity, TensorSparsity
from sparsity_tf.checkpoints.sibling_names import weight_names
from sparsity_tf.checkpoints.sparse_tensors import SparseTensors, broadcast_shape
from sparsity_tf.checkpoints.uncountable import refuse_uncountable
from sparsity_tf.checks import check_choice, check_integer, check_number, is_finite_number
from sparsity_tf.inspection import mask_to_braille
from sparsity_tf.type_names import PathLike

TECHNIQUES = (
    "auto",
    "magnitude_pruning",
    "random_pruning",
    "variational_dropout",
    "l0_regularization",
    "soft_threshold",
    "discovering_wirings",
    "top_kast",
    "zeros",
)
_ENDINGS = {
    "magnitude_pruning": ("mask",),
    "random_pruning": ("mask",),
    "variational_dropout": ("log_sigma2", "_aux"),
    "l0_regularization": ("log_alpha", "_aux"),
    "soft_threshold": ("threshold",),
    "discovering_wirings": ("kernel, with a number called sparsity",),
    "top_kast": ("kernel, of a layer with arguments sparsity and exploration",),
}
_LOG_ALPHA_THRESHOLD = 3.0
_EPSILON = 1e-8
_GAMMA, _ZETA = -0.1, 1.1
_CHUNK = 1 << 20


def checkpoint_sparsity(
    path: PathLike,
    technique: str = "auto",
    log_alpha_threshold: float | None = None,
    picture_width: int | None = None,
) -> CheckpointSparsity:
    """Counts the zeros that the sparse weights of a checkpoint have at inference.

    Optimizer slots are never counted. Tensors are read one at a time (at most two are in memory).

    Args:
        path: The checkpoint; see `open_checkpoint` for what may be given.
        technique: str, the naming rule to follow (the list at the top of this module). `"auto"` lists
            the tensors of all sparse techniques; if the checkpoint has none, it reports as `"zeros"` does.
        log_alpha_threshold: float or None. For variational dropout: entries whose log alpha is strictly
            below this threshold are non-zero. None takes each layer's own threshold from a `.keras` file,
            and 3 for other files.
        picture_width: int or None. With a number each row has a `picture` of at most so many characters
            in a line: the live entries in Braille characters (`inspection.mask_to_braille`), inputs
            downwards and outputs to the right.

    Returns:
        A `CheckpointSparsity`.

    Raises:
        ValueError: if an argument is not as described.
        CheckpointError: (a ValueError) if the checkpoint is absent or damaged, holds no tensor of
            the technique, lacks the weight of a variance, or has a tensor with a NaN.

    Example:

    ```python
    sparsity_tf.prune(model, 0.9).save("model.keras")
    report = checkpoint_sparsity("model.keras")
    print(report.global_sparsity, report.size, report.nonzeros)
    ```
    """
    check_choice("technique", technique, TECHNIQUES)
    if log_alpha_threshold is not None:
        check_number("log_alpha_threshold", log_alpha_threshold)
    if picture_width is not None:
        check_integer("picture_width", picture_width, 1)
    with open_checkpoint(path) as checkpoint:
        counter = _Counter(checkpoint, log_alpha_threshold, picture_width)
        rows = counter.rows(technique)
        return CheckpointSparsity(checkpoint.path, tuple(rows), tuple(counter.tensors.notes))


class _Counter:
    """Applies the formulas to one open checkpoint."""

    def __init__(self, checkpoint, log_alpha_threshold, picture_width):
        self.checkpoint = checkpoint
        self.log_alpha_threshold = log_alpha_threshold
        self.picture_width = picture_width
        self.tensors = SparseTensors(checkpoint)

    def rows(self, technique):
        rows = self._all_zeros() if technique == "zeros" else self._by_names(technique)
        if not sum(row.size for row in rows):
            raise CheckpointError(
                f"Checkpoint '{self.checkpoint.path}' has no weights to count: no non-empty tensor "
                "of floating-point numbers with two or more dimensions"
            )
        return rows

    def _by_names(self, technique):
        if technique == "auto":
            refuse_uncountable(self.checkpoint)
        found = self.tensors.by_technique()
        if technique == "auto" and not found:
            self.tensors.note("no variables of sparse layers found: the exact zeros of weights are counted")
            return self._all_zeros()
        chosen = self.tensors.choose(found, technique)
        if not chosen:
            others = ", ".join(sorted(set(found.values()) - {"_aux"})) or "none"
            raise CheckpointError(
                f"Checkpoint '{self.checkpoint.path}' has no tensor of {technique} (name ending "
                f"in {' or '.join(_ENDINGS[technique])}). Techniques found: " + "; ".join([others, *self.tensors.notes])
            )
        return [getattr(self, "_" + kind)(name) for name, kind in chosen.items()]

    def _magnitude_pruning(self, name):
        live = self._tensor(name) != 0
        return self._row(name, "magnitude_pruning", live, self._nonzero_values(name, "mask", live))

    def _l0_regularization(self, name):
        log_alpha = self._tensor(name)
        gamma = self._option(name, "gamma", _GAMMA)
        zeta = self._option(name, "zeta", _ZETA)
        live = np.empty(log_alpha.size, bool)
        for start, (a,) in zip(range(0, log_alpha.size, _CHUNK), _chunks(log_alpha), strict=True):
            with np.errstate(over="ignore"):
                gate = (zeta - gamma) / (1.0 + np.exp(-a)) + gamma
            live[start : start + _CHUNK] = np.clip(gate, 0.0, 1.0) != 0
        live = live.reshape(log_alpha.shape)
        values = self._nonzero_values(name, "log_alpha", live)
        return self._row(name, "l0_regularization", live, values)

    def _variational_dropout(self, name):
        weight = self.tensors.weight_of(name, "log_sigma2", equal_shape=True)
        threshold = self.log_alpha_threshold
        if threshold is None:
            threshold = self._option(name, "log_alpha_threshold", _LOG_ALPHA_THRESHOLD)
        tensors = self._tensor(name), self._tensor(weight)
        live = np.empty(tensors[0].size, bool)
        for start, (s, theta) in zip(range(0, live.size, _CHUNK), _chunks(*tensors), strict=True):
            with np.errstate(invalid="ignore"):
                log_alpha = s - np.log(np.square(theta) + _EPSILON)
            if np.isnan(log_alpha).any():
                raise CheckpointError(
                    f"Log alpha of '{name}' in '{self.checkpoint.path}' is NaN: an entry is infinite in both tensors"
                )
            live[start : start + _CHUNK] = log_alpha < threshold
        live = live.reshape(tensors[0].shape)
        values = live & (tensors[1] != 0)
        for group_live, mean in self._groups(name, threshold):
            live &= group_live
            values &= group_live & (mean != 0)
        return self._row(name, "variational_dropout", live, np.count_nonzero(values))

    def _groups(self, name, threshold):
        """Pairs of which groups live, and their means, for the groups of the weight whose log sigma^2 is `name`."""
        for pair in self.tensors.groups_of(name):
            log_sigma2, mean = (self._tensor(one).astype("float64") for one in pair)
            yield log_sigma2 - np.log(np.square(mean) + _EPSILON) < threshold, mean

    def _soft_threshold(self, name):
        weight = self.tensors.weight_of(name, self.tensors.threshold_variable(name))
        raw = self._tensor(name).astype("float32")
        function = self.checkpoint.layer_option(name, "threshold_function")
        if function is None:
            self.tensors.note("threshold_function is not in the file: sigmoid assumed")
        with np.errstate(over="ignore"):
            if function in (None, "sigmoid"):
                threshold = 1.0 / (1.0 + np.exp(-raw))
            elif function == "exponential":
                threshold = np.exp(raw)
            else:
                raise CheckpointError(
                    f"Layer of '{name}' in '{self.checkpoint.path}' has an unknown "
                    f"threshold_function: {function}. Known: sigmoid, exponential"
                )
        value = self._tensor(weight)
        if broadcast_shape(raw.shape, value.shape) != value.shape:
            raise CheckpointError(
                f"'{name}' of shape {raw.shape} does not broadcast over '{weight}' of shape "
                f"{value.shape} in '{self.checkpoint.path}'"
            )
        return self._row(weight, "soft_threshold", np.abs(value) > threshold)

    def _top_kast(self, name):
        return self._discovering_wirings(name, "top_kast")

    def _discovering_wirings(self, name, technique="discovering_wirings"):
        tensors, sparsity = self.tensors.sparsity_of_kernel(name)
        if tensors:
            sparsity = self._tensor(tensors[0])[()]
        if not is_finite_number(sparsity) or not 0.0 <= sparsity <= 1.0:
            raise CheckpointError(
                f"The sparsity of '{name}' in '{self.checkpoint.path}' must be a number in [0, 1]. Received: {sparsity}"
            )
        value = self._tensor(name)
        # Reads the sparsity as the decimal that was meant: 0.29 of 100 is 29, though the float 0.29 lies just below.
        dropped = masks.number_of_zeros(sparsity, value.size)
        # The smallest magnitudes are dropped first, and zeros are the smallest, so ties do not change the count.
        nonzeros = min(value.size - dropped, np.count_nonzero(value))
        if self.picture_width is None:
            return self._row(name, technique, nonzeros)
        return self._row(name, technique, masks.highest(np.abs(value.astype("float64")), nonzeros))

    def _all_zeros(self):
        quantized = [name for name in self.checkpoint.names() if self.checkpoint.is_quantized(name)]
        if quantized:
            # The stored integers can't be counted: two 4-bit weights share a byte, and zero may be stored as a non-zero
            # number.
            raise CheckpointError(
                f"Checkpoint '{self.checkpoint.path}' holds quantized weights ('{quantized[0]}'), and their zeros "
                "can't be counted in the file. Count before `quantize`, or load the model and use "
                "`inspection.sparsity_table`"
            )
        return [
            self._row(name, "zeros", self._tensor(name) != 0)
            for name in self.checkpoint.names()
            if len(self.checkpoint.shape(name)) >= 2 and self.checkpoint.is_floating(name)
        ]

    def _row(self, name, technique, live, nonzero_values=None):
        """A row. `live` marks the entries that are not zero, or is their number if no picture is wanted."""
        shape, picture = self.checkpoint.shape(name), None
        nonzeros = int(live if np.ndim(live) == 0 else np.count_nonzero(live))
        if self.picture_width is not None and np.ndim(live) and live.size:
            picture = mask_to_braille(live, width=self.picture_width)
        values = None if nonzero_values is None else int(nonzero_values)
        return TensorSparsity(name, technique, shape, math.prod(shape), nonzeros, values, picture)

    def _nonzero_values(self, name, variable, live):
        """The number of live entries whose value is not 0; `None` unless `name` has exactly one weight of its shape."""
        beside = self.tensors.beside(name, variable, weight_names)
        fitting = [weight for weight in beside if self.checkpoint.shape(weight) == live.shape and weight != name]
        return np.count_nonzero(self._tensor(fitting[0])[live]) if len(fitting) == 1 else None

    def _tensor(self, name):
        value = self.checkpoint.tensor(name)
        if value.dtype.kind == "f" and np.isnan(value).any():
            raise CheckpointError(f"Tensor '{name}' of '{self.checkpoint.path}' holds NaN")
        return value

    def _option(self, name, option, default):
        value = self.checkpoint.layer_option(name, option)
        if value is None:
            self.tensors.note(f"{option} is not in the file: {default} assumed")
            return default
        if not is_finite_number(value):
            raise CheckpointError(
                f"`{option}` of the layer of '{name}' in '{self.checkpoint.path}' must be a finite number. Received: "
                f"{value}"
            )
        return float(value)


def _chunks(*tensors):
    """Cuts equal-shaped tensors into flat float64 pieces: double precision without doubling the memory."""
    flat = [np.ravel(tensor) for tensor in tensors]
    for start in range(0, flat[0].size, _CHUNK):
        yield tuple(tensor[start : start + _CHUNK].astype("float64") for tensor in flat)
