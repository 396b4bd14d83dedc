"""Keras callbacks of sparsity_tf: one file an algorithm."""

from sparsity_tf.callbacks.penalty_ramp import PenaltyRamp

__all__ = ["PenaltyRamp"]
