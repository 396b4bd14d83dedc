"""The Transformer of `models.Transformer` as pure functions of its inference weights, one target position at a time.

`inference_weights` reads a model once: the effective value of every sparse weight (zeros included), with the query, key
and value kernels side by side. The other functions compute the same outputs as the model, but keep keys and values of
the finished positions.

Hypotheses of a beam change places while they grow. The cache does not move with them. Instead, `ancestors` says in
which slot of each position a hypothesis finds its own past, and attention masks all other slots. Keys are stored
transposed, so that both products of attention are plain matrix products.
"""

import re

from keras import ops

from sparsity_tf.layers import SparseLayer
from sparsity_tf.models.transformer_layers import scale_tokens, timing_signal

_EPSILON = 1e-6


def inference_weights(model):
    """Reads the weights that inference uses.

    Args:
        model: Model that `models.Transformer` built, with any technique, or its dense form. A loaded model works, too.

    Returns:
        Nested dict of tensors in the model's compute dtype (normalisation in float32).

    Raises:
        ValueError: `model` is another kind of model.
    """
    layers = {layer.name: layer for layer in model.layers}
    counts = {
        side: sum(bool(re.fullmatch(rf"{side}_layer\d+_self_attention", name)) for name in layers)
        for side in ("encoder", "decoder")
    }
    if not (all(counts.values()) and {"embedding", "encoder_norm", "decoder_norm"} <= set(layers)):
        raise ValueError(
            f"`model` must be a model that `sparsity_tf.models.Transformer` built. Received: the model {model.name!r} "
            f"with the layers {list(layers)[:8]}..."
        )
    read = _Reader(layers)
    weights = {"embedding": read.weight("embedding", "embeddings")}
    # The softmax is the largest product of a step, so its kernel is transposed once, here.
    weights["softmax"] = ops.transpose(weights["embedding"])
    if "encoder_target_space" in layers:
        weights["target_space"] = layers["encoder_target_space"].row()
    for side, count in counts.items():
        weights[side] = [read.block(f"{side}_layer{number + 1}", side) for number in range(count)]
        weights[f"{side}_norm"] = read.norm(f"{side}_norm")
    return weights


def num_heads(model):
    """Number of attention heads of a Transformer."""
    return model.get_layer("encoder_layer1_self_attention").num_heads


class _Reader:
    def __init__(self, layers):
        self._layers = layers

    def weight(self, layer_name, weight_name="kernel"):
        layer = self._layers[layer_name]
        if getattr(layer, "quantization_mode", None) is not None:
            raise ValueError(
                f"Layer {layer_name!r} is quantized ({layer.quantization_mode}), and quantized layers can't be "
                "decoded: give the model from before `quantize`."
            )
        value = getattr(layer, weight_name)
        if isinstance(layer, SparseLayer):
            [value] = [weight.value() for weight in layer.sparse_weights if weight.name == weight_name]
        return ops.cast(ops.convert_to_tensor(value), layer.compute_dtype)

    def block(self, name, side):
        block = {
            "self": self._attention(f"{name}_self_attention"),
            "ffn": {
                "norm": self.norm(f"{name}_ffn_norm"),
                "inner": self.weight(f"{name}_ffn_inner"),
                "inner_bias": self._bias(f"{name}_ffn_inner"),
                "outer": self.weight(f"{name}_ffn_outer"),
                "outer_bias": self._bias(f"{name}_ffn_outer"),
            },
        }
        if side == "decoder":
            block["cross"] = self._attention(f"{name}_cross_attention")
        return block

    def norm(self, name):
        layer = self._layers[name]
        return {"gamma": ops.cast(layer.gamma, "float32"), "beta": ops.cast(layer.beta, "float32")}

    def _attention(self, name):
        query, key, value = (self._heads(f"{name}_{part}") for part in ("query", "key", "value"))
        attention = {"norm": self.norm(f"{name}_norm"), "output": self.weight(f"{name}_output")}
        if name.endswith("self_attention"):
            return {**attention, "query_key_value": ops.concatenate([query, key, value], axis=1)}
        return {**attention, "query": query, "key_value": ops.concatenate([key, value], axis=1)}

    def _heads(self, name):
        """The kernel of a projection. The kernels of split heads are joined."""
        if f"{name}_head1" not in self._layers:
            return self.weight(name)
        names = (other for other in self._layers if re.fullmatch(rf"{name}_head\d+", other))
        heads = sorted(names, key=lambda other: int(other.rpartition("_head")[2]))
        return ops.concatenate([self.weight(head) for head in heads], axis=1)

    def _bias(self, name):
        return ops.cast(ops.convert_to_tensor(self._layers[name].bias), self._layers[name].compute_dtype)


def encode(weights, inputs, heads):
    """Runs the encoder.

    Args:
        weights: The result of `inference_weights`.
        inputs: int32 tensor (batch, source length), 0 where padded.
        heads: Number of attention heads.

    Returns:
        Tensor (batch, source length, units).
    """
    x = scale_tokens(ops.take(weights["embedding"], inputs, axis=0), inputs)
    if "target_space" in weights:
        x = ops.add(x, weights["target_space"])
    x = ops.add(x, ops.cast(timing_signal(ops.arange(inputs.shape[1]), x.shape[-1]), x.dtype))
    mask = ops.not_equal(inputs, 0)[:, None, None, :]
    for block in weights["encoder"]:
        attention = block["self"]
        normal = _normalize(x, attention["norm"])
        query, key, value = ops.split(ops.matmul(normal, attention["query_key_value"]), 3, axis=-1)
        keys, values = _key_columns(key, heads), _rows(value, heads)
        x = ops.add(x, _attend(_rows(query, heads), keys, values, mask, attention["output"]))
        x = _feed_forward(x, block["ffn"])
    return _normalize(x, weights["encoder_norm"])


