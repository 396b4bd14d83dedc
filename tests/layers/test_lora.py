"""Adapters of masked layers: the mask lies on kernel plus adapter, in training, in files and when both are merged."""

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

import sparsity_tf
from sparsity_tf import callbacks
from sparsity_tf.layers import MaskedConv2D, MaskedDense, MaskedDepthwiseConv2D, get_sparse_weights

numpy_of = ops.convert_to_numpy

RNG = np.random.default_rng(0)
KINDS = {
    "dense": (lambda: kl.Dense(4), (6,)),
    "einsum": (lambda: kl.EinsumDense("abc,cde->abde", (None, 2, 4), bias_axes="de"), (3, 6)),
    "conv": (lambda: kl.Conv2D(4, 2), (4, 4, 3)),
    "embedding": (lambda: kl.Embedding(7, 4), (3,)),
}


def pruned(kind):
    """A half pruned layer in a model, its adapter not zero; the mask, kernel and product of the factors beside it."""
    make, shape = KINDS[kind]
    inputs = keras.Input(shape, dtype="int32" if kind == "embedding" else "float32")
    outputs = kl.GlobalAveragePooling1D()(kl.Reshape((-1, 4))(make()(inputs)))
    model = sparsity_tf.prune(keras.Model(inputs, kl.Dense(2)(outputs)), 0.5, where=lambda layer: layer.name != "last")
    [weight, *_] = get_sparse_weights(model)
    before = [numpy_of(weight.mask()), numpy_of(weight.variable)]
    weight.layer.enable_lora(2, lora_alpha=3)
    a, b = (getattr(weight.layer, f"lora_{weight.name}_{factor}") for factor in "ab")
    b.assign(RNG.normal(size=b.shape))
    return model, weight, *before, 1.5 * numpy_of(a) @ numpy_of(b)


def inputs_of(model, size=5):
    if model.inputs[0].dtype == "int32":
        return RNG.integers(0, 7, (size, 3)).astype("int32")
    return RNG.normal(size=(size, *model.input_shape[1:])).astype("float32")


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_lies_on_kernel_plus_adapter(kind):
    model, weight, mask, kernel, product = pruned(kind)
    np.testing.assert_allclose(numpy_of(weight.value()), mask * (kernel + product), rtol=1e-5, atol=1e-6)
    assert weight.count() == mask.sum() == mask.size // 2
    plain = sparsity_tf.to_dense(model)
    x = inputs_of(model)
    # The same in training, which has no noise, and at inference; merged, in a plain layer.
    for training in (False, True):
        np.testing.assert_allclose(numpy_of(model(x, training=training)), numpy_of(plain(x)), rtol=1e-5, atol=1e-5)
    layer = plain.get_layer(weight.layer.name)
    assert type(layer) is weight.layer.keras_class and not layer.lora_enabled and "lora_rank" not in layer.get_config()
    assert len(layer.trainable_variables) == len(layer.weights)
    np.testing.assert_array_equal(numpy_of(getattr(layer, weight.name)) != 0, mask)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_adapter_changes_nothing_and_training_moves_it_alone(kind):
    model, weight, mask, kernel, _ = pruned(kind)
    x = inputs_of(model, 16)
    model.compile(keras.optimizers.Adam(0.05), "mse")
    start = [numpy_of(factor) for factor in weight.layer.trainable_variables]
    model.fit(x, RNG.normal(size=(16, 2)), epochs=2, batch_size=8, verbose=0)
    np.testing.assert_array_equal(numpy_of(weight.variable), kernel)
    moved = [numpy_of(factor) for factor in weight.layer.trainable_variables]
    assert all((one != other).any() for one, other in zip(start, moved, strict=True))
    np.testing.assert_array_equal(numpy_of(weight.value()) != 0, mask)


