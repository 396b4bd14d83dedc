"""The text classifier: its count of weights, its initial weights, and the padding that it skips."""

import numpy as np
import pytest
from keras import ops

from sparsity_tf import layers
from sparsity_tf.models import text_lstm


def test_weights_are_as_many_as_published_and_all_are_sparse():
    model = text_lstm(50, 3, embedding_size=8, hidden_size=4, technique="gvd")
    weights = layers.get_sparse_weights(model)
    assert [weight.layer.path.partition("/")[0] for weight in weights] == ["embedding", "lstm", "lstm", "classifier"]
    assert sum(weight.size for weight in weights) == 50 * 8 + 4 * 4 * (8 + 4) + 4 * 3


def test_initial_weights_are_those_of_the_source():
    model = text_lstm(200, 2, embedding_size=20, hidden_size=16)
    table, cell = ops.convert_to_numpy(model.get_layer("embedding").embeddings), model.get_layer("lstm").cell
    assert 0.045 < np.abs(table).max() <= 0.05
    recurrent = ops.convert_to_numpy(cell.recurrent_kernel)
    np.testing.assert_allclose(recurrent @ recurrent.T, 1.21 * np.eye(16), atol=1e-5)
    assert ops.convert_to_numpy(cell.bias).tolist() == [0] * 16 + [1] * 16 + [0] * 32
    assert cell.recurrent_activation.__name__ == "hard_sigmoid"


def test_padding_is_skipped():
    model = text_lstm(10, 2, embedding_size=3, hidden_size=4)
    words = np.array([[4, 5, 6]])
    padded = np.array([[0, 0, 4, 5, 6]])
    np.testing.assert_allclose(*(ops.convert_to_numpy(model(each)) for each in (words, padded)), atol=1e-6)


@pytest.mark.parametrize("name", ["vocabulary_size", "num_classes", "embedding_size", "hidden_size"])
def test_wrong_sizes_are_refused(name):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        text_lstm(**{"vocabulary_size": 5, "num_classes": 2, name: 0})
