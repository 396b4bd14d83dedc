"""Structured Bayesian pruning (Neklyudov et al., NIPS 2017, arXiv 1705.07283): noise on whole units and filters.

Each unit (filter) is multiplied by log-normal noise theta, whose logarithm is truncated to an interval [a, b].
Training draws theta and adds to the loss the divergence of its distribution from a log-uniform prior. A unit whose
noise has a signal-to-noise ratio of at most 1 is zero at inference; the others are multiplied by the mean of theta.
Dead units are whole filters, or whole rows of the next kernel, so `shrink` removes them.

With A = (a - mu) / sigma, B = (b - mu) / sigma, and the normal density phi and distribution function Phi:
Z = Phi(B) - Phi(A), log theta ~ N(mu, sigma^2) on [a, b].
"""

import math
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from sparsity_tf.checks import check_choice, check_number, check_seed
from sparsity_tf.layers import kinds
from sparsity_tf.layers.sparse_weight import SparseWeight
from sparsity_tf.layers.technique import Technique, initializer_or_number
from sparsity_tf.ops import noise
from sparsity_tf.type_names import Initializer, Tensor

# Bounds of log sigma, as in the authors' program.
_LOG_SIGMA = (-20.0, 5.0)
# Below this sigma the variance of theta is lost in the rounding of float32. Such a unit is certain, so it lives.
_CERTAIN = 1e-3
# A unit whose mean is below this share of exp(high), the largest theta, is dead, whatever its signal-to-noise ratio:
# near the lower end of the interval the truncation makes the ratio large.
_LEAST_MEAN = 1e-6
# Largest magnitude of `high`: exp(2 high) and its products are then normal numbers of float32.
_LARGEST_END = 20.0

AXES = ("output", "input", "mixed")
DRAWS = ("batch", "example")


def divergence(mu, log_sigma, low=-20.0, high=0.0):
    """The Kullback-Leibler divergence of the truncated log-normal distribution from the log-uniform prior.

    log(b - a) - log sigma - log Z - (A phi(A) - B phi(B)) / (2 Z) - log(2 pi e) / 2 (equation 14 of the paper).

    Args:
        mu, log_sigma: Float tensors of one shape, mu in [low, high].
        low, high: The interval [a, b] of log theta.

    Returns:
        Tensor of the shape of `mu`, >= 0 up to rounding.
    """
    sigma = ops.exp(log_sigma)
    a, b = (low - mu) / sigma, (high - mu) / sigma
    z = _normal_cdf(b) - _normal_cdf(a)
    edges = (a * _normal_density(a) - b * _normal_density(b)) / (2 * z)
    return math.log(high - low) - log_sigma - ops.log(z) - edges - 0.5 * math.log(2 * math.pi * math.e)


def mean_and_snr(mu, log_sigma, low=-20.0, high=0.0):
    """The mean of theta, and its signal-to-noise ratio E theta / sqrt(Var theta).

    The moments are written with the scaled complementary error function erfcx(x) = exp(x^2) erfc(x). (The usual form,
    exp(mu + sigma^2 / 2) times a difference of distribution functions, overflows float32 from sigma = 6.7 on.)

    Args:
        mu, log_sigma, low, high: As in `divergence`.

    Returns:
        Pair of tensors of the shape of `mu`.
    """
    sigma = ops.exp(log_sigma)
    a, b = (low - mu) / sigma, (high - mu) / sigma
    z = _normal_cdf(b) - _normal_cdf(a)
    first, second = (
        (_half_moment(n, mu, sigma, b, high) - _half_moment(n, mu, sigma, a, low)) / (2 * z) for n in (1, 2)
    )
    # For a small sigma the difference may round to zero or less. The ratio is then huge.
    variance = ops.maximum(second - first * first, 1e-14 * first * first + 1e-37)
    return first, first / ops.sqrt(variance)


