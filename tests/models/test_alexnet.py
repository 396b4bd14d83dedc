"""AlexNet-s and -b equal the table of sparse momentum."""

import pytest

from sparsity_tf import models
from tests.models.zoo import built, check_network, check_padding, kernels, trainable_count, weight_count


@pytest.mark.parametrize(
    ("builder", "total", "maskable", "always_dense", "hidden"),
    [
        ("alexnet_s", 5_077_066, 5_066_784, 10_282, 1024),
        ("alexnet_b", 8_501_322, 8_484_896, 16_426, 2048),
    ],
)
def test_sparse_momentum_table(builder, total, maskable, always_dense, hidden):
    model = built(builder)
    assert trainable_count(model) == total
    assert weight_count(model) == maskable
    assert total - maskable == always_dense
    assert kernels(model) == {
        "stem": (11, 11, 3, 96),
        "conv2": (5, 5, 96, 256),
        "conv3": (3, 3, 256, 384),
        "conv4": (3, 3, 384, 384),
        "conv5": (3, 3, 384, 256),
        "fc1": (256, hidden),
        "fc2": (hidden, hidden),
        "classifier": (hidden, 10),
    }


def test_maps():
    names = ("stem", "conv2", "conv3", "conv4", "conv5")
    assert [built("alexnet_s").get_layer(name).output.shape[1] for name in names] == [13, 7, 4, 2, 1]


@pytest.mark.parametrize("build", [models.alexnet_s, models.alexnet_b])
def test_the_net_runs_and_can_be_masked(build):
    check_network(build(num_classes=7))


@pytest.mark.parametrize(("layer", "padding"), [("stem", 2), ("conv2", 2), ("conv4", 1), ("conv5", 1)])
def test_convolutions_pad_symmetrically(layer, padding):
    check_padding(models.alexnet_s(), layer, 2, padding)
