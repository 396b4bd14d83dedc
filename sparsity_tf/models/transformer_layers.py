"""Layers of a Transformer that Keras lacks. None of them has weights that can be sparse.

The layers are attention between projected tensors (each projection is a separate layer, which can be sparse),
sinusoidal positions, the shift of the targets, and dropout on the fast generator of `ops/noise.py`. The formulas come
from tensor2tensor, on which *State of Sparsity* (Gale et al., 2019, arXiv 1902.09574) is built.
"""

import functools
import math
from typing import Any

import keras
from keras import ops

from sparsity_tf.checks import check_bool, check_fraction, check_integer, check_seed
from sparsity_tf.ops import noise
from sparsity_tf.ops.fused import fused
from sparsity_tf.type_names import Tensor

_MAX_TIMESCALE = 1e4


def timing_signal(positions, channels):
    """Sinusoids with geometrically spaced wavelengths from 2 pi to 2 pi 10^4 (Vaswani et al., 2017, section 3.5).

    The first half of the channels holds sines, the second half cosines, as in tensor2tensor.

    Args:
        positions: Integer or float tensor of any shape, counted from 0.
        channels: Number of channels of the signal. If it is odd, the last channel is 0.

    Returns:
        float32 tensor `(*positions.shape, channels)`.
    """
    timescales = channels // 2
    step = math.log(_MAX_TIMESCALE) / max(timescales - 1, 1)
    rates = ops.exp(ops.arange(timescales, dtype="float32") * -step)
    angles = ops.expand_dims(ops.cast(positions, "float32"), -1) * rates
    signal = ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)
    return ops.pad(signal, [(0, 0)] * (len(signal.shape) - 1) + [(0, 1)]) if channels % 2 else signal


def attention_mask(causal=False, key_ids=None, query_segments=None, key_segments=None):
    """Says which keys a query may look at, apart from causality, which `DotProductAttention` adds.

    Args:
        causal: Bool; whether attention is causal. If so, `key_ids` is ignored: padded keys come after all queries that
            matter.
        key_ids: Integer tensor (batch, keys); 0 is padding.
        query_segments: Integer tensor (batch, queries): the number of each query's sentence in a packed example.
        key_segments: Integer tensor (batch, keys).

    Returns:
        Bool tensor that broadcasts to (batch, heads, queries, keys), or `None` for all keys.
    """
    if query_segments is not None:
        return ops.equal(ops.expand_dims(query_segments, 2), ops.expand_dims(key_segments, 1))[:, None]
    if key_ids is None or causal:
        return None
    return ops.not_equal(key_ids, 0)[:, None, None, :]


