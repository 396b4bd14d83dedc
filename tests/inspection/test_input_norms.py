"""The norms of inputs are what numpy finds by going through every product that a layer computes."""

import keras
import numpy as np
import pytest
from keras import layers as kl

import sparsity_tf
from sparsity_tf.inspection.input_norms import input_norms
from sparsity_tf.layers import get_sparse_weights

RNG = np.random.default_rng(5)


def normal(*shape):
    return RNG.normal(size=shape).astype("float32")


def masked(*model_layers, shape, dtype="float32"):
    model = keras.Sequential([keras.Input(shape, dtype=dtype), *model_layers])
    return sparsity_tf.sparsify(model, "masked")


def norms_of(model, data):
    return input_norms(model, get_sparse_weights(model), data)


def test_dense_layers_over_several_batches():
    model, x = masked(kl.Dense(4, activation="relu", name="a"), kl.Dense(2, name="b"), shape=(3,)), normal(10, 3)
    first, second = norms_of(model, [x[:4], (x[4:], None)])
    np.testing.assert_allclose(first, np.sqrt((x**2).sum(0))[:, None].repeat(4, 1), rtol=1e-5)
    hidden = np.maximum(x @ model.layers[0].get_weights()[0], 0)
    np.testing.assert_allclose(second, np.sqrt((hidden**2).sum(0))[:, None].repeat(2, 1), rtol=1e-5, atol=1e-6)


def test_every_position_of_a_sequence_counts():
    [found] = norms_of(masked(kl.Dense(2), shape=(5, 3)), x := normal(4, 5, 3))
    np.testing.assert_allclose(found[:, 0], np.sqrt((x**2).sum((0, 1))), rtol=1e-5)


def patches_by_hand(x, size, stride, pad, dilation):
    """Sums of squares of the inputs that each entry of a kernel of one filter is multiplied by, in a loop."""
    x = np.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    reach = (size - 1) * dilation + 1
    sums = np.zeros((size, size, x.shape[-1]))
    for row in range(0, x.shape[1] - reach + 1, stride):
        for column in range(0, x.shape[2] - reach + 1, stride):
            patch = x[:, row : row + reach : dilation, column : column + reach : dilation]
            sums += (patch.astype("float64") ** 2).sum(0)
    return np.sqrt(sums)


@pytest.mark.parametrize(
    "stride, padding, dilation", [(1, "valid", 1), (2, "valid", 1), (1, "same", 1), (1, "same", 2)]
)
def test_convolutions(stride, padding, dilation):
    layer = kl.Conv2D(5, 3, strides=stride, padding=padding, dilation_rate=dilation)
    [found] = norms_of(masked(layer, shape=(7, 6, 2)), x := normal(3, 7, 6, 2))
    expected = patches_by_hand(x, 3, stride, dilation if padding == "same" else 0, dilation)
    np.testing.assert_allclose(found, expected[..., None].repeat(5, -1), rtol=1e-5)


