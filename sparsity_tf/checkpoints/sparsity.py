"""Counts the sparsity of a checkpoint: finds the tensors that make weights sparse, and counts the zeros.

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
from sparsity_tf.checkpoints.sibling_names import base, is_variable, leaf, weight_names, with_leaf
from sparsity_tf.checkpoints.uncountable import refuse_uncountable
from sparsity_tf.checks import check_choice, check_integer, check_number, is_finite_number
from sparsity_tf.inspection import mask_to_braille
from sparsity_tf.layers.group_variational_dropout import GROUPS
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
# Weights that discovering wirings may make sparse: the second belongs to recurrent layers, the last two to separable
# convolutions.
_KERNELS = ("kernel", "recurrent_kernel", "depthwise_kernel", "pointwise_kernel")
# The first sparse weight of a layer. Only the variables of further weights begin with the name of their weight.
_FIRST_KERNELS = ("kernel", "depthwise_kernel")
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
        return CheckpointSparsity(checkpoint.path, tuple(rows), tuple(counter.notes))


class _Counter:
    """Applies the naming rules to one open checkpoint."""

    def __init__(self, checkpoint, log_alpha_threshold, picture_width):
        self.checkpoint = checkpoint
        self.log_alpha_threshold = log_alpha_threshold
        self.picture_width = picture_width
        self.notes = []

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
        found = {name: self._technique(name) for name in self.checkpoint.names()}
        found = {name: kind for name, kind in found.items() if kind is not None}
        if technique == "auto" and not found:
            self._note("no variables of sparse layers found: the exact zeros of weights are counted")
            return self._all_zeros()
        chosen = self._choose(found, technique)
        if not chosen:
            others = ", ".join(sorted(set(found.values()) - {"_aux"})) or "none"
            raise CheckpointError(
                f"Checkpoint '{self.checkpoint.path}' has no tensor of {technique} (name ending "
                f"in {' or '.join(_ENDINGS[technique])}). Techniques found: " + "; ".join([others, *self.notes])
            )
        return [getattr(self, "_" + kind)(name) for name, kind in chosen.items()]

    def _technique(self, name):
        """The technique that the variable `name` belongs to; "_aux" if only the other tensors can tell."""
        aliases = self.checkpoint.aliases(name)
        if self._is_group(name):
            return None  # It is counted with the weights of its group.
        for ending, technique in (
            ("mask", "magnitude_pruning"),
            ("log_sigma2", "variational_dropout"),
            ("log_alpha", "l0_regularization"),
            ("_aux", "_aux"),
        ):
            if any(alias.endswith(ending) for alias in aliases):
                return technique
        for kernel in _KERNELS:
            if any(leaf(alias) == kernel for alias in aliases):
                return self._technique_of_kernel(name, kernel)
        variable = self._threshold_variable(name)
        if variable is not None:
            # Magnitude pruning keeps a threshold beside each mask.
            if self._siblings(name, variable, lambda base: with_leaf(base, ("mask",))):
                return None
            # "threshold" is a common name. A threshold without a weight beside it is not one of this package's.
            if variable == "threshold" and not self._siblings(name, variable, weight_names):
                self._note(f"'{name}' ignored: no weight beside it")
                return None
            return "soft_threshold"
        return None

    def _choose(self, found, technique):
        if technique == "random_pruning":
            technique = "magnitude_pruning"
        kinds = set(found.values())
        probabilistic = kinds & {"variational_dropout", "l0_regularization"}
        if technique in ("variational_dropout", "l0_regularization"):
            if "_aux" in kinds and probabilistic and technique not in probabilistic:
                raise CheckpointError(
                    f"`sparsity_technique` does not fit checkpoint '{self.checkpoint.path}': beside its _aux tensors "
                    f"lie tensors of {', '.join(probabilistic)}, not of {technique}"
                )
            aux = technique
        elif technique == "auto" and "_aux" in kinds:
            if len(probabilistic) != 1:
                raise CheckpointError(
                    f"`sparsity_technique` must be given for checkpoint '{self.checkpoint.path}': its tensors ending "
                    "in _aux may be from variational_dropout or from l0_regularization"
                )
            (aux,) = probabilistic
        else:
            aux = None
        resolved = {name: aux if kind == "_aux" else kind for name, kind in found.items()}
        return {name: kind for name, kind in resolved.items() if kind is not None and technique in ("auto", kind)}

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
        weight = self._weight(name, "log_sigma2", equal_shape=True)
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

    def _is_group(self, name):
        """Whether `name` is the log sigma^2 of a group variable: the group's mean is beside it."""
        return any(
            is_variable(alias, f"{group}_log_sigma2") and self.checkpoint.shape(mean) == self.checkpoint.shape(name)
            for alias in self.checkpoint.aliases(name)
            for group in GROUPS
            for mean in self.checkpoint.find(alias.removesuffix("log_sigma2") + "mean")
        )

    def _groups(self, name, threshold):
        """Pairs of which groups live, and their means, for the groups of the weight whose log sigma^2 is `name`."""
        shape = self.checkpoint.shape(name)

        def variables(base):
            names = with_leaf(base, [f"{group}_log_sigma2" for group in GROUPS])
            # Both kernels of a recurrent layer have the same gates, whose variables are beside the first kernel.
            layer = base[: base.rfind("/") + 1]
            return [*names, f"{layer}gate_log_sigma2"]

        for group in self._siblings(name, "log_sigma2", variables):
            if not self._is_group(group) or _broadcast_shape(self.checkpoint.shape(group), shape) != shape:
                continue
            [mean] = self._siblings(group, "log_sigma2", lambda base: with_leaf(base, ["mean"]))
            log_sigma2, mean = (self._tensor(one).astype("float64") for one in (group, mean))
            yield log_sigma2 - np.log(np.square(mean) + _EPSILON) < threshold, mean

    def _soft_threshold(self, name):
        weight = self._weight(name, self._threshold_variable(name))
        raw = self._tensor(name).astype("float32")
        function = self.checkpoint.layer_option(name, "threshold_function")
        if function is None:
            self._note("threshold_function is not in the file: sigmoid assumed")
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
        if _broadcast_shape(raw.shape, value.shape) != value.shape:
            raise CheckpointError(
                f"'{name}' of shape {raw.shape} does not broadcast over '{weight}' of shape "
                f"{value.shape} in '{self.checkpoint.path}'"
            )
        return self._row(weight, "soft_threshold", np.abs(value) > threshold)

    def _threshold_variable(self, name):
        for variable in ("raw_threshold", "threshold"):
            if any(is_variable(alias, variable) for alias in self.checkpoint.aliases(name)):
                return variable
        return None

    def _technique_of_kernel(self, name, kernel):
        """Recognises the techniques that have no variable beside the kernel by the arguments of the layer."""
        others = ("mask", "log_sigma2", "log_alpha", "raw_threshold", "threshold")
        prefix = "" if kernel in _FIRST_KERNELS else f"{kernel}_"
        if self._siblings(name, kernel, lambda base: [base + prefix + other for other in others]):
            return None
        tensors, option = self._dnw_sparsity(name)
        if tensors or option is not None:
            explores = not tensors and self.checkpoint.layer_option(name, "exploration") is not None
            return "top_kast" if explores else "discovering_wirings"
        if any(alias.endswith(f"/vars/{kernel}") for alias in self.checkpoint.aliases(name)):
            # Files number the variables of Keras's own layers; those of this package's layers have names.
            self._note(
                f"'{name}' is counted as dense. If its layer chooses its zeros by an argument (discovered wirings, "
                "Top-KAST, SR-STE), the argument is not in this file: give the .keras file"
            )
        return None

    def _dnw_sparsity(self, name):
        """The tensor and the layer's argument that may hold the sparsity of kernel `name`."""
        beside = [
            tensor for kernel in _KERNELS for tensor in self._siblings(name, kernel, lambda base: [base + "sparsity"])
        ]
        scalars = [tensor for tensor in beside if self.checkpoint.shape(tensor) == ()]
        return scalars, self.checkpoint.layer_option(name, "sparsity")

    def _top_kast(self, name):
        return self._discovering_wirings(name, "top_kast")

    def _discovering_wirings(self, name, technique="discovering_wirings"):
        tensors, sparsity = self._dnw_sparsity(name)
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
        beside = self._siblings(name, variable, weight_names)
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
            self._note(f"{option} is not in the file: {default} assumed")
            return default
        if not is_finite_number(value):
            raise CheckpointError(
                f"`{option}` of the layer of '{name}' in '{self.checkpoint.path}' must be a finite number. Received: "
                f"{value}"
            )
        return float(value)

    def _weight(self, name, variable, equal_shape=False):
        """The one weight beside `name`. If several tensors could be the weight, it raises instead of choosing one."""
        tried = self._siblings(name, variable, weight_names, existing=False)
        present = self._siblings(name, variable, weight_names)
        fitting = present
        if equal_shape:
            shape = self.checkpoint.shape(name)
            fitting = [weight for weight in present if self.checkpoint.shape(weight) == shape]
        if len(fitting) == 1:
            return fitting[0]
        if len(fitting) > 1:
            problem = f"has several candidates for the weight: {', '.join(fitting)}"
        elif present:
            shapes = ", ".join(f"{weight} {self.checkpoint.shape(weight)}" for weight in present)
            problem = f"{self.checkpoint.shape(name)} has another shape than its weight: {shapes}"
        elif shared := [sibling for sibling in tried if len(self.checkpoint.find(sibling)) > 1]:
            problem = f"is in a file without names of layers, with several tensors {shared[0]!r}: give the .keras file"
        else:
            problem = f"has no partner tensor. Tried: {', '.join(tried)}"
        raise CheckpointError(f"'{name}' in '{self.checkpoint.path}' {problem}")

    def _siblings(self, name, variable, names_of, existing=True):
        """Tensors in the same layer as `name` (under any alias) that have one of the names `names_of(base)`."""
        result = {}
        for alias in self.checkpoint.aliases(name):
            if not alias.endswith((variable, "_aux")):
                continue  # a name such as "variables/6" does not tell the layer
            for sibling in names_of(base(alias, variable)):
                matches = self.checkpoint.find(sibling)
                if not existing:
                    result[sibling] = None
                elif len(matches) == 1:  # a name that several layers share identifies none of them
                    result[matches[0]] = None
        return list(result)

    def _note(self, note):
        if note not in self.notes:
            self.notes.append(note)


def _chunks(*tensors):
    """Cuts equal-shaped tensors into flat float64 pieces: double precision without doubling the memory."""
    flat = [np.ravel(tensor) for tensor in tensors]
    for start in range(0, flat[0].size, _CHUNK):
        yield tuple(tensor[start : start + _CHUNK].astype("float64") for tensor in flat)


def _broadcast_shape(*shapes):
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        return None