def test_masked_gradients_reach_the_factors():
    # y = x (m * a b) with x = (1, 1), m = (1, 0), a = (2, 3)', b = (5): dy/db = 2, dy/da = (5, 0).
    layer = MaskedDense(1, use_bias=False, mask_initializer=keras.initializers.Constant(1))
    layer.build((None, 2))
    layer.sparse_weights[0].assign_mask(np.array([[True], [False]]))
    layer.enable_lora(1)
    layer.lora_kernel_a.assign([[2.0], [3.0]])
    layer.lora_kernel_b.assign([[5.0]])
    model = keras.Sequential([keras.Input((2,)), layer])
    # Eagerly: TensorFlow's graph of so small a step may read a factor after the other's update, of Keras's Dense, too.
    model.compile(keras.optimizers.SGD(0.01), lambda y, p: ops.mean(p), run_eagerly=True)
    model.train_on_batch(np.ones((1, 2), "float32"), np.zeros((1, 1), "float32"))
    np.testing.assert_allclose(numpy_of(layer.lora_kernel_b), [[5 - 0.02]], rtol=1e-6)
    np.testing.assert_allclose(numpy_of(layer.lora_kernel_a), [[2 - 0.05], [3.0]], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_holds_kernel_and_adapter_merged(kind, tmp_path):
    model, weight, mask, *_ = pruned(kind)
    x = inputs_of(model)
    expected, value = numpy_of(model(x)), numpy_of(weight.value())
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    [found, *_] = get_sparse_weights(loaded)
    np.testing.assert_array_equal(numpy_of(found.value()), value)
    np.testing.assert_array_equal(numpy_of(found.variable), value)
    np.testing.assert_allclose(numpy_of(loaded(x)), expected, rtol=1e-5, atol=1e-5)
    # The scale, which Keras's own layers forget.
    assert (found.layer.lora_rank, found.layer.lora_alpha) == (2, 3)
    model.save_weights(tmp_path / "w.weights.h5")
    model.load_weights(tmp_path / "w.weights.h5")
    np.testing.assert_array_equal(numpy_of(weight.value()), value)


@pytest.mark.compiled
def test_half_precision_and_xla():
    layer = MaskedDense(4, dtype="mixed_bfloat16")
    model = keras.Sequential([keras.Input((6,)), layer])
    sparsity_tf.prune(model, 0.5)
    layer.enable_lora(2)
    model.compile("sgd", "mse", jit_compile=keras.backend.backend() != "torch")
    model.fit(np.ones((4, 6)), np.ones((4, 4)), epochs=2, verbose=0)
    assert model(np.ones((1, 6))).dtype == keras.ops.zeros((), "bfloat16").dtype
    assert layer.sparse_weights[0].sparsity() == 0.5


def test_a_frozen_kernel_is_pruned_by_prune_alone():
    model = keras.Sequential([keras.Input((6,)), MaskedDense(4)])
    model.layers[0].enable_lora(2)
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="MagnitudePruning found no masked layer to work on.*frozen"):
        callbacks.MagnitudePruning(0.5, 0, 1).prepare(model, epochs=1, steps_per_epoch=1)
    sparsity_tf.prune(model, 0.5)
    assert model.layers[0].sparse_weights[0].sparsity() == 0.5


def test_bad_arguments_and_layers_without_adapters_are_named():
    layer = MaskedDense(4)
    layer.build((None, 6))
    for name, arguments in (("rank", {"rank": 0}), ("lora_alpha", {"rank": 2, "lora_alpha": -1.0})):
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            layer.enable_lora(**arguments)
    depthwise = MaskedDepthwiseConv2D(2)
    depthwise.build((None, 4, 4, 3))
    with pytest.raises(ValueError, match="DepthwiseConv2D .* takes no LoRA adapter"):
        depthwise.enable_lora(2)
    # In the constructor, as in Keras.
    layer = MaskedConv2D(4, 2, lora_rank=2)
    layer.build((None, 4, 4, 3))
    assert layer.lora_enabled and not layer.sparse_weights[0].variable.trainable


