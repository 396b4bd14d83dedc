"""Callbacks that act between training steps. They decide which weights live and how large the penalty is."""

from sparsity_tf.callbacks.acdc import ACDC
from sparsity_tf.callbacks.base.mask_algorithm import MaskAlgorithm
from sparsity_tf.callbacks.base.weight_view import WeightView
from sparsity_tf.callbacks.criteria import overall, uses
from sparsity_tf.callbacks.deep_rewiring import DeepRewiring
from sparsity_tf.callbacks.dynamic import SET, DropAndGrow, RigL, StaticSparsity
from sparsity_tf.callbacks.dynamic_reparameterization import DynamicSparseReparameterization
from sparsity_tf.callbacks.granet import GraNet
from sparsity_tf.callbacks.iterative_pruning import IterativePruning
from sparsity_tf.callbacks.mest import MEST
from sparsity_tf.callbacks.narang_pruning import NarangPruning
from sparsity_tf.callbacks.one_shot import SNIP, GraSP
from sparsity_tf.callbacks.penalty_ramp import PenaltyRamp
from sparsity_tf.callbacks.pruning import MagnitudePruning, RandomPruning
from sparsity_tf.callbacks.serialization import deserialize, serialize
from sparsity_tf.callbacks.serialization import register as _register
from sparsity_tf.callbacks.slimming import NetworkSlimming
from sparsity_tf.callbacks.sparse_momentum import SparseMomentum
from sparsity_tf.callbacks.sparsity_monitor import SparsityMonitor
from sparsity_tf.callbacks.sparsity_ramp import SparsityRamp
from sparsity_tf.callbacks.srigl import SRigL

__all__ = [
    "ACDC",
    "DeepRewiring",
    "DropAndGrow",
    "DynamicSparseReparameterization",
    "GraNet",
    "GraSP",
    "IterativePruning",
    "MEST",
    "MagnitudePruning",
    "MaskAlgorithm",
    "NarangPruning",
    "NetworkSlimming",
    "PenaltyRamp",
    "RandomPruning",
    "RigL",
    "SET",
    "SNIP",
    "SRigL",
    "SparseMomentum",
    "SparsityMonitor",
    "SparsityRamp",
    "StaticSparsity",
    "WeightView",
    "deserialize",
    "overall",
    "serialize",
    "uses",
]

# `.keras` files and `keras.saving.deserialize_keras_object` find the callbacks by these names.
_register(__all__, globals())


def __dir__():
    return __all__