@keras.saving.register_keras_serializable("sparsity_tf")
class DotProductAttention(keras.layers.Layer):
    """Multi-head scaled dot-product attention of projected queries, keys and values. The layer has no weights.

    Without dropout, and at inference, the layer calls `keras.ops.dot_product_attention`, which is flash attention if
    the backend has it. Scores are scaled by (units / heads)^-0.5.

    Args:
        num_heads: Number of heads. It must divide the size of the inputs' last axis.
        causal: Whether a query sees only keys up to its own position.
        dropout: Rate at which attention probabilities are dropped in training.
        flash_attention: Passed to `keras.ops.dot_product_attention`: `None` lets the backend choose.
        seed: Integer seed of the dropout, or `None`.

    Call arguments:
        query: Tensor (batch, queries, units).
        key: Tensor (batch, keys, units).
        value: Tensor (batch, keys, units).
        key_ids: Integer tensor (batch, keys), 0 is padding; or `None`.
        query_segments: Integer tensor (batch, queries): a query sees only keys of its own segment; or `None`.
        key_segments: Integer tensor (batch, keys), with `query_segments`.
        training: Bool.

    Returns:
        Tensor (batch, queries, units).

    Example:

    >>> query = keras.random.normal((2, 5, 16))
    >>> tuple(DotProductAttention(num_heads=4, causal=True)(query, query, query).shape)
    (2, 5, 16)
    """

    def __init__(
        self,
        num_heads: int,
        causal: bool = False,
        dropout: float = 0.0,
        flash_attention: bool | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_integer("num_heads", num_heads, 1)
        check_bool("causal", causal)
        check_fraction("dropout", dropout)
        if flash_attention is not None:
            check_bool("flash_attention", flash_attention)
        check_seed("seed", seed)
        self.num_heads = num_heads
        self.causal = causal
        self.dropout = dropout
        self.flash_attention = flash_attention
        self.seed = seed
        if dropout:
            self.dropout_layer = FastDropout(dropout, seed=seed, dtype=self.dtype_policy, name="dropout")

    def call(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_ids: Tensor | None = None,
        query_segments: Tensor | None = None,
        key_segments: Tensor | None = None,
        training: bool = False,
    ) -> Tensor:
        mask, causal = attention_mask(self.causal, key_ids, query_segments, key_segments), self.causal
        query, key, value = (self._split(x) for x in (query, key, value))
        drops = training and self.dropout
        if causal and (drops or mask is not None):
            # `dot_product_attention` of Keras 3.12 on torch forgets that it is causal if it gets a mask.
            mask, causal = self._causal_mask(query, key, mask), False
        if drops:
            outputs = self._attend_with_dropout(query, key, value, mask)
        else:
            outputs = ops.dot_product_attention(
                query, key, value, mask=mask, is_causal=causal, flash_attention=self.flash_attention
            )
        shape = ops.shape(outputs)
        return ops.reshape(outputs, (shape[0], shape[1], outputs.shape[2] * outputs.shape[3]))

    def compute_output_spec(self, query: Tensor, *args: Any, **kwargs: Any) -> keras.KerasTensor:
        return keras.KerasTensor(query.shape, dtype=self.compute_dtype)

    def _split(self, x):
        shape = ops.shape(x)
        return ops.reshape(x, (shape[0], shape[1], self.num_heads, x.shape[-1] // self.num_heads))

    @staticmethod
    def _causal_mask(query, key, mask):
        queries, keys = ops.shape(query)[1], ops.shape(key)[1]
        visible = ops.arange(keys)[None, :] <= ops.arange(queries)[:, None]
        return visible if mask is None else ops.logical_and(mask, visible)

    def _attend_with_dropout(self, query, key, value, mask):
        scores = ops.cast(ops.einsum("btnh,bsnh->bnts", query, key), "float32") * query.shape[-1] ** -0.5
        if mask is not None:
            scores = ops.where(mask, scores, -1e9)
        probabilities = ops.cast(ops.softmax(scores), value.dtype)
        return ops.einsum("bnts,bsnh->btnh", self.dropout_layer(probabilities, training=True), value)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "causal": self.causal,
            "dropout": self.dropout,
            "flash_attention": self.flash_attention,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable("sparsity_tf")
class ScaledTokens(keras.layers.Layer):
    """Multiplies embeddings by the square root of their size; the result is zero where the token is padding (id 0).

    Example:

    >>> tuple(ScaledTokens()(keras.random.normal((1, 3, 16)), np.array([[5, 7, 0]])).shape)
    (1, 3, 16)
    """

    def call(self, embeddings: Tensor, ids: Tensor) -> Tensor:
        return scale_tokens(embeddings, ids)

    def compute_output_spec(self, embeddings: Tensor, ids: Tensor) -> keras.KerasTensor:
        return keras.KerasTensor(embeddings.shape, dtype=self.compute_dtype)


def scale_tokens(embeddings, ids):
    """Scales the embeddings (..., units) of tokens `ids` (...) for the input of the network."""
    scaled = ops.multiply(embeddings, ops.cast(embeddings.shape[-1] ** 0.5, embeddings.dtype))
    return ops.where(ops.expand_dims(ops.not_equal(ids, 0), -1), scaled, ops.zeros((), scaled.dtype))


@keras.saving.register_keras_serializable("sparsity_tf")
class ShiftRight(keras.layers.Layer):
    """Moves a sequence forward by one position. The first position of every packed sentence becomes a zero vector.

    (In tensor2tensor the first position holds the end of the previous sentence, which a sentence by itself never sees.)

    Call arguments:
        inputs: Tensor (batch, length, units).
        positions: Integer tensor (batch, length), 0 where a packed sentence begins; or `None`.

    Example:

    >>> tuple(ShiftRight()(np.array([[[1.0], [2.0], [3.0]]])).shape)
    (1, 3, 1)
    """

    def call(self, inputs: Tensor, positions: Tensor | None = None) -> Tensor:
        shifted = ops.pad(inputs[:, :-1], [(0, 0), (1, 0), (0, 0)])
        if positions is None:
            return shifted
        return ops.where(ops.expand_dims(ops.not_equal(positions, 0), -1), shifted, ops.zeros((), shifted.dtype))

    def compute_output_spec(self, inputs: Tensor, positions: Tensor | None = None) -> keras.KerasTensor:
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)


@keras.saving.register_keras_serializable("sparsity_tf")
class TimingSignal(keras.layers.Layer):
    """Adds `timing_signal` of the positions.

    Call arguments:
        inputs: Tensor (batch, length, units).
        positions: Integer tensor (batch, length); `None` counts from 0.

    Example:

    >>> tuple(TimingSignal()(np.zeros((2, 5, 16), "float32")).shape)
    (2, 5, 16)
    """

    def call(self, inputs: Tensor, positions: Tensor | None = None) -> Tensor:
        positions = ops.arange(ops.shape(inputs)[1]) if positions is None else positions
        return ops.add(inputs, ops.cast(timing_signal(positions, inputs.shape[-1]), inputs.dtype))

    def compute_output_spec(self, inputs: Tensor, positions: Tensor | None = None) -> keras.KerasTensor:
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)


@keras.saving.register_keras_serializable("sparsity_tf")
class TargetSpace(keras.layers.Layer):
    """Adds one row of a table of target spaces (tensor2tensor's name for the kinds of text to produce).

    The layer is not an `Embedding`: the table is a bias, which no technique makes sparse.

    Args:
        num_spaces: Rows of the table.
        space: The row that is added.

    Example:

    >>> tuple(TargetSpace(space=3)(keras.random.normal((2, 5, 16))).shape)
    (2, 5, 16)
    """

    def __init__(self, num_spaces: int = 32, space: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_integer("num_spaces", num_spaces, 1)
        check_integer("space", space)
        if not 0 <= space < num_spaces:
            raise ValueError(f"`space` must be at least 0 and less than {num_spaces}. Received: space={space}")
        self.num_spaces = num_spaces
        self.space = space

    def build(self, input_shape: tuple) -> None:
        units = input_shape[-1]
        self.table = self.add_weight(
            name="table",
            shape=(self.num_spaces, units),
            initializer=keras.initializers.RandomNormal(stddev=units**-0.5),
        )
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        return ops.add(inputs, self.row())

    def row(self) -> Tensor:
        """The row that is added, in the layer's compute dtype."""
        return ops.cast(ops.convert_to_tensor(self.table)[self.space], self.compute_dtype)

    def get_config(self) -> dict:
        return {**super().get_config(), "num_spaces": self.num_spaces, "space": self.space}


@functools.cache
def _dropout_function(rate):
    """Dropout as a function of (inputs, source of the uniform numbers). Its gradient draws the same numbers again."""

    def drop(x, source):
        keep = noise.uniform_from(source, ops.shape(x)) >= rate
        return ops.where(keep, ops.multiply(x, ops.cast(1 / (1 - rate), x.dtype)), ops.zeros((), x.dtype))

    return fused(
        lambda x, source: (drop(x, source), (source,)), lambda upstream, source: (drop(upstream, source), None)
    )


@keras.saving.register_keras_serializable("sparsity_tf")
class FastDropout(keras.layers.Dropout):
    """`keras.layers.Dropout` on the generator of `sparsity_tf.ops.noise`.

    Under XLA on a CPU the generator that TensorFlow chooses costs more than a small layer. This layer stores nothing
    for the gradient. The generator's state is saved with the model, so a resumed run drops the same entries as an
    uninterrupted one. Arguments: as for `keras.layers.Dropout`; `noise_shape` must be `None`.

    Example:

    >>> tuple(FastDropout(0.1, seed=0)(keras.random.normal((2, 5, 16)), training=True).shape)
    (2, 5, 16)
    """

    def __init__(self, rate: float, noise_shape: None = None, seed: int | None = None, **kwargs: Any) -> None:
        if noise_shape is not None:
            raise ValueError(f"`noise_shape` must be None: use `keras.layers.Dropout`. Received: {noise_shape=}")
        check_fraction("rate", rate)
        check_seed("seed", seed)
        super().__init__(rate, seed=seed, **kwargs)

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        if not (training and self.rate > 0):
            return inputs
        return _dropout_function(self.rate)(inputs, noise.uniform_source(ops.shape(inputs), self.seed_generator))

    def save_own_variables(self, store: Any) -> None:
        if self.rate > 0:
            store["seed_generator_state"] = self.seed_generator.state

    def load_own_variables(self, store: Any) -> None:
        if self.rate > 0:
            self.seed_generator.state.assign(store["seed_generator_state"])