def sample(mu, log_sigma, u, low=-20.0, high=0.0):
    """A draw of theta by the inverse of the distribution function.

    Args:
        mu, log_sigma, low, high: As in `divergence`.
        u: Tensor of the same shape, uniform on [0, 1).

    Returns:
        Tensor of the shape of `mu`, in [exp(low), exp(high)].
    """
    sigma = ops.exp(log_sigma)
    below, above = _normal_cdf((low - mu) / sigma), _normal_cdf((high - mu) / sigma)
    quantile = ops.clip(below + u * (above - below), 1e-5, 1 - 1e-5)
    normal = math.sqrt(2) * ops.erfinv(2 * quantile - 1)
    return ops.exp(ops.clip(mu + sigma * normal, low, high))


def _normal_density(x):
    return ops.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _normal_cdf(x):
    return 0.5 * (1 + ops.erf(x / math.sqrt(2)))


def _half_moment(n, mu, sigma, bound, edge):
    """erfcx((n sigma - bound) / sqrt 2) exp(n edge - bound^2 / 2), where bound = (edge - mu) / sigma.

    For a negative argument this is 2 exp(n mu + n^2 sigma^2 / 2) minus the same with the argument's magnitude.
    """
    x = (n * sigma - bound) / math.sqrt(2)
    tail = _erfcx(ops.abs(x)) * ops.exp(n * edge - 0.5 * bound * bound)
    # The exponent is at most n * edge where the branch is taken. Elsewhere it could overflow.
    whole = 2 * ops.exp(ops.minimum(n * mu + 0.5 * (n * sigma) ** 2, n * edge))
    return ops.where(x < 0, whole - tail, tail)


# Chebyshev coefficients of log(erfcx(x) / t), t = 1 / (1 + x / 2), from Numerical Recipes, section 6.2 (`erfcc`).
_ERFCX = (
    -1.26551223,
    1.00002368,
    0.37409196,
    0.09678418,
    -0.18628806,
    0.27886807,
    -1.13520398,
    1.48851587,
    -0.82215223,
    0.17087277,
)


def _erfcx(x):
    """exp(x^2) erfc(x) for x >= 0, with a relative error of at most 1.2e-7."""
    t = 1 / (1 + 0.5 * x)
    exponent = 0.0
    for coefficient in reversed(_ERFCX):
        exponent = coefficient + t * exponent
    return t * ops.exp(exponent)


class _Within(keras.constraints.Constraint):
    """Clips a variable after each update, so that it can come back from the bound."""

    def __init__(self, low, high):
        self.low, self.high = low, high

    def __call__(self, w):
        return ops.clip(w, self.low, self.high)


