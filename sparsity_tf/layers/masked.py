"""Layers with a mask: what magnitude pruning, random pruning and dynamic sparse training work on.

The mask is a bool variable (one byte a weight). The dense kernel itself is kept exactly zero where masked: a constraint
on the variable, which every Keras optimizer applies after its update, in `fit`, `train_on_batch` and custom loops
alike. The forward pass in training then reads the plain kernel, at the speed of the dense layer; the backward pass
masks the gradient, or lets it through where an algorithm grows weights by their gradient (RigL, sparse momentum).

`MaskConstraint` is set on the variable, not on the layer: configs are those of the plain layer, and a constraint of
the user's own is applied first.

An optimizer with `use_ema=True` overwrites variables with their averages without asking constraints: weights that were
alive within the memory of the average come back where a mask has closed them meanwhile. What is used at inference,
`value()`, is exactly sparse all the same, and the next optimizer step cuts the variable again. An algorithm that
changes masks cuts variables and averages when it ends.

On JAX the Keras trainer applies optimizers where masks can't be read. There the mask is applied in the forward pass and
before a regularizer; what is exactly zero is the weight's `value()`, in training, at inference and in files.

A layer with a LoRA adapter (`layer.enable_lora`) has a frozen kernel; the mask lies on kernel plus adapter (`lora.py`).
"""

import contextlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from sparsity_tf.backend import masks_in_forward_pass, unlocked, zero_outside
from sparsity_tf.checks import check_array, check_bool, check_integer, check_number
from sparsity_tf.layers import kinds, lora
from sparsity_tf.layers.sparse_layer import SparseLayer
from sparsity_tf.layers.sparse_weight import SparseWeight
from sparsity_tf.layers.technique import Technique, initializer_or_number
from sparsity_tf.masks import structures
from sparsity_tf.type_names import Initializer, Tensor

# Suffix of the names under which files hold what an algorithm remembers.
_STATE = "_state"


