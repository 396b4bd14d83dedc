"""Sparse variational dropout (Molchanov et al., 2017, arXiv 1701.05369), as in Gale et al. (2019, arXiv 1902.09574).

Each weight has a mean theta and a variance sigma^2 = alpha theta^2 with a log-uniform prior. Training samples the
pre-activations (local reparametrisation) and adds the KL divergence to the loss. Weights whose noise drowns their mean
(log alpha at the threshold or above) are exact zeros at inference.

A separable convolution samples after each of its two kernels. `DepthwiseConv1D`, `DepthwiseConv2D` and `ConvLSTM` have
no form with variational dropout: neither paper applies the method to such layers.

The formulas are pure functions on tensors (`compute_log_alpha`, `compute_log_sigma2`, `kl_divergence`).
"""

import functools
import math
from collections.abc import Callable

from keras import ops

from sparsity_tf.checks import check_bool, check_number, check_seed
from sparsity_tf.layers import kinds
from sparsity_tf.layers.sparse_weight import SparseWeight
from sparsity_tf.layers.technique import Technique, initializer_or_number
from sparsity_tf.ops import noise
from sparsity_tf.ops.fused import fused
from sparsity_tf.type_names import Initializer, Tensor

# Added inside logarithms and square roots.
EPSILON = 1e-8
# Molchanov et al. (2017), equation 14.
K1, K2, K3 = 0.63576, 1.8732, 1.48695
# Squares of inputs are clipped at this value, so that their products and sums stay finite in float32.
_LARGEST_SQUARE = 1e30
# Largest exponent: exp(80) and its products with weights are finite in float32, so their gradients are no NaN.
_LARGEST_EXPONENT = 80.0
# If log alpha is clipped to at most plus and minus this value, all products of the KL divergence's derivative are
# finite in float32.
_LARGEST_FUSED_CLIP = 15.0
# exp(700) is finite in Python. A clip of that size has no effect in float32.
LARGEST_CLIP = 700.0


def compute_log_alpha(theta, log_sigma2, clip=None):
    """log alpha = log sigma^2 - log(theta^2 + 1e-8), optionally clipped to [-clip, clip]."""
    log_alpha = ops.subtract(log_sigma2, ops.log(ops.add(ops.square(theta), EPSILON)))
    return log_alpha if clip is None else ops.clip(log_alpha, -clip, clip)


def compute_log_sigma2(theta, log_alpha):
    """The inverse: log sigma^2 = log alpha + log(theta^2 + 1e-8)."""
    return ops.add(log_alpha, ops.log(ops.add(ops.square(theta), EPSILON)))


def kl_divergence(log_alpha):
    """KL divergence from the log-uniform prior to the posterior of each weight (equation 14 of the paper).

    KL = k1 - k1 sigmoid(k2 + k3 log_alpha) + 0.5 log(1 + 1/alpha): within 0.01 nats of the exact integral, positive,
    and zero in the limit of large alpha.

    Args:
        log_alpha: Float tensor.

    Returns:
        Tensor of the same shape, nats. The penalty of a layer is its sum.
    """
    return K1 - K1 * ops.sigmoid(K2 + K3 * log_alpha) + 0.5 * ops.softplus(-log_alpha)


def _theta2(theta):
    return ops.add(ops.square(theta), EPSILON)


def _clipped_sigma2(theta, log_sigma2, clip):
    """sigma^2 after the clip.

    Clipping log alpha to +-c equals clipping sigma^2 to e^(+-c) (theta^2 + eps), which needs no logarithm.
    """
    theta2 = _theta2(theta)
    sigma2 = ops.exp(ops.minimum(log_sigma2, _LARGEST_EXPONENT))
    return ops.minimum(ops.maximum(sigma2, theta2 * math.exp(-clip)), theta2 * math.exp(clip))


def _is_clipped(theta, sigma2, clip):
    """Whether the clip acted.

    Compares with the clipped sigma^2 itself, because compilers may round the same product in two ways.
    """
    theta2 = _theta2(theta)
    low, high = math.exp(1e-6 - clip), math.exp(clip - 1e-6)
    return ops.logical_or(sigma2 <= theta2 * low, sigma2 >= theta2 * high)


