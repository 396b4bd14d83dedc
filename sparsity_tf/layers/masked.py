"""Layers with a mask, for magnitude pruning, random pruning and dynamic sparse training.

The mask is a bool variable (one byte a weight). A constraint on the kernel's variable keeps masked entries exactly
zero: every Keras optimizer applies it after its update, in `fit`, `train_on_batch` and custom loops alike. So the
forward pass in training reads the plain kernel, at the speed of the dense layer. The backward pass masks the gradient,
unless an algorithm that grows weights by their gradient runs (RigL, sparse momentum).

`MaskConstraint` is set on the variable, not on the layer, so the layer's config keeps the user's constraint only. The
user's constraint is applied first.

An optimizer with `use_ema=True` overwrites variables with their averages and applies no constraint. An entry that was
masked only recently then becomes non-zero again. `value()`, the tensor of inference, is exactly sparse all the same,
and the next optimizer step sets the entry to zero again. An algorithm that changes masks sets masked entries of
variables and averages to zero when it ends.

On JAX the Keras trainer runs the optimizer where masks can't be read. There the forward pass applies the mask, and a
regularizer sees masked values. The variable may then be non-zero where masked, but the weight's `value()` is exactly
zero there, in training, at inference and in files.

A layer with a LoRA adapter (`layer.enable_lora`) has a frozen kernel. The mask applies to kernel plus adapter
(`lora.py`).
"""

import contextlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from sparsity_tf.backend import change_initial_value, masks_in_forward_pass, unlocked, zero_outside
from sparsity_tf.checks import check_array, check_bool, check_integer, check_number
from sparsity_tf.layers import kinds, lora
from sparsity_tf.layers.sparse_layer import SparseLayer
from sparsity_tf.layers.sparse_weight import SparseWeight
from sparsity_tf.layers.technique import Technique, initializer_or_number
from sparsity_tf.masks import structures
from sparsity_tf.type_names import Initializer, Tensor

# Suffix of the names under which files store the state of an algorithm.
_STATE = "_state"


