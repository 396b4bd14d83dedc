"""Soft threshold weight reparameterization, STR (Kusupati et al., 2020, arXiv 2002.03231).

The effective weight is sign(w) max(|w| - g(s), 0), where s is a trainable threshold variable and g a sigmoid or an
exponential. Sparsity is learned, not set: weight decay on s raises the threshold, the gradient of the task lowers it.
The gradients are the exact ones of this formula, without a straight-through estimate:

    d loss / d w_i = G_i 1[|w_i| > g(s)],    d loss / d s = -g'(s) sum_i G_i sign(w_i) 1[|w_i| > g(s)]
"""

import weakref
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from sparsity_tf.backend import as_loss, decays, inner_optimizer, model_of_call
from sparsity_tf.checks import check_choice, check_regularizer
from sparsity_tf.layers import kinds
from sparsity_tf.layers.sparse_weight import SparseWeight
from sparsity_tf.layers.technique import Technique, initializer_or_number
from sparsity_tf.ops.fused import fused
from sparsity_tf.type_names import Initializer, Regularizer, Tensor
from sparsity_tf.user_warning import warn_user


def _exponential(s):
    # A threshold of exp(80) prunes everything; above 88 the exponential and its gradient would overflow.
    return ops.exp(ops.minimum(s, 80.0))


THRESHOLD_FUNCTIONS = {"sigmoid": ops.sigmoid, "exponential": _exponential}
GRANULARITIES = ("layer", "filter", "weight")


def soft_threshold(w, threshold):
    """sign(w) max(|w| - threshold, 0), the proximal operator of the L1 norm (equation 1 of the paper).

    Args:
        w: Float tensor.
        threshold: Non-negative tensor that broadcasts over `w`.

    Returns:
        Tensor of the shape of `w`, exactly zero where |w| <= threshold.
    """
    return ops.multiply(ops.sign(w), ops.relu(ops.subtract(ops.abs(w), threshold)))


def _forward(w, threshold):
    value = soft_threshold(w, threshold)
    return value, (value, threshold)


def _backward(upstream, value, threshold):
    by_w = ops.where(value != 0, upstream, 0)
    # A selection rather than a product: XLA on CPUs sums products three times as slowly.
    by_threshold = ops.where(value > 0, -upstream, by_w)
    if len(threshold.shape) == 0:
        return by_w, ops.sum(by_threshold)
    # The threshold broadcasts along its axes of size 1.
    axes = [axis for axis, size in enumerate(threshold.shape) if size == 1]
    return by_w, ops.sum(by_threshold, axes, keepdims=True) if axes else by_threshold


# The same as `soft_threshold`, but faster in training.
_fused_soft_threshold = fused(_forward, _backward)