def _fused_sigma2(theta, log_sigma2, clip):
    """`_clipped_sigma2`, faster."""
    return _sigma2_function(clip)(theta, log_sigma2)


@functools.cache
def _sigma2_function(clip):
    def forward(theta, log_sigma2):
        sigma2 = _clipped_sigma2(theta, log_sigma2, clip)
        return sigma2, (sigma2, theta)

    def backward(upstream, sigma2, theta):
        clipped, by_log = _is_clipped(theta, sigma2, clip), upstream * sigma2
        return ops.where(clipped, by_log * 2 * theta / _theta2(theta), 0), ops.where(clipped, 0, by_log)

    return fused(forward, backward)


@functools.cache
def _fused_kl_divergence(clip):
    """The sum of `kl_divergence(compute_log_alpha(theta, log_sigma2, clip))`, clip at most `_LARGEST_FUSED_CLIP`."""

    def forward(theta, log_sigma2):
        theta2, sigma2 = _theta2(theta), _clipped_sigma2(theta, log_sigma2, clip)
        # In this form neither logarithm waits for the other's exponential. The layer has already computed this sigma^2.
        odds = ops.exp(-K2 - K3 * compute_log_alpha(theta, log_sigma2, clip))
        total = ops.sum(K1 * odds / (1 + odds) + 0.5 * ops.log(1 + theta2 / sigma2))
        # K1 K3 odds / (1 + odds)^2 + 0.5 / (1 + alpha), over a common denominator. XLA keeps a quotient for both
        # gradients; it would compute a sum anew for each of them.
        square, total2 = ops.square(1 + odds), theta2 + sigma2
        slope = (K1 * K3 * odds * total2 + 0.5 * theta2 * square) / (square * total2)
        return total, (ops.where(_is_clipped(theta, sigma2, clip), 0, -slope), theta)

    def backward(upstream, slope, theta):
        by_log_alpha = upstream * slope
        return by_log_alpha * -2 * theta / _theta2(theta), by_log_alpha

    return fused(forward, backward)


def _moments(linear, inputs, theta, sigma2):
    """Mean and variance of the pre-activation, for independent weights."""
    mean = linear(inputs, theta)
    if inputs is not None:
        inputs = ops.minimum(ops.square(ops.cast(inputs, sigma2.dtype)), _LARGEST_SQUARE)
    return mean, linear(inputs, sigma2)