def start_cache(weights, inputs, heads, beams, length):
    """Runs the encoder and makes the cache of a decoder before its first step.

    Args:
        weights: The result of `inference_weights`.
        inputs: int32 tensor (batch, source length), 0 where padded.
        heads: Number of attention heads.
        beams: Number of hypotheses of each sentence.
        length: Largest number of target positions.

    Returns:
        (constant part, changing part), nested structures of tensors. The constant part holds keys and values of the
        source: keys (batch, heads, units / heads, source length), values with the last two axes swapped. The changing
        part holds keys and values of the target, one slot for each position and hypothesis.
    """
    encoded = encode(weights, inputs, heads)
    batch, _, units = encoded.shape
    source, target = [], []
    for block in weights["decoder"]:
        key, value = ops.split(ops.matmul(encoded, block["cross"]["key_value"]), 2, axis=-1)
        source.append({"keys": _key_columns(key, heads), "values": _rows(value, heads)})
        slots = length * beams
        target.append(
            {
                "keys": ops.zeros((batch, heads, units // heads, slots), encoded.dtype),
                "values": ops.zeros((batch, heads, slots, units // heads), encoded.dtype),
            }
        )
    return {"mask": ops.not_equal(inputs, 0)[:, None, None, :], "layers": source}, target


def next_logits(weights, source, target, tokens, ancestors, step, heads):
    """Runs one step of the decoder.

    Args:
        weights: The result of `inference_weights`.
        source: Constant part of the cache.
        target: Changing part of the cache.
        tokens: int32 tensor (batch, beams), the tokens at the previous position; 0 at the first position.
        ancestors: int32 tensor (batch, beams, length): for each position up to this one, the slot in which a hypothesis
            finds its own past.
        step: Scalar int32 tensor, the position to predict, from 0.
        heads: Number of attention heads.

    Returns:
        (float32 logits (batch, beams, vocabulary), the changing part of the cache including this position).
    """
    beams, length = ancestors.shape[1:]
    x = scale_tokens(ops.take(weights["embedding"], tokens, axis=0), tokens)
    x = ops.add(x, ops.cast(timing_signal(step, x.shape[-1]), x.dtype))
    # (batch, beams, length, slots of a position): True at the hypothesis' own slot of every position so far.
    own = ops.equal(ops.expand_dims(ancestors, -1), ops.arange(beams, dtype="int32"))
    own = ops.logical_and(own, (ops.arange(length, dtype="int32") <= step)[:, None])
    mask = ops.reshape(own, (own.shape[0], 1, beams, length * beams))
    updated = []
    for block, cached, fixed in zip(weights["decoder"], target, source["layers"], strict=True):
        attention = block["self"]
        query_key_value = ops.matmul(_normalize(x, attention["norm"]), attention["query_key_value"])
        query, key, value = ops.split(query_key_value, 3, axis=-1)
        keys = ops.slice_update(cached["keys"], (0, 0, 0, step * beams), _key_columns(key, heads))
        values = ops.slice_update(cached["values"], (0, 0, step * beams, 0), _rows(value, heads))
        updated.append({"keys": keys, "values": values})
        x = ops.add(x, _attend(_rows(query, heads), keys, values, mask, attention["output"]))
        attention = block["cross"]
        query = ops.matmul(_normalize(x, attention["norm"]), attention["query"])
        attended = _attend(_rows(query, heads), fixed["keys"], fixed["values"], source["mask"], attention["output"])
        x = _feed_forward(ops.add(x, attended), block["ffn"])
    logits = ops.matmul(_normalize(x, weights["decoder_norm"]), weights["softmax"])
    return ops.cast(logits, "float32"), updated


def _rows(x, heads):
    """(batch, positions, units) -> (batch, heads, positions, units / heads)."""
    return ops.transpose(_split(x, heads), (0, 2, 1, 3))


def _key_columns(x, heads):
    """(batch, positions, units) -> (batch, heads, units / heads, positions)."""
    return ops.transpose(_split(x, heads), (0, 2, 3, 1))


def _split(x, heads):
    return ops.reshape(x, (x.shape[0], x.shape[1], heads, x.shape[2] // heads))


def _attend(query, keys, values, mask, output):
    scores = ops.cast(ops.matmul(query, keys), "float32") * query.shape[-1] ** -0.5
    probabilities = ops.softmax(ops.where(mask, scores, -1e9))
    attended = ops.matmul(ops.cast(probabilities, values.dtype), values)
    attended = ops.transpose(attended, (0, 2, 1, 3))
    return ops.matmul(ops.reshape(attended, (*attended.shape[:2], -1)), output)


def _feed_forward(x, ffn):
    inner = ops.relu(ops.add(ops.matmul(_normalize(x, ffn["norm"]), ffn["inner"]), ffn["inner_bias"]))
    return ops.add(x, ops.add(ops.matmul(inner, ffn["outer"]), ffn["outer_bias"]))


def _normalize(x, norm):
    wide = ops.cast(x, "float32")
    mean = ops.mean(wide, axis=-1, keepdims=True)
    variance = ops.mean(ops.square(wide - mean), axis=-1, keepdims=True)
    return ops.cast((wide - mean) * ops.rsqrt(variance + _EPSILON) * norm["gamma"] + norm["beta"], x.dtype)
