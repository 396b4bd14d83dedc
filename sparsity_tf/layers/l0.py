"""L0 regularisation with hard-concrete gates (Louizos et al., 2018, arXiv 1712.01312), as in Gale et al. (2019).

Each weight is multiplied by a gate in [0, 1], a stretched and clipped binary-concrete variable. Training samples the
gates, one tensor a call, and adds the expected number of open gates to the loss. Inference uses a deterministic gate,
which is exactly zero for many weights.

`DepthwiseConv1D` and `DepthwiseConv2D` have no form with L0 gates: neither paper applies the method to them.
"""

import functools
import math
from collections.abc import Callable

import keras
from keras import ops

from sparsity_tf.checks import check_number, check_seed
from sparsity_tf.layers import kinds
from sparsity_tf.layers.sparse_weight import SparseWeight
from sparsity_tf.layers.technique import Technique, initializer_or_number
from sparsity_tf.ops import noise
from sparsity_tf.ops.fused import fused
from sparsity_tf.type_names import Initializer, Tensor

EPSILON = 1e-8


def hard_concrete_sample(log_alpha, u, beta=2 / 3, gamma=-0.1, zeta=1.1):
    """A sampled gate: clip(sigmoid((log u - log(1 - u) + log_alpha) / beta) (zeta - gamma) + gamma, 0, 1).

    Args:
        log_alpha: Float tensor, location of the gates.
        u: Tensor of the same shape, uniform on [0, 1).
        beta: Temperature.
        gamma: Lower end of the stretched interval, < 0.
        zeta: Upper end of the stretched interval, > 1.

    Returns:
        Gates in [0, 1], the shape of `log_alpha` (equations 10 to 12 of the paper).
    """
    # log(u + eps) - log(1 - u), written with one logarithm.
    logit = ops.log(ops.add(u, EPSILON) / (1 - u))
    gate = ops.sigmoid((logit + log_alpha) / beta)
    return ops.clip(gate * (zeta - gamma) + gamma, 0, 1)


def hard_concrete_mean(log_alpha, gamma=-0.1, zeta=1.1):
    """The deterministic gate that inference uses: clip(sigmoid(log_alpha) (zeta - gamma) + gamma, 0, 1) (equation 13).

    At the default interval the gate is exactly 0 for log_alpha <= log(-gamma / zeta) = -2.398 and exactly 1 for
    log_alpha >= 2.398. It has the shape of `log_alpha`. (The literature uses the name "mean"; the gate is not the mean
    of the distribution.)
    """
    return ops.clip(ops.sigmoid(log_alpha) * (zeta - gamma) + gamma, 0, 1)


def expected_l0(log_alpha, beta=2 / 3, gamma=-0.1, zeta=1.1):
    """P(gate > 0) of each weight, sigmoid(log_alpha - beta log(-gamma / zeta)) (equation 12 of the paper)."""
    return ops.sigmoid(log_alpha - beta * math.log(-gamma / zeta))


@functools.cache
def _fused_sample(beta, gamma, zeta):
    """A function of (theta, log_alpha, source of the uniform numbers) that returns theta times sampled gates."""

    def forward(theta, log_alpha, source):
        u = noise.uniform_from(source, ops.shape(theta), theta.dtype)
        # exp(-logit u). The bound is the value at u = 0; it matters if the compiler rounds epsilon away.
        odds = ops.minimum((1 - u) / (u + EPSILON), 1 / EPSILON)
        if beta == 2 / 3:  # The usual temperature needs no logarithm: odds^(3/2) exp(-3/2 log_alpha).
            inverse = odds * ops.sqrt(odds) * ops.exp(log_alpha / -beta)
        else:
            inverse = ops.exp((ops.log(odds) - log_alpha) / beta)
        gate = 1 / (1 + inverse)
        kernel = theta * ops.clip(gate * (zeta - gamma) + gamma, 0, 1)
        return kernel, (gate, kernel)

    def backward(upstream, gate, kernel):
        stretched = gate * (zeta - gamma) + gamma
        # theta is computed as kernel / stretched. If XLA read theta once more, it would copy the variable before
        # updating it.
        by_gate = ops.where((stretched > 0) & (stretched < 1), kernel / stretched, 0) * (zeta - gamma)
        return upstream * ops.clip(stretched, 0, 1), upstream * by_gate * gate * (1 - gate) / beta, None

    return fused(forward, backward)


@functools.cache
def _fused_expected_l0(beta, gamma, zeta):
    """A function of log_alpha that returns the sum of `expected_l0(log_alpha)`."""

    def forward(log_alpha):
        p = expected_l0(log_alpha, beta, gamma, zeta)
        return ops.sum(p), (p,)

    def backward(upstream, p):
        return (upstream * p * (1 - p),)

    return fused(forward, backward)


