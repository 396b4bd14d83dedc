"""Metrics of the language programs: the cross-entropy of tokens in nats, and of characters in bits."""

import math

import keras
from keras import ops


@keras.saving.register_keras_serializable("sparsity_tf")
class TokenCrossentropy(keras.metrics.MeanMetricWrapper):
    """Mean cross-entropy of the tokens in nats, without label smoothing. The exponential of it is the perplexity."""

    def __init__(self, name="cross_entropy", dtype=None):
        super().__init__(_crossentropy, name=name, dtype=dtype)

    def get_config(self):
        return {"name": self.name, "dtype": self.dtype}


def _crossentropy(y_true, y_pred):
    return ops.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)


@keras.saving.register_keras_serializable("sparsity_tf")
class BitsPerCharacter(keras.metrics.MeanMetricWrapper):
    """Mean cross-entropy of the characters, in bits: nats / ln 2. Logits `(..., V)`, ids `(...)`."""

    def __init__(self, name="bits_per_character", dtype=None):
        super().__init__(_bits, name=name, dtype=dtype)

    def get_config(self):
        return {"name": self.name, "dtype": self.dtype}


def _bits(y_true, y_pred):
    return _crossentropy(y_true, ops.cast(y_pred, "float32")) / math.log(2)
