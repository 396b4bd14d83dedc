"""Whole units of output layers are classes: `structure="filter"` leaves them alone unless it is told."""

import keras
import numpy as np
import pytest
from keras import layers as kl

from sparsity_tf import callbacks, sparsify
from sparsity_tf.callbacks.base.output_layers import output_layers
from sparsity_tf.inspection import sparsity_table
from sparsity_tf.layers import get_sparse_weights


def classifier():
    inputs = keras.Input((6,))
    x = kl.Dense(8, activation="relu", name="hidden")(inputs)
    x = kl.Dense(4, name="logits")(x)
    return keras.Model(inputs, kl.Softmax()(x))


def pruned(model, algorithm):
    model.compile("sgd", "mse")
    algorithm.prepare(model, epochs=2, steps_per_epoch=2)
    if algorithm.scheduled:
        algorithm.change_masks(2)
    return {row.name: row.sparsity for row in sparsity_table(model)}


def make_pruning(**options):
    return callbacks.MagnitudePruning(0.5, 0, 2, 1, structure="filter", **options)


@pytest.mark.parametrize(
    "make",
    [
        make_pruning,
        lambda: make_pruning(scope="global"),
        lambda: callbacks.RandomPruning(0.5, 0, 2, 1, structure="filter"),
        lambda: callbacks.StaticSparsity(0.5, structure="filter"),
    ],
    ids=["magnitude", "global", "random", "static"],
)
def test_filters_of_the_output_layer_stay_and_it_is_said(make):
    with pytest.warns(UserWarning, match="'logits/kernel'.* stay dense.*`where`"):
        assert pruned(classifier(), make()) == {"hidden/kernel": 0.5, "logits/kernel": 0.0}


@pytest.mark.parametrize(
    "options, logits",
    [
        ({"where": ".*"}, 0.5),
        ({"where": ["hidden", "logits"]}, 0.5),
        ({"dense": "first"}, 0.5),
        ({"distribution": {".*": 0.5}}, 0.5),
        ({"dense": "logits"}, 0.0),
    ],
)
@pytest.mark.filterwarnings("error:The weights")
def test_where_dense_and_a_distribution_say_what_is_pruned(options, logits):
    assert pruned(classifier(), make_pruning(**options))["logits/kernel"] == logits


@pytest.mark.filterwarnings("error:The weights")
def test_other_structures_and_a_choice_of_the_output_layer_alone_are_left_as_they_are():
    assert pruned(classifier(), callbacks.MagnitudePruning(0.5, 0, 2, 1))["logits/kernel"] == 0.5
    alone = sparsify(classifier(), "masked", where="logits")
    assert pruned(alone, make_pruning()) == {"logits/kernel": 0.5}


def names(model):
    return sorted(layer.name for layer in output_layers(model))


def test_output_layers_are_found_through_the_graph():
    assert names(classifier()) == ["logits"]

    inputs = keras.Input((8, 8, 3))
    x = kl.Conv2D(4, 3, name="conv")(inputs)
    x = kl.GlobalAveragePooling2D()(kl.BatchNormalization()(x))
    by_pooling, by_operation = keras.Model(inputs, x), keras.Model(inputs, keras.ops.softmax(2 * x))
    assert names(by_pooling) == names(by_operation) == ["conv"]

    inputs = keras.Input((6,))
    shared = classifier()(inputs)
    two_heads = keras.Model(inputs, [shared, kl.Dense(2, name="second")(kl.Dense(3, name="body")(inputs))])
    assert names(two_heads) == ["logits", "second"]
    residual = keras.Model(inputs, kl.Dense(6, name="branch")(inputs) + inputs)
    assert names(residual) == ["branch"]
    assert names(keras.Sequential([keras.Input((6,)), classifier(), kl.Activation("relu")])) == ["logits"]


def test_of_what_is_no_graph_the_layer_created_last_counts():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.norm = kl.Dense(3, name="one"), kl.Dense(2, name="two"), kl.BatchNormalization()

        def call(self, x):
            return self.norm(self.two(self.one(x)))

    model = Own()
    model(np.ones((1, 4), "float32"))
    assert names(model) == ["two"]
    recurrent = keras.Sequential([keras.Input((5, 2)), kl.LSTM(3)])
    sparsify(recurrent, "masked")
    assert {id(w.layer) for w in get_sparse_weights(recurrent)} == {id(layer) for layer in output_layers(recurrent)}
