"""The Transformer of *State of Sparsity* (Gale et al., 2019, arXiv 1902.09574), the "base" model of tensor2tensor.

The model is a pre-norm encoder-decoder (Vaswani et al., 2017, arXiv 1706.03762). Its source embedding, target embedding
and softmax share one matrix. `sparsity_tf.decoding` translates with the model.

Names of layers, for `where`: `embedding`; `encoder_layer<n>_self_attention_<part>` with `<part>` one of `query`, `key`,
`value`, `output`; `encoder_layer<n>_ffn_inner` and `..._ffn_outer`; `decoder_layer<n>_...` the same and
`decoder_layer<n>_cross_attention_<part>`. With `split_heads` each of the parts `query`, `key` and `value` is one layer
a head: `..._query_head<h>` and so on.
"""

from typing import Any

import keras
from keras import layers

from sparsity_tf.checks import check_bool, check_choice, check_fraction, check_integer, check_seed
from sparsity_tf.layers import Technique
from sparsity_tf.models import _building
from sparsity_tf.models.transformer_layers import (
    DotProductAttention,
    FastDropout,
    ScaledTokens,
    ShiftRight,
    TargetSpace,
    TimingSignal,
)
from sparsity_tf.type_names import Where

# Arguments of `Transformer` by the name of a size.
TRANSFORMER_SIZES = {
    "base": {"num_layers": 6, "hidden_size": 512, "filter_size": 2048, "num_heads": 8},
    "tiny": {"num_layers": 2, "hidden_size": 128, "filter_size": 512, "num_heads": 4},
}
# A value of `where` that selects all layers but the shared embedding and softmax matrix.
EMBEDDING_DENSE = r"(en|de)coder_layer\d+_.*"


