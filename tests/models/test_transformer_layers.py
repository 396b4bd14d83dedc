"""The layers that a Transformer needs beside those with weights: golden values, masks, dropout."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf import layers, models
from sparsity_tf.models.transformer_layers import timing_signal

pytestmark = pytest.mark.compiled


def numpy_of(tensor):
    return ops.convert_to_numpy(tensor)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def test_timing_signal_has_sines_first_then_cosines_of_wavelengths_to_ten_thousand():
    signal = numpy_of(timing_signal(ops.arange(3), 6))
    rates = [1.0, 1e-2, 1e-4]
    expected = [[f(t * rate) for f in (math.sin, math.cos) for rate in rates] for t in range(3)]
    np.testing.assert_allclose(signal, expected, atol=1e-6)


def test_timing_signal_of_odd_size_ends_with_zero_and_follows_given_positions():
    assert not numpy_of(timing_signal(ops.arange(3), 5))[:, -1].any()
    x = normal(2, 4, 6)
    positions = np.array([[0, 1, 0, 1], [3, 0, 0, 0]])
    added = numpy_of(models.TimingSignal()(x, positions)) - x
    table = numpy_of(timing_signal(ops.arange(4), 6))
    np.testing.assert_allclose(added, table[positions], atol=1e-6)


def test_tokens_are_scaled_and_padding_is_zero():
    x = normal(1, 3, 4)
    scaled = numpy_of(models.ScaledTokens()(x, np.array([[5, 0, 2]])))
    np.testing.assert_allclose(scaled, x * 2 * np.array([1, 0, 1])[:, None])


def test_shift_puts_zeros_first_in_every_packed_sentence():
    x = normal(1, 5, 2)
    shifted = numpy_of(models.ShiftRight()(x))
    np.testing.assert_array_equal(shifted, np.concatenate([np.zeros((1, 1, 2)), x[:, :-1]], axis=1))
    packed = numpy_of(models.ShiftRight()(x, np.array([[0, 1, 2, 0, 1]])))
    assert not packed[0, [0, 3]].any()
    np.testing.assert_array_equal(packed[0, [1, 2, 4]], x[0, [0, 1, 3]])


def test_target_space_adds_its_row():
    layer, x = models.TargetSpace(5, 2), normal(2, 3, 4)
    np.testing.assert_allclose(numpy_of(layer(x)), x + numpy_of(layer.table)[2], rtol=1e-6)
    assert layers.get_sparse_weights(layer) == []


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("segments", [False, True])
def test_attention_with_dropout_sees_what_attention_without_sees(causal, segments):
    q, k, v = (normal(2, 5, 8, seed=seed) for seed in range(3))
    numbers = np.array([[1, 1, 2, 2, 0], [1, 1, 1, 1, 1]])
    if segments:
        masks = {"query_segments": numbers, "key_segments": numbers}
    else:
        masks = {} if causal else {"key_ids": numbers}
    plain = numpy_of(models.DotProductAttention(2, causal=causal)(q, k, v, **masks))
    layer = models.DotProductAttention(2, causal=causal, dropout=1e-9)
    np.testing.assert_allclose(numpy_of(layer(q, k, v, training=True, **masks)), plain, rtol=1e-4, atol=1e-5)
    visible = (numbers[:, :, None] == numbers[:, None]) if segments else np.ones((2, 5, 5), bool)
    visible = visible & (np.tril(np.ones((5, 5), bool)) if causal else segments or (numbers != 0)[:, None])
    for row in range(5):
        moved = v + 10 * ~visible[:, row, :, None]
        np.testing.assert_allclose(
            numpy_of(models.DotProductAttention(2, causal=causal)(q, k, moved, **masks))[:, row],
            plain[:, row],
            atol=1e-4,
        )


def test_dropout_drops_at_its_rate_keeps_the_mean_and_is_off_at_inference():
    layer, x = models.FastDropout(0.25, seed=3), np.ones((200, 300), "float32")
    dropped = numpy_of(layer(x, training=True))
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(1 / 0.75)}
    assert (dropped == 0).mean() == pytest.approx(0.25, abs=0.01)
    assert not np.array_equal(numpy_of(layer(x, training=True)), dropped)
    np.testing.assert_array_equal(numpy_of(layer(x)), x)
    again = models.FastDropout(0.25, seed=3)
    np.testing.assert_array_equal(numpy_of(again(x, training=True)), dropped)


@pytest.mark.tensorflow
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.xla
def test_gradient_of_dropout_has_the_mask_of_the_output(jit_compile):
    import tensorflow as tf

    layer, x = models.FastDropout(0.5, seed=1), tf.ones((50, 40))

    @tf.function(jit_compile=jit_compile)
    def both(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return y, tape.gradient(y, x)

    y, gradient = both(x)
    np.testing.assert_array_equal(y.numpy(), gradient.numpy())
    assert 0.4 < (y.numpy() == 0).mean() < 0.6


@pytest.mark.parametrize(
    "layer",
    [
        models.DotProductAttention(2, causal=True, dropout=0.1, seed=4),
        models.TargetSpace(4, 1),
        models.FastDropout(0.1, seed=2),
        models.TimingSignal(),
        models.ShiftRight(),
        models.ScaledTokens(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_configs_round_trip_through_the_registry(layer):
    config = keras.saving.serialize_keras_object(layer)
    assert config["registered_name"] == f"sparsity_tf>{type(layer).__name__}"
    assert keras.saving.deserialize_keras_object(config).get_config() == layer.get_config()


def test_dropout_of_whole_slices_is_refused():
    with pytest.raises(ValueError, match=r"`noise_shape` must be None.*Received: noise_shape=\(None, 1, 4\)"):
        models.FastDropout(0.5, noise_shape=(None, 1, 4))


def test_a_target_space_outside_the_table_is_refused():
    with pytest.raises(ValueError, match="`space` must be at least 0 and less than 4. Received: space=4"):
        models.TargetSpace(4, 4)