class L0(Technique):
    """Hard-concrete gates on a weight.

    The kernel of the Keras layer is the ungated weight; `log_alpha` is a second trainable variable of its shape.

    Args:
        log_alpha_initializer: Initial log alpha: a Keras initializer or a number. Default N(2.197, 0.01), which is an
            initial dropout rate of 0.1: a rate r means log alpha = log((1 - r) / r). See `initial_dropout_rate`.
        initial_dropout_rate: A rate r in (0, 1), given instead of an initializer. Log alpha starts as N(log((1 - r) /
            r), 0.01).
        beta: Temperature of the concrete distribution, > 0.
        gamma: Lower end of the stretched interval, < 0.
        zeta: Upper end of the stretched interval, > 1.
        penalty_weight: Initial value of the layer's `penalty_weight` variable, which multiplies the expected number of
            non-zero gates in the training loss: weight / (number of training examples). `callbacks.PenaltyRamp` changes
            it during training. The default 0 adds no penalty.
        seed: Integer seed of the gates; `None` draws one from Python's generator (`keras.utils.set_random_seed`).

    Example:

    ```python
    model = sparsity_tf.sparsify(model, L0(initial_dropout_rate=0.5, penalty_weight=1 / 60000))
    ```
    """

    name = "l0"
    aliases = ("l0_regularization", "hard_concrete")
    penalized = True
    stochastic = True

    def __init__(
        self,
        log_alpha_initializer: Initializer | float | None = None,
        initial_dropout_rate: float | None = None,
        beta: float = 2 / 3,
        gamma: float = -0.1,
        zeta: float = 1.1,
        penalty_weight: float = 0.0,
        seed: int | None = None,
    ) -> None:
        if log_alpha_initializer is not None and initial_dropout_rate is not None:
            raise ValueError(
                "Give `log_alpha_initializer` or `initial_dropout_rate`, not both. "
                f"Received: log_alpha_initializer={log_alpha_initializer}, initial_dropout_rate={initial_dropout_rate}"
            )
        if initial_dropout_rate is not None:
            check_number("initial_dropout_rate", initial_dropout_rate, above=0, below=1)
        check_number("beta", beta, above=0)
        check_number("gamma", gamma, below=0)
        check_number("zeta", zeta, above=1)
        check_number("penalty_weight", penalty_weight, least=0)
        check_seed("seed", seed)
        self.log_alpha_initializer = initializer_or_number("log_alpha_initializer", log_alpha_initializer)
        self.initial_dropout_rate = initial_dropout_rate
        self.beta = beta
        self.gamma = gamma
        self.zeta = zeta
        self.penalty_weight = penalty_weight
        self.seed = None if seed is None else int(seed)  # A config can't hold numpy's integers.

    def build(self, weight: SparseWeight) -> None:
        initializer = self.log_alpha_initializer
        if initializer is None:
            rate = self.initial_dropout_rate
            mean = 2.197 if rate is None else math.log((1 - rate) / rate)
            initializer = keras.initializers.RandomNormal(mean, 0.01, seed=self.seed)
        weight.add_variable("log_alpha", shape=weight.shape, initializer=initializer)

    def value(self, weight: SparseWeight, select: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        gate = hard_concrete_mean(weight.extra("log_alpha", select), self.gamma, self.zeta)
        return ops.multiply(weight.tensor(select), gate)

    def mask(self, weight: SparseWeight) -> Tensor:
        return ops.not_equal(hard_concrete_mean(weight.extra("log_alpha"), self.gamma, self.zeta), 0)

    def training_value(self, weight: SparseWeight, select: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        theta = weight.tensor(select)
        log_alpha = ops.cast(weight.extra("log_alpha", select), theta.dtype)
        if select is not None:
            # A lookup has a new shape for every sequence length. Compiling each would cost more than it saves.
            u = noise.uniform(ops.shape(theta), weight.layer.seed_generator, theta.dtype)
            return ops.multiply(theta, hard_concrete_sample(log_alpha, u, self.beta, self.gamma, self.zeta))
        source = noise.uniform_source(ops.shape(theta), weight.layer.seed_generator, theta.dtype)
        return _fused_sample(self.beta, self.gamma, self.zeta)(theta, log_alpha, source)

    def penalty(self, weight: SparseWeight) -> Tensor:
        return _fused_expected_l0(self.beta, self.gamma, self.zeta)(weight.extra("log_alpha"))


class L0Dense(kinds.SparseDense):
    """`keras.layers.Dense` with L0 gates. Also takes the arguments of `L0`."""

    technique_class = L0


class L0EinsumDense(kinds.SparseEinsumDense):
    """`keras.layers.EinsumDense` with L0 gates. Also takes the arguments of `L0`."""

    technique_class = L0


class L0Conv1D(kinds.SparseConv1D):
    """`keras.layers.Conv1D` with L0 gates. Also takes the arguments of `L0`."""

    technique_class = L0


class L0Conv2D(kinds.SparseConv2D):
    """`keras.layers.Conv2D` with L0 gates. Also takes the arguments of `L0`."""

    technique_class = L0


class L0Conv3D(kinds.SparseConv3D):
    """`keras.layers.Conv3D` with L0 gates. Also takes the arguments of `L0`."""

    technique_class = L0


class L0Conv1DTranspose(kinds.SparseConv1DTranspose):
    """`keras.layers.Conv1DTranspose` with L0 gates. Also takes the arguments of `L0`."""

    technique_class = L0


class L0Conv2DTranspose(kinds.SparseConv2DTranspose):
    """`keras.layers.Conv2DTranspose` with L0 gates. Also takes the arguments of `L0`."""

    technique_class = L0


class L0Conv3DTranspose(kinds.SparseConv3DTranspose):
    """`keras.layers.Conv3DTranspose` with L0 gates. Also takes the arguments of `L0`."""

    technique_class = L0


class L0SeparableConv1D(kinds.SparseSeparableConv1D):
    """`keras.layers.SeparableConv1D` with L0 gates. Also takes the arguments of `L0`."""

    technique_class = L0


class L0SeparableConv2D(kinds.SparseSeparableConv2D):
    """`keras.layers.SeparableConv2D` with L0 gates. Also takes the arguments of `L0`."""

    technique_class = L0


class L0Embedding(kinds.SparseEmbedding):
    """`keras.layers.Embedding` with L0 gates: separate gates at every position. Also takes the arguments of `L0`."""

    technique_class = L0


class L0ReversibleEmbedding(kinds.SparseReversibleEmbedding):
    """`keras.layers.ReversibleEmbedding` with L0 gates. Also takes the arguments of `L0`."""

    technique_class = L0
