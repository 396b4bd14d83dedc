"""The character model: the counts of its source, its equations' shapes, and what becomes sparse."""

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf import layers
from sparsity_tf.models import CharRNN


@pytest.mark.parametrize("cell,gates,total", [("rnn", 1, 3_252_224), ("lstm", 4, 12_855_296), ("gru", 3, 9_654_272)])
def test_weights_are_as_many_as_those_of_the_source(cell, gates, total):
    model = CharRNN(50, hidden_size=1024, depth=2, cell=cell, technique="masked")
    sparse = sum(weight.size for weight in layers.get_sparse_weights(model))
    assert sparse == gates * 1024 * (50 + 1024) + 2 * gates * 1024**2 + 1024 * 50
    # The source has two biases a cell; Keras's cells have one, save the GRU.
    trainable = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    assert trainable == total - (0 if cell == "gru" else 2 * gates * 1024)


def test_initial_weights_and_biases_are_uniform_within_the_inverse_root_of_the_units():
    model = CharRNN(20, hidden_size=64, cell="lstm")
    for variable in model.trainable_variables:
        values = ops.convert_to_numpy(variable)
        assert 0.9 / 8 < np.abs(values).max() <= 1 / 8, variable.path
        assert abs(values.mean()) < 0.02


def test_predictions_depend_on_what_came_before_and_on_nothing_after():
    model = CharRNN(10, hidden_size=8, cell="gru", depth=1)
    text = np.random.default_rng(0).integers(0, 10, (2, 6)).astype("int32")
    logits = ops.convert_to_numpy(model(text))
    assert logits.shape == (2, 6, 10)
    changed = text.copy()
    changed[:, 3] = (changed[:, 3] + 1) % 10
    difference = np.abs(ops.convert_to_numpy(model(changed)) - logits).max(axis=(0, 2))
    assert (difference[:3] == 0).all() and (difference[3:] > 0).all()


def test_where_and_depth():
    model = CharRNN(10, hidden_size=4, depth=3, cell="rnn", technique="l0", where="rnn[23]")
    assert [layer.name for layer in model.layers if isinstance(layer, layers.SparseLayer)] == ["rnn2", "rnn3"]
    with pytest.raises(ValueError, match="`where` needs a `technique`"):
        CharRNN(10, where="rnn1")


def test_weight_decay_is_on_kernels_and_biases():
    model = CharRNN(5, hidden_size=4, depth=1, cell="rnn", kernel_regularizer=keras.regularizers.L2(0.5))
    expected = 0.5 * sum(float(ops.sum(ops.square(variable))) for variable in model.trainable_variables)
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"vocabulary_size": 1}, "`vocabulary_size` must be an integer of at least 2. Received: vocabulary_size=1"),
        ({"vocabulary_size": 5, "depth": 0}, "`depth` must be an integer of at least 1. Received: depth=0"),
        ({"vocabulary_size": 5, "hidden_size": 2.5}, "`hidden_size` must be an integer of at least 1"),
        ({"vocabulary_size": 5, "cell": "LSTM"}, "`cell` must be one of .*cell='LSTM'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        CharRNN(**arguments)