class LogNormalDropout(Technique):
    """Truncated log-normal noise on the units of a weight: structured Bayesian pruning.

    The variables `mu` and `log_sigma` have an entry for each unit. The noise is a factor of the kernel, so it comes
    before the bias.

    Begin with a trained network, as the authors do. Batch normalisation in training mode directly behind the layer
    divides noise that is drawn once for a mini-batch out again, and the divergence alone decides which filters live.
    Then freeze the normalisation (`layer.trainable = False`), as the authors do, or use `draw="example"`.

    Args:
        mu_initializer: Initial mu: a Keras initializer or a number, clipped to [`low`, `high`]. Default 0.
        log_sigma_initializer: Initial log sigma: a Keras initializer or a number, clipped to [-20, 5]. Default -5.
        axis: "output" for noise on output units and filters; "input" for noise on the units that the kernel reads. Of
            an `EinsumDense` these are all axes that are summed. "mixed" for "output" in convolutions and "input" in all
            other layers, which is the layout of the paper's networks.
        draw: "batch" draws the noise of a unit once for each mini-batch, as the authors' program does. "example" draws
            it for each example (all positions of an image or a sequence share it; not for `EinsumDense`). Both estimate
            the same loss. A step of "example" takes more time, but batch normalisation leaves its noise alone.
        low: Lower end a of the interval of log theta.
        high: Upper end b of the interval, > `low`, in [-20, 20].
        snr_threshold: A unit lives if its signal-to-noise ratio is above this number, >= 0.
        penalty_weight: Initial value of the layer's `penalty_weight` variable, which multiplies the divergence in the
            training loss: 1 / (number of training examples). `callbacks.PenaltyRamp` changes it during training. The
            default 0 adds no penalty.
        seed: Integer seed of the noise; `None` draws one from Python's generator (`keras.utils.set_random_seed`).

    Example:

    ```python
    model = sparsity_tf.sparsify(model, "structured_bayesian", penalty_weight=1 / 60000)
    ```
    """

    name = "structured_bayesian"
    aliases = ("sbp", "log_normal_dropout")
    penalized = True
    stochastic = True

    def __init__(
        self,
        mu_initializer: Initializer | float = 0.0,
        log_sigma_initializer: Initializer | float = -5.0,
        axis: str = "output",
        draw: str = "batch",
        low: float = -20.0,
        high: float = 0.0,
        snr_threshold: float = 1.0,
        penalty_weight: float = 0.0,
        seed: int | None = None,
    ) -> None:
        check_choice("axis", axis, AXES)
        check_choice("draw", draw, DRAWS)
        check_number("low", low)
        check_number("high", high, least=-_LARGEST_END, above=low, most=_LARGEST_END)
        check_number("snr_threshold", snr_threshold, least=0)
        check_number("penalty_weight", penalty_weight, least=0)
        check_seed("seed", seed)
        self.mu_initializer = initializer_or_number("mu_initializer", mu_initializer, 0.0)
        self.log_sigma_initializer = initializer_or_number("log_sigma_initializer", log_sigma_initializer, -5.0)
        self.axis = axis
        self.draw = draw
        self.low = low
        self.high = high
        self.snr_threshold = snr_threshold
        self.penalty_weight = penalty_weight
        self.seed = None if seed is None else int(seed)  # A config can't hold numpy's integers.

    def build(self, weight: SparseWeight) -> None:
        if self.draw == "example" and hasattr(weight.layer, "equation"):
            raise ValueError(
                "`draw` must be 'batch' for an `EinsumDense`, whose inputs and outputs may have their units on any "
                f"axes. Received: draw='example' for {weight.path!r}"
            )
        shape = self._shape(weight)
        for name, bounds in (("mu", (self.low, self.high)), ("log_sigma", _LOG_SIGMA)):
            within, initializer = _Within(*bounds), getattr(self, f"{name}_initializer")
            weight.add_variable(name, shape=shape, constraint=within, initializer=_clipped(initializer, within))

    def _shape(self, weight):
        """A shape of the weight's rank that broadcasts against the weight."""
        axes, rank = weight.filter_axes, len(weight.shape)
        if self._on_inputs(weight):
            if axes != (rank - 1,):
                raise ValueError(
                    "`axis` must be 'output' for a kernel whose last axis alone is not its output. "
                    f"Received: axis={self.axis!r} for {weight.path!r}"
                )
            if getattr(weight.layer, "groups", 1) > 1:
                raise ValueError(
                    "`axis` must be 'output' for a convolution with groups, whose groups read different units with "
                    f"the same entry. Received: axis={self.axis!r} for {weight.path!r} with "
                    f"groups={weight.layer.groups}"
                )
            # The axes before the units are positions in the window of a convolution.
            axes = tuple(range(len(_window(weight.layer)), rank - 1))
        return tuple(size if axis in axes else 1 for axis, size in enumerate(weight.shape))

    def _on_inputs(self, weight):
        return self.axis == "input" or self.axis == "mixed" and not _window(weight.layer)

    def _parameters(self, weight, dtype):
        return (ops.cast(weight.extra(name), dtype) for name in ("mu", "log_sigma"))

    def value(self, weight: SparseWeight, select: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        kernel = weight.tensor()
        mu, log_sigma = self._parameters(weight, kernel.dtype)
        mean, snr = mean_and_snr(mu, log_sigma, self.low, self.high)
        uncertain = (snr <= self.snr_threshold) & (ops.exp(log_sigma) >= _CERTAIN)
        # This form keeps a unit whose noise is NaN. `snr > threshold` would drop it, and so hide it.
        dead = uncertain | (mean <= _LEAST_MEAN * math.exp(self.high))
        found = ops.where(dead, ops.zeros_like(kernel), kernel * mean)
        return found if select is None else select(found)

    def training_value(self, weight: SparseWeight, select: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        kernel = weight.tensor()
        mu, log_sigma = self._parameters(weight, kernel.dtype)
        u = noise.uniform_of_model(mu.shape, weight.layer.seed_generator, kernel.dtype)
        found = kernel * sample(mu, log_sigma, u, self.low, self.high)
        return found if select is None else select(found)

    def apply(
        self,
        weight: SparseWeight,
        linear: Callable[[Tensor | None, Tensor], Tensor],
        inputs: Tensor | None,
        training: bool,
        select: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        if not training or self.draw == "batch":
            return super().apply(weight, linear, inputs, training, select)
        kernel = ops.cast(weight.tensor(select), weight.layer.compute_dtype)
        if self._on_inputs(weight):
            return linear(self._with_noise(weight, inputs), kernel)
        return self._with_noise(weight, linear(inputs, kernel))

    def _with_noise(self, weight, units):
        """Inputs or outputs of a layer times one draw of theta for each example and unit."""
        rank = len(units.shape)
        positions = weight.layer.position_axes(rank)
        shape = [1 if axis in positions else size for axis, size in enumerate(ops.shape(units))]
        entries = [1 if axis == 0 or axis in positions else -1 for axis in range(rank)]
        mu, log_sigma = (ops.reshape(one, entries) for one in self._parameters(weight, weight.tensor_dtype))
        u = noise.uniform(tuple(shape), weight.layer.seed_generator, weight.tensor_dtype)
        return units * ops.cast(sample(mu, log_sigma, u, self.low, self.high), units.dtype)

    def threshold(self, weight: SparseWeight) -> float | np.ndarray | None:
        return self.snr_threshold

    def penalty(self, weight: SparseWeight) -> Tensor:
        mu, log_sigma = self._parameters(weight, weight.tensor_dtype)
        return ops.sum(divergence(mu, log_sigma, self.low, self.high))


def _window(layer):
    """The size of a convolution's window; empty for other layers."""
    return getattr(layer, "kernel_size", ())


def _clipped(initializer, within):
    return lambda shape, dtype=None: within(initializer(shape, dtype=dtype))


class SBPDense(kinds.SparseDense):
    """`keras.layers.Dense` with log-normal noise on its units. Also takes the arguments of `LogNormalDropout`."""

    technique_class = LogNormalDropout


class SBPEinsumDense(kinds.SparseEinsumDense):
    """`keras.layers.EinsumDense` with log-normal noise on its units. Also takes the arguments of `LogNormalDropout`."""

    technique_class = LogNormalDropout


class SBPConv1D(kinds.SparseConv1D):
    """`keras.layers.Conv1D` with log-normal noise on its filters. Also takes the arguments of `LogNormalDropout`."""

    technique_class = LogNormalDropout


class SBPConv2D(kinds.SparseConv2D):
    """`keras.layers.Conv2D` with log-normal noise on its filters. Also takes the arguments of `LogNormalDropout`."""

    technique_class = LogNormalDropout


class SBPConv3D(kinds.SparseConv3D):
    """`keras.layers.Conv3D` with log-normal noise on its filters. Also takes the arguments of `LogNormalDropout`."""

    technique_class = LogNormalDropout
