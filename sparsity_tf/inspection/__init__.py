"""Looking at sparse models: sparsity and operations layer by layer, pictures of what survived."""

from sparsity_tf.inspection.animation import MaskAnimation
from sparsity_tf.inspection.flops import FlopsRow, FlopsTable, count_flops
from sparsity_tf.inspection.plots import plot_filters, plot_input_mask, plot_layer_sparsity
from sparsity_tf.inspection.tables import SparsityRow, SparsityTable, sparsity_table

__all__ = [
    "FlopsRow",
    "FlopsTable",
    "MaskAnimation",
    "SparsityRow",
    "SparsityTable",
    "count_flops",
    "plot_filters",
    "plot_input_mask",
    "plot_layer_sparsity",
    "sparsity_table",
]
