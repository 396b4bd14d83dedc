"""A small Transformer with weights that make a difference, and sentences for it."""

import numpy as np

from sparsity_tf import models

VOCABULARY = 19


def small_transformer(seed=0, spread=0.4, **arguments):
    """One layer, 8 units, 2 heads, no dropout; all weights moved by seeded noise, so that none is at 0 or 1."""
    sizes = {"num_layers": 1, "hidden_size": 8, "filter_size": 16, "num_heads": 2}
    rates = {"dropout": 0.0, "attention_dropout": 0.0, "relu_dropout": 0.0}
    model = models.Transformer(VOCABULARY, **{**sizes, **rates, **arguments})
    for layer in model.layers:
        # By the layer's name: that a model has other layers beside makes no difference.
        rng = np.random.default_rng([seed, *layer.name.encode()])
        for variable in layer.trainable_variables:
            if variable.name in ("kernel", "bias", "gamma", "beta", "embeddings", "table"):
                variable.assign_add(spread * rng.normal(size=variable.shape))
    return model


def random_ids(source_lengths, target_length, seed=0):
    """A batch for the model; each sentence ends with 1 and is padded with 0."""
    rng = np.random.default_rng(seed)
    inputs = np.zeros((len(source_lengths), max(source_lengths)), "int32")
    for row, length in zip(inputs, source_lengths, strict=True):
        row[: length - 1] = rng.integers(2, VOCABULARY, length - 1)
        row[length - 1] = 1
    targets = rng.integers(2, VOCABULARY, (len(source_lengths), target_length)).astype("int32")
    targets[:, -1] = 1
    return {"inputs": inputs, "targets": targets}