def Transformer(
    vocabulary_size: int,
    num_layers: int | None = None,
    hidden_size: int | None = None,
    filter_size: int | None = None,
    num_heads: int | None = None,
    *,
    size: str = "base",
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
    relu_dropout: float = 0.1,
    num_target_spaces: int = 32,
    target_space: int = 0,
    split_heads: bool = False,
    packed: bool = False,
    flash_attention: bool | None = None,
    seed: int | None = None,
    technique: str | Technique | None = None,
    where: Where = None,
    name: str = "transformer",
    **technique_options: Any,
) -> keras.Model:
    """An encoder-decoder for translation. Any of its matrices can be sparse.

    The encoder multiplies the shared embedding by sqrt(hidden_size), with zeros for padding, and adds a target-space
    vector and sinusoids. Then follow dropout, `num_layers` times [normalise, self-attention, dropout, add] [normalise,
    feed-forward, dropout, add], and a last normalisation. The decoder shifts the targets right by a zero vector and
    adds sinusoids. The rest of the decoder is like the encoder, with causal self-attention, and with attention to the
    encoder in every layer. Logits are products with the rows of the shared embedding. Attention projections have no
    bias. The feed-forward layers have biases, with a ReLU and dropout between the layers. Layer normalisation has
    epsilon 1e-6. Kernels start Glorot uniform, the embedding normal with standard deviation hidden_size^-0.5.

    Args:
        vocabulary_size: Number of symbols of both languages together. Symbol 0 is padding, 1 the end of a sentence.
        num_layers: Number of layers of the encoder, and of the decoder. Default as `size` says.
        hidden_size: Units of a position. Default as `size` says.
        filter_size: Inner units of the feed-forward layers. Default as `size` says.
        num_heads: Attention heads, a divisor of `hidden_size`. Default as `size` says.
        size: "base" (6 layers, hidden size 512, filter size 2048, 8 heads) or "tiny" (2, 128, 512, 4). See
            `TRANSFORMER_SIZES`.
        dropout: Dropout rate after the inputs and after every attention and feed-forward layer.
        attention_dropout: Dropout rate for attention probabilities.
        relu_dropout: Dropout rate between the two feed-forward layers.
        num_target_spaces: Rows of the target-space table; 0 for a model without this table.
        target_space: The row of the target-space table that is used.
        split_heads: Whether each head of query, key and value has its own kernel (hidden_size, hidden_size /
            num_heads), so that each head is pruned by itself.
        packed: Whether an example holds several sentences. The model then takes more inputs, listed under Returns.
        flash_attention: `None` lets the backend choose, see `keras.ops.dot_product_attention`.
        seed: Integer seed of the dropout, or `None`.
        technique: Name or configured object for `sparsity_tf.sparsify`, or `None` for a dense model.
        where: Which layers to make sparse; `None` for all projections and the embedding: for "base" with 33,288 symbols
            these are 97 tensors with 61,083,648 weights in all. `EMBEDDING_DENSE` leaves the embedding out.
        name: Name of the model.
        **technique_options: Options of the technique. (`share_noise` of "vd" does not apply to the embedding: its noise
            is independent at every position, as in the paper.)

    Returns:
        A functional `keras.Model` from a dict of int32 tensors, `"inputs"` (batch, source length) and `"targets"`
        (batch, target length), 0 where padded, to float32 logits (batch, target length, vocabulary_size). Logits at
        position i predict target i: the model itself shifts the targets. A packed model also takes `"inputs_segments"`,
        `"targets_segments"` (number of the sentence, from 1; 0 where padded), `"inputs_positions"` and
        `"targets_positions"` (from 0 in every sentence). "base" with 33,288 symbols has 61,163,520 parameters.

    Raises:
        ValueError: A size is not positive, `num_heads` does not divide `hidden_size`, or a rate is outside [0, 1);
            `where` or options are given without `technique`; `sparsify` refuses its arguments.
        ImportError: This Keras has no `ReversibleEmbedding`.

    Example:
        >>> model = Transformer(8000, size="tiny", technique="masked")
    """
    check_choice("size", size, TRANSFORMER_SIZES)
    given = {"num_layers": num_layers, "hidden_size": hidden_size, "filter_size": filter_size, "num_heads": num_heads}
    sizes = {key: TRANSFORMER_SIZES[size][key] if value is None else value for key, value in given.items()}
    for argument, number in {"vocabulary_size": vocabulary_size, **sizes}.items():
        check_integer(argument, number, 1)
    # Keras refuses numpy's integers.
    vocabulary_size, sizes = int(vocabulary_size), {name: int(number) for name, number in sizes.items()}
    if sizes["hidden_size"] % sizes["num_heads"]:
        raise ValueError(
            "`num_heads` must divide `hidden_size`. "
            f"Received: num_heads={sizes['num_heads']}, hidden_size={sizes['hidden_size']}"
        )
    rates = {"dropout": dropout, "attention_dropout": attention_dropout, "relu_dropout": relu_dropout}
    for argument, rate in rates.items():
        check_fraction(argument, rate)
    check_integer("num_target_spaces", num_target_spaces, 0)
    check_integer("target_space", target_space, 0)
    check_bool("split_heads", split_heads)
    check_bool("packed", packed)
    if flash_attention is not None:
        check_bool("flash_attention", flash_attention)
    check_seed("seed", seed)

    net = _Network(sizes, rates, split_heads, flash_attention, seed)
    keys = ("inputs", "targets")
    if packed:
        keys += tuple(f"{side}_{what}" for side in keys for what in ("segments", "positions"))
    inputs = {key: keras.Input((None,), dtype="int32", name=key) for key in keys}
    embedding = layers.ReversibleEmbedding(
        vocabulary_size,
        sizes["hidden_size"],
        embeddings_initializer=keras.initializers.RandomNormal(stddev=sizes["hidden_size"] ** -0.5),
        name="embedding",
    )

    x = ScaledTokens(name="encoder_tokens")(embedding(inputs["inputs"]), inputs["inputs"])
    if num_target_spaces:
        x = TargetSpace(num_target_spaces, target_space, name="encoder_target_space")(x)
    x = TimingSignal(name="encoder_timing")(x, inputs.get("inputs_positions"))
    encoded = net.encoder(net.dropout(x, "encoder_dropout"), inputs)

    x = ScaledTokens(name="decoder_tokens")(embedding(inputs["targets"]), inputs["targets"])
    x = ShiftRight(name="decoder_shift")(x, inputs.get("targets_positions"))
    x = TimingSignal(name="decoder_timing")(x, inputs.get("targets_positions"))
    decoded = net.decoder(net.dropout(x, "decoder_dropout"), encoded, inputs)

    # Losses are computed in float32, also if the model computes in another precision.
    logits = layers.Activation("linear", dtype="float32", name="logits")(embedding(decoded, reverse=True))
    model = keras.Model(inputs, logits, name=name)
    _building.apply_technique(model, technique, technique_options or None, where)
    if getattr(getattr(embedding, "technique", None), "share_noise", False):
        embedding.technique.share_noise = False
    return model