def test_a_filter_of_a_group_reads_its_own_channels():
    [found] = norms_of(masked(kl.Conv2D(4, 3, groups=2), shape=(5, 5, 6)), x := normal(2, 5, 5, 6))
    expected = patches_by_hand(x, 3, 1, 0, 1)
    for number in range(4):
        np.testing.assert_allclose(found[..., number], expected[..., 3 * (number // 2) :][..., :3], rtol=1e-5)


def test_depthwise_convolutions():
    [found] = norms_of(masked(kl.DepthwiseConv2D(3, depth_multiplier=2), shape=(5, 5, 3)), x := normal(2, 5, 5, 3))
    np.testing.assert_allclose(found, patches_by_hand(x, 3, 1, 0, 1)[..., None].repeat(2, -1), rtol=1e-5)


def test_separable_and_transposed_convolutions():
    model, x = masked(kl.SeparableConv2D(4, 3, depth_multiplier=2), shape=(5, 5, 3)), normal(2, 5, 5, 3)
    depthwise, pointwise = norms_of(model, x)
    np.testing.assert_allclose(depthwise, patches_by_hand(x, 3, 1, 0, 1)[..., None].repeat(2, -1), rtol=1e-5)
    layer = model.layers[0]
    hidden = keras.ops.convert_to_numpy(keras.ops.depthwise_conv(x, layer.depthwise_kernel))
    np.testing.assert_allclose(pointwise[0, 0, :, 0], np.sqrt((hidden**2).sum((0, 1, 2))), rtol=1e-4)
    # Without a border every entry of a transposed kernel meets every input.
    [found] = norms_of(masked(kl.Conv2DTranspose(4, 3, strides=2), shape=(5, 5, 3)), x)
    expected = np.sqrt((x**2).sum((0, 1, 2)))
    np.testing.assert_allclose(found, np.broadcast_to(expected, (3, 3, 4, 3)), rtol=1e-5)


@pytest.mark.parametrize("with_sequences", [False, True])
def test_a_recurrent_convolution(with_sequences):
    layer = kl.ConvLSTM2D(2, 3, padding="same", return_sequences=with_sequences)
    model, x = masked(layer, shape=(4, 5, 5, 3)), normal(2, 4, 5, 5, 3)
    kernel, recurrent = norms_of(model, x)
    steps = x.reshape(8, 5, 5, 3)
    np.testing.assert_allclose(kernel, patches_by_hand(steps, 3, 1, 1, 1)[..., None].repeat(8, -1), rtol=1e-5)
    layer.return_sequences = True
    outputs = keras.ops.convert_to_numpy(layer(x))
    before = np.concatenate([np.zeros_like(outputs[:, :1]), outputs[:, :-1]], axis=1).reshape(8, 5, 5, 2)
    expected = patches_by_hand(before, 3, 1, 1, 1)[..., None].repeat(8, -1)
    np.testing.assert_allclose(recurrent, expected, rtol=1e-4, atol=1e-6)


def test_einsum_dense():
    layer = kl.EinsumDense("abc,cde->abde", output_shape=(None, 2, 4))
    [found] = norms_of(masked(layer, shape=(5, 3)), x := normal(2, 5, 3))
    expected = np.sqrt((x**2).sum((0, 1)))
    np.testing.assert_allclose(found, np.broadcast_to(expected[:, None, None], (3, 2, 4)), rtol=1e-5)


def test_an_embedding_counts_lookups():
    x = np.array([[0, 1, 1], [3, 1, 0]])
    [found] = norms_of(masked(kl.Embedding(4, 2), shape=(3,), dtype="int32"), x)
    np.testing.assert_allclose(found, np.sqrt([2, 3, 0, 1])[:, None].repeat(2, 1))


def test_a_tied_embedding_counts_both_uses():
    inputs, table = keras.Input((2,), dtype="int32"), kl.ReversibleEmbedding(4, 3)
    hidden = table(inputs)
    model = sparsity_tf.sparsify(keras.Model(inputs, table(hidden, reverse=True)), "masked")
    x = np.array([[0, 1], [1, 1]])
    [found] = norms_of(model, x)
    looked_up = keras.ops.convert_to_numpy(table.embeddings)[x]
    expected = np.array([1, 3, 0, 0])[:, None] + (looked_up**2).sum((0, 1))[None]
    np.testing.assert_allclose(found, np.sqrt(expected), rtol=1e-5)


RECURRENT = {
    "simple": (kl.SimpleRNN, {}),
    "lstm": (kl.LSTM, {"return_sequences": True}),
    "gru": (kl.GRU, {"return_state": True}),
    "backwards": (kl.LSTM, {"go_backwards": True}),
}


@pytest.mark.parametrize("kind, options", RECURRENT.values(), ids=list(RECURRENT))
@pytest.mark.parametrize("with_mask", [False, True])
def test_recurrent_layers(kind, options, with_mask):
    """The recurrent kernel reads the outputs of the step before: those of a layer that returns them all."""
    x, mask = normal(3, 5, 2), np.ones((3, 5), bool)
    if with_mask:
        mask[0, 3:] = mask[2, 2:] = False
        x[~mask] = 0
    inputs = keras.Input((5, 2))
    layer = kind(4, **options)
    hidden = layer(kl.Masking()(inputs) if with_mask else inputs)
    model = sparsity_tf.sparsify(keras.Model(inputs, hidden), "masked")
    before = model(x)
    kernel, recurrent = norms_of(model, x)
    np.testing.assert_allclose(kernel[:, 0], np.sqrt((x**2).sum((0, 1))), rtol=1e-5)
    all_steps = kind(4, return_sequences=True, go_backwards=layer.go_backwards)
    all_steps.build((None, 5, 2))
    all_steps.set_weights([w for w in layer.get_weights() if w.dtype != bool])
    outputs = keras.ops.convert_to_numpy(all_steps(x, mask=keras.ops.convert_to_tensor(mask) if with_mask else None))
    steps = mask[:, ::-1] if layer.go_backwards else mask
    expected = (outputs[:, :-1] ** 2 * steps[:, 1:, None]).sum((0, 1))
    np.testing.assert_allclose(recurrent, np.sqrt(expected)[:, None].repeat(recurrent.shape[1], 1), rtol=1e-4)
    for one, other in zip(keras.tree.flatten(before), keras.tree.flatten(model(x)), strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other))


def test_the_state_of_a_stateful_layer_is_the_first_input_and_stays():
    layer = kl.GRU(3, stateful=True)
    model = keras.Sequential([keras.Input(batch_shape=(2, 4, 2)), layer])
    sparsity_tf.sparsify(model, "masked")
    x = normal(2, 4, 2)
    model(x)
    state = keras.ops.convert_to_numpy(layer.states[0]).copy()
    _, recurrent = norms_of(model, x[:, :1])
    np.testing.assert_allclose(recurrent[:, 0] if recurrent.shape[0] == 3 else 0, np.sqrt((state**2).sum(0)), rtol=1e-5)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer.states[0]), state)


