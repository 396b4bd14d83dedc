"""A cross-entropy of integer labels with label smoothing (Keras smooths one-hot labels only)."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("sparsity_tf")
class SmoothedCrossentropy(keras.losses.Loss):
    """Cross-entropy with the target (1 - e) onehot + e / classes: (1 - e) NLL + e mean over classes of -log p, in nats.

    Source: Szegedy et al., CVPR 2016 (arXiv 1512.00567), section 7.

    Args:
        smoothing: e, 0 <= e < 1.
        **kwargs: Arguments of `keras.losses.Loss`.

    Labels are integers `(batch, ...)`, predictions logits `(batch, ..., classes)`.
    """

    def __init__(self, smoothing=0.0, name="smoothed_crossentropy", **kwargs):
        if not 0 <= smoothing < 1:
            raise ValueError(f"`smoothing` must be at least 0 and below 1. Received: smoothing={smoothing}")
        super().__init__(name=name, **kwargs)
        self.smoothing = smoothing

    def call(self, y_true, y_pred):
        nll = ops.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
        if not self.smoothing:
            return nll
        # -log p_k = logsumexp(logits) - logit_k, so the mean over k needs no one-hot array.
        spread = ops.logsumexp(y_pred, axis=-1) - ops.mean(y_pred, axis=-1)
        return (1.0 - self.smoothing) * nll + self.smoothing * spread

    def get_config(self):
        return {**super().get_config(), "smoothing": self.smoothing}
