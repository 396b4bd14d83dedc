"""`shrink` on recurrent layers, attention, `EinsumDense` and grouped convolutions."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from sparsity_tf.deploy import shrink
from tests.deploy.models import assert_equal_models, images, randomize, zero_channels

GATES = {layers.SimpleRNN: (1, 0), layers.LSTM: (4, 2), layers.GRU: (3, 2)}
KINDS = list(GATES)


def sequences(size=4, steps=5):
    return np.random.default_rng(0).normal(size=(3, steps, size)).astype("float32")


def recurrent_net(kind, **arguments):
    inputs = keras.Input((5, 4))
    x = kind(6, name="rnn", return_sequences=True, **arguments)(inputs)
    return randomize(keras.Model(inputs, layers.Dense(2, name="last")(x)))


def change(variable, edit):
    value = np.array(ops.convert_to_numpy(variable))
    edit(value)
    variable.assign(value)


def set_zero(index):
    def edit(value):
        value[index] = 0

    return edit


def silence(layer, units):
    """Makes units 0 for ever: the candidate gate reads nothing."""
    count, candidate = GATES[type(layer)]
    columns = [candidate * layer.units + unit for unit in units]
    for variable in layer.cell.weights:
        change(variable, set_zero((..., columns)))


@pytest.mark.parametrize("kind", KINDS)
def test_units_that_are_always_zero_go(kind):
    model = recurrent_net(kind)
    silence(model.get_layer("rnn"), [0, 4])
    small = shrink(model)
    assert small.get_layer("rnn").units == 4
    assert small.get_layer("last").kernel.shape == (4, 2)
    assert_equal_models(model, small, sequences())


@pytest.mark.parametrize("kind", KINDS)
def test_silent_units_may_read_each_other(kind):
    model = recurrent_net(kind)
    layer = model.get_layer("rnn")
    silence(layer, [1, 2])
    candidate = GATES[kind][1] * 6
    change(layer.cell.recurrent_kernel, lambda value: value.__setitem__((1, candidate + 2), 0.5))
    small = shrink(model)
    assert small.get_layer("rnn").units == 4
    assert_equal_models(model, small, sequences())


@pytest.mark.parametrize("kind", KINDS)
def test_a_silent_unit_with_a_bias_is_not_silent(kind):
    model = recurrent_net(kind)
    layer = model.get_layer("rnn")
    silence(layer, [0])
    change(layer.cell.bias, lambda value: value.__setitem__((..., GATES[kind][1] * 6), 0.5))
    small = shrink(model)
    assert small.get_layer("rnn").units == 6
    assert_equal_models(model, small, sequences())


@pytest.mark.parametrize(
    "kind,gate,bias,removed",
    [
        (layers.LSTM, 0, -3.5, True),  # closed input gate: the carry stays 0
        (layers.LSTM, 3, -3.5, True),  # closed output gate
        (layers.LSTM, 1, -3.5, False),  # a closed forget gate still lets new input in
        (layers.LSTM, 3, -2.9, False),  # the gate is constant, but not closed
        (layers.GRU, 0, 3.5, True),  # the old state, which is 0, goes on for ever
        (layers.GRU, 0, -3.5, False),
        (layers.GRU, 1, 3.5, False),
    ],
)
def test_a_constant_gate_removes_its_unit_if_the_bias_closes_it(kind, gate, bias, removed):
    model = recurrent_net(kind, recurrent_activation="hard_sigmoid")
    cell = model.get_layer("rnn").cell
    for variable in (cell.kernel, cell.recurrent_kernel, cell.bias):
        change(variable, lambda value: value.__setitem__((..., [gate * 6 + 2, gate * 6 + 4]), 0))
    change(cell.bias, lambda value: value.reshape(-1, value.shape[-1])[0].__setitem__(gate * 6 + 2, bias))
    # The gate of unit 4 reads unit 2, so it is closed only if unit 2 is silent.
    change(cell.bias, lambda value: value.reshape(-1, value.shape[-1])[0].__setitem__(gate * 6 + 4, bias))
    change(cell.recurrent_kernel, lambda value: value.__setitem__((2, gate * 6 + 4), 0.5))
    small = shrink(model)
    assert small.get_layer("rnn").units == (4 if removed else 6)
    assert_equal_models(model, small, sequences())


def test_behind_a_closed_output_gate_the_carry_lives_on():
    inputs = keras.Input((5, 4))
    options = {"return_state": True, "recurrent_activation": "hard_sigmoid", "name": "rnn"}
    model = randomize(keras.Model(inputs, layers.LSTM(6, **options)(inputs)[2]))
    cell = model.get_layer("rnn").cell
    for variable in (cell.kernel, cell.recurrent_kernel):
        change(variable, set_zero((..., [20])))
    change(cell.bias, lambda value: value.__setitem__(20, -4.0))
    small = shrink(model)
    assert np.abs(ops.convert_to_numpy(small(sequences()))[:, 2]).min() > 0
    assert_equal_models(model, small, sequences())


@pytest.mark.parametrize("kind", KINDS)
def test_units_that_neither_outputs_nor_units_read_go(kind):
    model = recurrent_net(kind)
    change(model.get_layer("last").kernel, set_zero([0, 1, 2]))
    # Unit 0 and 1 are read by no other unit; unit 2 is.
    change(model.get_layer("rnn").cell.recurrent_kernel, set_zero([0, 1]))
    small = shrink(model)
    assert small.get_layer("rnn").units == 4
    assert_equal_models(model, small, sequences())


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_input_goes_into_the_bias(kind, use_bias):
    inputs = keras.Input((5, 4))
    x = layers.Dense(4, name="first")(inputs)
    x = kind(6, name="rnn", use_bias=use_bias)(x)
    model = randomize(keras.Model(inputs, x))
    zero_channels(model.get_layer("first"), [1], bias=0.5)
    small = shrink(model)
    assert small.get_layer("first").units == 3
    assert small.get_layer("rnn").cell.kernel.shape[0] == 3
    assert_equal_models(model, small, sequences())


def test_states_that_are_returned_are_cut_with_the_outputs():
    inputs = keras.Input((5, 4))
    sequence, hidden, carry = layers.LSTM(6, name="rnn", return_sequences=True, return_state=True)(inputs)
    outputs = layers.Dense(2)(layers.Concatenate()([layers.GlobalMaxPooling1D()(sequence), hidden, carry]))
    model = randomize(keras.Model(inputs, outputs))
    silence(model.get_layer("rnn"), [0, 4])
    small = shrink(model)
    assert small.get_layer("rnn").units == 4
    assert_equal_models(model, small, sequences())


def test_masked_steps_are_still_skipped():
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(10, 4, mask_zero=True)(inputs)
    model = randomize(keras.Model(inputs, layers.Dense(2)(layers.LSTM(6, name="rnn")(x))))
    silence(model.get_layer("rnn"), [0, 4])
    small = shrink(model)
    assert small.get_layer("rnn").units == 4
    assert_equal_models(model, small, np.array([[1, 2, 0, 0, 0], [3, 4, 5, 6, 0]]))


def test_a_layer_that_starts_from_a_given_state_keeps_its_units():
    inputs, state = keras.Input((5, 4)), keras.Input((6,))
    x = layers.SimpleRNN(6, name="rnn")(inputs, initial_state=state)
    model = randomize(keras.Model([inputs, state], layers.Dense(2)(x)))
    silence(model.get_layer("rnn"), [0, 4])
    small = shrink(model)
    assert small.get_layer("rnn").units == 6
    assert {r.layer: r.why for r in small.shrink_report}["rnn"] == "it is called with an initial state"


# Attention ------------------------------------------------------------------------------------------------------------


def attention_net(**arguments):
    inputs = keras.Input((5, 8))
    attention = layers.MultiHeadAttention(4, 3, name="attention", **arguments)
    x = layers.Add()([inputs, attention(inputs, inputs)])
    return randomize(keras.Model(inputs, layers.Dense(2)(layers.LayerNormalization()(x))))


@pytest.mark.parametrize("arguments", [{}, {"use_bias": False}], ids=["plain", "no bias"])
def test_heads_that_are_dead_in_all_projections_go(arguments):
    model = attention_net(**arguments)
    attention = model.get_layer("attention")
    for part, axis in (("query", 1), ("key", 1), ("value", 1), ("output", 0)):
        part = getattr(attention, f"{part}_dense")
        change(part.kernel, set_zero((slice(None), [0, 2]) if axis else [0, 2]))
        if part.bias is not None and axis:
            change(part.bias, set_zero([0, 2]))
    small = shrink(model)
    assert small.get_layer("attention").num_heads == 2
    assert {r.layer: r.why for r in small.shrink_report}["attention"] == "2 of 4 heads were dead"
    assert_equal_models(model, small, sequences(8))


def test_a_head_that_the_output_skips_goes_whatever_it_attends_to():
    model = attention_net()
    change(model.get_layer("attention").output_dense.kernel, set_zero([1]))
    small = shrink(model)
    assert small.get_layer("attention").num_heads == 3
    assert_equal_models(model, small, sequences(8))


def test_a_head_with_a_constant_value_stays():
    model = attention_net()
    change(model.get_layer("attention").value_dense.kernel, set_zero((slice(None), [1])))
    small = shrink(model)
    assert small.get_layer("attention").num_heads == 4
    assert_equal_models(model, small, sequences(8))


# EinsumDense ----------------------------------------------------------------------------------------------------------


def test_einsum_dense_is_a_dense_layer():
    inputs = keras.Input((5, 4))
    x = layers.EinsumDense("abc,cd->abd", (None, 6), activation="relu", bias_axes="d", name="first")(inputs)
    model = randomize(keras.Model(inputs, layers.EinsumDense("...x,xy->...y", 3, name="last")(x)))
    zero_channels(model.get_layer("first"), [0, 2], bias=[0.5, -1.0])
    small = shrink(model)
    assert small.get_layer("first").kernel.shape == (4, 4)
    assert small.get_layer("last").bias_axes == "y"
    assert_equal_models(model, small, sequences())


@pytest.mark.parametrize("bias_axes", ["de", "e", None])
def test_einsum_dense_with_heads_loses_entries_that_are_dead_in_all_heads(bias_axes):
    inputs = keras.Input((5, 4))
    x = layers.Dense(6, name="first")(inputs)
    x = layers.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes=bias_axes, name="split")(x)
    model = randomize(
        keras.Model(inputs, layers.EinsumDense("abde,def->abf", (None, 7), bias_axes="f", name="join")(x))
    )
    zero_channels(model.get_layer("first"), [0, 2], bias=[0.5, 0.0])
    change(model.get_layer("split").kernel, set_zero((..., 1)))
    if bias_axes == "de":
        change(model.get_layer("split").bias, set_zero((..., 1)))
    small = shrink(model)
    # A bias along "e" alone has no place for what the constant adds to each head.
    assert small.get_layer("split").kernel.shape == (5 if bias_axes == "e" else 4, 2, 2)
    assert small.get_layer("join").kernel.shape == (2, 2, 7)
    assert_equal_models(model, small, sequences())


# Groups ---------------------------------------------------------------------------------------------------------------


def test_groups_lose_the_filters_that_are_dead_in_every_group():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, activation="relu", name="conv")(inputs)
    x = layers.Conv2D(6, 3, groups=2, activation="relu", name="grouped")(x)
    model = randomize(keras.Model(inputs, layers.Conv2D(2, 1, name="last")(x)))
    # Groups of four inputs and three filters: place 1 is dead in both groups, place 3 in the first alone.
    zero_channels(model.get_layer("conv"), [1, 3, 5], bias=[0.5, -1.0, 0.0])
    zero_channels(model.get_layer("grouped"), [0, 3], bias=0.5)
    small = shrink(model)
    assert small.get_layer("conv").filters == 6
    assert small.get_layer("grouped").kernel.shape == (3, 3, 3, 4)
    assert_equal_models(model, small, images())


@pytest.mark.parametrize("first", ["silent", "live"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_shared_layer_that_is_silent_in_one_call_only_keeps_its_units(kind, first):
    one, two = keras.Input((5, 4)), keras.Input((5, 4))
    rnn, silent = kind(6, name="rnn"), layers.Dense(4, name="silent")(two)
    called = [rnn(silent), rnn(one)] if first == "silent" else [rnn(one), rnn(silent)]
    model = randomize(keras.Model([one, two], layers.Dense(2)(layers.Concatenate()(called))))
    zero_channels(model.get_layer("silent"), range(4), bias=0.0)
    change(rnn.cell.bias, set_zero(...))
    small = shrink(model)
    assert small.get_layer("rnn").units == 6
    assert_equal_models(model, small, sequences(), sequences())


@pytest.mark.parametrize("kind", KINDS)
def test_a_unit_that_is_silent_in_every_call_of_a_shared_layer_goes(kind):
    one, two = keras.Input((5, 4)), keras.Input((5, 4))
    rnn = kind(6, name="rnn")
    model = randomize(keras.Model([one, two], layers.Dense(2)(layers.Add()([rnn(one), rnn(two)]))))
    silence(rnn, [0, 4])
    small = shrink(model)
    assert small.get_layer("rnn").units == 4
    assert_equal_models(model, small, sequences(), sequences())


@pytest.mark.parametrize("used", ["put out", "read", "not used"])
def test_attention_whose_scores_are_used_keeps_its_heads(used):
    inputs = keras.Input((5, 8))
    attention = layers.MultiHeadAttention(4, 3, name="attention")
    x, scores = attention(inputs, inputs, return_attention_scores=True)
    outputs = {"put out": [x, scores], "read": layers.Dense(3)(layers.Flatten()(scores)), "not used": x}[used]
    model = randomize(keras.Model(inputs, outputs))
    change(attention.output_dense.kernel, set_zero([1]))
    small = shrink(model)
    assert small.get_layer("attention").num_heads == (3 if used == "not used" else 4)
    assert_equal_models(model, small, sequences(8))