class Masked(Technique):
    """Weights times a mask that something else decides on (a callback, a file, an initializer).

    Args:
        mask_initializer: Keras initializer of the bool mask, called with `dtype="bool"` or returning numbers whose
            non-zero entries live. Default all ones: a dense layer.
        dense_gradient: Bool; let the gradient of masked entries through to the optimizer (they stay exactly zero all
            the same). Default `False`: masked entries get zero gradient, unless an algorithm that grows by gradient
            runs.
        structure: Which entries live and die together when an algorithm prunes: `None` (each by itself), "2:4" (N:M
            along the input axis), "4x1" (blocks), "filter" (output units), or what `shrink` removes best: "channel",
            "head", "unit"; see `sparsity_tf.masks.structures`. It is part of the layer's config, so it survives saving
            and loading. With the last three the biases have masks, too.

    Example:

    ```python
    model = sparsity_tf.sparsify(model, Masked(structure="2:4"), where=["hidden"])
    ```
    """

    name = "masked"
    aliases = ("mask",)

    def __init__(
        self, mask_initializer: Initializer = "ones", dense_gradient: bool = False, structure: str | None = None
    ) -> None:
        check_bool("dense_gradient", dense_gradient)
        self.mask_initializer = initializer_or_number("mask_initializer", mask_initializer, "ones")
        self.dense_gradient = dense_gradient
        self.structure = structures.get(structure).spec
        # What the algorithms that move the mask remember: name -> float64 numpy array. No variables: nothing of it is
        # read in a step, and a model has the same weights with and without an algorithm.
        self.states = {}
        # The algorithms that want it while they run (their `id`s). No option: a layer's config is the same with and
        # without them.
        self.dense_gradient_users = set()

    def build(self, weight: SparseWeight) -> None:
        # Of this layer alone: `sparsify` copies one technique for many.
        self.states, self.dense_gradient_users = {}, set()
        mask = weight.add_variable(
            "mask",
            shape=weight.shape,
            initializer=self._initial_mask,
            dtype="bool",
            trainable=False,
        )
        if not masks_in_forward_pass():
            weight.variable.constraint = MaskConstraint(mask, weight.variable.constraint)
        elif weight.variable.regularizer is not None:
            weight.variable.regularizer = MaskedRegularizer(mask, weight.variable.regularizer)
        if not isinstance(self.mask_initializer, keras.initializers.Ones):
            weight.variable.assign(self.value(weight))

    def release(self, weight: SparseWeight) -> None:
        if lora.enabled(weight):
            lora.remove(weight.layer)
        if isinstance(weight.variable.constraint, MaskConstraint):
            weight.variable.constraint = weight.variable.constraint.inner
        if isinstance(weight.variable.regularizer, MaskedRegularizer):
            weight.variable.regularizer = weight.variable.regularizer.inner

    def _initial_mask(self, shape, dtype=None):
        return ops.cast(ops.not_equal(self.mask_initializer(shape, dtype="float32"), 0), "bool")

    def value(self, weight: SparseWeight, select: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        return zero_outside(weight.extra("mask", select), lora.adapted(weight, select), foldable=True)

    def training_value(self, weight: SparseWeight, select: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        if lora.enabled(weight):
            return self.value(weight, select)
        kernel, dense = weight.tensor(select), self.dense_gradient or bool(self.dense_gradient_users)
        if masks_in_forward_pass():
            value = self.value(weight, select)
            return kernel + ops.stop_gradient(value - kernel) if dense else value
        # The variable is zero where masked already; only the gradient needs the mask.
        return kernel if dense else _mask_gradient(kernel, weight.extra("mask", select))

    def apply(
        self,
        weight: SparseWeight,
        linear: Callable[[Tensor | None, Tensor], Tensor],
        inputs: Tensor | None,
        training: bool,
        select: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        # A subclassed model whose `call` has no `training` argument trains its layers without telling them.
        return super().apply(weight, linear, inputs, training or bool(self.dense_gradient_users), select)

    def mask(self, weight: SparseWeight) -> Tensor:
        return weight.extra("mask")

    def assign_mask(self, weight: SparseWeight, mask: Tensor) -> None:
        check_array("mask", mask)
        shape = tuple(np.shape(mask))
        if shape != weight.shape:
            raise ValueError(f"`mask` for {weight.path!r} must have the shape {weight.shape}. Received: shape={shape}")
        mask = ops.cast(ops.convert_to_tensor(mask), "bool")
        # Under the old mask first, where the variable itself may hold something outside it: what opens begins at zero.
        tensor = weight.tensor()
        value = zero_outside(weight.extra("mask"), tensor) if masks_in_forward_pass() else tensor
        weight.extra_variable("mask").assign(mask)
        weight.variable.assign(zero_outside(mask, value))


class MaskConstraint(keras.constraints.Constraint):
    """Sets masked entries to exactly zero, after the user's own constraint.

    Args:
        mask: Bool `keras.Variable` of the shape of the constrained one.
        inner: The constraint that the variable had, or `None`.
    """

    def __init__(self, mask, inner=None):
        self.mask = mask
        self.inner = inner

    def __call__(self, w):
        if self.inner is not None:
            w = self.inner(w)
        return zero_outside(ops.convert_to_tensor(self.mask), ops.convert_to_tensor(w))


class MaskedRegularizer(keras.regularizers.Regularizer):
    """A regularizer of what the mask lets live: on JAX the variable itself may hold something beside it.

    Args:
        mask: Bool `keras.Variable` of the shape of the regularized one.
        inner: The regularizer that the variable had.
    """

    def __init__(self, mask, inner):
        self.mask = mask
        self.inner = inner

    def __call__(self, x):
        return self.inner(zero_outside(ops.convert_to_tensor(self.mask), ops.convert_to_tensor(x)))


@ops.custom_gradient
def _mask_gradient(kernel, mask):
    """`kernel` as it is, with a gradient that is zero where the mask is."""

    def gradient(*args, upstream=None):
        upstream = args[0] if upstream is None else upstream
        # A product: without XLA it is faster than a selection, and the sign of a zero gradient is no matter.
        return ops.multiply(upstream, ops.cast(mask, upstream.dtype)), None

    return kernel, gradient


class MaskedLayer:
    """What the masked layers add to the protocol: a mixin, placed before the kind in the bases.

    Example:

    ```python
    @keras.saving.register_keras_serializable("my_package")
    class MaskedDense(sparsity_tf.layers.MaskedLayer, sparsity_tf.layers.SparseDense):
        pass
    ```
    """

    technique_class = Masked
    takes_lora = True
    # The weights beside the kernels that have an entry for each output unit.
    _of_units = ("bias",)

    @property
    def bound_weight_names(self) -> tuple[str, ...]:
        if not structures.get(self.technique.structure).ties_layers:
            return ()
        return tuple(name for name in self._of_units if getattr(self, name, None) is not None)

    def enable_lora(
        self,
        rank: int,
        lora_alpha: float | None = None,
        a_initializer: Initializer = "he_uniform",
        b_initializer: Initializer = "zeros",
    ) -> None:
        """Freezes the kernel and adds a low-rank adapter, as the stock layer does; what is masked stays zero.

        Compile the model again afterwards. A file of the model holds kernel and adapter merged, as Keras's files do,
        and so does the layer that `sparsity_tf.to_dense` makes. No algorithm prunes the frozen kernel further.

        Args:
            rank: Rank of the adapter, a positive integer.
            lora_alpha: The adapter is scaled by `lora_alpha / rank`. Default: `rank`.
            a_initializer, b_initializer: Initializers of the factors.

        Raises:
            ValueError: The stock layer takes no adapter, is not built, has one already, or has a `kernel_constraint`.

        Example:

        ```python
        model = sparsity_tf.prune(model, 0.8)
        for layer in model.layers:
            if isinstance(layer, sparsity_tf.layers.MaskedDense):
                layer.enable_lora(4)
        model.compile("adam", "mse")
        ```
        """
        check_integer("rank", rank, 1)
        if lora_alpha is not None:
            check_number("lora_alpha", lora_alpha, above=0)
        if not hasattr(self.keras_class, "enable_lora"):
            raise ValueError(f"{self.keras_class.__name__} {self.name!r} takes no LoRA adapter. Received: rank={rank}")
        if lora_alpha is None and self.lora_rank == rank:
            lora_alpha = self.lora_alpha  # of the config
        self.keras_class.enable_lora(self, rank, lora_alpha, a_initializer, b_initializer)

    def build_technique(self) -> None:
        # An adapter that the constructor asks for is there already, and Keras has locked the layer behind it.
        with unlocked(self) if getattr(self, "lora_enabled", False) else contextlib.nullcontext():
            super().build_technique()

    def _own_variables(self):
        adapter = {id(variable) for variable in lora.factors(self)}
        return [variable for variable in super()._own_variables() if id(variable) not in adapter]

    def save_own_variables(self, store: Any) -> None:
        # On JAX the variable itself may hold something where it is masked; and an adapter is merged.
        values = {weight.name: weight.value() for weight in self.sparse_weights + self.bound_weights}
        for variable in self._own_variables():
            store[variable.name] = values.get(variable.name, variable)
        for name, state in self.technique.states.items():
            store[name + _STATE] = state

    def load_own_variables(self, store: Any) -> None:
        own = {variable.name for variable in self._own_variables()}
        states = {name for name in store.keys() if name.endswith(_STATE) and name not in own}
        self.technique.states = {name.removesuffix(_STATE): np.array(store[name], "float64") for name in states}
        super().load_own_variables({name: store[name] for name in store.keys() if name not in states})
        lora.clear(self)
        # A file edited by hand may hold weights outside its mask.
        for weight in self.sparse_weights + self.bound_weights:
            weight.variable.assign(weight.value())


class MaskedDense(MaskedLayer, kinds.SparseDense):
    """`keras.layers.Dense` with a masked kernel. Arguments: those of `keras.layers.Dense` and of `Masked`."""


class MaskedEinsumDense(MaskedLayer, kinds.SparseEinsumDense):
    """`keras.layers.EinsumDense` with a masked kernel. Arguments: the stock layer's and those of `Masked`."""


class MaskedConv1D(MaskedLayer, kinds.SparseConv1D):
    """`keras.layers.Conv1D` with a masked kernel. Arguments: the stock layer's and those of `Masked`."""


class MaskedConv2D(MaskedLayer, kinds.SparseConv2D):
    """`keras.layers.Conv2D` with a masked kernel. Arguments: the stock layer's and those of `Masked`."""


class MaskedConv3D(MaskedLayer, kinds.SparseConv3D):
    """`keras.layers.Conv3D` with a masked kernel. Arguments: the stock layer's and those of `Masked`."""


class MaskedConv1DTranspose(MaskedLayer, kinds.SparseConv1DTranspose):
    """`keras.layers.Conv1DTranspose` with a masked kernel. Arguments: the stock layer's and those of `Masked`."""


class MaskedConv2DTranspose(MaskedLayer, kinds.SparseConv2DTranspose):
    """`keras.layers.Conv2DTranspose` with a masked kernel. Arguments: the stock layer's and those of `Masked`."""


class MaskedConv3DTranspose(MaskedLayer, kinds.SparseConv3DTranspose):
    """`keras.layers.Conv3DTranspose` with a masked kernel. Arguments: the stock layer's and those of `Masked`."""


class MaskedDepthwiseConv1D(MaskedLayer, kinds.SparseDepthwiseConv1D):
    """`keras.layers.DepthwiseConv1D` with a masked kernel. Arguments: the stock layer's and those of `Masked`."""


class MaskedDepthwiseConv2D(MaskedLayer, kinds.SparseDepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` with a masked kernel. Arguments: the stock layer's and those of `Masked`."""


class MaskedSeparableConv1D(MaskedLayer, kinds.SparseSeparableConv1D):
    """`keras.layers.SeparableConv1D` with masked kernels. Arguments: the stock layer's and those of `Masked`."""


class MaskedSeparableConv2D(MaskedLayer, kinds.SparseSeparableConv2D):
    """`keras.layers.SeparableConv2D` with masked kernels. Arguments: the stock layer's and those of `Masked`."""


class MaskedBatchNormalization(MaskedLayer, SparseLayer, keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` with masked gamma and beta, for channels that are pruned in all layers.

    Without them the mean of a filter that is zero would come out as a constant. With a structure that ties no layers
    nothing is masked. Arguments: the stock layer's and those of `Masked`.
    """

    sparse_weight_names = ()
    _of_units = ("gamma", "beta")

    def call(self, inputs, training=None, mask=None):
        # Keras's code finds the masked tensors in the place of the variables. Through __dict__: attributes set on a
        # layer are tracked.
        values = {name: self.bound_value(name, bool(training)) for name in self.bound_weight_names}
        before = {name: self.__dict__[name] for name in values}
        try:
            self.__dict__.update(values)
            return super().call(inputs, training=training, mask=mask)
        finally:
            self.__dict__.update(before)

    def filter_axes(self, name="gamma"):
        return (0,)


class MaskedEmbedding(MaskedLayer, kinds.SparseEmbedding):
    """`keras.layers.Embedding` with a masked table. Arguments: the stock layer's and those of `Masked`."""


if kinds.SparseReversibleEmbedding is not None:

    class MaskedReversibleEmbedding(MaskedLayer, kinds.SparseReversibleEmbedding):
        """`keras.layers.ReversibleEmbedding` with masked tables. Arguments: the stock layer's and those of `Masked`."""