class _Network:
    """The layers of one network, each applied as soon as it is made."""

    def __init__(self, sizes, rates, split_heads, flash_attention, seed):
        self.sizes = sizes
        self.rates = rates
        self.split_heads = split_heads
        self.flash_attention = flash_attention
        self._seed = seed

    def encoder(self, x, inputs):
        segments = inputs.get("inputs_segments")
        masks = {"key_ids": inputs["inputs"]} if segments is None else _segments(segments, segments)
        for name in self._layer_names("encoder"):
            x = self._attention(x, None, f"{name}_self_attention", masks)
            x = self._feed_forward(x, f"{name}_ffn")
        return self._normalize(x, "encoder_norm")

    def decoder(self, x, encoded, inputs):
        source, target = inputs.get("inputs_segments"), inputs.get("targets_segments")
        own_masks = {} if target is None else _segments(target, target)
        masks = {"key_ids": inputs["inputs"]} if target is None else _segments(target, source)
        for name in self._layer_names("decoder"):
            x = self._attention(x, None, f"{name}_self_attention", own_masks, causal=True)
            x = self._attention(x, encoded, f"{name}_cross_attention", masks)
            x = self._feed_forward(x, f"{name}_ffn")
        return self._normalize(x, "decoder_norm")

    def dropout(self, x, name, rate="dropout"):
        """Dropout. At rate 0 there is no layer, so a model without dropout has no dropout layers."""
        rate = self.rates[rate]
        return FastDropout(rate, seed=self._next_seed(), name=name)(x) if rate else x

    def _layer_names(self, side):
        return [f"{side}_layer{number + 1}" for number in range(self.sizes["num_layers"])]

    def _attention(self, x, memory, name, masks, causal=False):
        """Normalisation, attention to `memory` (`None` for self-attention), dropout, and the sum with `x`."""
        units, heads = self.sizes["hidden_size"], self.sizes["num_heads"]
        queries = self._normalize(x, f"{name}_norm")
        keys = queries if memory is None else memory
        attended = DotProductAttention(
            heads,
            causal=causal,
            dropout=self.rates["attention_dropout"],
            flash_attention=self.flash_attention,
            seed=self._next_seed(),
            name=name,
        )(
            self._project_heads(queries, f"{name}_query"),
            self._project_heads(keys, f"{name}_key"),
            self._project_heads(keys, f"{name}_value"),
            **masks,
        )
        output = layers.Dense(units, use_bias=False, name=f"{name}_output")(attended)
        return layers.Add(name=f"{name}_add")([x, self.dropout(output, f"{name}_dropout")])

    def _project_heads(self, x, name):
        units, heads = self.sizes["hidden_size"], self.sizes["num_heads"]
        if not self.split_heads:
            return layers.Dense(units, use_bias=False, name=name)(x)
        parts = [
            layers.Dense(units // heads, use_bias=False, name=f"{name}_head{head + 1}")(x) for head in range(heads)
        ]
        return layers.Concatenate(name=name)(parts) if heads > 1 else parts[0]

    def _feed_forward(self, x, name):
        inner = self._normalize(x, f"{name}_norm")
        inner = layers.Dense(self.sizes["filter_size"], activation="relu", name=f"{name}_inner")(inner)
        inner = self.dropout(inner, f"{name}_inner_dropout", "relu_dropout")
        outer = layers.Dense(self.sizes["hidden_size"], name=f"{name}_outer")(inner)
        return layers.Add(name=f"{name}_add")([x, self.dropout(outer, f"{name}_dropout")])

    def _normalize(self, x, name):
        return layers.LayerNormalization(epsilon=1e-6, name=name)(x)

    def _next_seed(self):
        if self._seed is not None:
            self._seed += 1
        return self._seed


def _segments(query, key):
    return {"query_segments": query, "key_segments": key}
