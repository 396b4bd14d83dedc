"""Sparse activations: feature maps that are live at some positions only, and batch normalisation for such maps.

The layers come from the `dst` package (PyTorch, by the authors of DSR: Mostafa & Wang, ICML 2019, arXiv 1902.05967).
Its masks imitate the spatial bottleneck of Peng et al. (2018, arXiv 1809.02601). The masks save no arithmetic: layers
compute dense maps.

The behaviour differs from `dst` where `dst` has a defect:

* dynamic masks are drawn in training only; `dst` draws, and overwrites the saved mask, in evaluation too;
* dead positions are zero in evaluation too: `dst` normalises whole maps under static and structured masks, so that a
  dead position becomes beta - gamma mean / sd, unlike in training;
* the Lp norm of activations exists (`lp_penalty`): the README of `dst` promises it, but no version has it;
* maps may have any size, not only square ones, and a mask without a live position is refused.
"""

import fractions
import math
import random

import keras
import numpy as np
from keras import ops

from sparsity_tf import masks
from sparsity_tf.backend import MomentsHook, as_loss, axes_of_moments
from sparsity_tf.checks import check_bool, check_choice, check_number, check_seed
from sparsity_tf.layers.technique import deserialize_option
from sparsity_tf.ops import noise

MODES = ("structured", "static", "dynamic")

# (row, column) parities of the 2x2 cell. More quarters of the positions become live in this order.
_PHASES = ((0, 0), (1, 1), (0, 1), (1, 0))


def structured_mask(height, width, quarters):
    """Marks the same positions of every 2x2 cell: 1 is every other row and column, 2 a checkerboard, 4 all.

    Args:
        height: Number of rows.
        width: Number of columns.
        quarters: Number of live positions in a cell, 0 to 4. They are added in the order (even row, even column), (odd,
            odd), (even, odd), (odd, even).

    Returns:
        Bool array (height, width). Exactly `quarters` quarters of it are True where both sizes are even.
    """
    mask = np.zeros((height, width), bool)
    for row, column in _PHASES[:quarters]:
        mask[row::2, column::2] = True
    return mask