class VariationalDropout(Technique):
    """Sparse variational dropout of a weight.

    The kernel of the Keras layer is theta; `log_sigma2` is a second trainable variable of its shape.

    Args:
        log_sigma2_initializer: Initial log sigma^2: a Keras initializer or a number. Default -10; -15 for ResNet-50 in
            Gale et al.; about -8 to sparsify a trained network.
        clip_log_alpha: Training and penalty clip log alpha to plus and minus this number, less than 700. `None` for no
            clip.
        log_alpha_threshold: Inference keeps the weights with log alpha < threshold (strictly; log alpha is not clipped
            here). 3 is a dropout rate of 0.95.
        mask_in_training: Whether training, too, drops the means of weights above the threshold. (Their noise stays.)
            This doubles the compression of the paper's LeNet at the same error.
        share_noise: Whether, for inputs of rank > 2, each example has one noise vector for all its positions (time,
            space), as in Gale et al.'s Transformer. Default: independent noise at every position.
        penalty_weight: Initial value of the layer's `penalty_weight` variable, which multiplies the KL in the training
            loss. If the loss is a mean over examples, the evidence lower bound asks for 1 / (number of training
            examples). Set this value, or let `callbacks.PenaltyRamp` change the weight. The default 0 adds no penalty.
        seed: Integer seed of the noise; `None` draws one from Python's generator (`keras.utils.set_random_seed`).

    Example:

    ```python
    model = sparsity_tf.sparsify(model, VariationalDropout(log_alpha_threshold=2.0, penalty_weight=1 / 60000))
    ```
    """

    name = "variational_dropout"
    aliases = ("vd",)
    penalized = True
    stochastic = True

    def __init__(
        self,
        log_sigma2_initializer: Initializer | float = -10.0,
        clip_log_alpha: float | None = 8.0,
        log_alpha_threshold: float = 3.0,
        mask_in_training: bool = False,
        share_noise: bool = False,
        penalty_weight: float = 0.0,
        seed: int | None = None,
    ) -> None:
        if clip_log_alpha is not None:
            check_number("clip_log_alpha", clip_log_alpha, above=0, below=LARGEST_CLIP)
        check_number("log_alpha_threshold", log_alpha_threshold)
        check_bool("mask_in_training", mask_in_training)
        check_bool("share_noise", share_noise)
        check_number("penalty_weight", penalty_weight, least=0)
        check_seed("seed", seed)
        self.log_sigma2_initializer = initializer_or_number("log_sigma2_initializer", log_sigma2_initializer, -10.0)
        self.clip_log_alpha = clip_log_alpha
        self.log_alpha_threshold = log_alpha_threshold
        self.mask_in_training = mask_in_training
        self.share_noise = share_noise
        self.penalty_weight = penalty_weight
        self.seed = None if seed is None else int(seed)  # A config can't hold numpy's integers.

    def build(self, weight: SparseWeight) -> None:
        weight.add_variable("log_sigma2", shape=weight.shape, initializer=self.log_sigma2_initializer)

    def value(self, weight: SparseWeight, select: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        theta = weight.tensor(select)
        return ops.where(self._kept(theta, weight.extra("log_sigma2", select)), theta, 0)

    def mask(self, weight: SparseWeight) -> Tensor:
        return self._kept(weight.tensor(), weight.extra("log_sigma2"))

    def threshold(self, weight: SparseWeight) -> float:
        return self.log_alpha_threshold

    def penalty(self, weight: SparseWeight) -> Tensor:
        theta, log_sigma2, clip = weight.tensor(), weight.extra("log_sigma2"), self.clip_log_alpha
        if clip is None or clip > _LARGEST_FUSED_CLIP:
            return ops.sum(kl_divergence(compute_log_alpha(theta, log_sigma2, clip)))
        return _fused_kl_divergence(clip)(theta, ops.cast(log_sigma2, theta.dtype))

    def apply(
        self,
        weight: SparseWeight,
        linear: Callable[[Tensor | None, Tensor], Tensor],
        inputs: Tensor | None,
        training: bool,
        select: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        if not training:
            return super().apply(weight, linear, inputs, training, select)
        layer = weight.layer
        mean, variance = _moments(linear, inputs, *self._kernels(weight, select))
        shared_axes = layer.position_axes(len(mean.shape)) if self.share_noise else ()
        variance = ops.cast(variance, weight.tensor_dtype)
        return noise.add_normal(mean, variance, layer.seed_generator, EPSILON, shared_axes)

    def over_time(
        self, weight: SparseWeight, linear: Callable[[Tensor | None, Tensor], Tensor], batch_size: int | Tensor
    ) -> Callable[[Tensor], Tensor] | None:
        kernels, dtype = self._kernels(weight), weight.tensor_dtype
        n = noise.normal((batch_size, weight.shape[-1]), weight.layer.seed_generator, dtype)

        def function(inputs):
            mean, variance = _moments(linear, inputs, *kernels)
            deviation = ops.sqrt(ops.maximum(ops.cast(variance, dtype), 0) + EPSILON)
            shared = n if len(inputs.shape) == 2 else ops.expand_dims(n, 1)
            return mean + ops.cast(deviation * shared, mean.dtype)

        return function

    def _means_and_variances(self, weight, select=None):
        """The means and variances of the weights in training, float32 or wider."""
        theta = weight.tensor(select)
        log_sigma2 = weight.extra("log_sigma2", select)
        kept_theta = ops.where(self._kept(theta, log_sigma2), theta, 0) if self.mask_in_training else theta
        # A lookup has a new shape for every sequence length. Compiling each would cost more than it saves.
        return kept_theta, self._sigma2(theta, log_sigma2, compiled=select is None)

    def _noisy_kernels(self, weight, select=None):
        """The kernels of the pre-activation's mean and of its variance, float32 or wider."""
        return self._means_and_variances(weight, select)

    def _kernels(self, weight, select=None):
        """The kernels of the pre-activation's mean and of its variance, in the dtypes in which they are applied."""
        layer = weight.layer
        theta, sigma2 = self._noisy_kernels(weight, select)
        # float16 can't hold the squares of activations above 255.
        dtype = "float32" if layer.compute_dtype == "float16" else layer.compute_dtype
        return ops.cast(theta, layer.compute_dtype), ops.cast(sigma2, dtype)

    def _kept(self, theta, log_sigma2):
        # This form keeps a weight that is NaN. `log_alpha < threshold` would drop it, and so hide it.
        return ops.logical_not(compute_log_alpha(theta, log_sigma2) >= self.log_alpha_threshold)

    def _sigma2(self, theta, log_sigma2, compiled=True):
        """sigma^2 after the clip of log alpha."""
        if self.clip_log_alpha is None:
            return ops.exp(ops.minimum(log_sigma2, _LARGEST_EXPONENT))
        clipped = _fused_sigma2 if compiled else _clipped_sigma2
        return clipped(theta, ops.cast(log_sigma2, theta.dtype), self.clip_log_alpha)


class VDDense(kinds.SparseDense):
    """`keras.layers.Dense` with variational dropout. Also takes the arguments of `VariationalDropout`."""

    technique_class = VariationalDropout


class VDEinsumDense(kinds.SparseEinsumDense):
    """`keras.layers.EinsumDense` with variational dropout. Also takes the arguments of `VariationalDropout`."""

    technique_class = VariationalDropout


class VDConv1D(kinds.SparseConv1D):
    """`keras.layers.Conv1D` with variational dropout. Also takes the arguments of `VariationalDropout`."""

    technique_class = VariationalDropout


class VDConv2D(kinds.SparseConv2D):
    """`keras.layers.Conv2D` with variational dropout. Also takes the arguments of `VariationalDropout`."""

    technique_class = VariationalDropout


class VDConv3D(kinds.SparseConv3D):
    """`keras.layers.Conv3D` with variational dropout. Also takes the arguments of `VariationalDropout`."""

    technique_class = VariationalDropout


class VDConv1DTranspose(kinds.SparseConv1DTranspose):
    """`keras.layers.Conv1DTranspose` with variational dropout. Also takes the arguments of `VariationalDropout`."""

    technique_class = VariationalDropout


class VDConv2DTranspose(kinds.SparseConv2DTranspose):
    """`keras.layers.Conv2DTranspose` with variational dropout. Also takes the arguments of `VariationalDropout`."""

    technique_class = VariationalDropout


class VDConv3DTranspose(kinds.SparseConv3DTranspose):
    """`keras.layers.Conv3DTranspose` with variational dropout. Also takes the arguments of `VariationalDropout`."""

    technique_class = VariationalDropout


class VDSeparableConv1D(kinds.SparseSeparableConv1D):
    """`keras.layers.SeparableConv1D` with variational dropout. Also takes the arguments of `VariationalDropout`."""

    technique_class = VariationalDropout


class VDSeparableConv2D(kinds.SparseSeparableConv2D):
    """`keras.layers.SeparableConv2D` with variational dropout. Also takes the arguments of `VariationalDropout`."""

    technique_class = VariationalDropout


class VDEmbedding(kinds.SparseEmbedding):
    """`keras.layers.Embedding` with variational dropout: fresh noise at every position.

    Also takes the arguments of `VariationalDropout`.
    """

    technique_class = VariationalDropout


class VDReversibleEmbedding(kinds.SparseReversibleEmbedding):
    """`keras.layers.ReversibleEmbedding` with variational dropout in the lookup and in the (tied) projection.

    The penalty of a tied table counts once. Also takes the arguments of `VariationalDropout`.
    """

    technique_class = VariationalDropout