class SoftThreshold(Technique):
    """A learned soft threshold on a weight.

    The kernel of the Keras layer is the raw weight; `raw_threshold` is the trainable variable s. An optimizer without
    weight decay never sparsifies, and neither does decoupled weight decay (AdamW) that excludes the thresholds. With
    such an optimizer, give `threshold_regularizer=keras.regularizers.L2(c)`: its gradient 2 c s pushes a negative s up.
    (SGD with the paper's L2 decay lambda is `L2(lambda / 2)` on kernel and threshold.)

    Args:
        threshold_function: The function g, "sigmoid" (as in the paper's convolutional nets) or "exponential".
        granularity: The part of a layer that shares one threshold: "layer", "filter" (an output unit) or "weight".
        threshold_initializer: Initial s: a Keras initializer or a number. With the paper's -3200 and -12800 the layer
            is exactly dense in float32 until decay has brought s to about -87. Short runs need -5 to -100.
        threshold_regularizer: Keras regularizer of s.

    Example:

    ```python
    model = sparsity_tf.sparsify(model, SoftThreshold(threshold_regularizer=keras.regularizers.L2(1e-4)))
    ```
    """

    name = "soft_threshold"
    aliases = ("str",)

    def __init__(
        self,
        threshold_function: str = "sigmoid",
        granularity: str = "layer",
        threshold_initializer: Initializer | float = -10.0,
        threshold_regularizer: Regularizer | None = None,
    ) -> None:
        check_choice("threshold_function", threshold_function, sorted(THRESHOLD_FUNCTIONS))
        check_choice("granularity", granularity, GRANULARITIES)
        self.threshold_function = threshold_function
        self.granularity = granularity
        self.threshold_initializer = initializer_or_number("threshold_initializer", threshold_initializer, -10.0)
        self.threshold_regularizer = check_regularizer("threshold_regularizer", threshold_regularizer)

    def build(self, weight: SparseWeight) -> None:
        weight.add_variable(
            "raw_threshold",
            shape=self._threshold_shape(weight),
            initializer=self.threshold_initializer,
            regularizer=self.threshold_regularizer and _ThresholdLoss(self.threshold_regularizer),
        )

    def _threshold_shape(self, weight):
        """The shape of s: () for "layer", otherwise a shape of the weight's rank that broadcasts against the weight."""
        if self.granularity == "layer":
            return ()
        if self.granularity == "weight":
            return weight.shape
        axes = weight.filter_axes
        return tuple(size if axis in axes else 1 for axis, size in enumerate(weight.shape))

    def value(self, weight: SparseWeight, select: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        if self.granularity == "layer" or select is None:
            return soft_threshold(weight.tensor(select), self._threshold(weight))
        return select(self.value(weight))

    def training_value(self, weight: SparseWeight, select: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        _warn_if_nothing_prunes(weight)
        if select is not None:
            return self.value(weight, select)
        kernel = weight.tensor()
        return _fused_soft_threshold(kernel, ops.cast(self._threshold(weight), kernel.dtype))

    def threshold(self, weight: SparseWeight) -> float | np.ndarray:
        # The cast is needed: numpy can't read a bfloat16 scalar of TensorFlow.
        return ops.convert_to_numpy(ops.cast(self._threshold(weight), weight.tensor_dtype))

    def _threshold(self, weight):
        return THRESHOLD_FUNCTIONS[self.threshold_function](weight.extra("raw_threshold"))


# Optimizers for which the warning below has been given.
_REPORTED = weakref.WeakSet()


def _warn_if_nothing_prunes(weight):
    """Warns, once for each optimizer, if a trainable threshold has neither a regularizer nor weight decay."""
    threshold = weight.extra_variable("raw_threshold")
    if threshold.regularizer is not None or not threshold.trainable:
        return
    optimizer = inner_optimizer(getattr(model_of_call(weight.layer), "optimizer", None))
    if optimizer is None or optimizer in _REPORTED:
        return
    if decays(optimizer, threshold):
        return
    _REPORTED.add(optimizer)
    warn_user(
        f"Nothing raises the threshold of {weight.path!r}, so soft threshold layers stay (nearly) dense. Give them "
        "`threshold_regularizer=keras.regularizers.L2(...)`, or use an optimizer with a `weight_decay` that includes "
        f"thresholds. Received: threshold_regularizer=None, {type(optimizer).__name__} with "
        f"weight_decay={optimizer.weight_decay}"
    )


class _ThresholdLoss(keras.regularizers.Regularizer):
    """The loss of the regularizer `inner` of thresholds, which may be float64, in the type of Keras's own losses."""

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, x):
        return as_loss(self.inner(x))


class STRDense(kinds.SparseDense):
    """`keras.layers.Dense` with a learned soft threshold. Also takes the arguments of `SoftThreshold`."""

    technique_class = SoftThreshold


class STREinsumDense(kinds.SparseEinsumDense):
    """`keras.layers.EinsumDense` with a learned soft threshold. Also takes the arguments of `SoftThreshold`."""

    technique_class = SoftThreshold


class STRConv1D(kinds.SparseConv1D):
    """`keras.layers.Conv1D` with a learned soft threshold. Also takes the arguments of `SoftThreshold`."""

    technique_class = SoftThreshold


class STRConv2D(kinds.SparseConv2D):
    """`keras.layers.Conv2D` with a learned soft threshold. Also takes the arguments of `SoftThreshold`."""

    technique_class = SoftThreshold


class STRConv3D(kinds.SparseConv3D):
    """`keras.layers.Conv3D` with a learned soft threshold. Also takes the arguments of `SoftThreshold`."""

    technique_class = SoftThreshold


class STRConv1DTranspose(kinds.SparseConv1DTranspose):
    """`keras.layers.Conv1DTranspose` with a learned soft threshold. Also takes the arguments of `SoftThreshold`."""

    technique_class = SoftThreshold


class STRConv2DTranspose(kinds.SparseConv2DTranspose):
    """`keras.layers.Conv2DTranspose` with a learned soft threshold. Also takes the arguments of `SoftThreshold`."""

    technique_class = SoftThreshold


class STRConv3DTranspose(kinds.SparseConv3DTranspose):
    """`keras.layers.Conv3DTranspose` with a learned soft threshold. Also takes the arguments of `SoftThreshold`."""

    technique_class = SoftThreshold


class STRDepthwiseConv1D(kinds.SparseDepthwiseConv1D):
    """`keras.layers.DepthwiseConv1D` with a learned soft threshold. Also takes the arguments of `SoftThreshold`."""

    technique_class = SoftThreshold


class STRDepthwiseConv2D(kinds.SparseDepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` with a learned soft threshold. Also takes the arguments of `SoftThreshold`."""

    technique_class = SoftThreshold


class STRSeparableConv1D(kinds.SparseSeparableConv1D):
    """`keras.layers.SeparableConv1D` with learned soft thresholds. Also takes the arguments of `SoftThreshold`."""

    technique_class = SoftThreshold


class STRSeparableConv2D(kinds.SparseSeparableConv2D):
    """`keras.layers.SeparableConv2D` with learned soft thresholds. Also takes the arguments of `SoftThreshold`."""

    technique_class = SoftThreshold