def test_layers_inside_attention_wrappers_and_nested_models():
    inner = keras.Sequential([keras.Input((4,)), kl.Dense(4)])
    inputs = keras.Input((3, 4))
    hidden = kl.MultiHeadAttention(2, 2)(inputs, inputs)
    hidden = kl.Bidirectional(kl.SimpleRNN(2, return_sequences=True))(hidden)
    model = keras.Model(inputs, kl.TimeDistributed(inner)(hidden))
    sparsity_tf.sparsify(model, "masked")
    found = norms_of(model, normal(2, 3, 4))
    assert [array.shape for array in found] == [weight.shape for weight in get_sparse_weights(model)]
    assert all((array > 0).all() for array in found)


def test_half_precision_does_not_overflow():
    keras.config.set_dtype_policy("mixed_float16")
    model = masked(kl.Dense(2), shape=(3,))
    [found] = norms_of(model, np.full((4, 3), 1000, "float32"))
    np.testing.assert_allclose(found, np.full((3, 2), 2000.0))


def test_a_weight_that_is_not_used_or_not_seen_is_named():
    class Idle(keras.Model):
        def __init__(self):
            super().__init__()
            self.used, self.idle = kl.Dense(2, name="used"), kl.Dense(2, name="idle")

        def build(self, input_shape):
            self.used.build(input_shape)
            self.idle.build(input_shape)

        def call(self, inputs):
            return self.used(inputs)

    model = Idle()
    model.build((None, 3))
    sparsity_tf.sparsify(model, "masked")
    with pytest.raises(ValueError, match="`data` must use every weight.*idle/kernel"):
        norms_of(model, normal(2, 3))
    cell = masked(kl.RNN(kl.LSTMCell(2)), shape=(4, 3))
    with pytest.raises(ValueError, match="can't be measured.*cell.*`where`"):
        norms_of(cell, normal(2, 4, 3))
