"""The Transformer: the published counts, an independent forward pass in numpy, and what must not change a result."""

import keras
import numpy as np
import pytest

import sparsity_tf
from sparsity_tf import layers, models
from tests.models.transformers import random_ids, small_transformer


def numpy_of(tensor):
    return keras.ops.convert_to_numpy(tensor)


# Counts.


def test_base_has_the_published_counts():
    model = models.Transformer(33288, technique="masked")
    weights = layers.get_sparse_weights(model)
    assert len(weights) == 97
    assert sum(weight.size for weight in weights) == 61_083_648
    assert sum(weight.shape == (512, 512) for weight in weights) == 72
    assert sum(set(weight.shape) == {512, 2048} for weight in weights) == 24
    assert sum(weight.shape == (33288, 512) for weight in weights) == 1
    assert sum(int(np.prod(variable.shape)) for variable in model.trainable_variables) == 61_163_520


def test_sizes_are_presets_that_numbers_override():
    model = models.Transformer(50, size="tiny", filter_size=24)
    kernels = [variable for variable in model.trainable_variables if len(variable.shape) == 2]
    # 2 x (4 + 8) attention kernels, 2 x 4 feed-forward kernels, embedding, target spaces.
    assert len(kernels) == 24 + 8 + 2
    assert model.get_layer("encoder_layer2_ffn_inner").kernel.shape == (128, 24)
    assert model.get_layer("decoder_layer1_cross_attention").num_heads == 4


def test_split_heads_are_kernels_of_their_own():
    whole = small_transformer(technique="masked")
    split = small_transformer(technique="masked", split_heads=True)
    counts = [[weight.size for weight in layers.get_sparse_weights(model)] for model in (whole, split)]
    assert sum(counts[0]) == sum(counts[1])
    # Three projections of each of the three attentions, of one layer each, into two heads.
    assert len(counts[1]) - len(counts[0]) == 3 * 3
    assert split.get_layer("encoder_layer1_self_attention_query_head2").kernel.shape == (8, 4)


def test_any_subset_of_the_matrices_can_be_sparse():
    model = small_transformer(technique="masked", where=models.EMBEDDING_DENSE)
    assert not isinstance(model.get_layer("embedding"), layers.SparseLayer)
    assert len(layers.get_sparse_weights(model)) == 4 + 8 + 2 * 2
    model = small_transformer(technique="vd", where=["embedding", ".*_cross_attention_query"])
    assert len(layers.get_sparse_weights(model)) == 2


def test_sparsify_of_a_dense_model_finds_the_same_tensors():
    model = sparsity_tf.sparsify(small_transformer(), "masked")
    assert len(layers.get_sparse_weights(model)) == 1 + 4 + 8 + 2 * 2


# Values.


class NumpyTransformer:
    """The network of section 6.1 of the fact sheet in float64, written from its text alone."""

    def __init__(self, model, heads, num_layers):
        self.model, self.heads, self.num_layers = model, heads, num_layers

    def weight(self, layer, name="kernel"):
        return numpy_of(getattr(self.model.get_layer(layer), name)).astype("float64")

    def __call__(self, source, target):
        table = self.weight("embedding", "embeddings")
        x = self.embed(table, source) + self.weight("encoder_target_space", "table")[0]
        x = x + self.timing(*x.shape[1:])
        sees_source = (source != 0)[:, None, None, :]
        for n in range(1, self.num_layers + 1):
            h = self.norm(x, f"encoder_layer{n}_self_attention_norm")
            x = x + self.attention(h, h, f"encoder_layer{n}_self_attention", sees_source)
            x = x + self.feed_forward(x, f"encoder_layer{n}_ffn")
        memory = self.norm(x, "encoder_norm")
        x = np.concatenate([np.zeros_like(memory[:, :1]), self.embed(table, target)[:, :-1]], axis=1)
        x = x + self.timing(*x.shape[1:])
        past = np.tril(np.ones((target.shape[1], target.shape[1]), bool))[None, None]
        for n in range(1, self.num_layers + 1):
            h = self.norm(x, f"decoder_layer{n}_self_attention_norm")
            x = x + self.attention(h, h, f"decoder_layer{n}_self_attention", past)
            h = self.norm(x, f"decoder_layer{n}_cross_attention_norm")
            x = x + self.attention(h, memory, f"decoder_layer{n}_cross_attention", sees_source)
            x = x + self.feed_forward(x, f"decoder_layer{n}_ffn")
        return self.norm(x, "decoder_norm") @ table.T

    def embed(self, table, ids):
        return table[ids] * np.sqrt(table.shape[1]) * (ids != 0)[..., None]

    def timing(self, length, units):
        half = units // 2
        signal = np.zeros((length, units))
        for position in range(length):
            for k in range(half):
                rate = np.exp(-k * np.log(1e4) / (half - 1))
                signal[position, k] = np.sin(position * rate)
                signal[position, half + k] = np.cos(position * rate)
        return signal

    def norm(self, x, layer):
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) / np.sqrt(variance + 1e-6) * self.weight(layer, "gamma") + self.weight(layer, "beta")

    def attention(self, queries, memory, name, visible):
        q, k, v = (
            x @ self.weight(f"{name}_{part}") for x, part in ((queries, "query"), (memory, "key"), (memory, "value"))
        )
        depth = q.shape[-1] // self.heads
        outputs = np.zeros_like(q)
        for head in range(self.heads):
            part = slice(head * depth, (head + 1) * depth)
            scores = q[..., part] * depth**-0.5 @ k[..., part].swapaxes(1, 2)
            scores = np.where(visible[:, 0], scores, -np.inf)
            exps = np.exp(scores - scores.max(-1, keepdims=True))
            outputs[..., part] = exps / exps.sum(-1, keepdims=True) @ v[..., part]
        return outputs @ self.weight(f"{name}_output")

    def feed_forward(self, x, name):
        h = self.norm(x, f"{name}_norm")
        h = np.maximum(h @ self.weight(f"{name}_inner") + self.weight(f"{name}_inner", "bias"), 0)
        return h @ self.weight(f"{name}_outer") + self.weight(f"{name}_outer", "bias")