@keras.saving.register_keras_serializable("sparsity_tf")
class SparseActivation(keras.layers.Layer):
    """Sets feature maps to zero at some positions, the same for all channels and for all examples of the batch.

    | `mode` | live positions | in inference |
    | --- | --- | --- |
    | `"structured"` | `density` quarters of every 2x2 cell, see `structured_mask` | the same |
    | `"static"` | random, drawn when the layer is built | the same |
    | `"dynamic"` | random, drawn in every training step | all, times the density |

    In the random modes exactly `floor(density n)` of `n` positions are live, computed from the decimal digits of the
    density. Training does not divide by the density. Random masks are bool variables and saved with the model, and so
    is the counter of the draws. So a resumed run draws the same masks as an uninterrupted one. (Structured masks follow
    from the size.) All replicas of a `tf.distribute` strategy draw the same masks.

    Args:
        mode: `"structured"`, `"static"` or `"dynamic"`.
        density: Fraction of live positions, above 0, at most 1; for structured masks 0.25, 0.5, 0.75 or 1.
        dense_inference: Whether inference applies no mask but multiplies all positions by the fraction that is live in
            training, as dropout does. Default: for dynamic masks only. If it is `False` for a dynamic mask, inference
            uses the mask of the last training step.
        lp_penalty: Weight of the activity penalty `lp_norm(outputs)`, added to the loss in training. At least 0.
        p: Exponent of the norm, at least 1.
        data_format: `"channels_last"` or `"channels_first"`; default Keras's image data format.
        seed: Integer seed of the random masks; `None` draws one from Python's generator
            (`keras.utils.set_random_seed`).
        **kwargs: Arguments of `keras.layers.Layer`.

    Input and output shape: `(batch, height, width, channels)`, or `(batch, channels, height, width)`. Height and width
        must be known when the layer is built, and stay.

    Raises:
        ValueError: An argument has a value that is not allowed; inputs have another rank or an unknown size; the
            density leaves no position.

    Example:
        >>> layer = SparseActivation("static", density=0.25, seed=0)
        >>> outputs = layer(keras.random.normal((8, 32, 32, 16)))
        >>> layer.count(), layer.sparsity()
        (256, 0.75)
    """

    def __init__(
        self,
        mode="structured",
        density=0.5,
        dense_inference=None,
        lp_penalty=0.0,
        p=1,
        data_format=None,
        seed=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_choice("mode", mode, MODES)
        check_number("density", density, above=0)
        if density > 1 or (mode == "structured" and 4 * density not in (1, 2, 3, 4)):
            allowed = "0.25, 0.5, 0.75 or 1 for structured masks" if mode == "structured" else "at most 1"
            raise ValueError(f"`density` must be {allowed}. Received: density={density!r}")
        check_number("lp_penalty", lp_penalty, least=0)
        check_number("p", p, least=1)
        if dense_inference is not None:
            check_bool("dense_inference", dense_inference)
        data_format = keras.config.image_data_format() if data_format is None else data_format
        check_choice("data_format", data_format, ("channels_last", "channels_first"))
        check_seed("seed", seed)
        self.mode = mode
        self.density = density
        self.dense_inference = mode == "dynamic" if dense_inference is None else dense_inference
        self.lp_penalty = lp_penalty
        self.p = p
        self.data_format = data_format
        self.seed = seed
        self.supports_masking = True

    def build(self, input_shape):
        """Makes the mask for the height and width of `input_shape`."""
        self._size = self._size_of(input_shape)
        rows, columns = (1, 2) if self.data_format == "channels_last" else (2, 3)
        self.input_spec = keras.InputSpec(ndim=4, axes=dict(zip((rows, columns), self._size, strict=True)))
        if self.mode == "structured":
            self._pattern = structured_mask(*self._size, round(4 * self.density))
            self._count = int(np.count_nonzero(self._pattern))
            return
        positions = math.prod(self._size)
        self._count = math.floor(fractions.Fraction(str(self.density)) * positions)
        if self._count == 0:
            raise ValueError(
                f"`density` must be larger: of the {positions} positions of {self.name!r} none would stay alive. "
                f"Received: density={self.density}, input_shape={tuple(input_shape)}"
            )
        seed = random.randrange(2**31) if self.seed is None else self.seed
        first = masks.random_mask(self._size, self._count, np.random.default_rng(seed))
        self._mask = self.add_weight(
            name="live_positions",  # Not `mask`: `checkpoints` counts a variable of that name as the mask of a weight.
            shape=self._size,
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(first, dtype=dtype),
            dtype="bool",
            trainable=False,
            aggregation="only_first_replica",
        )
        if self.mode == "dynamic":
            self.seed_generator = keras.random.SeedGenerator(seed)

    def _size_of(self, input_shape):
        if len(input_shape) != 4:
            raise ValueError(
                f"{self.name!r} takes feature maps of rank 4, batch and channels included. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        size = tuple(input_shape[1:3] if self.data_format == "channels_last" else input_shape[2:])
        if None in size:
            raise ValueError(
                f"{self.name!r} has one mask for all inputs, so their height and width must be known. "
                f"Received: input_shape={tuple(input_shape)}, data_format={self.data_format!r}"
            )
        return size

    def mask(self):
        """Bool tensor (height, width): the live positions. A dynamic mask is the one of the last training step."""
        return ops.convert_to_tensor(self._pattern if self.mode == "structured" else self._mask)

    def count(self):
        """Number of live positions, exactly. The layer must be built."""
        return self._count

    def sparsity(self):
        """Fraction of dead positions, exactly; `1 - density` up to rounding. The layer must be built."""
        return 1.0 - self._count / math.prod(self._size)

    def lp_norm(self, outputs):
        """The norm (sum |a|^p)^(1/p) of each example's activations a, averaged over the batch.

        Its gradient is finite everywhere, also where all activations are 0.

        Args:
            outputs: Tensor, the batch first.

        Returns:
            Scalar tensor, float32 or wider.
        """
        magnitudes = ops.abs(ops.cast(outputs, keras.backend.result_type(outputs.dtype, "float32")))
        axes = tuple(range(1, len(outputs.shape)))
        if self.p == 1:
            return ops.mean(ops.sum(magnitudes, axes))
        powers = ops.sum(ops.power(magnitudes, self.p), axes)
        # The root has an infinite slope at 0, and both branches of `where` contribute to the gradient. Hence the second
        # `where`.
        alive = powers > 0
        return ops.mean(ops.where(alive, ops.power(ops.where(alive, powers, 1), 1 / self.p), 0))

    def call(self, inputs, training=None):
        live = self.call_mask(training)
        if live is None:
            return inputs * (self._count / math.prod(self._size))
        outputs = ops.where(live, inputs, 0)
        self.add_penalty(outputs, training)
        return outputs

    def call_mask(self, training):
        """The mask of one call. In training a dynamic mask is drawn anew.

        Args:
            training: Bool.

        Returns:
            Bool tensor that broadcasts against the inputs, or `None` if inference is dense.
        """
        if self.dense_inference and not training:
            return None
        live = self._draw() if training and self.mode == "dynamic" else self.mask()
        return ops.expand_dims(live, (0, -1) if self.data_format == "channels_last" else (0, 1))

    def add_penalty(self, outputs, training):
        """Adds the Lp norm of `outputs` to the loss, in training and if `lp_penalty` is not zero."""
        if training and self.lp_penalty:
            self.add_loss(as_loss(self.lp_penalty * self.lp_norm(outputs)))

    def _draw(self):
        positions = math.prod(self._size)
        # Not `noise.uniform`: it draws different numbers in every replica, but all replicas must share the mask.
        u = noise.uniform_of_model((positions,), self.seed_generator)
        # `argsort` of random numbers is a random permutation, so its values below `count` are at random positions.
        live = ops.reshape(ops.argsort(u) < self._count, self._size)
        self._mask.assign(live)
        return live

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "mode": self.mode,
            "density": self.density,
            "dense_inference": self.dense_inference,
            "lp_penalty": self.lp_penalty,
            "p": self.p,
            "data_format": self.data_format,
            "seed": self.seed,
        }

    def save_own_variables(self, store):
        for variable in self._saved_variables():
            store[variable.name] = variable

    def load_own_variables(self, store):
        variables = self._saved_variables()
        expected, found = sorted(variable.name for variable in variables), sorted(store.keys())
        if expected != found:
            raise ValueError(
                f"Layer {self.name!r} ({self.mode} {type(self).__name__}) expected the variables {expected} in the "
                f"file. Received: {found}. Was the file saved from a model with the same mode?"
            )
        for variable in variables:
            variable.assign(store[variable.name])

    def _saved_variables(self):
        if self.mode == "structured" or not self.built:
            return []
        # Keras does not save the counters of seed generators. Without them a resumed run would draw the same masks
        # again.
        return [self._mask] + ([self.seed_generator.state] if self.mode == "dynamic" else [])


@keras.saving.register_keras_serializable("sparsity_tf")
class SparseBatchNormalization(MomentsHook, keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` over the live positions of a sparse activation.

    The layer computes mean and variance of a channel over its live positions and normalises only these. All other
    positions are exactly 0 in the output, in training and in inference. If inference is dense (dynamic masks), the
    output is the batch normalisation of the unmasked inputs at all positions, times the density.

    Args:
        axis: The axis of the channels. With a `sparse_activation`: -1 or 3, or 1 for `channels_first`.
        momentum: As in the stock layer. (PyTorch's default 0.1 is 0.9 here.)
        epsilon: As in the stock layer. (PyTorch's default is 1e-5.)
        sparse_activation: A `SparseActivation`, which becomes part of this layer; or one of its modes, for the density
            0.5; or `None` for the stock layer's behaviour. The `lp_penalty` of the activation applies to the outputs of
            this layer.
        **kwargs: The other arguments of `keras.layers.BatchNormalization`, with its defaults. `synchronized=True` is
            allowed only without a `sparse_activation`.

    Raises:
        ValueError: `sparse_activation` is none of these values, or has a data format that does not match `axis`; it is
            given together with `synchronized=True`, or with a `mask` in a call; the inputs are not allowed for
            `SparseActivation`.

    Example:
        >>> layer = SparseBatchNormalization(sparse_activation=SparseActivation("dynamic", density=0.25))
        >>> outputs = layer(keras.random.normal((8, 32, 32, 16)), training=True)
    """

    def __init__(self, axis=-1, momentum=0.99, epsilon=1e-3, *, sparse_activation=None, **kwargs):
        super().__init__(axis=axis, momentum=momentum, epsilon=epsilon, **kwargs)
        self.sparse_activation = self._checked(deserialize_option(sparse_activation))

    def _checked(self, sparse_activation):
        if sparse_activation is None:
            return None
        if self.synchronized:
            raise ValueError("`synchronized` must be False with a `sparse_activation`. Received: synchronized=True")
        if self.axis not in (-1, 1, 3):
            raise ValueError(f"`axis` must be -1, 3 or 1 with a `sparse_activation`. Received: axis={self.axis}")
        data_format = "channels_first" if self.axis == 1 else "channels_last"
        if isinstance(sparse_activation, str) and sparse_activation in MODES:
            return SparseActivation(sparse_activation, data_format=data_format, dtype=self.dtype_policy)
        if not isinstance(sparse_activation, SparseActivation):
            raise ValueError(
                f"`sparse_activation` must be a SparseActivation, one of {list(MODES)}, or None. "
                f"Received: sparse_activation={sparse_activation!r}"
            )
        if sparse_activation.data_format != data_format:
            raise ValueError(
                f"`sparse_activation` must have the data format of `axis`, {data_format!r}. "
                f"Received: axis={self.axis}, sparse_activation.data_format={sparse_activation.data_format!r}"
            )
        return sparse_activation

    def build(self, input_shape):
        """Creates the variables of the stock layer and the mask."""
        super().build(input_shape)
        if self.sparse_activation is not None:
            if not self.sparse_activation.built:
                self.sparse_activation.build(input_shape)
            axes = {**self.sparse_activation.input_spec.axes, **self.input_spec.axes}
            self.input_spec = keras.InputSpec(ndim=4, axes=axes)

    def call(self, inputs, training=None, mask=None):
        activation = self.sparse_activation
        if activation is None:
            return super().call(inputs, training=training, mask=mask)
        if mask is not None:
            raise ValueError(f"`mask` must be None for {self.name!r}, because its `sparse_activation` gives the mask.")
        # In Keras a frozen batch normalisation runs in inference mode.
        updating = training and self.trainable
        live = activation.call_mask(updating)
        if live is None:
            return super().call(inputs, training=False) * (1.0 - activation.sparsity())
        # The stock layer passes this mask to `_own_moments`. It accepts any shape of the right rank.
        outputs = super().call(inputs, training=updating, mask=ops.squeeze(live, self.axis))
        outputs = ops.where(live, outputs, 0)
        activation.add_penalty(outputs, training)
        return outputs

    def _own_moments(self, inputs, mask):
        """Mean and variance over the live positions. (The stock layer accepts no mask for `channels_first` maps.)"""
        if self.sparse_activation is None:
            return super()._own_moments(inputs, mask)
        live = ops.expand_dims(mask, self.axis)
        number = ops.cast(ops.shape(inputs)[0], inputs.dtype) * self.sparse_activation.count()

        def mean_of_live(x):
            return ops.sum(ops.where(live, x, 0), axes_of_moments(self), keepdims=True) / number

        mean = mean_of_live(inputs)
        variance = mean_of_live(ops.square(inputs - mean))
        return ops.reshape(mean, (-1,)), ops.reshape(variance, (-1,))

    def get_config(self):
        serialized = self.sparse_activation
        if serialized is not None:
            serialized = keras.saving.serialize_keras_object(serialized)
            # Building this layer also builds the activation, for the size of this layer's inputs.
            serialized.pop("build_config", None)
        return {**super().get_config(), "sparse_activation": serialized}
