"""`channel_groups`: the weights that must be zero together for a channel to go."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import sparsity_tf
from sparsity_tf.deploy import channel_groups, shrink
from sparsity_tf.deploy.rules import kernels
from tests.deploy.models import assert_equal_models, images, randomize


def residual_net():
    inputs = keras.Input((8, 8, 3))
    stem = layers.Conv2D(4, 3, padding="same", use_bias=False, name="stem")(inputs)
    body = layers.ReLU()(layers.BatchNormalization(name="bn")(stem))
    body = layers.Conv2D(4, 3, padding="same", name="body")(body)
    x = layers.GlobalAveragePooling2D()(layers.Add()([stem, body]))
    return randomize(keras.Model(inputs, layers.Dense(2, name="last")(x)))


def described(members):
    return {(member.layer.name, member.weight, member.axis, member.indices) for member in members}


def zero(group):
    for member in group.members:
        variable = getattr(member.layer, member.weight)
        value = np.array(ops.convert_to_numpy(variable))
        np.moveaxis(value, member.axis, 0)[list(member.indices)] = 0
        variable.assign(value)


def test_an_addition_makes_one_group_of_a_channel_with_all_its_weights():
    free = [group for group in channel_groups(residual_net()) if not group.fixed]
    assert len(free) == 4
    assert described(free[1].members) == {
        ("stem", "kernel", -1, (1,)),
        ("bn", "gamma", 0, (1,)),
        ("bn", "beta", 0, (1,)),
        ("body", "kernel", -1, (1,)),
        ("body", "bias", -1, (1,)),
    }
    assert described(free[1].readers) == {("body", "kernel", -2, (1,)), ("last", "kernel", -2, (1,))}


def test_outputs_are_fixed():
    fixed = [group for group in channel_groups(residual_net()) if group.fixed]
    assert described(fixed[0].members) == {("last", "kernel", -1, (0,)), ("last", "bias", -1, (0,))}
    assert len(fixed) == 2


def test_a_group_of_zeros_is_removed_by_shrink():
    model = residual_net()
    free = [group for group in channel_groups(model) if not group.fixed]
    zero(free[0])
    zero(free[2])
    small = shrink(model)
    assert small.get_layer("stem").filters == small.get_layer("body").filters == 2
    assert_equal_models(model, small, images())


def test_depthwise_kernels_belong_to_the_group_of_what_they_read():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(2, 1, use_bias=False, name="conv")(inputs)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False, name="depthwise")(x)
    model = keras.Model(inputs, layers.Conv2D(1, 1, name="last")(x))
    free = [group for group in channel_groups(model) if not group.fixed]
    assert described(free[1].members) == {("conv", "kernel", -1, (1,)), ("depthwise", "kernel", -2, (1,))}
    assert described(free[1].readers) == {("last", "kernel", -2, (2, 3))}


def test_gates_of_a_recurrent_unit_are_one_group():
    inputs = keras.Input((5, 3))
    model = keras.Model(inputs, layers.Dense(1)(layers.LSTM(2, name="rnn")(inputs)))
    free = [group for group in channel_groups(model) if not group.fixed]
    assert ("rnn", "cell.kernel", 1, (1, 3, 5, 7)) in described(free[1].members)
    assert ("rnn", "cell.bias", -1, (1, 3, 5, 7)) in described(free[1].members)


def test_sparse_layers_have_the_groups_of_the_layers_they_replace():
    plain = [described(group.members) for group in channel_groups(residual_net())]
    model = sparsity_tf.sparsify(residual_net(), "masked")
    assert [described(group.members) for group in channel_groups(model)] == plain
    assert all(member.layer in model.layers for group in channel_groups(model) for member in group.members)


def test_only_models_have_groups():
    with pytest.raises(ValueError, match="`model` must be a Keras model"):
        channel_groups("model")


def test_the_trial_run_of_an_activation_warns_of_nothing(recwarn):
    kernels._tried.cache_clear()
    assert not kernels.is_elementwise(keras.activations.softmax)
    assert not recwarn.list