def test_forward_pass_equals_an_independent_one_in_float64():
    model = small_transformer(num_layers=2, hidden_size=12, filter_size=20, num_heads=3)
    ids = random_ids((5, 3, 7), 6)
    expected = NumpyTransformer(model, 3, 2)(ids["inputs"], ids["targets"])
    logits = numpy_of(model(ids))
    assert logits.dtype == np.float32 and logits.shape == (3, 6, 19)
    assert expected.std() > 0.3
    np.testing.assert_allclose(logits, expected, rtol=2e-4, atol=2e-5)


def test_split_heads_compute_what_whole_kernels_compute():
    whole, split = small_transformer(), small_transformer(split_heads=True)
    for layer in whole.layers:
        name = layer.name
        if name.endswith(("_query", "_key", "_value")):
            for head, part in enumerate(np.split(numpy_of(layer.kernel), 2, axis=1)):
                split.get_layer(f"{name}_head{head + 1}").kernel.assign(part)
        else:
            split.get_layer(name).set_weights(layer.get_weights())
    ids = random_ids((4, 6), 5)
    np.testing.assert_allclose(numpy_of(split(ids)), numpy_of(whole(ids)), rtol=1e-5, atol=1e-6)


def test_dropout_is_for_training_only_and_attention_with_it_computes_the_same():
    ids = random_ids((4, 6), 5)
    model = small_transformer(attention_dropout=1e-9)
    np.testing.assert_allclose(numpy_of(model(ids, training=True)), numpy_of(model(ids)), rtol=1e-4, atol=1e-5)
    model = small_transformer(dropout=0.3, attention_dropout=0.3, relu_dropout=0.3)
    assert np.array_equal(numpy_of(model(ids)), numpy_of(model(ids, training=False)))
    assert not np.allclose(numpy_of(model(ids, training=True)), numpy_of(model(ids)), atol=0.1)


def test_padding_changes_nothing():
    model = small_transformer()
    ids = random_ids((5, 4), 6)
    wide = {key: np.pad(value, [(0, 0), (0, 3)]) for key, value in ids.items()}
    np.testing.assert_allclose(numpy_of(model(wide))[:, :6], numpy_of(model(ids)), rtol=1e-4, atol=1e-5)


def test_a_logit_depends_on_earlier_targets_only():
    model = small_transformer()
    ids = random_ids((5, 4), 6)
    before = numpy_of(model(ids))
    ids["targets"][:, 3] = ids["targets"][:, 3] % 17 + 2
    after = numpy_of(model(ids))
    np.testing.assert_allclose(after[:, :4], before[:, :4], rtol=1e-5, atol=1e-6)
    assert (np.abs(after[:, 4] - before[:, 4]).max(axis=-1) > 1e-3).all()


