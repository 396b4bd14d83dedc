"""Real models from end to end: sparsified, trained a step, saved, loaded, converted to dense."""

import keras
import numpy as np
import pytest
from keras import layers

import sparsity_tf


def transformer_block():
    """Embedding, attention, normalisation, feed-forward: what a small text classifier is made of."""
    ids = keras.Input((12,), dtype="int32")
    x = layers.Embedding(50, 16, name="embedding")(ids)
    attended = layers.MultiHeadAttention(2, 8, dropout=0.1, name="attention")(x, x)
    x = layers.LayerNormalization()(x + attended)
    hidden = layers.Dense(32, activation="relu", name="up")(x)
    x = layers.LayerNormalization()(x + layers.Dense(16, name="down")(hidden))
    outputs = layers.Dense(5, name="classifier")(layers.GlobalAveragePooling1D()(x))
    return keras.Model(ids, outputs)


def resnet():
    return keras.applications.ResNet50(weights=None, input_shape=(64, 64, 3), classes=5, classifier_activation=None)


def mobilenet():
    return keras.applications.MobileNetV2(
        weights=None, input_shape=(64, 64, 3), classes=5, classifier_activation=None, alpha=0.35
    )


def data_for(model):
    rng = np.random.default_rng(0)
    shape = (4, *model.input_shape[1:])
    if len(shape) == 2:
        x = rng.integers(0, 50, shape).astype("int32")
    else:
        x = rng.normal(size=shape).astype("float32")
    return x, rng.integers(0, 5, 4)


def round_trip(make_model, technique, directory, expected_tensors, compiled=False, **options):
    model = sparsity_tf.sparsify(make_model(), technique, **options)
    weights = sparsity_tf.get_sparse_weights(model)
    assert len(weights) == expected_tensors
    if technique == "masked":
        rng = np.random.default_rng(1)
        for weight in weights:
            weight.assign_mask(rng.random(weight.shape) < 0.5)
    x, y = data_for(model)
    # To trace a step takes ten times as long as the step: one technique is compiled.
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, jit_compile=False, run_eagerly=not compiled)
    assert np.isfinite(model.train_on_batch(x, y))
    expected = model.predict(x, verbose=0)
    model.save(directory / "sparse.keras")
    loaded = keras.saving.load_model(directory / "sparse.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)
    table = sparsity_tf.inspection.sparsity_table(loaded)
    assert table.size == sum(weight.size for weight in weights)

    dense = sparsity_tf.to_dense(loaded)
    assert {type(layer).__module__.partition(".")[0] for layer in dense._flatten_layers()} == {"keras"}
    np.testing.assert_allclose(keras.ops.convert_to_numpy(dense(x, training=False)), expected, rtol=1e-5, atol=1e-6)
    assert sparsity_tf.inspection.sparsity_table(dense, include_dense=True).nonzeros >= table.nonzeros


# `layers/test_all_layers.py` has every technique, one in each way of training.
@pytest.mark.parametrize(
    "technique,tensors",
    [
        pytest.param("masked", 8, marks=pytest.mark.compiled),
        ("vd", 8),
        pytest.param("l0", 8, marks=pytest.mark.slow),
        ("str", 7),
        pytest.param("dnw", 7, marks=pytest.mark.slow),
    ],
)
def test_transformer(technique, tensors, tmp_path):
    round_trip(transformer_block, technique, tmp_path, tensors, compiled=technique == "masked")


def test_the_first_blocks_of_mobilenet_v2(tmp_path):
    def first_blocks():
        whole = mobilenet()
        features = layers.GlobalAveragePooling2D()(whole.get_layer("block_2_add").output)
        return keras.Model(whole.input, layers.Dense(5)(features))

    # Six convolutions, three depthwise ones and the classifier.
    round_trip(first_blocks, "masked", tmp_path, 10)


# Of all techniques: 35 convolutions, the classifier, and 17 depthwise convolutions where the technique has that kind.
@pytest.mark.slow
@pytest.mark.parametrize("technique,tensors", [("masked", 53), ("vd", 36), ("l0", 36), ("str", 53), ("dnw", 53)])
def test_mobilenet_v2_with_every_technique(technique, tensors, tmp_path):
    round_trip(mobilenet, technique, tmp_path, tensors)


@pytest.mark.slow
@pytest.mark.parametrize("technique", ["masked", "vd", "l0", "str", "dnw"])
def test_resnet50(technique, tmp_path):
    # 53 convolutions and the classifier.
    round_trip(resnet, technique, tmp_path, 54)
