"""The protocol of sparse layers: which weights of a layer are sparse, and which values they have at inference.

A `SparseWeight` is a handle on one sparse weight of a layer. Everything outside `layers/` (inspection, FLOPs, export,
monitoring) reads models through `layer.sparse_weights` and needs nothing else.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from sparsity_tf.backend import follow_layout
from sparsity_tf.checks import check_choice
from sparsity_tf.type_names import Tensor


class SparseWeight:
    """A handle on one sparse weight of a layer: its name, its variables, and its value with exact zeros.

    Handles are cheap and hold no state. Ask the layer for new ones (`layer.sparse_weights`) rather than keep them.

    Example:

    >>> weight = sparsity_tf.prune(model, 0.75).get_layer("hidden").sparse_weights[0]
    >>> weight.path, weight.shape, weight.count(), weight.sparsity()
    ('hidden/kernel', (144, 16), 576, 0.75)
    """

    def __init__(self, layer: keras.layers.Layer, name: str) -> None:
        if not hasattr(layer, "sparse_weight_names"):
            raise ValueError(f"`layer` must be a sparse layer. Received: layer={layer!r}")
        check_choice("name", name, (*layer.sparse_weight_names, *layer.bound_weight_names))
        self.layer = layer
        self.name = name

    @property
    def path(self) -> str:
        """Where the weight stands in the model, e.g. `"encoder/dense_1/kernel"`."""
        return f"{self.layer.path}/{self.name}"

    @property
    def variable(self) -> keras.Variable:
        """The trainable `keras.Variable` behind the weight. It has the weight's shape, but in a hashed layer."""
        return self.technique.variable_of(self)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape, a tuple of integers."""
        return self.technique.shape_of(self)

    @property
    def size(self) -> int:
        """Number of entries."""
        size = 1
        for dimension in self.shape:
            size *= dimension
        return size

    @property
    def filter_axes(self) -> tuple[int, ...]:
        """Axes of the weight that index output units, a tuple of integers."""
        return self.layer.filter_axes(self.name)

    @property
    def technique(self) -> Any:
        """The layer's `Technique`."""
        return self.layer.technique

    def value(self) -> Tensor:
        """The dense tensor used at inference, exact zeros included."""
        return self.technique.value(self)

    def mask(self) -> Tensor:
        """Bool tensor: which entries are live at inference."""
        return self.technique.mask(self)

    def threshold(self) -> float | np.ndarray | None:
        """The threshold that decides which entries are zero; `None` if the technique has none.

        It is a log alpha for variational dropout and a magnitude for STR.
        """
        return self.technique.threshold(self)

    def assign_mask(self, mask: Tensor) -> None:
        """Sets the live entries (technique "masked" only). All other entries become exactly zero at once."""
        self.technique.assign_mask(self, mask)

    def count(self) -> int:
        """Number of entries of `value()` that are not zero (NaN counts as not zero)."""
        return int(np.count_nonzero(ops.convert_to_numpy(self.value())))

    def stored(self) -> int:
        """Number of numbers that hold the weight at inference: `count()`, or the size of the bank of a hashed layer."""
        stored = self.technique.stored_of(self)
        return self.count() if stored is None else stored

    def sparsity(self) -> float:
        """Fraction of exact zeros in `value()`."""
        return 1.0 - self.count() / self.size if self.size else 0.0

    def tensor(self, select: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The dense variable, or the selected part of it, in float32 or wider."""
        return _float32_or_wider(self._select(self.variable, select))

    @property
    def tensor_dtype(self) -> str:
        """Dtype of `tensor()`, a string."""
        dtype = keras.backend.standardize_dtype(self.variable.dtype)
        return "float32" if dtype in ("float16", "bfloat16") else dtype

    def extra(self, name: str, select: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The tensor of the variable `name` that the technique added for this weight, or the selected part of it."""
        return self._select(self.extra_variable(name), select)

    def extra_variable(self, name: str) -> keras.Variable:
        """The `keras.Variable` `name` that the technique added for this weight."""
        return getattr(self.layer, self._attribute(name))

    def add_variable(self, name: str, **kwargs: Any) -> keras.Variable:
        """Adds a variable of the technique for this weight.

        The layer stores the variable as the attribute `name`; for weights after its first, as `<weight>_<name>`. Float
        variables are not autocast, so under mixed precision their logs, exponentials and roots are computed in float32.
        On several devices the variable has the same layout as the weight.
        """
        attribute = self._attribute(name)
        kwargs.setdefault("autocast", False)
        variable = self.layer.add_weight(name=attribute, **kwargs)
        follow_layout(variable, self.variable)
        setattr(self.layer, attribute, variable)
        return variable

    def _attribute(self, name):
        first = (self.name,) == tuple(self.layer.sparse_weight_names[:1])
        return name if first else f"{self.name}_{name}"

    def _select(self, variable, select):
        tensor = ops.convert_to_tensor(variable)
        return tensor if select is None else select(tensor)

    def __repr__(self):
        return f"<SparseWeight {self.path} shape={self.shape} technique={self.technique.name}>"


def _float32_or_wider(tensor):
    if keras.backend.standardize_dtype(tensor.dtype) in ("float16", "bfloat16"):
        return ops.cast(tensor, "float32")
    return tensor
