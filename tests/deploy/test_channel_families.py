"""`channel_families`: channels, heads and units that are ranked with each other; `ShrunkCost`: what is left of them."""

import keras
import numpy as np
import pytest
from keras import layers

import sparsity_tf
from sparsity_tf.callbacks.base import tied_weights
from sparsity_tf.deploy import channel_families, shrink
from sparsity_tf.deploy.shrunk_cost import ShrunkCost, sparsity_that_meets
from sparsity_tf.inspection import count_flops
from tests.deploy.models import randomize


def residual_net():
    inputs = keras.Input((8, 8, 3))
    stem = layers.Conv2D(4, 3, padding="same", use_bias=False, name="stem")(inputs)
    body = layers.ReLU()(layers.BatchNormalization(name="bn")(stem))
    body = layers.Conv2D(4, 3, padding="same", name="body")(body)
    x = layers.Conv2D(6, 1, activation="relu", name="wide")(layers.Add()([stem, body]))
    x = layers.GlobalAveragePooling2D()(x)
    return randomize(keras.Model(inputs, layers.Dense(2, name="last")(x)))


def attention_net():
    inputs = keras.Input((5, 6))
    x = layers.MultiHeadAttention(3, 4, name="attention")(inputs, inputs)
    x = layers.LSTM(7, name="lstm")(layers.LayerNormalization()(x))
    return randomize(keras.Model(inputs, layers.Dense(2, name="last")(layers.Dense(5, "relu", name="dense")(x))))


def described(family):
    return family.size, {(part.owner.name, part.name) for part in family.members}


def test_channels_of_the_same_layers_are_a_family():
    one, two = channel_families(residual_net())
    assert described(one) == (
        4,
        {("stem", "kernel"), ("bn", "gamma"), ("bn", "beta"), ("body", "kernel"), ("body", "bias")},
    )
    assert described(two) == (6, {("wide", "kernel"), ("wide", "bias")})
    assert [part.owner.name for part in one.readers] == ["body", "wide"]
    assert {part.name for part in one.followers} == {"moving_mean", "moving_variance"}
    assert one.members[0].indices.tolist() == [[0], [1], [2], [3]]


def test_units_are_those_of_recurrent_layers_and_heads_those_of_attention():
    model = attention_net()
    assert [family.size for family in channel_families(model)] == [7, 5]
    [units] = channel_families(model, "unit")
    assert {name for _, name in described(units)[1]} == {"kernel", "recurrent_kernel", "bias"}
    assert units.size == 7
    [heads] = channel_families(model, "head")
    assert described(heads) == (
        3,
        {
            *((name, weight) for name in ("query", "key", "value") for weight in ("kernel", "bias")),
            ("attention_output", "kernel"),
        },
    )


def test_sparse_attention_has_the_heads_of_the_layer_that_it_was():
    model = sparsity_tf.sparsify(attention_net(), "masked")
    assert [family.size for family in channel_families(model, "head")] == [3]
    assert [family.size for family in channel_families(model)] == [7, 5]


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, x):
        return self.dense(x)


def test_the_calls_of_a_subclassed_model_are_not_known():
    model = Subclassed()
    model.build((None, 2))
    with pytest.raises(ValueError, match="structure='channel' needs a built functional or sequential model"):
        channel_families(model)


def test_the_functional_models_inside_another_are_known():
    one, two = residual_net(), residual_net()
    holder = Subclassed()
    holder.parts = [one, keras.Sequential([two])]
    found = channel_families(holder)
    expected = channel_families(one) + channel_families(two)
    assert [family.size for family in found] == [family.size for family in expected]
    assert [family.members[0].owner for family in found] == [family.members[0].owner for family in expected]
    # A layer that two models share is in one family.
    holder.parts.append(keras.Model(one.inputs, one.outputs))
    assert len(channel_families(holder)) == len(found)


def test_a_structure_that_ties_nothing_is_refused():
    with pytest.raises(ValueError, match="`structure` must be one of"):
        channel_families(residual_net(), "filter")


def shrunk(model, structure, counts):
    """Prunes the last groups of each family, and returns the cost that was foretold with the model that results."""
    weights = tied_weights.of_model(model, structure)
    cost = ShrunkCost(model, [weight.family for weight in weights])
    assert cost.parameters([weight.size for weight in weights]) == cost.parameters()
    chosen = [np.arange(weight.size) < count for weight, count in zip(weights, counts, strict=True)]
    parts, masks, _, _ = tied_weights.spread(weights, chosen, chosen, None)
    for part, mask in zip(parts, masks, strict=True):
        part.assign_mask(mask)
    return cost, shrink(model)


@pytest.mark.parametrize(
    "build,structure,counts",
    [
        (residual_net, "channel", [3, 2]),
        (attention_net, "channel", [4, 1]),
        (attention_net, "head", [1]),
        (attention_net, "unit", [5]),
    ],
)
def test_what_is_left_is_foretold(build, structure, counts):
    model = build()
    whole = model.count_params(), count_flops(model).dense
    cost, small = shrunk(model, structure, counts)
    assert (cost.parameters(), cost.flops()) == whole
    assert cost.parameters(counts) == small.count_params()
    assert cost.flops(counts) == count_flops(small).dense


def test_the_smallest_sparsity_that_meets_a_target_is_found():
    sizes = [10, 16]

    def counts_at(sparsity):
        return [max(1, int(np.floor((1 - sparsity) * n + 1e-12))) for n in sizes]

    found = sparsity_that_meets(sum, 13, counts_at)
    assert sum(counts_at(found)) <= 13 < sum(counts_at(found - 0.07))
    assert sparsity_that_meets(sum, 26, counts_at) == 0.0
    with pytest.raises(ValueError, match="even the smallest model costs 2"):
        sparsity_that_meets(sum, 1, counts_at)
