"""Network slimming: channels whose batch normalisation scale becomes small are cut (Liu et al., ICCV 2017).

Source: arXiv 1708.06519, and the authors' programs. Training adds an L1 penalty on the scales gamma. Then the channels
of the smallest |gamma| are pruned, and the rest is trained on.
"""

import keras
from keras import ops

from sparsity_tf.callbacks.base import train_function
from sparsity_tf.callbacks.pruning import MagnitudePruning
from sparsity_tf.checks import check_number
from sparsity_tf.type_names import DistributionLike, Where


class NetworkSlimming(MagnitudePruning):
    """Trains with an L1 penalty on the gammas of batch normalisation, cuts channels once, and trains the rest.

    Up to `end_step` the loss has the term factor * sum(|gamma|), whose gradient is factor * sign(gamma) (equation 1 of
    the paper). After step `end_step` the channels with the largest |gamma| live, floor((1 - s) n) of all n channels,
    and at least one in each layer. All weights of the other channels are masked, gamma and beta included, and the
    penalty ends. `sparsity_tf.shrink` removes these channels. The structure is always "channel". Where layers share
    channels, the measure is the mean of their |gamma|.

    The authors' program cuts one channel too many, and more with ties, and may cut a whole layer. The paper trains for
    160 epochs before the cut and as many after it, which begin again at the first learning rate. It initializes gammas
    with 0.5.

    Args:
        final_sparsity: Fraction of the channels to cut, in [0, 1). The paper has 0.4 to 0.7.
        end_step: Integer >= 1: the step after which channels are cut. Default: half of training.
        factor: Factor s >= 0 of the penalty. The paper has 1e-4 for VGG and 1e-5 for ResNet and DenseNet.
        scope: "global" (the paper's): the gammas of all layers are compared; or "layer".
        distribution: With scope "layer": how the sparsity is distributed. See `MagnitudePruning`.
        where, seed: See `MaskAlgorithm`.
        sparsity: Another name of `final_sparsity`.

    Raises:
        ValueError: For any other argument; before training begins, if a channel to prune has no gamma.

    Example:

    ```python
    inputs = keras.Input((8, 8, 1))
    maps = keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 3, use_bias=False)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(keras.layers.ReLU()(maps))))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    slimming = sparsity_tf.callbacks.NetworkSlimming(0.5, where=["conv2d.*", "batch_normalization.*"])
    model.fit(x, y, epochs=2, callbacks=[slimming])
    small = sparsity_tf.shrink(model)
    ```
    """

    # The structure that layers must have when they are made masked.
    fixed_structure = "channel"

    def __init__(
        self,
        final_sparsity: float | None = None,
        end_step: int | None = None,
        factor: float = 1e-4,
        scope: str = "global",
        distribution: DistributionLike = "uniform",
        where: Where = None,
        seed: int = 0,
        sparsity: float | None = None,
    ) -> None:
        super().__init__(
            final_sparsity,
            0,
            end_step,
            1,
            scope,
            schedule="constant",
            distribution=distribution,
            where=where,
            structure=self.fixed_structure,
            seed=seed,
            sparsity=sparsity,
        )
        check_number("factor", factor, least=0)
        self.factor, self.importance = factor, "scale"

    def _forget_model(self):
        return {**super()._forget_model(), "_penalized": []}

    def start(self) -> None:
        for weight in self.weights:
            if not any(part.weight.name == "gamma" for part in weight.parts):
                raise ValueError(
                    "NetworkSlimming needs batch normalisation with a gamma behind every channel that it may cut. "
                    f"Select other layers with `where`. Received: where={self.where!r}, and {weight.path!r} without one"
                )
        super().start()
        if self.count() >= self.last_step:  # Another callback has restored a run from after the cut.
            self._end_penalty()

    def _attach(self, model):
        super()._attach(model)
        if self.factor and (self._last is None or self.count() < self._last):
            self._penalized = [weight.variable for weight in self.parts if weight.name == "gamma"]
            for variable in self._penalized:
                variable.regularizer = _L1(self.factor, variable.regularizer)
            train_function.retrace(model)

    def _end_penalty(self):
        for variable in self._penalized:
            variable.regularizer = variable.regularizer.inner
        if self._penalized:
            self._penalized = []
            train_function.retrace(self.model)

    def detach(self) -> None:
        self._end_penalty()
        super().detach()

    def _on_schedule(self, after, step):
        return self._last if self._last is not None and after < self._last <= step else None

    def sparsity_at(self, step: int) -> float:
        """The sparsity of the channels after a step: 0 before the cut."""
        return self.final_sparsity if step >= self.last_step else 0.0

    def change_masks(self, step: int) -> None:
        super().change_masks(step)
        self._end_penalty()


class _L1(keras.regularizers.Regularizer):
    """factor times the sum of magnitudes, and the loss of the variable's own regularizer."""

    def __init__(self, factor, inner):
        self.factor, self.inner = factor, inner

    def __call__(self, x):
        x = ops.convert_to_tensor(x)
        # |x| with the gradient sign(x), also at 0, where JAX has a gradient of 1 for the magnitude.
        loss = self.factor * ops.sum(x * ops.stop_gradient(ops.sign(x)))
        return loss if self.inner is None else loss + self.inner(x)