def test_packed_sentences_equal_separate_ones():
    model, packed = small_transformer(), small_transformer(packed=True)
    packed.set_weights(model.get_weights())
    ids = random_ids((4, 3), 5)
    lengths = {"inputs": (4, 3), "targets": (5, 2)}
    ids["targets"][1, 2:] = 0
    row = {}
    for side, (first, second) in lengths.items():
        padding = [0, 0]
        row[side] = [*ids[side][0, :first], *ids[side][1, :second], *padding]
        row[f"{side}_segments"] = [1] * first + [2] * second + padding
        row[f"{side}_positions"] = [*range(first), *range(second), *padding]
    logits = numpy_of(packed({key: np.array([value], "int32") for key, value in row.items()}))[0]
    expected = numpy_of(model(ids))
    np.testing.assert_allclose(logits[:5], expected[0, :5], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(logits[5:7], expected[1, :2], rtol=1e-4, atol=1e-5)


# Training, saving, precision.


@pytest.mark.tensorflow
# Moved to `make test-all`: two techniques whose form of each kind of layer `tests/layers/test_all_layers.py` trains.
@pytest.mark.parametrize(
    "technique",
    [None, "masked", "vd", "l0", *(pytest.param(name, marks=pytest.mark.slow) for name in ("str", "dnw"))],
)
def test_every_technique_has_gradients_that_lower_the_loss(technique):
    import tensorflow as tf

    model = small_transformer(technique=technique, **({"penalty_weight": 1e-6} if technique in ("vd", "l0") else {}))
    ids = random_ids((5, 4), 6)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    before = float(cross_entropy(ids["targets"], model(ids)))
    with tf.GradientTape() as tape:
        loss = cross_entropy(ids["targets"], model(ids, training=True)) + sum(model.losses)
    gradients = tape.gradient(loss, model.trainable_variables)
    assert all(g is not None and np.isfinite(numpy_of(tf.convert_to_tensor(g))).all() for g in gradients)
    keras.optimizers.SGD(0.02).apply(gradients, model.trainable_variables)
    assert float(cross_entropy(ids["targets"], model(ids))) < before


def test_a_loaded_model_goes_on_exactly(tmp_path):
    rates = dict.fromkeys(("dropout", "attention_dropout", "relu_dropout"), 0.1)
    model = small_transformer(technique="vd", where=["embedding", ".*_query"], penalty_weight=1e-6, **rates)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss, jit_compile=False)
    ids = random_ids((5, 4), 6)
    model.train_on_batch(ids, ids["targets"])
    path = str(tmp_path / "model.keras")
    model.save(path)
    loaded = keras.saving.load_model(path)
    np.testing.assert_array_equal(numpy_of(loaded(ids)), numpy_of(model(ids)))
    for _ in range(2):  # Dropout and the noise of the technique go on where they were.
        model.train_on_batch(ids, ids["targets"])
        loaded.train_on_batch(ids, ids["targets"])
    np.testing.assert_array_equal(numpy_of(loaded(ids)), numpy_of(model(ids)))


def test_dense_form_predicts_the_same():
    model = small_transformer(technique="vd", where=["embedding", "encoder_layer1_ffn_inner"])
    ids = random_ids((5, 4), 6)
    dense = sparsity_tf.to_dense(model)
    assert not layers.get_sparse_weights(dense)
    np.testing.assert_allclose(numpy_of(dense(ids)), numpy_of(model(ids)), rtol=1e-5, atol=1e-6)


@pytest.mark.compiled
@pytest.mark.not_on_torch("XLA compiles for TensorFlow and JAX only")
def test_mixed_bfloat16_with_xla():
    ids = random_ids((5, 4), 6)
    full = small_transformer()
    expected = numpy_of(full(ids))
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = small_transformer(attention_dropout=0.1)
    for layer in full.layers:
        model.get_layer(layer.name).set_weights(layer.get_weights())
    assert model.get_layer("encoder_layer1_ffn_outer").compute_dtype == "bfloat16"
    logits = numpy_of(model(ids))
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=0.1 * expected.std())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, jit_compile=True)
    assert np.isfinite(model.train_on_batch(ids, ids["targets"]))


def test_shared_noise_of_variational_dropout_does_not_reach_the_embedding():
    model = small_transformer(technique="vd", share_noise=True)
    assert not model.get_layer("embedding").technique.share_noise
    assert model.get_layer("decoder_layer1_ffn_inner").technique.share_noise


# Bad arguments.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": "huge"}, "`size` must be one of .*base.*tiny.*huge"),
        ({"num_heads": 3, "hidden_size": 8}, "`num_heads` must divide `hidden_size`.*3.*8"),
        ({"num_layers": 0}, "`num_layers` must be an integer of at least 1.*0"),
        ({"vocabulary_size": 2.5}, "`vocabulary_size` must be an integer of at least 1.*2.5"),
        ({"relu_dropout": 1.0}, r"`relu_dropout` must be a number in \[0, 1\).*1.0"),
        ({"where": "embedding"}, "`where` needs a `technique`"),
        ({"sparsity": 0.5}, "`technique_options` needs a `technique`"),
        ({"technique": "masked", "where": "attention"}, "match no layer: .*attention"),
        ({"target_space": 32}, "`space` must be at least 0 and less than 32.*32"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.Transformer(**{"vocabulary_size": 10, "size": "tiny", **arguments})