class Masked(Technique):
    """Multiplies weights by a mask that comes from elsewhere: a callback, a file, an initializer.

    Args:
        mask_initializer: Keras initializer of the bool mask. If it returns numbers, the non-zero entries are live.
            Default all ones: a dense layer.
        dense_gradient: Bool; whether the optimizer gets the gradient of masked entries, too. (The entries stay exactly
            zero.) Default `False`: masked entries get zero gradient, unless an algorithm that grows by gradient runs.
        structure: Which entries an algorithm prunes together: `None` (each by itself), "2:4" (N:M along the input
            axis), "4x1" (blocks), "filter" (output units), or the structures that `shrink` removes best: "channel",
            "head", "unit". See `sparsity_tf.masks.structures`. The structure is part of the layer's config, so it
            survives saving and loading. With "channel", "head" and "unit" the biases have masks, too.

    Example:

    ```python
    model = sparsity_tf.sparsify(model, Masked(structure="2:4"), where=["hidden"])
    ```
    """

    name = "masked"
    aliases = ("mask",)
    # Whether the weight is another function of its variable than the variable under the mask.
    reparametrized = False

    def __init__(
        self, mask_initializer: Initializer = "ones", dense_gradient: bool = False, structure: str | None = None
    ) -> None:
        check_bool("dense_gradient", dense_gradient)
        self.mask_initializer = initializer_or_number("mask_initializer", mask_initializer, "ones")
        self.dense_gradient = dense_gradient
        self.structure = structures.get(structure).spec
        # State of the algorithms that change the mask: name -> float64 numpy array. These are no variables: no training
        # step reads them, and a model must have the same weights with and without an algorithm.
        self.states = {}
        # `id`s of the algorithms that need the dense gradient while they run. They are no option: a layer's config must
        # be the same with and without an algorithm.
        self.dense_gradient_users = set()

    def build(self, weight: SparseWeight) -> None:
        # Fresh objects for this layer alone: `sparsify` gives each layer a shallow copy of one technique.
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
            change_initial_value(
                weight.variable, lambda tensor: zero_outside(ops.convert_to_tensor(mask), tensor), after=mask
            )

    def release(self, weight: SparseWeight) -> None:
        if lora.enabled(weight):
            lora.remove(weight.layer)
        if isinstance(weight.variable.constraint, MaskConstraint):
            weight.variable.constraint = weight.variable.constraint.inner
        if isinstance(weight.variable.regularizer, MaskedRegularizer):
            weight.variable.regularizer = weight.variable.regularizer.inner

    def _initial_mask(self, shape, dtype=None):
        return ops.cast(ops.not_equal(self.mask_initializer(shape, dtype="float32"), 0), "bool")

    def masked_variable(self, weight: SparseWeight, select: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The weight's variable, with an adapter's product added, exactly zero where masked: the tensor of files."""
        return zero_outside(weight.extra("mask", select), lora.adapted(weight, select), foldable=True)

    def value(self, weight: SparseWeight, select: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        return self.masked_variable(weight, select)

    def training_value(self, weight: SparseWeight, select: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        if lora.enabled(weight):
            return self.masked_variable(weight, select)
        kernel, dense = weight.tensor(select), self.dense_gradient or bool(self.dense_gradient_users)
        if masks_in_forward_pass():
            value = self.masked_variable(weight, select)
            return kernel + ops.stop_gradient(value - kernel) if dense else value
        # The variable is already zero where masked, so only the gradient needs the mask.
        return kernel if dense else _mask_gradient(kernel, weight.extra("mask", select))

    def apply(
        self,
        weight: SparseWeight,
        linear: Callable[[Tensor | None, Tensor], Tensor],
        inputs: Tensor | None,
        training: bool,
        select: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        # A subclassed model whose `call` has no `training` argument trains its layers with `training=False`.
        return super().apply(weight, linear, inputs, training or bool(self.dense_gradient_users), select)

    def mask(self, weight: SparseWeight) -> Tensor:
        return weight.extra("mask")

    def assign_mask(self, weight: SparseWeight, mask: Tensor) -> None:
        check_array("mask", mask)
        shape = tuple(np.shape(mask))
        if shape != weight.shape:
            raise ValueError(f"`mask` for {weight.path!r} must have the shape {weight.shape}. Received: shape={shape}")
        mask = ops.cast(ops.convert_to_tensor(mask), "bool")
        # A newly opened entry must start at zero. On JAX the variable may be non-zero outside the old mask, so the old
        # mask is applied first.
        tensor = weight.tensor()
        value = zero_outside(weight.extra("mask"), tensor) if masks_in_forward_pass() else tensor
        weight.extra_variable("mask").assign(mask)
        weight.variable.assign(zero_outside(mask, value))


class MaskConstraint(keras.constraints.Constraint):
    """Sets masked entries to exactly zero, after the user's own constraint.

    Args:
        mask: Bool `keras.Variable` with the shape of the constrained variable.
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
    """A regularizer of the live entries only. On JAX the variable itself may be non-zero where masked.

    Args:
        mask: Bool `keras.Variable` with the shape of the regularized variable.
        inner: The regularizer that the variable had.
    """

    def __init__(self, mask, inner):
        self.mask = mask
        self.inner = inner

    def __call__(self, x):
        return self.inner(zero_outside(ops.convert_to_tensor(self.mask), ops.convert_to_tensor(x)))


@ops.custom_gradient
def _mask_gradient(kernel, mask):
    """Returns `kernel` unchanged. Its gradient is zero where the mask is zero."""

    def gradient(*args, upstream=None):
        upstream = args[0] if upstream is None else upstream
        # A product rather than `where`: without XLA it is faster, and the sign of a zero gradient does not matter.
        return ops.multiply(upstream, ops.cast(mask, upstream.dtype)), None

    return kernel, gradient


class MaskedLayer:
    """Mixin with the methods that masked layers add to the protocol. It stands before the kind in the bases.

    Example:

    ```python
    @keras.saving.register_keras_serializable("my_package")
    class MaskedDense(sparsity_tf.layers.MaskedLayer, sparsity_tf.layers.SparseDense):
        pass
    ```
    """

    technique_class = Masked
    takes_lora = True
    # Names of the weights, other than kernels, that have one entry for each output unit.
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
        """Freezes the kernel and adds a low-rank adapter, as the stock layer does. Masked entries stay zero.

        Compile the model again afterwards. Saving the model merges adapter and kernel in the file, as Keras does, and
        `sparsity_tf.to_dense` merges them in the layer. No algorithm prunes the frozen kernel further.

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
            lora_alpha = self.lora_alpha  # from the config
        self.keras_class.enable_lora(self, rank, lora_alpha, a_initializer, b_initializer)

    def build_technique(self) -> None:
        # If the constructor asked for an adapter, it exists already, and Keras has locked the layer after adding it.
        with unlocked(self) if getattr(self, "lora_enabled", False) else contextlib.nullcontext():
            super().build_technique()

    def _own_variables(self):
        adapter = {id(variable) for variable in lora.factors(self)}
        return [variable for variable in super()._own_variables() if id(variable) not in adapter]

    def save_own_variables(self, store: Any) -> None:
        if not self.built:
            return super().save_own_variables(store)
        # Not the variable itself: on JAX it may be non-zero where masked, and an adapter is merged.
        weights = self.sparse_weights + self.bound_weights
        values = {weight.name: self.technique.masked_variable(weight) for weight in weights}
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
            weight.variable.assign(self.technique.masked_variable(weight))


class MaskedDense(MaskedLayer, kinds.SparseDense):
    """`keras.layers.Dense` with a masked kernel. Also takes the arguments of `Masked`."""


class MaskedEinsumDense(MaskedLayer, kinds.SparseEinsumDense):
    """`keras.layers.EinsumDense` with a masked kernel. Also takes the arguments of `Masked`."""


class MaskedConv1D(MaskedLayer, kinds.SparseConv1D):
    """`keras.layers.Conv1D` with a masked kernel. Also takes the arguments of `Masked`."""


class MaskedConv2D(MaskedLayer, kinds.SparseConv2D):
    """`keras.layers.Conv2D` with a masked kernel. Also takes the arguments of `Masked`."""


class MaskedConv3D(MaskedLayer, kinds.SparseConv3D):
    """`keras.layers.Conv3D` with a masked kernel. Also takes the arguments of `Masked`."""


class MaskedConv1DTranspose(MaskedLayer, kinds.SparseConv1DTranspose):
    """`keras.layers.Conv1DTranspose` with a masked kernel. Also takes the arguments of `Masked`."""


class MaskedConv2DTranspose(MaskedLayer, kinds.SparseConv2DTranspose):
    """`keras.layers.Conv2DTranspose` with a masked kernel. Also takes the arguments of `Masked`."""


class MaskedConv3DTranspose(MaskedLayer, kinds.SparseConv3DTranspose):
    """`keras.layers.Conv3DTranspose` with a masked kernel. Also takes the arguments of `Masked`."""


class MaskedDepthwiseConv1D(MaskedLayer, kinds.SparseDepthwiseConv1D):
    """`keras.layers.DepthwiseConv1D` with a masked kernel. Also takes the arguments of `Masked`."""


class MaskedDepthwiseConv2D(MaskedLayer, kinds.SparseDepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` with a masked kernel. Also takes the arguments of `Masked`."""


class MaskedSeparableConv1D(MaskedLayer, kinds.SparseSeparableConv1D):
    """`keras.layers.SeparableConv1D` with masked kernels. Also takes the arguments of `Masked`."""


class MaskedSeparableConv2D(MaskedLayer, kinds.SparseSeparableConv2D):
    """`keras.layers.SeparableConv2D` with masked kernels. Also takes the arguments of `Masked`."""


class MaskedBatchNormalization(MaskedLayer, SparseLayer, keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` with masked gamma and beta, for channels that are pruned in all layers.

    Without these masks the layer would turn a filter of zeros into a constant, because it subtracts the mean and adds
    beta. With a structure that ties no layers nothing is masked. Also takes the arguments of `Masked`.
    """

    sparse_weight_names = ()
    _of_units = ("gamma", "beta")

    def call(self, inputs, training=None, mask=None):
        # Keras's code then finds the masked tensors in the place of the variables. They are written through `__dict__`,
        # because Keras tracks attributes that are set on a layer.
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
    """`keras.layers.Embedding` with a masked table. Also takes the arguments of `Masked`."""


class MaskedReversibleEmbedding(MaskedLayer, kinds.SparseReversibleEmbedding):
    """`keras.layers.ReversibleEmbedding` with masked tables. Also takes the arguments of `Masked`."""

    def build(self, input_shape=None):
        # Keras would make the adapter of the constructor before the second table, and then refuse the table.
        rank, alpha, self.lora_rank = self.lora_rank, self.lora_alpha, None
        super().build(input_shape)
        if rank is not None:
            self.enable_lora(rank, alpha)