def trained(model, x, y):
    """The largest change of each trainable variable in two epochs of plain gradient descent."""
    model.compile(keras.optimizers.SGD(0.1), "mse")
    before = [numpy_of(variable) for variable in model.trainable_variables]
    model.fit(x, y, epochs=2, verbose=0)
    changes = zip(model.trainable_variables, before, strict=True)
    return [np.abs(numpy_of(variable) - start).max() for variable, start in changes]


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_adapter_is_trained_further(kind, tmp_path):
    model, *_ = pruned(kind)
    x, y = inputs_of(model, 16), RNG.normal(size=(16, 2))
    model.save(tmp_path / "model.keras")
    assert all(trained(keras.saving.load_model(tmp_path / "model.keras"), x, y))
    model.save_weights(tmp_path / "w.weights.h5")
    model.load_weights(tmp_path / "w.weights.h5")
    assert all(trained(model, x, y))


@pytest.mark.parametrize("sparse", [True, False])
def test_adapters_in_an_attention_are_merged_or_copied(sparse):
    inputs = keras.Input((3, 6))
    attention = kl.MultiHeadAttention(2, 3)
    model = keras.Model(inputs, attention(inputs, inputs))
    if sparse:
        sparsity_tf.prune(model, 0.5)
    attention.query_dense.enable_lora(2, lora_alpha=5)
    attention.query_dense.lora_kernel_b.assign(RNG.normal(size=attention.query_dense.lora_kernel_b.shape))
    x = inputs_of(model)
    plain = sparsity_tf.to_dense(model)
    np.testing.assert_allclose(numpy_of(plain(x)), numpy_of(model(x)), rtol=1e-5, atol=1e-5)
    assert plain.layers[-1].query_dense.lora_enabled != sparse


def test_a_file_keeps_the_adapters_in_an_attention(tmp_path):
    inputs = keras.Input((3, 6))
    attention = kl.MultiHeadAttention(2, 3)
    model = sparsity_tf.prune(keras.Model(inputs, attention(inputs, inputs)), 0.5)
    attention.query_dense.enable_lora(2, lora_alpha=5)
    attention.query_dense.lora_kernel_b.assign(RNG.normal(size=attention.query_dense.lora_kernel_b.shape))
    x = inputs_of(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(numpy_of(loaded(x)), numpy_of(model(x)), rtol=1e-5, atol=1e-5)
    query = loaded.layers[-1].query_dense
    assert (query.lora_rank, query.lora_alpha) == (2, 5)
    assert [weight.variable.trainable for weight in query.sparse_weights] == [False]
    assert not loaded.layers[-1].key_dense.lora_enabled


@pytest.mark.parametrize("tie_weights", [True, False])
def test_an_adapter_of_a_reversible_embedding_is_loaded(tie_weights, tmp_path):
    inputs, layer = keras.Input((3,), dtype="int32"), kl.ReversibleEmbedding(7, 4, tie_weights=tie_weights)
    model = sparsity_tf.prune(keras.Model(inputs, layer(layer(inputs), reverse=True)), 0.5)
    layer.enable_lora(2, lora_alpha=3)
    layer.lora_embeddings_b.assign(RNG.normal(size=layer.lora_embeddings_b.shape))
    x = inputs_of(model)
    expected = numpy_of(model(x))
    np.testing.assert_allclose(numpy_of(sparsity_tf.to_dense(model)(x)), expected, rtol=1e-5, atol=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(numpy_of(loaded(x)), expected, rtol=1e-5, atol=1e-5)
    assert (loaded.layers[-1].lora_rank, loaded.layers[-1].lora_alpha) == (2, 3)


@pytest.mark.parametrize("trainable", [True, False])
def test_a_frozen_layer_stays_frozen_when_its_adapter_is_merged(trainable):
    model, weight, *_ = pruned("dense")
    weight.layer.trainable = trainable
    layer = sparsity_tf.to_dense(model).get_layer(weight.layer.name)
    assert layer.kernel.trainable == layer.trainable == trainable
