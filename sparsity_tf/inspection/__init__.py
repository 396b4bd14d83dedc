"""Shows sparse models: sparsity, operations, times and features layer by layer, and pictures of the weights left."""

from sparsity_tf.inspection.animation import MaskAnimation
from sparsity_tf.inspection.braille import mask_to_braille
from sparsity_tf.inspection.comparison_plots import plot_class_specialization, plot_speedup
from sparsity_tf.inspection.features import FeatureRow, FeatureTable, class_specialization, specialization_anova
from sparsity_tf.inspection.flops import FlopsRow, FlopsTable, count_flops
from sparsity_tf.inspection.plots import plot_filters, plot_input_mask, plot_layer_sparsity
from sparsity_tf.inspection.sensitivity import SensitivityRow, SensitivityTable, sensitivity
from sparsity_tf.inspection.sparsity_budget import sparsity_budget
from sparsity_tf.inspection.speedup import SpeedupRow, SpeedupTable, estimate_speedup
from sparsity_tf.inspection.tables import SparsityRow, SparsityTable, sparsity_table

__all__ = [
    "FeatureRow",
    "FeatureTable",
    "FlopsRow",
    "FlopsTable",
    "MaskAnimation",
    "SensitivityRow",
    "SensitivityTable",
    "SparsityRow",
    "SparsityTable",
    "SpeedupRow",
    "SpeedupTable",
    "class_specialization",
    "count_flops",
    "estimate_speedup",
    "mask_to_braille",
    "plot_class_specialization",
    "plot_filters",
    "plot_input_mask",
    "plot_layer_sparsity",
    "plot_speedup",
    "sensitivity",
    "sparsity_budget",
    "sparsity_table",
    "specialization_anova",
]


def __dir__():
    return __all__
