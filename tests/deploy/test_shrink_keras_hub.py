"""`shrink` on small networks of keras-hub (a package that is not installed with this one): a BERT and a ViT."""

import keras
import numpy as np
import pytest
from keras import ops

import sparsity_tf
from tests.deploy.models import randomize

pytestmark = pytest.mark.slow


def bert():
    models = pytest.importorskip("keras_hub").models
    rng = np.random.default_rng(0)
    model = models.BertBackbone(
        vocabulary_size=100, num_layers=2, num_heads=4, hidden_dim=32, intermediate_dim=64, max_sequence_length=12
    )
    tokens, segments = rng.integers(0, 100, (2, 12)), rng.integers(0, 2, (2, 12))
    padding = np.ones((2, 12), "int32")
    padding[1, 7:] = 0
    return model, {"token_ids": tokens, "segment_ids": segments, "padding_mask": padding}


def vit():
    models = pytest.importorskip("keras_hub").models
    model = models.ViTBackbone(
        image_shape=(16, 16, 3), patch_size=4, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64
    )
    return model, np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")


# Of every block: 32 hidden units with a row, a column and a bias; or 2 heads of 8 channels in four projections.
@pytest.mark.parametrize("structure,gone", [("channel", 2 * 32 * (32 + 1 + 32)), ("head", 2 * 2 * 8 * (4 * 32 + 3))])
@pytest.mark.parametrize("build", [bert, vit])
def test_hidden_units_and_heads_go(build, structure, gone):
    model, x = build()
    randomize(model, 1)
    size = model.count_params()
    sparsity_tf.prune(model, 0.5, structure=structure)
    small = sparsity_tf.shrink(model)
    assert small.count_params() == size - gone
    outputs, expected = (keras.tree.flatten(network(x)) for network in (small, sparsity_tf.to_dense(model)))
    for one, other in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(one), ops.convert_to_numpy(other), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("build", [bert, vit])
def test_without_dead_units_nothing_changes(build):
    model, _ = build()
    randomize(model, 1)
    assert sparsity_tf.shrink(model).count_params() == model.count_params()
