"""Studies of many networks: the results that the original systems published, and one's own runs beside them."""

from sparsity_tf.study.published import published_files, published_results
from sparsity_tf.study.result import PublishedResult
from sparsity_tf.study.runs import Run, read_run, read_runs
from sparsity_tf.study.state_of_sparsity import read_state_of_sparsity
from sparsity_tf.study.tradeoff import TradeoffPoint, TradeoffTable, tradeoff_table
from sparsity_tf.study.tradeoff_plot import plot_tradeoff
from sparsity_tf.study.width_plot import plot_widths

__all__ = [
    "PublishedResult",
    "Run",
    "TradeoffPoint",
    "TradeoffTable",
    "plot_tradeoff",
    "plot_widths",
    "published_files",
    "published_results",
    "read_run",
    "read_runs",
    "read_state_of_sparsity",
    "tradeoff_table",
]


def __dir__():
    return __all__
