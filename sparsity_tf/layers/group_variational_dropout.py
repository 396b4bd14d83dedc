"""Variational dropout with group variables: Bayesian compression of recurrent text models.

Chirkova, Lobacheva and Vetrov, EMNLP 2018, arXiv 1810.10927; for gates Lobacheva et al., arXiv 1812.05692. The weights
have the posterior of variational dropout. Beside that, a whole group of weights is multiplied by one *group variable*
z ~ N(mean, sigma^2) with the same log-uniform prior, the same divergence and the same threshold:

* "word": a row of an embedding. A dead word is a row of zeros, and `deploy.shrink_vocabulary` removes it.
* "input": a row of the kernel of a dense or recurrent layer, which reads one input.
* "unit": a row of the recurrent kernel, by which the layer reads one of its own units.
* "gate": a column of both kernels of a recurrent layer, the pre-activation of one gate of one unit before the bias. A
  dead gate is constant: it equals the activation of its bias.

Training draws each weight and each group variable once for a mini-batch. All examples and all time steps see this one
sample: recurrent layers never sample anew within a sequence, and a word has the same row wherever it stands. A dense
layer samples its pre-activations instead (local reparametrisation, one noise vector for each example).

There are three differences from the authors' program. It draws group variables for each example. It has one variable
for a hidden unit, which all readers of the unit share, while here each reader has its own. And it uses an older fit of
the divergence, which differs by a constant of 0.67 and hardly in the gradient.
"""

from collections.abc import Callable, Iterator, Sequence

from keras import ops

from sparsity_tf.checks import check_number, check_seed
from sparsity_tf.layers import kinds
from sparsity_tf.layers.sparse_weight import SparseWeight
from sparsity_tf.layers.technique import Technique, initializer_or_number
from sparsity_tf.layers.variational_dropout import (
    EPSILON,
    LARGEST_CLIP,
    VariationalDropout,
    compute_log_alpha,
    kl_divergence,
)
from sparsity_tf.ops import noise
from sparsity_tf.type_names import Initializer, Tensor

GROUPS = ("word", "input", "unit", "gate")


