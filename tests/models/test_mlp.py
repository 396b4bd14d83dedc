"""The MNIST perceptron equals the counts of DSR's paper code and of its `dst` package."""

import pytest

from sparsity_tf import models
from tests.models.zoo import built, check_network, kernels, trainable_count, weight_count


@pytest.mark.parametrize(
    ("batch_norm", "dense", "last"),
    [("all", 820, "classifier_bn"), ("hidden", 800, "classifier"), ("none", 410, "classifier")],
)
def test_counts(batch_norm, dense, last):
    model = built("mnist_mlp", batch_norm=batch_norm)
    assert kernels(model) == {"stem": (784, 300), "fc2": (300, 100), "classifier": (100, 10)}
    assert weight_count(model) == 266_200
    assert trainable_count(model) - 266_200 == dense
    assert model.layers[-1].name == last


@pytest.mark.parametrize(("sparsity", "active"), [(0.99, 2_662), (0.9, 26_620)])
def test_active_weights(sparsity, active):
    sizes = [rows * columns for rows, columns in kernels(built("mnist_mlp")).values()]
    # Truncated in every tensor, plus a tenth against rounding below.
    assert sum(int((1 - sparsity) * size + 0.1) for size in sizes) == active


@pytest.mark.parametrize("batch_norm", ["all", "hidden", "none"])
def test_the_net_runs_and_can_be_masked(batch_norm):
    check_network(models.mnist_mlp(batch_norm=batch_norm))


def test_other_hidden_layers():
    model = models.mnist_mlp(hidden=(8, 7, 6), num_classes=3)
    assert list(kernels(model)) == ["stem", "fc2", "fc3", "classifier"]


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="`batch_norm` must be one of"):
        models.mnist_mlp(batch_norm=True)
    with pytest.raises(ValueError, match="`hidden` must list"):
        models.mnist_mlp(hidden=())
