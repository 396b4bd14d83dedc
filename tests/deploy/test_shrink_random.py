"""`shrink` on random models with random zeros: always equal, never larger, and done after one turn."""

import functools

import numpy as np
import pytest
from keras import ops

from sparsity_tf import prune
from sparsity_tf.callbacks.base import tied_weights
from sparsity_tf.deploy import shrink
from sparsity_tf.deploy.shrunk_cost import ShrunkCost
from sparsity_tf.layers import flatten_layers
from tests.deploy.models import assert_equal_models
from tests.deploy.random_models import random_model

# The smallest choice among 24 seeds that runs every line of `sparsity_tf.deploy` that all 24 run.
SEEDS = (0, 3, 5, 7, 8, 9, 18, 20, 21, 23)


def check(seed, steps):
    model = random_model(seed, steps)
    small = shrink(model)
    assert small.count_params() <= model.count_params()
    assert_equal_models(model, small, np.random.default_rng(seed).normal(size=(2, *model.input_shape[1:])))
    return model, small


@functools.cache
def shrunk(seed):
    """The checked small model of a seed, made once for the two tests that look at it."""
    return check(seed, steps=5)[1]


@pytest.mark.parametrize("seed", SEEDS)
def test_small_random_models(seed):
    assert shrunk(seed).count_params()


# Moved out of the fast tests: the seeds that run no other line.
@pytest.mark.slow
@pytest.mark.parametrize("seed", sorted({*range(24)} - {*SEEDS}))
def test_more_small_random_models(seed):
    small = shrunk(seed)
    assert shrink(small).count_params() == small.count_params()


@pytest.mark.slow
@pytest.mark.parametrize("block", range(12))
def test_hundreds_of_random_models(block):
    for seed in range(1000 + 25 * block, 1025 + 25 * block):
        check(seed, steps=12)


def check_channels(seed, steps):
    """Prunes half of the channels of a random model; returns whether there were any."""
    model = random_model(seed, steps)
    try:
        prune(model, 0.5, structure="channel", scope=("layer", "global")[seed % 3 == 0], seed=seed)
    except ValueError as error:
        assert "no channel that can be pruned" in str(error)
        return False
    families = [weight.family for weight in tied_weights.of_model(model)]
    cost = ShrunkCost(model, families)
    small = shrink(model)
    activations = {getattr(getattr(layer, "activation", None), "__name__", None) for layer in flatten_layers(model)}
    if "sigmoid" not in activations:
        # What is 0 stays 0. The zeros that the model had already may let more go.
        assert small.count_params() <= cost.parameters([row.live for row in model.prune_report])
    assert_equal_models(model, small, np.random.default_rng(seed).normal(size=(2, *model.input_shape[1:])))
    return True


@pytest.mark.parametrize("first", [0, 15])
def test_channels_of_small_random_models(first):
    assert sum([check_channels(seed, steps=5) for seed in range(first, first + 5)]) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("block", range(12))
def test_channels_of_hundreds_of_random_models(block):
    assert sum([check_channels(seed, steps=10) for seed in range(2000 + 25 * block, 2025 + 25 * block)]) > 8


@pytest.mark.parametrize("seed", range(4))
def test_a_model_without_zeros_is_the_same(seed):
    model = random_model(seed, steps=5)
    for variable in model.trainable_variables:
        value = ops.convert_to_numpy(variable)
        variable.assign(np.where(value == 0, 0.125, value))
    small = shrink(model)
    assert small.count_params() == model.count_params()
    for one, two in zip(model.get_weights(), small.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("seed", SEEDS[:4])
def test_a_second_turn_changes_nothing(seed):
    small = shrunk(seed)
    assert shrink(small).count_params() == small.count_params()