class GroupVariationalDropout(VariationalDropout):
    """Variational dropout of the weights and of group variables that multiply them.

    The kernel of the Keras layer is theta, and `log_sigma2` is a trainable variable of its shape. Each group has two
    more trainable variables, e.g. `word_mean` and `word_log_sigma2` of the shape `(words, 1)`. At inference a weight is
    theta times the means of its groups. It is an exact zero if its own log alpha or one of its groups' reaches the
    threshold.

    Args:
        groups: Names of the groups to use, of "word", "input", "unit" and "gate". A layer takes those that it has:
            `Embedding` "word"; `Dense` "input"; `LSTM`, `GRU` and `SimpleRNN` "input", "unit" and "gate". An empty
            tuple is for the weights alone.
        log_sigma2_initializer: Initial log sigma^2 of the weights: a Keras initializer or a number. Default -6, as in
            the authors' program.
        group_log_sigma2_initializer: Initial log sigma^2 of the group variables: a Keras initializer or a number. Their
            means start at 1.
        clip_log_alpha: Training and penalty clip log alpha to plus and minus this number, less than 700. `None` for no
            clip.
        log_alpha_threshold: Inference keeps the weights and groups with log alpha < threshold (strictly; log alpha is
            not clipped here).
        penalty_weight: Initial value of the layer's `penalty_weight` variable, which multiplies the divergence in the
            training loss: 1 / (number of training documents), or of training tokens for a language model.
            `callbacks.PenaltyRamp` changes it during training; the authors use no ramp. The default 0 adds no penalty.
        seed: Integer seed of the noise; `None` draws one from Python's generator (`keras.utils.set_random_seed`).

    Raises:
        ValueError: An argument has a value that is not allowed.

    Example:

    ```python
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.LSTM(8)(keras.layers.Embedding(100, 16)(inputs))
    classifier = keras.Model(inputs, keras.layers.Dense(2)(x))
    classifier = sparsity_tf.sparsify(classifier, "group_variational_dropout", penalty_weight=1 / 8000)
    ```
    """

    name = "group_variational_dropout"
    aliases = ("gvd",)
    # Options of the base class that have one value here. In a dense layer all steps of a sequence share the noise.
    mask_in_training = False
    share_noise = True

    def __init__(
        self,
        groups: Sequence[str] = GROUPS,
        log_sigma2_initializer: Initializer | float = -6.0,
        group_log_sigma2_initializer: Initializer | float = -6.0,
        clip_log_alpha: float | None = 8.0,
        log_alpha_threshold: float = 3.0,
        penalty_weight: float = 0.0,
        seed: int | None = None,
    ) -> None:
        self.groups = _checked_groups(groups)
        if clip_log_alpha is not None:
            check_number("clip_log_alpha", clip_log_alpha, above=0, below=LARGEST_CLIP)
        check_number("log_alpha_threshold", log_alpha_threshold)
        check_number("penalty_weight", penalty_weight, least=0)
        check_seed("seed", seed)
        self.log_sigma2_initializer = initializer_or_number("log_sigma2_initializer", log_sigma2_initializer, -6.0)
        self.group_log_sigma2_initializer = initializer_or_number(
            "group_log_sigma2_initializer", group_log_sigma2_initializer, -6.0
        )
        self.clip_log_alpha = clip_log_alpha
        self.log_alpha_threshold = log_alpha_threshold
        self.penalty_weight = penalty_weight
        self.seed = None if seed is None else int(seed)  # A config can't hold numpy's integers.

    def get_config(self) -> dict:
        return {**super().get_config(), "groups": list(self.groups)}

    def build(self, weight: SparseWeight) -> None:
        super().build(weight)
        for group, owner, axis in self._groups_of(weight):
            if owner.name == weight.name:
                # A shape of the weight's rank, which broadcasts against the weight.
                shape = tuple(size if axis == place else 1 for place, size in enumerate(weight.shape))
                weight.add_variable(f"{group}_mean", shape=shape, initializer="ones")
                initializer = self.group_log_sigma2_initializer
                weight.add_variable(f"{group}_log_sigma2", shape=shape, initializer=initializer)

    def value(self, weight: SparseWeight, select: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        value = super().value(weight, select)
        for group, owner, _ in self._groups_of(weight):
            mean, log_sigma2 = self._variables(group, owner, value.dtype, select)
            kept = self._kept(mean, log_sigma2)
            value = ops.where(kept, value * mean, ops.zeros_like(value))
        return value

    def mask(self, weight: SparseWeight) -> Tensor:
        mask = super().mask(weight)
        for group, owner, _ in self._groups_of(weight):
            mask = ops.logical_and(mask, self._kept(*self._variables(group, owner, weight.tensor_dtype)))
        return mask

    def penalty(self, weight: SparseWeight) -> Tensor:
        total = super().penalty(weight)
        for group, owner, _ in self._groups_of(weight):
            if owner.name == weight.name:
                mean, log_sigma2 = self._variables(group, owner, weight.tensor_dtype)
                total = total + ops.sum(kl_divergence(compute_log_alpha(mean, log_sigma2, self.clip_log_alpha)))
        return total

    def training_value(self, weight: SparseWeight, select: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """One sample of the weights, for all examples and time steps of a mini-batch, on all replicas."""
        generator, dtype = weight.layer.seed_generator, weight.tensor_dtype
        theta, sigma2 = self._means_and_variances(weight, select)
        if select is None:
            value = noise.add_normal(theta, sigma2, generator, EPSILON, of_model=True)
        else:
            # The noise of the whole table, so that a row is the same wherever it is looked up.
            value = theta + ops.sqrt(sigma2 + EPSILON) * select(noise.normal_of_model(weight.shape, generator, dtype))
        for z in self._samples(weight, select):
            value = value * z
        return value

    def apply(
        self,
        weight: SparseWeight,
        linear: Callable[[Tensor | None, Tensor], Tensor],
        inputs: Tensor | None,
        training: bool,
        select: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        if inputs is None:
            return Technique.apply(self, weight, linear, inputs, training, select)
        return super().apply(weight, linear, inputs, training, select)

    def over_time(
        self, weight: SparseWeight, linear: Callable[[Tensor | None, Tensor], Tensor], batch_size: int | Tensor
    ) -> None:
        """`None`: a recurrent layer uses one sample of its kernel."""

    def _noisy_kernels(self, weight, select=None):
        """Mean and variance of the kernel, both with a sample of the group variables."""
        theta, sigma2 = super()._noisy_kernels(weight, select)
        for z in self._samples(weight, select):
            theta, sigma2 = theta * z, sigma2 * ops.square(z)
        return theta, sigma2

    def _groups_of(self, weight: SparseWeight) -> Iterator[tuple[str, SparseWeight, int]]:
        """Triples of a group of a weight, the weight of the layer that has the group's variables, and the axis."""
        layer = weight.layer
        for group, axis in layer.group_axes(weight.name).items():
            if group in self.groups:
                name = next(name for name in layer.sparse_weight_names if group in layer.group_axes(name))
                yield group, SparseWeight(layer, name), axis

    def _variables(self, group, owner, dtype, select=None):
        """Mean and log sigma^2 of a group's variables, or of those that a lookup selects."""
        return [ops.cast(owner.extra(f"{group}_{name}", select), dtype) for name in ("mean", "log_sigma2")]

    def _samples(self, weight, select=None):
        """Draws the group variables of a weight. Weights that share a group get the same sample in a call."""
        drawn = {} if weight.layer.shared_draws is None else weight.layer.shared_draws
        for group, owner, _ in self._groups_of(weight):
            if group not in drawn:
                mean, log_sigma2 = self._variables(group, owner, weight.tensor_dtype)
                deviation = ops.sqrt(self._sigma2(mean, log_sigma2, compiled=False) + EPSILON)
                n = noise.normal_of_model(tuple(mean.shape), weight.layer.seed_generator, weight.tensor_dtype)
                drawn[group] = mean + deviation * n
            yield drawn[group] if select is None else select(drawn[group])


def _checked_groups(groups):
    """The names as a tuple in the order of `GROUPS`."""
    names = groups if isinstance(groups, list | tuple) else [None]
    if not all(isinstance(name, str) and name in GROUPS for name in names) or len(set(names)) < len(names):
        raise ValueError(
            f"`groups` must be a list or tuple of different names of {', '.join(GROUPS)}. Received: groups={groups!r}"
        )
    return tuple(group for group in GROUPS if group in names)


class GVDDense(kinds.SparseDense):
    """`keras.layers.Dense` with group variables on its inputs.

    Also takes the arguments of `GroupVariationalDropout`.
    """

    technique_class = GroupVariationalDropout


class GVDEmbedding(kinds.SparseEmbedding):
    """`keras.layers.Embedding` with group variables on its words: one sample of the table for a mini-batch.

    Also takes the arguments of `GroupVariationalDropout`.
    """

    technique_class = GroupVariationalDropout
